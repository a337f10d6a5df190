package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"ferry/internal/retry"
)

// server is what a server says of itself. Hosted servers hide some of it: empty means not known.
type server struct {
	version string // "7.0.15", or "9.1.2 (Valkey)"
	redis   string // the version of Redis whose commands it has
	mode    string // standalone, cluster or sentinel
	role    string // master or slave
	policy  string // maxmemory-policy
	memory  string // maxmemory, in bytes; "0" is no limit
	aof     string // "1": it keeps an append-only file
	fsync   string // always, everysec or no
	waitAOF bool   // it has WAITAOF (Redis 7.2)
}

// examine asks a server.
func examine(ctx context.Context, c *redis.Client) (server, error) {
	text, err := c.Info(ctx).Result()
	if err != nil {
		return server{}, err
	}
	info := parseInfo(text)
	s := server{
		version: info["redis_version"], redis: info["redis_version"], mode: info["redis_mode"], role: info["role"],
		policy: info["maxmemory_policy"], memory: info["maxmemory"], aof: info["aof_enabled"],
	}
	if v := info["valkey_version"]; v != "" {
		s.version = v + " (Valkey)"
	}
	if s.mode == sentinel {
		return s, nil
	}
	// Both of these may be forbidden.
	if got, err := c.ConfigGet(ctx, "appendfsync").Result(); err == nil {
		s.fsync = got["appendfsync"]
	} else if !isAnswer(err) {
		return s, err
	}
	known, err := c.Do(ctx, "COMMAND", "INFO", "WAITAOF").Slice()
	if err != nil && !isAnswer(err) {
		return s, err
	}
	s.waitAOF = err == nil && len(known) == 1 && known[0] != nil
	return s, nil
}

// parseInfo reads the lines name:value of INFO.
func parseInfo(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(name, "#") {
			m[name] = value
		}
	}
	return m
}

// isAnswer tells an error that the server sent from one of the connection.
func isAnswer(err error) bool {
	var e redis.Error
	return errors.As(err, &e)
}

// evicts tells whether the server deletes keys without being asked when its memory is full. Policies named volatile-…
// delete only keys that have a time to live, and ferry's have none.
func (s server) evicts() bool { return strings.HasPrefix(s.policy, "allkeys-") }

// mends tells whether the server, when a crash has cut its append-only file in the middle of a script's changes, takes
// out all of them. Redis up to 8.2.3 (the newest tried) and Valkey up to 8.1.8 leave the beginning of them in the file,
// without effect until another script's end stands behind it and the file is read once more: valkey-io/valkey#4342.
func (s server) mends() bool {
	version, valkey := strings.CutSuffix(s.version, " (Valkey)")
	return valkey && atLeast(version, 9, 1, 2)
}

// check refuses a server that cannot do what ferry needs.
func (s server) check(c Config) error {
	switch {
	case s.mode == sentinel:
		return errors.New("the server is a sentinel: write mode=sentinel&master=NAME")
	case s.mode == cluster && c.Mode != cluster:
		return errors.New("the server is part of a cluster: write mode=cluster")
	case s.mode == "standalone" && c.Mode == cluster:
		return errors.New("the server is not part of a cluster: leave mode=cluster out")
	case s.redis != "" && !atLeast(s.redis, 6, 2):
		return fmt.Errorf("the server is version %s; ferry needs Redis 6.2 or newer", s.version)
	case s.evicts() && s.memory != "0" && !c.Unsafe:
		return fmt.Errorf("the server deletes topics and cursors when its memory is full (maxmemory-policy %s): set noeviction, so that it pushes back, or take the loss with unsafe=true", s.policy)
	}
	return nil
}

// atLeast compares a version such as 7.0.15, number by number. What cannot be read counts as new.
func atLeast(version string, want ...int) bool {
	for i, part := range strings.Split(version, ".") {
		n, err := strconv.Atoi(part)
		switch {
		case i == len(want) || err != nil || n > want[i]:
			return true
		case n < want[i]:
			return false
		}
	}
	return true
}

// confirmation is what a write waits for before it counts as durable, beyond the server's answer.
type confirmation struct {
	aof      bool // WAITAOF: on the disk of the server, and of the replicas if any
	replicas int
}

// confirmation says what is to be waited for. A server that syncs always does so before it answers.
func (s server) confirmation(c Config) confirmation {
	disk := s.aof == "1" && s.waitAOF && !c.Unsafe
	return confirmation{aof: disk && (s.fsync != "always" || c.Wait > 0), replicas: c.Wait}
}

// note says for a person how durable a confirmed record is.
func (s server) note(c Config) string {
	var disk string
	switch {
	case s.aof == "":
		disk = "whether the server keeps what it has confirmed over a restart is not known: it does not say"
	case s.aof != "1":
		disk = "the server keeps no append-only file: a restart loses what came since its last snapshot; set appendonly yes and appendfsync always"
	case s.fsync == "always":
		disk = "every confirmed record is synced to the server's disk"
	case s.waitAOF && !c.Unsafe:
		disk = "every confirmed record is synced to the server's disk, and because the server syncs once a second a write takes that long; appendfsync always makes it quick"
	case s.fsync == "":
		disk = "the server keeps an append-only file, and how often it syncs that is not known"
	default:
		disk = "the server confirms before it syncs (appendfsync " + s.fsync + "): a power cut can lose the last second; set appendfsync always"
	}
	failover := "; a failover loses what the replica had not received yet, unless the URL says wait=1"
	switch {
	case c.Wait > 0 && s.confirmation(c).aof:
		failover = fmt.Sprintf("; confirmed on the disks of %d replicas too", c.Wait)
	case c.Wait > 0:
		failover = fmt.Sprintf("; confirmed in the memory of %d replicas too", c.Wait)
	case c.Mode == single:
		failover = ""
	}
	if s.aof == "1" && !s.mends() {
		failover += "; after a crash that cut its append-only file (its log says short read) run BGREWRITEAOF, or the next restart can bring back the first records of a commit that had not been finished"
	}
	if s.evicts() {
		failover += "; the server may delete topics and cursors when its memory is full (maxmemory-policy " + s.policy + ")"
	}
	return disk + failover
}

// examine asks every server that takes writes, and keeps the worst of them in each respect.
func (q *Queue) examine(ctx context.Context) (server, error) {
	var mu sync.Mutex
	var all []server
	err := q.masters(ctx, func(ctx context.Context, c *redis.Client) error {
		s, err := examine(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, s)
		return err
	})
	if err != nil {
		return server{}, q.mapError("ask Redis what it can do", err)
	}
	if len(all) == 0 {
		return server{}, q.mapError("ask Redis what it can do", errors.New("the cluster has no server that takes writes"))
	}
	worst := all[0]
	for _, s := range all {
		if err := s.check(q.cfg); err != nil {
			return s, retry.Permanent(fmt.Errorf("queue URL: %w", err))
		}
		if s.aof != "1" || worst.aof == "1" && s.fsync != "always" {
			worst.aof, worst.fsync = s.aof, s.fsync
		}
		worst.waitAOF = worst.waitAOF && s.waitAOF
		if s.evicts() {
			worst.policy = s.policy
		}
	}
	return worst, nil
}
