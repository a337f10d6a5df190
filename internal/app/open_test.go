package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ferry/internal/config"
)

// natsServer starts a server with the JetStream domain hub that ends with the test.
func natsServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamDomain: "hub", StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not become ready")
	}
	return s
}

// TestStateOfNATS: the parameters are the queue's, so the domain and the timeout hold for the state too.
func TestStateOfNATS(t *testing.T) {
	s := natsServer(t)
	state := "state: nats://" + s.Addr().String()
	a := openApp(t, state+"?domain=hub&timeout=200ms\n"+deadConfig[1:])

	text := state + "?domain=elsewhere\n" + deadConfig[1:]
	cfg, err := config.Parse(fmt.Appendf(nil, text, t.TempDir()), "test", config.Options{Checks: checks()})
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(t.Context(), Options{Config: cfg, Command: "serve", Version: "test", Logger: discard()})
	if err == nil {
		t.Errorf("a state was found in a domain that there is not: %v", other.Close(t.Context()))
	}

	s.Shutdown()
	start := time.Now()
	if _, err := a.store.Get(t.Context(), "x"); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("no server: %v after %s, with a timeout of 200ms", err, time.Since(start))
	}
}
