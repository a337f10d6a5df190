package redisqueue

import (
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"
)

// A stream's entry id is <milliseconds>-<sequence>. As a position it is one number: the milliseconds, then seqBits bits
// of sequence. So many, because a position travels as a JSON number and readers in JavaScript keep 53 bits of one:
// 41 bits of milliseconds reach to the year 2039. ferry's own entries stay below the limit (lua/append.lua); after 2039
// positions grow past 53 bits, and nothing else changes.
const (
	seqBits = 12
	maxSeq  = 1<<seqBits - 1
	maxMs   = math.MaxInt64 >> seqBits
)

// entryID is the id of a stream's entry.
type entryID struct{ ms, seq uint64 }

func parseID(s string) (entryID, bool) {
	ms, seq, ok := strings.Cut(s, "-")
	a, err1 := strconv.ParseUint(ms, 10, 64)
	b, err2 := strconv.ParseUint(seq, 10, 64)
	return entryID{a, b}, ok && err1 == nil && err2 == nil
}

func (id entryID) String() string {
	return strconv.FormatUint(id.ms, 10) + "-" + strconv.FormatUint(id.seq, 10)
}

// position is false for an id that no number stands for; it is then the nearest below.
func (id entryID) position() (int64, bool) {
	switch {
	case id.ms > maxMs:
		return math.MaxInt64, false
	case id.seq > maxSeq:
		return int64(id.ms<<seqBits | maxSeq), false
	}
	return int64(id.ms<<seqBits | id.seq), true
}

func (id entryID) time() time.Time { return time.UnixMilli(int64(min(id.ms, maxMs))) }

// atPosition is the id that a position stands for; 0 and below are the beginning of every stream.
func atPosition(pos int64) entryID {
	if pos <= 0 {
		return entryID{}
	}
	return entryID{uint64(pos) >> seqBits, uint64(pos) & maxSeq}
}

// A receipt is <id>.<attempt>.<sum of the topic's name>: the count tells an outdated one, the sum one of another topic.
func receipt(t topic, id entryID, attempt int) string {
	return fmt.Sprintf("%s.%d.%08x", id, attempt, crc32.ChecksumIEEE([]byte(t.name)))
}

// parseReceipt takes what receipt has made for this topic, and nothing else.
func parseReceipt(t topic, s string) (id entryID, attempt int, ok bool) {
	first, rest, _ := strings.Cut(s, ".")
	count, _, _ := strings.Cut(rest, ".")
	id, ok = parseID(first)
	attempt, err := strconv.Atoi(count)
	return id, attempt, ok && err == nil && attempt > 0 && receipt(t, id, attempt) == s
}
