package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"ferry/internal/api"
	"ferry/internal/retry"
	"ferry/internal/state"
)

const (
	answersPrefix = "idempotency/"
	answersLook   = 100 * time.Millisecond // how often somebody looks whether another instance has answered
	answersParts  = 256                    // what a key's first byte may be
	answersSweep  = time.Hour              // in which all parts are looked through for what is old
	answerMost    = 64 << 10               // a larger answer is not kept: it is one message of the store
)

// sharedAnswers is api.Idempotency over the state store: a key that was answered by one instance is not worked on by
// another. A claim whose instance has died is taken over once it has stood for longer than a request may take, as counted
// by who waits; starting a run may take longer, and is joined to the run when it is done once more.
type sharedAnswers struct {
	store   state.Store
	patient time.Duration
}

func newSharedAnswers(store state.Store, requestTimeout time.Duration) *sharedAnswers {
	return &sharedAnswers{store: store, patient: requestTimeout + api.MostReceiveWait + 15*time.Second}
}

// keptAnswer is what lies in the store: a claim, and later its answer.
type keptAnswer struct {
	Print  string      `json:"print"`
	At     time.Time   `json:"at"`
	Answer *api.Answer `json:"answer,omitempty"`
}

// Begin implements api.Idempotency.
func (s *sharedAnswers) Begin(ctx context.Context, key string, print [32]byte) (*api.Answer, func(*api.Answer), error) {
	at, claim := answerKey(key), keptAnswer{Print: hex.EncodeToString(print[:])}
	var seen uint64
	var since time.Time
	for {
		var there keptAnswer
		e, err := s.store.Get(ctx, at)
		switch {
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			return nil, nil, problem(fmt.Errorf("read answer: %w", err))
		default:
			if err := json.Unmarshal(e.Value, &there); err != nil {
				return nil, nil, fmt.Errorf("read answer: %w", err)
			}
		}
		old := time.Since(there.At) > api.IdempotencyTTL
		switch {
		case e.Revision == 0, old:
		case there.Print != claim.Print:
			return nil, nil, api.ErrKeyReused
		case there.Answer != nil:
			return there.Answer, nil, nil
		case seen != e.Revision:
			seen, since = e.Revision, time.Now()
		}
		if e.Revision == 0 || old || time.Since(since) > s.patient {
			claim.At = time.Now().UTC()
			rev, err := s.put(ctx, at, claim, e.Revision)
			if err == nil {
				return nil, func(a *api.Answer) { s.finish(ctx, at, claim, rev, a) }, nil
			}
			if !errors.Is(err, state.ErrConflict) {
				return nil, nil, problem(fmt.Errorf("claim answer: %w", err))
			}
			continue
		}
		if err := retry.Sleep(ctx, answersLook); err != nil {
			return nil, nil, err
		}
	}
}

func (s *sharedAnswers) put(ctx context.Context, key string, v keptAnswer, rev uint64) (uint64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	return s.store.Put(ctx, key, b, rev)
}

// finish keeps the answer, or lets the key go. What cannot be written leaves the claim, which runs out: the caller has its
// answer in any case.
func (s *sharedAnswers) finish(ctx context.Context, key string, v keptAnswer, rev uint64, a *api.Answer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if a == nil {
		_ = s.store.Delete(ctx, key, rev)
		return
	}
	if len(a.Body) > answerMost {
		a = &api.Answer{Status: a.Status}
	}
	v.Answer = a
	_, _ = s.put(ctx, key, v, rev)
}

// answerKey is where the answer of a caller's key lies, which may hold anything.
func answerKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return answersPart(sum[0]) + hex.EncodeToString(sum[1:16])
}

// answersPart begins the keys of a part. It ends with a slash, because NATS picks out whole parts of a key only: of
// anything less it would send the answers of all.
func answersPart(b byte) string { return answersPrefix + hex.EncodeToString([]byte{b}) + "/" }

// start begins to forget old answers, until stop, which waits for the end of that.
func (s *sharedAnswers) start(ctx context.Context, log *slog.Logger) (stop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.sweepAll(ctx, log)
	}()
	return func(ctx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sweepAll sweeps one part after the other until ctx ends. There may be a million answers: a part at a time keeps them out
// of memory (invariant 7), and out of the way of requests. It begins anywhere, so that instances are at different parts,
// and one that is often restarted comes to all of them.
func (s *sharedAnswers) sweepAll(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(answersSweep / answersParts)
	defer tick.Stop()
	for part := byte(rand.N(answersParts)); ; part++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.sweep(ctx, part); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "cannot forget old answers of Idempotency-Keys; trying again within the hour", "error", err)
		}
	}
}

// sweep forgets what is older than answers are kept.
func (s *sharedAnswers) sweep(ctx context.Context, part byte) error {
	entries, err := s.store.List(ctx, answersPart(part))
	if err != nil {
		return fmt.Errorf("list answers: %w", err)
	}
	for _, e := range entries {
		var v keptAnswer
		if json.Unmarshal(e.Value, &v) == nil && time.Since(v.At) <= api.IdempotencyTTL {
			continue
		}
		if err := s.store.Delete(ctx, e.Key, e.Revision); err != nil && !errors.Is(err, state.ErrConflict) {
			return fmt.Errorf("forget answer: %w", err)
		}
	}
	return nil
}
