package kafkaqueue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestMissingTopics: without create=true nothing is made, and every missing topic is named with the fix.
func TestMissingTopics(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "orders"))
	cfg := fakeConfig(c)
	cfg.Create = false
	q := open(t, cfg)
	_, errWriter := q.OpenWriter(t.Context(), "p", "orders")
	_, errClaim := q.claim(t.Context(), "p", "orders")
	for what, tt := range map[string]struct {
		err  error
		text string
	}{
		"prepare": {
			q.Prepare(t.Context(), "orders", "bills"),
			"no such topic: bills, bills.dead, ferry.cursors, orders.dead (make them; ferry.cursors with cleanup.policy=compact; or add create=true to the queue's URL)",
		},
		"publish": {
			q.Publish(t.Context(), "bills", records("p", 0, 1)),
			"no such topic: bills (make it, with its dead letters' topic bills.dead, or add create=true to the queue's URL)",
		},
		"open writer": {errWriter, "no such topic: orders.dead (make it, or add create=true to the queue's URL)"},
		"claim":       {errClaim, "no such topic: ferry.cursors (make it with cleanup.policy=compact, or add create=true to the queue's URL)"},
	} {
		if !errors.Is(tt.err, queue.ErrNoTopic) || !retry.IsPermanent(tt.err) || !strings.Contains(tt.err.Error(), tt.text) {
			t.Errorf("%s: %v (permanent %v), want %q", what, tt.err, retry.IsPermanent(tt.err), tt.text)
		}
	}
	if all, err := q.metadata(t.Context()); err != nil || len(all.Topics) != 1 {
		t.Errorf("topics %v, %v; nothing should have been made", all.Topics.Names(), err)
	}
}

// TestPrepare makes what is missing as the URL says, and the cursor topic so that it keeps cursors.
func TestPrepare(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		c.Prefix, c.Partitions, c.Replication, c.MinInSync = "t"+strings.ToLower(token()), 3, 1, 1
		q, topic := open(t, c), topicName(t)
		for range 2 {
			if err := q.Prepare(t.Context(), topic, queue.DeadTopic(topic)); err != nil {
				t.Fatal(err)
			}
		}
		cursors := c.Prefix + ".cursors"
		seen, err := q.metadata(t.Context(), topic, queue.DeadTopic(topic), cursors)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{topic: 3, queue.DeadTopic(topic): 3, cursors: 1} {
			if got := len(seen.Topics[name].Partitions); got != want {
				t.Errorf("%s has %d partitions, want %d", name, got, want)
			}
		}
		configs, err := q.adm.DescribeTopicConfigs(t.Context(), cursors)
		if err != nil || text(configs[0].Configs, "cleanup.policy") != "compact" || text(configs[0].Configs, "min.insync.replicas") != "1" {
			t.Errorf("configuration of %s: %v, %v", cursors, configs, err)
		}
	})
}

// TestUnfitTopics: topics that could not keep the promise are refused at the start.
func TestUnfitTopics(t *testing.T) {
	c := fake(t)
	if err := c.CreateTopic("ferry.cursors", 1, map[string]string{"cleanup.policy": "compact,delete"}); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateTopic("orders", 1, map[string]string{"min.insync.replicas": "7"}); err != nil {
		t.Fatal(err)
	}
	err := open(t, fakeConfig(c)).Prepare(t.Context(), "orders")
	for _, want := range []string{
		"topic ferry.cursors forgets old cursors, so pipelines would begin anew: set its cleanup.policy to compact",
		"min.insync.replicas 7: nothing can be written to it",
	} {
		if err == nil || !strings.Contains(err.Error(), want) || !retry.IsPermanent(err) {
			t.Errorf("prepare: %v, want %q", err, want)
		}
	}
}

// TestCreateRefused: what the cluster says against a topic is passed on; a full quota may clear.
func TestCreateRefused(t *testing.T) {
	for _, tt := range []struct {
		err       *kerr.Error
		is        error
		permanent bool
		text      string
	}{
		{kerr.InvalidReplicationFactor, nil, true, "set replication in the queue's URL"},
		{kerr.ThrottlingQuotaExceeded, queue.ErrFull, false, ""},
		{kerr.TopicAuthorizationFailed, nil, true, "Create to make it"},
		{kerr.PolicyViolation, nil, true, ""},
	} {
		c := fake(t)
		q := open(t, fakeConfig(c))
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: tt.err, Count: -1})
		err := q.Prepare(t.Context(), "orders")
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || retry.IsPermanent(err) != tt.permanent || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v (permanent %v)", tt.err.Message, err, retry.IsPermanent(err))
		}
	}
}

