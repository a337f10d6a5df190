// Package state keeps what instances share beside the queue: leases, pauses, run history, and cursors for queues that
// cannot hold them. Everything stands on one small key-value contract with compare-and-set.
package state

import (
	"context"
	"errors"
)

var (
	// ErrConflict: the key's revision is not the one expected; someone else has written.
	ErrConflict = errors.New("state was changed by someone else")
	// ErrNotFound: the key has no value.
	ErrNotFound = errors.New("no such key")
	// ErrUnavailable: the store did not answer. Whether a write was done is not known.
	ErrUnavailable = errors.New("the state store is unavailable")
)

// Store is a durable key-value store with compare-and-set. Safe for concurrent use; calls block until the store has
// answered or the context ends. An error that is none of the above and not the context's is ErrUnavailable or of the
// caller's making. Keys are made of [A-Za-z0-9._/-] and do not begin or end with a dot or slash.
type Store interface {
	// Get returns the value and its revision, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Put writes durably and returns the new revision. rev must be the key's present one, 0 for a key without a
	// value; otherwise ErrConflict and nothing is written. AnyRevision writes whatever is there.
	Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)
	// Delete removes the key under the same condition. Deleting a key without a value is no error with AnyRevision.
	Delete(ctx context.Context, key string, rev uint64) error
	// List returns the entries whose key begins with prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
}

// AnyRevision as a revision means: whatever is there.
const AnyRevision = ^uint64(0)

// Entry is a key's value and revision. Revisions of a key only grow.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}
