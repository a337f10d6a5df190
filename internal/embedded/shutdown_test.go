package embedded_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"ferry/internal/embedded"
)

// TestCloseWhileStreamsAreMade closes and restarts the server while it makes streams that nobody waits for any more, as
// when the context of a caller has ended. The server itself would stop the streams it has, and then finish the one it is
// making: its store would stay open, and write into a folder that another server uses by then.
func TestCloseWhileStreamsAreMade(t *testing.T) {
	defer goleak.VerifyNone(t)
	s, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(round int) {
		for i := range 20 {
			name := fmt.Sprintf("S%d-%d", round, i)
			config := fmt.Sprintf(`{"name":%q,"subjects":[%q],"retention":"limits","storage":"file","num_replicas":1}`, name, name)
			err := nc.PublishRequest("$JS.API.STREAM.CREATE."+name, nats.NewInbox(), []byte(config))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		ask(round)
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	ask(3)
	nc.Close()
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