// TestHostedCursors: a cluster that keeps segment.bytes to itself.
func TestHostedCursors(t *testing.T) {
	c := fake(t)
	q := open(t, fakeConfig(c))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.PolicyViolation, Count: -1, When: func(r kmsg.Request) bool {
		return slices.ContainsFunc(r.(*kmsg.CreateTopicsRequest).Topics[0].Configs, func(c kmsg.CreateTopicsRequestTopicConfig) bool { return c.Name == "segment.bytes" })
	}})
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if p := c.TopicInfo("ferry.cursors"); p == nil {
		t.Fatal("there is no cursor topic")
	}
}

// TestDeletedTopic: a topic goes while the queue is open, and comes again.
func TestDeletedTopic(t *testing.T) {
	c := fake(t)
	cfg := fakeConfig(c)
	cfg.Redelivery = time.Hour
	q := open(t, cfg)
	w := writerOf(t, q, "p", "orders")
	if err := q.Publish(t.Context(), "orders", records("p", 0, 3)); err != nil {
		t.Fatal(err)
	}
	got, err := q.Receive(t.Context(), "orders", 3, time.Second)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	if err := c.DeleteTopic("orders"); err != nil {
		t.Fatal(err)
	}
	sound := fakeConfig(c)
	sound.Create = false
	if err := open(t, sound).Publish(t.Context(), "orders", records("p", 3, 1)); !errors.Is(err, queue.ErrNoTopic) {
		t.Fatalf("publish that may not make the topic again: %v", err)
	}
	if err := eventually(t, func() error {
		return w.Commit(t.Context(), queue.Batch{Records: records("p", 3, 1)}, record.Cursor("a"))
	}); err != nil {
		t.Fatalf("commit, which may make the topic again: %v", err)
	}
	if err := eventually(t, func() error { return q.Publish(t.Context(), "orders", records("p", 4, 1)) }); err != nil {
		t.Fatalf("publish, which may make the topic again: %v", err)
	}
	if err := eventually(t, func() error { got, err = q.Receive(t.Context(), "orders", 3, time.Second); return err }); err != nil || len(got) != 2 {
		t.Fatalf("%d records of the new topic, %v; the book of the old one holds no more", len(got), err)
	}
}

// TestPartitions: records with a key lie where the Java client puts them; those without, and all with
// partition=pipeline, lie in one partition each pipeline.
func TestPartitions(t *testing.T) {
	// murmur2 of the Java client's own tests, made positive, modulo 100.
	q := &Queue{cfg: Config{Partition: byKey}}
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		want := int(hash&0x7fffffff) % 100
		if got := q.partitioner().ForTopic("t").Partition(&kgo.Record{Key: []byte(key)}, 100); got != want {
			t.Errorf("key %s goes to partition %d, want %d", key, got, want)
		}
	}
	for _, mode := range []string{byKey, byPipeline} {
		c := fake(t)
		cfg := fakeConfig(c)
		cfg.Partitions, cfg.Partition = 8, mode
		q := open(t, cfg)
		batch := records("p", 0, 40)
		for i := range batch {
			if i%2 == 0 {
				batch[i].Key = fmt.Sprint("key", i)
			}
		}
		if err := q.Publish(t.Context(), "orders", batch); err != nil {
			t.Fatal(err)
		}
		got, err := q.Browse(t.Context(), "orders", 0, 100)
		if err != nil || len(got) != 40 {
			t.Fatalf("%d records, %v", len(got), err)
		}
		withKey, without := map[int64]bool{}, map[int64]bool{}
		for i := range got {
			if p := got[i].Position & (maxPartitions - 1); got[i].Key != "" {
				withKey[p] = true
			} else {
				without[p] = true
			}
		}
		if len(without) != 1 || mode == byKey && len(withKey) < 4 || mode == byPipeline && len(withKey) != 1 {
			t.Errorf("partition=%s: records with a key in %d partitions, without in %d", mode, len(withKey), len(without))
		}
	}
}

