package sqsqueue

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// numbered gives records whose data are their numbers.
func numbered(from, to int) []record.Record {
	var all []record.Record
	for i := from; i < to; i++ {
		all = append(all, record.Record{ID: fmt.Sprint("id-", i), Key: fmt.Sprint("key-", i%3), Data: []byte(strconv.Itoa(i))})
	}
	return all
}

// numbers gives the data of records, for comparison with a queue's bodies.
func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// lastOf keeps of each body the last one.
func lastOf(bodies []string) []string {
	var last []string
	for i, b := range bodies {
		if !slices.Contains(bodies[i+1:], b) {
			last = append(last, b)
		}
	}
	return last
}

// publishAll publishes as who calls does: it begins again behind what is durable.
func publishAll(t *testing.T, q *Queue, topic string, batch []record.Record) (errs []error) {
	t.Helper()
	for range 50 {
		err := q.Publish(t.Context(), topic, batch)
		if err == nil {
			return errs
		}
		errs = append(errs, err)
		var part *queue.PartError
		if errors.As(err, &part) {
			batch = batch[part.Done:]
		}
		if retry.IsPermanent(err) {
			t.Fatal(err)
		}
	}
	t.Fatalf("no end of errors, the last: %v", errs[len(errs)-1])
	return nil
}

// TestEntryRefusedForNow: SQS stores what lies behind an entry that it refuses for now. Sent again, all are there in
// their order, the overtaking ones twice.
func TestEntryRefusedForNow(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	left := map[string]int{"3": 2, "17": 1}
	f.entry = func(e fakeEntry) *fakeFailure {
		if left[e.MessageBody] > 0 {
			left[e.MessageBody]--
			return &fakeFailure{Code: "InternalError", Message: "try again"}
		}
		return nil
	}
	errs := publishAll(t, q, "orders", numbered(0, 25))
	if len(errs) != 3 {
		t.Fatalf("%d errors: %v", len(errs), errs)
	}
	var part *queue.PartError
	if !errors.As(errs[0], &part) || part.Done != 3 || !errors.Is(errs[0], queue.ErrUnavailable) {
		t.Fatalf("first error %v, want a PartError behind 3 records", errs[0])
	}
	if !strings.Contains(errs[0].Error(), "SQS stored 6 records behind it already; they are stored once more, so that order holds") {
		t.Errorf("the error does not tell of duplicates: %v", errs[0])
	}
	bodies := f.bodies("orders.fifo")
	if got := lastOf(bodies); !slices.Equal(got, numbers(0, 25)) {
		t.Fatalf("in the queue, of each the last: %v\nall: %v", got, bodies)
	}
	seen := map[string]bool{}
	for _, e := range bodies[:3] {
		seen[e] = true
	}
	if !slices.Equal(bodies[:3], numbers(0, 3)) {
		t.Errorf("what was stored before is not in order: %v", bodies)
	}
}

// TestOrderWithinGroups: with a group for each key only the records of the refused one's group are stored again.
func TestOrderWithinGroups(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&group=key")))
	var once atomic.Bool
	f.entry = func(e fakeEntry) *fakeFailure {
		if e.MessageBody == "1" && once.CompareAndSwap(false, true) {
			return &fakeFailure{Code: "ThrottlingException"}
		}
		return nil
	}
	if errs := publishAll(t, q, "orders", numbered(0, 9)); len(errs) != 1 || !errors.Is(errs[0], queue.ErrFull) {
		t.Fatalf("errors %v, want one, of a queue that is full", errs)
	}
	bodies := f.bodies("orders.fifo")
	if len(bodies) != 9+2 { // 4 and 7 had overtaken 1; the others are dropped as known
		t.Errorf("%d messages: %v", len(bodies), bodies)
	}
	for k := range 3 {
		mine := slices.DeleteFunc(slices.Clone(lastOf(bodies)), func(b string) bool { n, _ := strconv.Atoi(b); return n%3 != k })
		if !slices.IsSorted(mine) || len(mine) != 3 {
			t.Errorf("group %d: %v", k, mine)
		}
	}
}

// TestEntryRefusedForGood: the others are published all the same.
func TestEntryRefusedForGood(t *testing.T) {
	for _, parameters := range []string{"", "&fifo=false"} {
		f := newFake(t)
		q := open(t, parse(t, f.url(parameters)))
		f.entry = func(e fakeEntry) *fakeFailure {
			if e.MessageBody == "4" || e.MessageBody == "23" {
				return &fakeFailure{Code: "InvalidMessageContents", Message: "no", SenderFault: true}
			}
			return nil
		}
		err := q.Publish(t.Context(), "orders", numbered(0, 25))
		var be *queue.BatchError
		if !errors.As(err, &be) || len(be.Failed) != 2 || be.Total != 25 || be.Failed[4] == nil || be.Failed[23] == nil {
			t.Fatalf("error %v", err)
		}
		if n := len(f.bodies("orders.fifo")) + len(f.bodies("orders")); n != 23 {
			t.Errorf("%d records are there, want 23", n)
		}
	}
}

