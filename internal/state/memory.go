package state

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Memory is a Store that lives as long as the process, for tests.
type Memory struct {
	mu       sync.Mutex
	entries  map[string]Entry
	revision uint64
}

var _ Store = (*Memory)(nil)

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{entries: make(map[string]Entry)} }

// CheckKey tells why a key cannot be one.
func CheckKey(key string) error {
	if key == "" {
		return errors.New("state: empty key")
	}
	for _, c := range []byte(key) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '/', c == '-':
		default:
			return fmt.Errorf("state: key %q holds %q; use letters, digits and . _ / -", key, c)
		}
	}
	if strings.Trim(key, "./") != key || strings.Contains(key, "//") {
		return fmt.Errorf("state: key %q begins or ends with a dot or slash, or holds an empty part", key)
	}
	return nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := check(ctx, key); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return Entry{}, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	e.Value = bytes.Clone(e.Value)
	return e, nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := check(ctx, key); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if rev != AnyRevision && m.entries[key].Revision != rev {
		return 0, fmt.Errorf("%w: %s", ErrConflict, key)
	}
	m.revision++
	m.entries[key] = Entry{Key: key, Value: bytes.Clone(value), Revision: m.revision}
	return m.revision, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string, rev uint64) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if rev != AnyRevision && m.entries[key].Revision != rev {
		return fmt.Errorf("%w: %s", ErrConflict, key)
	}
	delete(m.entries, key)
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) ([]Entry, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Entry
	for key, e := range m.entries {
		if strings.HasPrefix(key, prefix) {
			e.Value = bytes.Clone(e.Value)
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

func check(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return CheckKey(key)
}
