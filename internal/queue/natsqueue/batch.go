package natsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of an atomic batch (ADR-50): every message names the batch and its place in it; the last one commits.
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// pubAck is the server's answer to a message or a batch.
type pubAck struct {
	Seq   uint64              `json:"seq"`
	Batch string              `json:"batch"`
	Count int                 `json:"count"`
	Error *jetstream.APIError `json:"error"`
}

// sendBatch publishes n messages as one atomic batch and returns the stream's sequence of the last one. fill writes
// the i-th message into m; m is used again for the next. After an error of the server (a jetstream.APIError) nothing
// was written; after any other the outcome is unknown.
func (q *Queue) sendBatch(ctx context.Context, n int, fill func(i int, m *nats.Msg)) (uint64, error) {
	m := &nats.Msg{Header: make(nats.Header, 8)}
	id, seq := []string{q.token()}, make([]string, 1)
	for i := range n {
		fill(i, m)
		if n == 1 {
			break
		}
		seq[0] = strconv.Itoa(i + 1)
		m.Header[headerBatchID], m.Header[headerBatchSeq] = id, seq
		if i < n-1 {
			if err := q.nc.PublishMsg(m); err != nil {
				return 0, err
			}
		}
	}
	if n > 1 {
		m.Header[headerBatchCommit] = []string{"1"}
	}
	ctx, cancel := q.roundTrip(ctx)
	defer cancel()
	answer, err := q.nc.RequestMsgWithContext(ctx, m)
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, err
	}
	var ack pubAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("read the server's answer: %w", err)
	}
	switch {
	case ack.Error != nil:
		return 0, ack.Error
	case n > 1 && (ack.Batch != id[0] || ack.Count != n):
		return 0, fmt.Errorf("the server took the batch as %d single messages, not as one of %d", ack.Count, n)
	}
	return ack.Seq, nil
}

// isConflict tells that the subject's last sequence was not the one expected.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeWrongLast || api.ErrorCode == codeWrongLastConstant)
}
