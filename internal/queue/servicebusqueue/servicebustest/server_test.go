package servicebustest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start gives a server with the queue "orders", and the vendor's client to it.
func start(t *testing.T, o Options, q QueueOptions) (*Server, *azservicebus.Client) {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.CreateQueue("orders", q); err != nil {
		t.Fatal(err)
	}
	return s, client(t, s)
}

func client(t *testing.T, s *Server) *azservicebus.Client {
	t.Helper()
	c, err := azservicebus.NewClientFromConnectionString(s.ConnectionString(), &azservicebus.ClientOptions{
		RetryOptions: azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return c
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// send sends messages with these ids in one batch.
func send(t *testing.T, c *azservicebus.Client, session string, ids ...string) {
	t.Helper()
	sender := must(c.NewSender("orders", nil))(t)
	defer func() { _ = sender.Close(ctx(t)) }()
	batch := must(sender.NewMessageBatch(ctx(t), nil))(t)
	for _, id := range ids {
		m := &azservicebus.Message{MessageID: &id, Body: []byte(id), ApplicationProperties: map[string]any{"n": id}}
		if session != "" {
			m.SessionID = &session
		}
		if err := batch.AddMessage(m, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.SendMessageBatch(ctx(t), batch, nil); err != nil {
		t.Fatal(err)
	}
}

func bodies(all []*azservicebus.ReceivedMessage) []string {
	var ids []string
	for _, m := range all {
		ids = append(ids, string(m.Body))
	}
	return ids
}

func wantIDs(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

// TestReceiveAndSettle: peek-lock with all the ways to settle, and the order of what comes back.
func TestReceiveAndSettle(t *testing.T) {
	s, c := start(t, Options{}, QueueOptions{})
	send(t, c, "", "a", "b", "c", "d", "e")
	r := must(c.NewReceiverForQueue("orders", nil))(t)
	got := must(r.ReceiveMessages(ctx(t), 5, nil))(t)
	wantIDs(t, "received", bodies(got), "a", "b", "c", "d", "e")
	if n := *got[2].SequenceNumber; n != 3 || got[2].DeliveryCount != 1 || got[2].ApplicationProperties["n"] != "c" {
		t.Fatalf("third message: sequence %d, delivery %d, properties %v", n, got[2].DeliveryCount, got[2].ApplicationProperties)
	}
	if err := r.CompleteMessage(ctx(t), got[4], nil); err != nil {
		t.Fatal(err)
	}
	reason := "because"
	if err := r.DeadLetterMessage(ctx(t), got[3], &azservicebus.DeadLetterOptions{Reason: &reason}); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{2, 0, 1} { // given back in any order
		if err := r.AbandonMessage(ctx(t), got[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.CompleteMessage(ctx(t), got[4], nil); err != nil { // the SDK knows that it has settled it
		t.Logf("second complete: %v", err)
	}
	again := must(r.ReceiveMessages(ctx(t), 5, nil))(t)
	wantIDs(t, "received again", bodies(again), "a", "b", "c")
	if again[0].DeliveryCount != 2 {
		t.Fatalf("delivery count %d at the second delivery", again[0].DeliveryCount)
	}
	wantIDs(t, "dead letters", s.Messages("orders/$DeadLetterQueue"), "d")
	dead := must(c.NewReceiverForQueue("orders", &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter}))(t)
	d := must(dead.ReceiveMessages(ctx(t), 1, nil))(t)
	if *d[0].DeadLetterReason != "because" {
		t.Fatalf("reason %q", *d[0].DeadLetterReason)
	}
}

// TestSurplusKeepsItsPlace: what the SDK hands back after a receive call comes again in order.
func TestSurplusKeepsItsPlace(t *testing.T) {
	s, c := start(t, Options{}, QueueOptions{})
	r := must(c.NewReceiverForQueue("orders", nil))(t)
	short, cancel := context.WithTimeout(ctx(t), 50*time.Millisecond)
	_, err := r.ReceiveMessages(short, 3, nil) // leaves credit for three
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("receive from an empty queue: %v", err)
	}
	send(t, c, "", "a", "b", "c", "d", "e") // three go out at once, and are handed back one by one
	for deadline := time.Now().Add(5 * time.Second); s.Locked("orders") > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the SDK keeps what nobody has asked for")
		}
		runtime.Gosched()
	}
	other := must(c.NewReceiverForQueue("orders", nil))(t)
	got := must(other.ReceiveMessages(ctx(t), 5, nil))(t)
	wantIDs(t, "received", bodies(got), "a", "b", "c", "d", "e")
	if n := got[0].DeliveryCount; n != 1 {
		t.Fatalf("delivery count %d: what was handed back unseen was not delivered", n)
	}
}

// TestLockEnds: after its lock a message comes again, and the old lock is worth nothing.
func TestLockEnds(t *testing.T) {
	s, c := start(t, Options{}, QueueOptions{Lock: 30 * time.Second, MaxDeliveries: 2})
	send(t, c, "", "a")
	r := must(c.NewReceiverForQueue("orders", nil))(t)
	first := must(r.ReceiveMessages(ctx(t), 1, nil))(t)[0]
	s.Advance(29 * time.Second)
	if err := r.RenewMessageLock(ctx(t), first, nil); err != nil {
		t.Fatal(err)
	}
	s.Advance(29 * time.Second)
	if err := r.RenewMessageLock(ctx(t), first, nil); err != nil {
		t.Fatal(err)
	}
	s.Advance(31 * time.Second)
	second := must(r.ReceiveMessages(ctx(t), 1, nil))(t)[0]
	var lost *azservicebus.Error
	if err := r.CompleteMessage(ctx(t), first, nil); !errors.As(err, &lost) || lost.Code != azservicebus.CodeLockLost {
		t.Fatalf("complete with a lock that has ended: %v", err)
	}
	if err := r.AbandonMessage(ctx(t), second, nil); err != nil { // the second failure is one too many
		t.Fatal(err)
	}
	wantIDs(t, "left", s.Messages("orders"))
	wantIDs(t, "dead letters", s.Messages("orders/$DeadLetterQueue"), "a")
}

// TestDuplicates are dropped within the window, in the same batch too.
func TestDuplicates(t *testing.T) {
	s, c := start(t, Options{}, QueueOptions{DuplicateDetection: time.Minute})
	send(t, c, "", "a", "b", "a")
	send(t, c, "", "b", "c")
	wantIDs(t, "within the window", s.Messages("orders"), "a", "b", "c")
	s.Advance(time.Minute)
	send(t, c, "", "a")
	wantIDs(t, "after the window", s.Messages("orders"), "a", "b", "c", "a")
}

// TestSessions: one owner at a time, in order, and the next session for whoever asks.
func TestSessions(t *testing.T) {
	s, c := start(t, Options{}, QueueOptions{Sessions: true, Lock: 30 * time.Second})
	send(t, c, "x", "x1", "x2")
	send(t, c, "y", "y1")
	first := must(c.AcceptSessionForQueue(ctx(t), "orders", "x", nil))(t)
	wantIDs(t, "session x", bodies(must(first.ReceiveMessages(ctx(t), 5, nil))(t)), "x1", "x2")
	if _, err := c.AcceptSessionForQueue(ctx(t), "orders", "x", nil); err == nil {
		t.Fatal("a session has two owners")
	}
	next := must(c.AcceptNextSessionForQueue(ctx(t), "orders", nil))(t)
	if next.SessionID() != "y" {
		t.Fatalf("next session %q", next.SessionID())
	}
	if err := first.RenewSessionLock(ctx(t), nil); err != nil {
		t.Fatal(err)
	}
	s.Advance(31 * time.Second) // both locks end
	again := must(c.AcceptNextSessionForQueue(ctx(t), "orders", nil))(t)
	if id := again.SessionID(); id != "x" && id != "y" {
		t.Fatalf("session %q", id)
	}
	if _, err := c.NewReceiverForQueue("orders", nil); err != nil {
		t.Fatal(err)
	}
}

// TestPeek looks at everything, over several answers where they would be too large.
func TestPeek(t *testing.T) {
	_, c := start(t, Options{MaxMessage: 4096}, QueueOptions{})
	var want []string
	for i := range 40 {
		id := fmt.Sprintf("%0200d", i)
		want = append(want, id)
		send(t, c, "", id)
	}
	r := must(c.NewReceiverForQueue("orders", nil))(t)
	var got []string
	for from := int64(0); ; {
		page := must(r.PeekMessages(ctx(t), 100, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from}))(t)
		if len(page) == 0 {
			break
		}
		got = append(got, bodies(page)...)
		from = *page[len(page)-1].SequenceNumber + 1
	}
	wantIDs(t, "peeked", got, want...)
}

// TestRefusals: what the namespace refuses, and with which words.
func TestRefusals(t *testing.T) {
	s, c := start(t, Options{Keys: []Key{{DefaultKeyName, DefaultKey, Send}}}, QueueOptions{MaxBytes: 2000})
	r := must(c.NewReceiverForQueue("orders", nil))(t)
	var e *azservicebus.Error
	if _, err := r.ReceiveMessages(ctx(t), 1, nil); !errors.As(err, &e) || e.Code != azservicebus.CodeUnauthorizedAccess {
		t.Fatalf("receive with a key that may only send: %v", err)
	}
	send(t, c, "", "a")
	sender := must(c.NewSender("orders", nil))(t)
	if err := sender.SendMessage(ctx(t), &azservicebus.Message{Body: make([]byte, 2000)}, nil); err == nil {
		t.Fatal("the quota is not kept")
	}
	missing := must(c.NewSender("nothing", nil))(t)
	if err := missing.SendMessage(ctx(t), &azservicebus.Message{Body: []byte("x")}, nil); err == nil {
		t.Fatal("sent to a queue that is not there")
	}
	s.OnSend(func(Sent) Verdict { return Verdict{Reject: &Error{ServerBusy, "slow down"}} })
	if err := sender.SendMessage(ctx(t), &azservicebus.Message{Body: []byte("x")}, nil); err == nil {
		t.Fatal("the verdict is not obeyed")
	}
	wantIDs(t, "stored", s.Messages("orders"), "a")
}
