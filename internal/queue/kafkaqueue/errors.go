package kafkaqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// isFenced tells the answers to a producer whose transactional id someone else has taken, or whose transaction the
// cluster has ended by its time-out; they look alike.
func isFenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.TransactionalIDNotFound)
}

// isUnsettled tells the answers to a producer whose standing with the cluster is in doubt: fenced, or its transaction was
// ended or forgotten. A new claim of the transactional id clears all of them, if the pipeline is still this writer's.
func isUnsettled(err error) bool {
	for _, code := range []*kerr.Error{
		kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber,
		kerr.TransactionAbortable, kerr.ConcurrentTransactions, kerr.OperationNotAttempted,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return isFenced(err)
}

// mapError turns what the library says into the contract's errors. It keeps the cause. ctx is the caller's own.
func (q *Queue) mapError(ctx context.Context, what string, err error) error {
	var code *kerr.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, queue.ErrClosed), errors.Is(err, queue.ErrFenced), errors.Is(err, queue.ErrUnavailable), errors.Is(err, queue.ErrNoTopic),
		retry.IsPermanent(err):
		return fmt.Errorf("%s: %w", what, err) // told already
	case ctx.Err() != nil:
		return fmt.Errorf("%s: outcome unknown: %w", what, context.Cause(ctx)) // the caller's own wish
	case errors.Is(err, kgo.ErrClientClosed) && q.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, queue.ErrClosed)
	case errors.As(err, &certificate):
		return retry.Permanent(fmt.Errorf("%s: %w (is ca in the queue's URL the authority of the brokers' certificates?)", what, err))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w: the brokers did not answer in time (timeout %s)", what, queue.ErrUnavailable, q.cfg.Timeout)
	case errors.As(err, &code):
		return q.mapCode(what, code, err)
	}
	hint := ""
	if errors.Is(err, io.EOF) {
		hint = " (the broker hung up; does it want TLS, kafkas://, or another sasl or login?)"
	}
	// Time-outs, lost connections, nobody listening.
	return fmt.Errorf("%s: %w: %w%s", what, queue.ErrUnavailable, err, hint)
}

// mapCode is mapError for a broker's own answer.
func (q *Queue) mapCode(what string, code *kerr.Error, err error) error {
	hint := ""
	switch code.Code {
	case kerr.ThrottlingQuotaExceeded.Code:
		return fmt.Errorf("%s: %w: %w", what, queue.ErrFull, err)
	case kerr.UnknownTopicOrPartition.Code, kerr.UnknownTopicID.Code:
		return retry.Permanent(fmt.Errorf("%s: %w: %w", what, queue.ErrNoTopic, err))
	case kerr.SaslAuthenticationFailed.Code, kerr.IllegalSaslState.Code, kerr.UnsupportedSaslMechanism.Code:
		hint = " (are the login and sasl in the queue's URL right?)"
	case kerr.TopicAuthorizationFailed.Code:
		hint = " (the login needs the ACLs Describe, Read and Write on the topic; Create to make it)"
	case kerr.TransactionalIDAuthorizationFailed.Code:
		hint = fmt.Sprintf(" (the login needs the ACLs Describe and Write on transactional ids that begin with %s-)", q.cfg.Prefix)
	case kerr.InvalidTransactionTimeout.Code:
		hint = fmt.Sprintf(" (transaction_timeout %s is above the brokers' transaction.max.timeout.ms)", q.cfg.Transaction)
	case kerr.ClusterAuthorizationFailed.Code:
		hint = " (the login needs the ACL IdempotentWrite on the cluster, or Write on the topics)"
	default:
		if code.Retriable || code.Code == kerr.UnknownServerError.Code || isUnsettled(code) {
			return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
		}
	}
	return retry.Permanent(fmt.Errorf("%s: %w%s", what, err, hint))
}

// noTopic says that a topic is missing and what to do about it.
func (q *Queue) noTopic(name string) error {
	with := ", with its dead letters' topic " + queue.DeadTopic(name)
	switch {
	case name == q.cfg.Cursors:
		with = " with cleanup.policy=compact"
	case isDead(name):
		with = ""
	}
	return retry.Permanent(fmt.Errorf("%w: %s (make it%s, or add create=true to the queue's URL)", queue.ErrNoTopic, name, with))
}

// gone says that a topic which was there takes no records any more.
func (q *Queue) gone(name string) error {
	q.forget(name)
	q.cl.PurgeTopicsFromProducing(name) // else it goes on looking for the one that was deleted
	if q.cfg.Create {
		return fmt.Errorf("%w: topic %s was deleted; the next try makes it again", queue.ErrUnavailable, name)
	}
	return q.noTopic(name)
}

// topicError is mapCode for a topic's own error in an answer about several.
func (q *Queue) topicError(name, what string, err error) error {
	var code *kerr.Error
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		q.forget(name)
		return q.noTopic(name)
	case errors.As(err, &code):
		return q.mapCode(what, code, err)
	}
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}