// TestSeveralPartitions browses and receives a topic of many partitions, filled unevenly.
func TestSeveralPartitions(t *testing.T) {
	eachBroker(t, func(t *testing.T, c Config) {
		c.Partitions = 5
		q, topic := open(t, c), topicName(t)
		w := writerOf(t, q, "p", topic)
		const n = 60
		for i := range n / 4 {
			batch := records("p", 4*i, 4)
			for k := range batch {
				batch[k].Key = fmt.Sprint("key", (i*k)%11)
			}
			if err := w.Commit(t.Context(), queue.Batch{Records: batch}, record.Cursor("c")); err != nil {
				t.Fatal(err)
			}
		}
		all, err := q.Browse(t.Context(), topic, 0, 1000)
		if err != nil || len(all) != n {
			t.Fatalf("%d records, %v", len(all), err)
		}
		for i := 1; i < n; i++ {
			if all[i].Position <= all[i-1].Position {
				t.Fatalf("position %d after %d", all[i].Position, all[i-1].Position)
			}
		}
		same := func(what string, got []queue.Stored, err error, want []queue.Stored) {
			t.Helper()
			if err != nil || len(got) != len(want) {
				t.Fatalf("%s: %d records, %v; want %d", what, len(got), err, len(want))
			}
			for i := range got {
				if got[i].ID != want[i].ID {
					t.Fatalf("%s: record %d is %s, want %s", what, i, got[i].Data, want[i].Data)
				}
			}
		}
		for i := 0; i < n; i += 7 {
			got, err := q.Browse(t.Context(), topic, all[i].Position, 9)
			same("from a position", got, err, all[i:min(i+9, n)])
			got, err = q.Browse(t.Context(), topic, all[i].Position+1, 9)
			same("behind a position", got, err, all[i+1:min(i+10, n)])
			got, err = q.Browse(t.Context(), topic, -int64(i+1), 9)
			same("from the end", got, err, all[n-i-1:min(n-i+8, n)])
		}
		seen := map[string]bool{}
		for len(seen) < n {
			got, err := q.Receive(t.Context(), topic, 13, time.Second)
			if err != nil || len(got) == 0 {
				t.Fatalf("received %d records after %d, %v", len(got), len(seen), err)
			}
			var receipts []string
			for _, d := range got {
				if seen[d.ID] {
					t.Fatalf("%s came twice", d.ID)
				}
				seen[d.ID] = true
				receipts = append(receipts, d.Receipt)
			}
			if err := q.Ack(t.Context(), topic, receipts...); err != nil {
				t.Fatal(err)
			}
		}
		st, err := q.Stats(t.Context(), topic)
		if err != nil || st.Waiting != 0 || st.Records != n || st.First != all[0].Position || st.Last != all[n-1].Position {
			t.Fatalf("stats %+v, %v", st, err)
		}
	})
}

// TestNote: what a person should know of the cluster that was found.
func TestNote(t *testing.T) {
	q := &Queue{}
	for want, got := range map[string]string{
		"KIP-890":                   q.note(true, 2),
		"one copy is enough":        q.note(false, 1),
		"isolation.level=read_comm": q.note(false, 2),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("note %q, want %q in it", got, want)
		}
	}
	if note := q.note(false, 2); strings.Contains(note, ";") {
		t.Errorf("a sound cluster is said to be %q", note)
	}
	old := fake(t, kfake.MaxVersions(kversion.V2_4_0()))
	c := fakeConfig(old)
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "ferry needs 2.5 or newer") || !retry.IsPermanent(err) {
		t.Errorf("brokers of Kafka 2.4: %v", err)
	}
	if note := open(t, fakeConfig(fake(t, kfake.MaxVersions(kversion.V3_9_0())))).Info().Note; !strings.Contains(note, "KIP-890") {
		t.Errorf("brokers of Kafka 3.9: note %q", note)
	}
}

// TestPingSeesReplicas: a partition that cannot be written makes the queue red.
func TestPingSeesReplicas(t *testing.T) {
	q := &Queue{}
	q.topics.Store("orders", &topic{minInSync: 2})
	good := kadm.PartitionDetail{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}}
	few, lost := good, good
	few.Partition, few.ISR = 1, []int32{1}
	lost.Partition, lost.Leader = 2, -1
	for want, parts := range map[string]kadm.PartitionDetails{
		"": {0: good},
		"partition 1 of topic orders has 1 of its 3 replicas in sync and needs 2 (min.insync.replicas)": {0: good, 1: few},
		"partition 2 of topic orders has no leader":                                                     {0: good, 2: lost},
	} {
		err := q.writable(kadm.TopicDetail{Topic: "orders", Partitions: parts}, "orders")
		if want == "" && err != nil || want != "" && (!errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
