package redisqueue

import (
	"fmt"
	"strings"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// How a topic lies in Redis. Everything of a topic carries its name as hash tag, so that a cluster keeps it on one
// slot and one script can write it whole:
//
//	orders                            stream   the records of the topic orders, for consumers of any kind
//	{orders}.dead                     stream   its dead letters, the topic orders.dead
//	{orders}.ferry.cursor.<pipeline>  hash     the cursor of each pipeline that writes to it, and who may move it
//	ferry.topics                      set      the topics that ferry has made or written
//
// A topic's name holds no braces, so none of these meets another.

const (
	topicsKey  = "ferry.topics"
	pingKey    = "ferry.ping" // never holds anything
	deadSuffix = ".dead"
	maxTopic   = 200
)

// topic is a checked topic name.
type topic struct {
	name string // as given: orders or orders.dead
	base string // the topic whose dead letters these are, or name itself
}

func (t topic) dead() bool { return t.name != t.base }

// key is where the topic's records lie.
func (t topic) key() string {
	if t.dead() {
		return t.deadKey()
	}
	return t.base
}

func (t topic) deadKey() string { return "{" + t.base + "}" + deadSuffix }

func (t topic) cursorKey(pipeline string) string { return "{" + t.base + "}.ferry.cursor." + pipeline }

func (t topic) pingKey() string { return "{" + t.base + "}." + pingKey }

// parseTopic checks a name.
func parseTopic(name string) (topic, error) {
	t := topic{name: name, base: strings.TrimSuffix(name, deadSuffix)}
	switch {
	case t.base == "":
		return t, queue.BadTopic("topic %q has no name", name)
	case len(name) > maxTopic:
		return t, queue.BadTopic("topic %.20q… is longer than %d bytes", name, maxTopic)
	case t.base == "ferry" || strings.HasPrefix(t.base, "ferry."):
		return t, queue.BadTopic("topic %q: names that begin with ferry. are ferry's own", name)
	case strings.HasSuffix(t.base, deadSuffix):
		return t, queue.BadTopic("topic %q: dead letters have no dead letters of their own", name)
	case strings.ContainsAny(name, "{}"):
		return t, queue.BadTopic("topic %q: braces mark the part of a Redis key that decides its slot; choose a name without them", name)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] == 0x7f {
			return t, queue.BadTopic("topic %q: a name has no spaces or control characters", name)
		}
	}
	return t, nil
}

// checkPipeline refuses what cannot be the end of a key.
func checkPipeline(name string) error {
	if name == "" {
		return retry.Permanent(fmt.Errorf("the pipeline has no name"))
	}
	return nil
}

// noTopic says how to make what is missing.
func (q *Queue) noTopic(missing ...topic) error {
	var names, commands []string
	for _, t := range missing {
		names = append(names, t.name)
		commands = append(commands, fmt.Sprintf("XGROUP CREATE %s %s 0 MKSTREAM", t.key(), group))
	}
	if q.cfg.Create { // a reader's error: what is not there has not been written yet
		return fmt.Errorf("%w: %s", queue.ErrNoTopic, strings.Join(names, ", "))
	}
	return retry.Permanent(fmt.Errorf("%w: %s; make it in Redis (%s), or let ferry make it: create=true in the queue's URL",
		queue.ErrNoTopic, strings.Join(names, ", "), strings.Join(commands, "; ")))
}
