// Package natsstate is state.Store over a key-value bucket of NATS JetStream, kept on disk. With the embedded server,
// which syncs always, a Put has been synced when it returns; an outside server syncs as it is set.
package natsstate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"ferry/internal/state"
)

// Options of Open. The zero value is good.
type Options struct {
	// Bucket is the bucket's name. Default ferry-state.
	Bucket string
	// Domain is the JetStream domain, or empty.
	Domain string
	// Replicas of a bucket that is made, 1 to 5. Default 1.
	Replicas int
	// Timeout of one round trip. Default 10 s.
	Timeout time.Duration
}

// markerTTL is how long the mark of a deleted key is kept. Nothing of ours needs it; it tells who looks into the bucket.
const markerTTL = time.Hour

// atOnce is how many keys of a list are asked for at the same time.
const atOnce = 32

// Store is a bucket. Make one with Open.
type Store struct {
	kv      jetstream.KeyValue // for writing only: what it reads may come from a replica that is behind
	stream  jetstream.Stream   // the bucket's
	ask     string             // subject of the questions for a message, which the stream's leader answers
	nc      *nats.Conn
	timeout time.Duration
}

var _ state.Store = (*Store)(nil)

// Open finds the bucket or makes it. The connection stays the caller's, and must outlive the Store.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	o.Bucket = cmp.Or(o.Bucket, "ferry-state")
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	var js jetstream.JetStream
	var err error
	api := "$JS.API."
	if o.Domain != "" {
		js, err = jetstream.NewWithDomain(nc, o.Domain)
		api = "$JS." + o.Domain + ".API."
	} else {
		js, err = jetstream.New(nc)
	}
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	kv, err := js.KeyValue(ctx, o.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:         o.Bucket,
			Description:    "what ferry's instances share: leases, pauses, run history",
			History:        1,
			Storage:        jetstream.FileStorage,
			Replicas:       o.Replicas,
			LimitMarkerTTL: markerTTL,
		})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = js.KeyValue(ctx, o.Bucket) // another instance was quicker
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open state bucket %s: %w", o.Bucket, err)
	}
	stream, err := js.Stream(ctx, "KV_"+o.Bucket)
	if err != nil {
		return nil, fmt.Errorf("open state bucket %s: %w", o.Bucket, err)
	}
	return &Store{kv: kv, stream: stream, ask: api + "STREAM.MSG.GET.KV_" + o.Bucket, nc: nc, timeout: o.Timeout}, nil
}

// A bucket's keys are subjects: parts are set apart by dots there, and = stands for a dot, which no key of ours holds.
var (
	toBucket   = strings.NewReplacer("/", ".", ".", "=")
	fromBucket = strings.NewReplacer(".", "/", "=", ".")
)