// TestPoisonedRequest: where SQS refuses the whole request for one record, that one is found.
func TestPoisonedRequest(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	f.on = func(op string, body []byte) answerTo {
		if op == "SendMessageBatch" && strings.Contains(string(body), `"MessageBody":"6"`) {
			return answerTo{status: 400, code: "InvalidMessageContents", message: "no"}
		}
		return answerTo{}
	}
	err := q.Publish(t.Context(), "orders", numbered(0, 20))
	var be *queue.BatchError
	if !errors.As(err, &be) || len(be.Failed) != 1 || be.Failed[6] == nil {
		t.Fatalf("error %v", err)
	}
	if got, want := f.bodies("orders.fifo"), slices.Concat(numbers(0, 6), numbers(7, 20)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestUntoldLimit: a server whose limit for a request is lower than it should be gets smaller ones.
func TestUntoldLimit(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	f.on = func(op string, body []byte) answerTo {
		if op == "SendMessageBatch" && len(body) > 256<<10 {
			return answerTo{status: 400, code: "BatchRequestTooLong", message: "too long"}
		}
		return answerTo{}
	}
	batch := numbered(0, 10)
	for i := range batch {
		batch[i].Data = fmt.Appendf(nil, `"%d%s"`, i, strings.Repeat("x", 100<<10))
	}
	if err := q.Publish(t.Context(), "orders", batch[:9]); err != nil {
		t.Fatal(err)
	}
	for i, b := range f.bodies("orders.fifo") {
		if b != string(batch[i].Data) {
			t.Fatalf("record %d is %.10s", i, b)
		}
	}
	batch[9].Data = []byte(`"` + strings.Repeat("x", 300<<10) + `"`)
	var tl *queue.TooLargeError
	if err := q.Publish(t.Context(), "orders", batch[9:]); !errors.As(err, &tl) || tl.Size <= tl.Limit {
		t.Fatalf("error %v", err)
	}
}

// TestQueuesOwnLimit: a queue may be made with less than SQS allows.
func TestQueuesOwnLimit(t *testing.T) {
	f := newFake(t)
	f.queues["orders"] = &fakeQueue{name: "orders", attributes: map[string]string{"MaximumMessageSize": "2048"}, seen: map[string]bool{}}
	large := record.Record{ID: "1", Data: []byte(`"` + strings.Repeat("x", 2048) + `"`)}
	for url, limit := range map[string]int{f.url("&fifo=false"): maxRequest - framing, f.address("orders") + "?region=eu-west-1": 2048 - framing} {
		q := open(t, parse(t, url))
		if got := q.Info().Limits.RecordBytes; got != limit {
			t.Errorf("%s: limit %d, want %d", url, got, limit)
		}
		var tl *queue.TooLargeError
		if err := q.Publish(t.Context(), "orders", []record.Record{large}); !errors.As(err, &tl) || tl.Limit > 2048 {
			t.Errorf("%s: error %v", url, err)
		}
	}
	if n := f.count("SendMessageBatch"); n != 0 {
		t.Errorf("%d requests for records that are known to be too large", n)
	}
}

// TestRefusedInACommit: a record that its queue cannot hold is found before the others are sent; one that SQS refuses in
// its answer is taken out, and the others are not sent again.
func TestRefusedInACommit(t *testing.T) {
	f := newFake(t)
	f.queues["orders"] = &fakeQueue{name: "orders", attributes: map[string]string{"MaximumMessageSize": "2048"}, seen: map[string]bool{}}
	q := queue.WithCursors(open(t, parse(t, f.url("&fifo=false"))), queuetest.NewCursors())
	w, err := q.OpenWriter(t.Context(), "p", "orders")
	if err != nil {
		t.Fatal(err)
	}
	commit := func(batch []record.Record, want ...int) {
		t.Helper()
		err := w.Commit(t.Context(), queue.Batch{Records: batch}, record.Cursor("c"))
		var be *queue.BatchError
		if len(want) > 0 != errors.As(err, &be) || be != nil && !slices.Equal(slices.Collect(maps.Keys(be.Failed)), want) {
			t.Fatalf("error %v, want record %v to be refused", err, want)
		}
	}
	batch := numbered(0, 25)
	batch[7].Data = []byte(`"` + strings.Repeat("x", 2048) + `"`)
	commit(batch, 7)
	if n := f.count("SendMessageBatch"); n != 0 {
		t.Fatalf("%d requests for a commit that cannot be", n)
	}
	batch = slices.Delete(batch, 7, 8)
	f.entry = func(e fakeEntry) *fakeFailure {
		if e.MessageBody == "4" {
			return &fakeFailure{Code: "InvalidMessageContents", Message: "no", SenderFault: true}
		}
		return nil
	}
	commit(batch, 4)
	batch = slices.Delete(batch, 4, 5)
	commit(batch)
	got := f.bodies("orders")
	if len(got) != 23 || len(lastOf(got)) != 23 {
		t.Errorf("23 records are in the queue as %v", got)
	}
}

// TestLostAnswer: what was stored, though nobody heard, is not there twice on a FIFO queue.
func TestLostAnswer(t *testing.T) {
	for _, lostInARow := range []int{1, 2, 5} { // the SDK itself tries twice
		f := newFake(t)
		q := open(t, parse(t, f.url("")))
		var sends, lost atomic.Int64
		f.on = func(op string, _ []byte) answerTo {
			if op == "SendMessageBatch" && sends.Add(1) > 2 && lost.Add(1) <= int64(lostInARow) {
				return answerTo{lost: true}
			}
			return answerTo{}
		}
		errs := publishAll(t, q, "orders", numbered(0, 50))
		if want := lostInARow / 2; len(errs) != want {
			t.Errorf("%d errors, want %d: %v", len(errs), want, errs)
		}
		for _, err := range errs {
			if !errors.Is(err, queue.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
		}
		if got := f.bodies("orders.fifo"); !slices.Equal(got, numbers(0, 50)) {
			t.Errorf("got %v", got)
		}
	}
}

// TestStandardStops: on a standard queue several requests are on their way; after a failure no further ones go out.
func TestStandardStops(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&fifo=false")))
	f.entry = func(e fakeEntry) *fakeFailure {
		if e.MessageBody == "42" {
			return &fakeFailure{Code: "ServiceUnavailable"}
		}
		return nil
	}
	err := q.Publish(t.Context(), "orders", numbered(0, 5000))
	var part *queue.PartError
	if !errors.As(err, &part) || part.Done != 42 || !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("error %v, want a PartError behind 42 records", err)
	}
	// The fifth of five hundred fails. How many more are gone before its answer is heard is a matter of the machine.
	if n := f.count("SendMessageBatch"); n > 250 || n < 5 {
		t.Errorf("%d requests", n)
	}
	if got := f.bodies("orders"); len(lastOf(got)) != len(got) {
		t.Errorf("duplicates without need: %v", got)
	}
}

// TestErrorsOfSQS: what can clear by itself is told from what cannot.
func TestErrorsOfSQS(t *testing.T) {
	for _, tt := range []struct {
		status    int
		code      string
		want      error
		permanent bool
		says      string
	}{
		{400, "ThrottlingException", queue.ErrFull, false, "AWS holds back"},
		{400, "RequestThrottled", queue.ErrFull, false, "AWS holds back"},
		{400, "KmsThrottled", queue.ErrFull, false, "AWS holds back"},
		{400, "KMS.ThrottlingException", queue.ErrFull, false, "AWS holds back"},
		{403, "OverLimit", queue.ErrFull, false, "records in flight"},
		{503, "ServiceUnavailable", queue.ErrUnavailable, false, ""},
		{500, "SomethingNew", queue.ErrUnavailable, false, ""},
		{429, "SomethingNew", queue.ErrUnavailable, false, ""},
		{400, "SomethingNew", nil, true, "SomethingNew: words of AWS"},
		{403, "AccessDeniedException", nil, true, "IAM policy"},
		{403, "InvalidClientTokenId", nil, true, "is the AWS login right"},
		{403, "SignatureDoesNotMatch", nil, true, "is the AWS login right"},
		{403, "ExpiredToken", queue.ErrUnavailable, false, "renew the AWS login"},
		{400, "KmsAccessDenied", nil, true, "kms:GenerateDataKey"},
		{400, "KMS.NotFoundException", nil, true, "KMS key"},
		{400, "QueueDeletedRecently", queue.ErrUnavailable, false, ""},
	} {
		t.Run(tt.code, func(t *testing.T) {
			f := newFake(t)
			q := open(t, parse(t, f.url("")))
			f.on = func(op string, _ []byte) answerTo {
				if op == "SendMessageBatch" {
					return answerTo{status: tt.status, code: tt.code, message: "words of AWS"}
				}
				return answerTo{}
			}
			err := q.Publish(t.Context(), "orders", numbered(0, 3))
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || retry.IsPermanent(err) != tt.permanent {
				t.Errorf("error %v, permanent %v", err, retry.IsPermanent(err))
			} else if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "RequestID") {
				t.Errorf("error %q, want %q in it", err, tt.says)
			}
		})
	}
}

// TestWaitsAndGoesOn: throttled for a while, then everything is there once and in order.
func TestWaitsAndGoesOn(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	var sends atomic.Int64
	f.on = func(op string, _ []byte) answerTo {
		if n := sends.Add(1); op == "SendMessageBatch" && n > 6 && n < 20 {
			return answerTo{status: http.StatusBadRequest, code: "RequestThrottled"}
		}
		return answerTo{}
	}
	errs := publishAll(t, q, "orders", numbered(0, 100))
	if len(errs) == 0 {
		t.Error("no error while SQS throttled")
	}
	if got := f.bodies("orders.fifo"); !slices.Equal(got, numbers(0, 100)) {
		t.Errorf("got %v", got)
	}
}
