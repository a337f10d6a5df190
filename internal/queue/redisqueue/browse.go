package redisqueue

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
)

const (
	// usualBytes is the bound of one Browse or Receive, see Queue.readBytes.
	usualBytes = 64 << 20
	// firstPage and largestPage are how many entries are asked for at once. Nobody knows how large the next entries are:
	// pages grow as long as what came was small.
	firstPage, largestPage = 8, 1000
	// walkStep is how many entries one script passes over, a few milliseconds for the server.
	walkStep = 5000
)

// pages calls get for up to n entries, page by page, until a page is short or enough bytes are there.
func pages(n, enough int, get func(n int) ([]entry, error)) ([]entry, error) {
	var all []entry
	size, bytes := firstPage, 0
	for len(all) < n && bytes < enough {
		want := min(size, n-len(all))
		page, err := get(want)
		all = append(all, page...)
		if err != nil || len(page) < want {
			return all, err
		}
		before := bytes
		for i := range page {
			bytes += page[i].size()
		}
		if bytes-before < enough/64 {
			size = min(4*size, largestPage)
		}
	}
	return all, nil
}

// Browse implements queue.Reader.
func (q *Queue) Browse(ctx context.Context, name string, from int64, max int) ([]queue.Stored, error) {
	t, err := q.enterTopic(name)
	if err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	return await(ctx, q, "read topic "+name, func(ctx context.Context) ([]queue.Stored, error) {
		start := atPosition(from).String()
		if from < 0 {
			if start, err = q.fromEnd(ctx, t, -from); err != nil {
				return nil, q.mapError("read topic "+name, err)
			}
		}
		entries, err := q.readRange(ctx, t.key(), start, max)
		if err != nil {
			return nil, q.mapError("read topic "+name, err)
		}
		if len(entries) == 0 {
			return nil, q.exists(ctx, t)
		}
		return browsed(t, entries)
	}, nil)
}

// browsed gives entries as records up to the first one that has no position: paging on from there would leave it out.
func browsed(t topic, entries []entry) ([]queue.Stored, error) {
	stored := make([]queue.Stored, len(entries))
	for i := range entries {
		if _, ok := entries[i].id.position(); !ok {
			if i == 0 {
				return nil, fmt.Errorf("read topic %s: entry %s was written by someone else, with a sequence number over %d, and has no position; read it with XRANGE",
					t.name, entries[0].id, maxSeq)
			}
			return stored[:i], nil
		}
		stored[i] = entries[i].stored()
	}
	return stored, nil
}

// readRange reads up to n entries from an id on.
func (q *Queue) readRange(ctx context.Context, key, start string, n int) ([]entry, error) {
	return pages(n, q.readBytes, func(n int) ([]entry, error) {
		var answer any
		err := q.on(ctx, key, func(c *redis.Client) (err error) {
			answer, err = answerOf(c.Do(ctx, "XRANGE", key, start, "+", "COUNT", n))
			return err
		})
		if err != nil {
			return nil, err
		}
		page, err := readEntries(answer)
		if len(page) > 0 {
			start = "(" + page[len(page)-1].id.String()
		}
		return page, err
	})
}

// fromEnd finds the id of the n-th last entry. There is no command for that: a script walks there from the nearer end.
func (q *Queue) fromEnd(ctx context.Context, t topic, n int64) (string, error) {
	var length int64
	err := q.on(ctx, t.key(), func(c *redis.Client) (err error) {
		length, err = c.XLen(ctx, t.key()).Result()
		return err
	})
	if err != nil || n >= length || n < 0 { // < 0: the smallest number has no opposite
		return "-", err
	}
	if skip := length - n; skip < n {
		last, _, err := q.walk(ctx, t, "XRANGE", "-", skip)
		return "(" + last, err
	}
	last, _, err := q.walk(ctx, t, "XREVRANGE", "+", n)
	return last, err
}

// walk passes over n entries without reading them, and gives the last one's id and how many there were.
func (q *Queue) walk(ctx context.Context, t topic, command, from string, n int64) (last string, passed int64, err error) {
	for passed < n {
		answer, err := q.ask(ctx, q.scripts.walk, t.key(), command, from, min(n-passed, walkStep))
		if err != nil {
			return last, passed, err
		}
		id, _ := answer[0].(string)
		count, _ := answer[1].(int64)
		if count == 0 {
			break
		}
		last, from, passed = id, "("+id, passed+count
	}
	return last, passed, nil
}
