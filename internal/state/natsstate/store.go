// Package natsstate is state.Store over a key-value bucket of NATS JetStream, kept on disk. With the embedded server,
// which syncs always, a Put has been synced when it returns; an outside server syncs as it is set.
package natsstate

import (
	"bytes"
	"cmp"
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

// markerTTL is how long the mark of a deleted key is kept. It only has to outlive a watch under way.
const markerTTL = time.Hour

// Store is a bucket. Make one with Open.
type Store struct {
	kv      jetstream.KeyValue
	stream  jetstream.Stream // the bucket's
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
	if o.Domain != "" {
		js, err = jetstream.NewWithDomain(nc, o.Domain)
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
	return &Store{kv: kv, stream: stream, timeout: o.Timeout}, nil
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
	e, err := again(ctx, func(ctx context.Context) (jetstream.KeyValueEntry, error) {
		return s.kv.Get(ctx, toBucket.Replace(key))
	})
	if err != nil {
		return state.Entry{}, failure("read", key, err)
	}
	return state.Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

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
		return s.kv.Create(ctx, k, value)
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
		_, err := s.kv.Get(ctx, toBucket.Replace(key))
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return nil
		case err != nil:
			return failure("delete", key, err)
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

func (s *Store) list(ctx context.Context, prefix, filter string) ([]state.Entry, error) {
	found, err := s.watch(ctx, filter)
	if err != nil {
		return nil, failure("list", prefix, err)
	}
	// Who is replaced while the watch is on its way may come behind the end of what was there, and be missing. The end
	// cannot tell: it is counted by the server, a moment late. So the keys themselves are asked for.
	all := "$KV." + s.kv.Bucket() + "."
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(all+filter))
	if err != nil {
		return nil, failure("list", prefix, err)
	}
	for subject := range info.State.Subjects {
		k := strings.TrimPrefix(subject, all)
		if _, ok := found[k]; ok || !strings.HasPrefix(fromBucket.Replace(k), prefix) {
			continue
		}
		e, err := s.kv.Get(ctx, k)
		switch {
		case err == nil:
			found[k] = e
		case !errors.Is(err, jetstream.ErrKeyNotFound): // deleted by now
			return nil, failure("list", prefix, err)
		}
	}
	var list []state.Entry
	for k, e := range found {
		if key := fromBucket.Replace(k); e.Operation() == jetstream.KeyValuePut && strings.HasPrefix(key, prefix) {
			list = append(list, state.Entry{Key: key, Value: e.Value(), Revision: e.Revision()})
		}
	}
	slices.SortFunc(list, func(a, b state.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

// watch gives the newest entry of each key up to the watch's mark, marks of deleted keys too.
func (s *Store) watch(ctx context.Context, filter string) (map[string]jetstream.KeyValueEntry, error) {
	w, err := s.kv.Watch(ctx, filter)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }() // nothing hangs on it: the server forgets a watch whose connection has gone
	found := make(map[string]jetstream.KeyValueEntry)
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok && ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case !ok:
				return nil, errors.New("the connection was closed")
			case e == nil: // all that was there has come
				return found, nil
			}
			found[e.Key()] = e
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
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
