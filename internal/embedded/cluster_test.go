package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const testSecret = "0123456789abcdef"

// addresses are free ports on loopback, as members.
func addresses(t testing.TB, n int) []string {
	t.Helper()
	open := make([]net.Listener, n) // all at once, so that no port comes twice
	all := make([]string, n)
	for i := range all {
		var err error
		if open[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		all[i] = open[i].Addr().String()
	}
	for _, l := range open {
		l.Close()
	}
	return all
}

// startMembers starts the members at once, as each waits for the others.
func startMembers(t testing.TB, members []string, dirs []string) []*Server {
	t.Helper()
	all := make([]*Server, len(members))
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i := range members {
		wg.Go(func() {
			all[i], errs[i] = Start(t.Context(), Options{
				Dir: dirs[i], StartTimeout: time.Minute, Cluster: &Cluster{Members: members, Self: members[i], Secret: testSecret},
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Cleanup(func() { s.Close(context.Background()) })
	}
	return all
}

func stream(t testing.TB, s *Server) jetstream.JetStream {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// insist repeats what fails while a cluster chooses a new leader.
func insist(t testing.TB, f func(ctx context.Context) error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err = f(ctx)
		cancel()
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(err)
}

func TestCluster(t *testing.T) {
	members := addresses(t, 3)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	all := startMembers(t, members, dirs)
	js := stream(t, all[0])
	insist(t, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "s", Subjects: []string{"s"}, Replicas: 3})
		return err
	})
	publish := func(js jetstream.JetStream, n int) {
		t.Helper()
		insist(t, func(ctx context.Context) error {
			_, err := js.Publish(ctx, "s", fmt.Append(nil, n), jetstream.WithMsgID(fmt.Sprint(n)))
			return err
		})
	}
	for n := range 10 {
		publish(stream(t, all[n%3]), n)
	}

	// Any number may use the queue without being a member.
	guest, err := Start(t.Context(), Options{Dir: t.TempDir(), Cluster: &Cluster{Members: members, Secret: testSecret}})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close(context.Background())
	far := stream(t, guest)
	publish(far, 10)

	// One member may go away without a stop, and comes back to what it has missed.
	if err := all[0].Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(far, 11)
	publish(stream(t, all[1]), 12)
	back, err := Start(t.Context(), Options{Dir: dirs[0], Cluster: &Cluster{Members: members, Self: members[0], Secret: testSecret}})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close(context.Background())
	publish(stream(t, back), 13)
	insist(t, func(ctx context.Context) error {
		s, err := far.Stream(ctx, "s")
		if err != nil {
			return err
		}
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs != 14 || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
			return fmt.Errorf("%d messages, cluster %+v", info.State.Msgs, info.Cluster)
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("%s has not caught up", r.Name)
			}
		}
		return nil
	})
	if err := back.Healthy(); err != nil {
		t.Error(err)
	}
}

// Who has another secret does not get in, and hears why it waits in vain.
func TestClusterRefusesAnotherSecret(t *testing.T) {
	members := addresses(t, 3)
	startMembers(t, members, []string{t.TempDir(), t.TempDir(), t.TempDir()})
	_, err := Start(t.Context(), Options{
		Dir: t.TempDir(), StartTimeout: 3 * time.Second, Cluster: &Cluster{Members: members, Secret: "fedcba9876543210"},
	})
	if err == nil || !strings.Contains(err.Error(), "have all the same secret?") {
		t.Errorf("err = %v", err)
	}
	// Without any TLS neither.
	conn, err := net.Dial("tcp", members[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT {\"name\":\"x\"}\r\nSUB > 1\r\nPING\r\n")
	conn.SetReadDeadline(time.Now().Add(8 * time.Second))
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if strings.Contains(string(b[:n]), "PONG") {
			t.Fatalf("a connection without TLS was answered: %q", b[:n])
		}
		if err != nil {
			break
		}
	}
}

func TestClusterCheck(t *testing.T) {
	three := []string{"a:1", "b:1", "c:1"}
	for name, tt := range map[string]struct {
		c    Cluster
		want string // part of the error; empty: none
	}{
		"good":           {Cluster{Members: three, Self: "b:1", Secret: testSecret}, ""},
		"no member":      {Cluster{Members: three, Secret: testSecret}, ""},
		"two":            {Cluster{Members: three[:2], Secret: testSecret}, "3 or 5 members, not 2"},
		"no port":        {Cluster{Members: []string{"a", "b:1", "c:1"}, Secret: testSecret}, `member "a" of the embedded queue's cluster: want host:port`},
		"port":           {Cluster{Members: []string{"a:0", "b:1", "c:1"}, Secret: testSecret}, `port "0" is not a number from 1 to 65535`},
		"twice":          {Cluster{Members: []string{"a:1", "a:1", "c:1"}, Secret: testSecret}, "named twice"},
		"somebody else":  {Cluster{Members: three, Self: "d:1", Secret: testSecret}, `"d:1" is not among the members`},
		"no secret":      {Cluster{Members: three}, "FERRY_CLUSTER_SECRET"},
		"a short secret": {Cluster{Members: three, Secret: "short"}, "at least 16 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.c.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
			if err != nil && tt.c.Secret != "" && strings.Contains(err.Error(), tt.c.Secret) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}