// Get implements state.Store.
func (s *Store) Get(ctx context.Context, key string) (state.Entry, error) {
	if err := state.CheckKey(key); err != nil {
		return state.Entry{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	m, err := again(ctx, func(ctx context.Context) (message, error) { return s.newest(ctx, toBucket.Replace(key)) })
	switch {
	case err != nil:
		return state.Entry{}, failure("read", key, err)
	case !m.isValue():
		return state.Entry{}, fmt.Errorf("%w: %s", state.ErrNotFound, key)
	}
	return state.Entry{Key: key, Value: m.Data, Revision: m.Seq}, nil
}

// message is the last one of a key. The zero value is that of a key that never was, or was long ago.
type message struct {
	Seq    uint64 `json:"seq"`
	Header []byte `json:"hdrs"`
	Data   []byte `json:"data"`
}

// isValue tells a value from the mark of a deleted key, of which the server makes some by itself. Only marks have headers
// of these names.
func (m message) isValue() bool {
	return m.Seq > 0 && !bytes.Contains(m.Header, []byte("KV-Operation:")) && !bytes.Contains(m.Header, []byte(jetstream.MarkerReasonHeader+":"))
}

// newest asks the leader of the bucket's stream, who has all that was confirmed. The bucket's own Get would be answered by
// any replica, and one that is behind makes what an instance has just written look like another's, or undone.
func (s *Store) newest(ctx context.Context, k string) (message, error) {
	which, err := json.Marshal(map[string]string{"last_by_subj": s.subject(k)})
	if err != nil {
		return message{}, err
	}
	answer, err := s.nc.RequestWithContext(ctx, s.ask, which)
	if err != nil {
		return message{}, err
	}
	var got struct {
		Message message             `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return message{}, fmt.Errorf("read the server's answer: %w", err)
	}
	switch {
	case got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return message{}, nil
	case got.Error != nil:
		return message{}, got.Error
	}
	return got.Message, nil
}

// subject is where a key's values lie, given as the bucket has it.
func (s *Store) subject(k string) string { return "$KV." + s.kv.Bucket() + "." + k }

// Put implements state.Store. A value may be as large as a message of the server, 1 MiB by default.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := state.CheckKey(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	unknown := false // whether an earlier try may have been written
	written, err := again(ctx, func(once context.Context) (uint64, error) {
		got, err := s.put(once, key, value, rev)
		if unknown && errors.Is(failure("write", key, err), state.ErrConflict) {
			// Perhaps it is our own: an answer was lost while a cluster changed who leads.
			if e, gerr := s.Get(ctx, key); gerr == nil && bytes.Equal(e.Value, value) {
				return e.Revision, nil
			}
		}
		unknown = unknown || !errors.Is(err, nats.ErrNoResponders)
		return got, err
	})
	if err != nil {
		return 0, failure("write", key, err)
	}
	return written, nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	k := toBucket.Replace(key)
	switch rev {
	case state.AnyRevision:
		return s.kv.Put(ctx, k, value)
	case 0:
		written, err := s.kv.Update(ctx, k, value, 0)
		if !errors.Is(failure("write", key, err), state.ErrConflict) {
			return written, err
		}
		m, gerr := s.newest(ctx, k)
		if gerr != nil || m.isValue() {
			return 0, err
		}
		return s.kv.Update(ctx, k, value, m.Seq) // over the mark of a deleted key
	}
	// A deleted key has a revision in the bucket, its mark's, but none for us; so only a mark could match here, and nobody
	// is ever told a mark's revision.
	return s.kv.Update(ctx, k, value, rev)
}

// Delete implements state.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) error {
	if err := state.CheckKey(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if rev == 0 || rev == state.AnyRevision {
		// Nothing there: no need for a mark.
		m, err := s.newest(ctx, toBucket.Replace(key))
		switch {
		case err != nil:
			return failure("delete", key, err)
		case !m.isValue():
			return nil
		case rev == 0:
			return fmt.Errorf("%w: %s", state.ErrConflict, key)
		}
	}
	opts := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(markerTTL)}
	if rev != state.AnyRevision {
		opts = append(opts, jetstream.LastRevision(rev))
	}
	if err := s.kv.Purge(ctx, toBucket.Replace(key), opts...); err != nil {
		return failure("delete", key, err)
	}
	return nil
}

// List implements state.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// Whole parts of the prefix are the server's to match, the rest is ours.
	filter := ">"
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		if err := state.CheckKey(prefix[:i]); err != nil {
			return nil, err
		}
		filter = toBucket.Replace(prefix[:i]) + ".>"
	}
	return again(ctx, func(ctx context.Context) ([]state.Entry, error) { return s.list(ctx, prefix, filter) })
}

// list asks the leader for the keys and then for each value: a consumer, which would bring them all, may be on a replica
// that is behind.
func (s *Store) list(ctx context.Context, prefix, filter string) ([]state.Entry, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(s.subject(filter)))
	if err != nil {
		return nil, failure("list", prefix, err)
	}
	var list []state.Entry
	for subject := range info.State.Subjects {
		if key := fromBucket.Replace(strings.TrimPrefix(subject, s.subject(""))); strings.HasPrefix(key, prefix) {
			list = append(list, state.Entry{Key: key})
		}
	}
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(atOnce)
	for i := range list {
		asking.Go(func() error {
			m, err := s.newest(ctx, toBucket.Replace(list[i].Key))
			if m.isValue() {
				list[i].Value, list[i].Revision = m.Data, m.Seq
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, failure("list", prefix, err)
	}
	list = slices.DeleteFunc(list, func(e state.Entry) bool { return e.Revision == 0 }) // marks of deleted keys
	slices.SortFunc(list, func(a, b state.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

// again asks once more what was not answered, as long as the context lasts: while a cluster chooses who leads, a question
// may find nobody. Who asks for a change has to bear that an earlier try has made it.
func again[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	for wait := time.Second; ; wait *= 2 {
		once, cancel := context.WithTimeout(ctx, wait)
		answer, err := ask(once)
		cancel()
		if !passing(err) || ctx.Err() != nil {
			return answer, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// passing tells what another try may find gone.
func passing(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.As(err, &api) && api.Code == 503
}

func failure(verb, key string, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("%w: %s", state.ErrNotFound, key)
	case errors.Is(err, jetstream.ErrKeyExists),
		errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return fmt.Errorf("%w: %s", state.ErrConflict, key)
	}
	if errors.Is(err, context.Canceled) || errors.As(err, &api) && api.Code < 500 {
		return fmt.Errorf("%s state %s: %w", verb, key, err)
	}
	return fmt.Errorf("%s state %s: %w: %w", verb, key, state.ErrUnavailable, err)
}
