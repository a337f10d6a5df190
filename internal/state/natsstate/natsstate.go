// Package natsstate keeps state in a JetStream key-value bucket: inside the process, or on a NATS server that several
// instances share.
package natsstate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/state"
)

// Options of Open. The zero value is for one server.
type Options struct {
	// Bucket names the key-value bucket. Default "ferry-state".
	Bucket string
	// Replicas of the bucket, 1 to 5. Default 1.
	Replicas int
	// Timeout of one call. Default 5 s.
	Timeout time.Duration
}

// Store is a state.Store over one bucket.
type Store struct {
	kv      jetstream.KeyValue
	timeout time.Duration
}

var _ state.Store = (*Store)(nil)

// Open makes the bucket where it is missing. The connection stays the caller's.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	if o.Bucket == "" {
		o.Bucket = "ferry-state"
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	kv, err := js.KeyValue(ctx, o.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: o.Bucket, Description: "ferry's leases, pauses and run history", History: 1,
			Storage: jetstream.FileStorage, Replicas: max(o.Replicas, 1),
		})
		if errors.Is(err, jetstream.ErrBucketExists) { // another instance was quicker
			kv, err = js.KeyValue(ctx, o.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open state bucket %s: %w", o.Bucket, err)
	}
	return &Store{kv: kv, timeout: o.Timeout}, nil
}

// Get returns the value and its revision, or state.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (state.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
		return state.Entry{}, fmt.Errorf("get %s: %w", key, state.ErrNotFound)
	}
	if err != nil {
		return state.Entry{}, fmt.Errorf("get state %s: %w", key, err)
	}
	return state.Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

// Put writes when the key's revision is rev; see state.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var next uint64
	var err error
	switch rev {
	case state.AnyRevision:
		next, err = s.kv.Put(ctx, key, value)
	case 0:
		next, err = s.kv.Create(ctx, key, value)
	default:
		next, err = s.kv.Update(ctx, key, value, rev)
	}
	if err != nil {
		return 0, failure("put", key, err)
	}
	return next, nil
}

// Delete removes the key when its revision is rev; see state.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var opts []jetstream.KVDeleteOpt
	if rev != state.AnyRevision {
		opts = append(opts, jetstream.LastRevision(rev))
	}
	if err := s.kv.Purge(ctx, key, opts...); err != nil {
		return failure("delete", key, err)
	}
	return nil
}

// List returns the entries whose key begins with prefix, sorted by key.
func (s *Store) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// A subject's wildcard stands for whole parts between dots, and a prefix may end inside one: all keys are read
	// and chosen from here. There are at most a few hundred per pipeline.
	w, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list state %s: %w", prefix, err)
	}
	defer w.Stop() //nolint:errcheck // the watch ends with ctx at the latest
	var out []state.Entry
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("list state %s: the watch has ended", prefix)
			}
			if e == nil { // everything that was there has come
				slices.SortFunc(out, func(a, b state.Entry) int { return strings.Compare(a.Key, b.Key) })
				return out, nil
			}
			if strings.HasPrefix(e.Key(), prefix) {
				out = append(out, state.Entry{Key: e.Key(), Value: e.Value(), Revision: e.Revision()})
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("list state %s: %w", prefix, context.Cause(ctx))
		}
	}
}

// failure tells a lost compare-and-set apart from what went wrong.
func failure(what, key string, err error) error {
	var api *jetstream.APIError
	if errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return fmt.Errorf("%s %s: %w", what, key, state.ErrConflict)
	}
	return fmt.Errorf("%s state %s: %w", what, key, err)
}
