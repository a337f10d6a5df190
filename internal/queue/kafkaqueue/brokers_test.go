package kafkaqueue

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// brokers calls scripts/brokers, which runs real brokers on this machine.
func brokers(t testing.TB, args ...string) {
	t.Helper()
	script, err := filepath.Abs("../../../scripts/brokers")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(script, args...).CombinedOutput(); err != nil {
		t.Fatalf("scripts/brokers %v: %v\n%s", args, err, out)
	}
}

// restart gives what kills the broker and starts it again.
func restart(testing.TB) func(testing.TB) {
	return func(t testing.TB) {
		brokers(t, "kill", "kafka")
		brokers(t, "start", "kafka")
	}
}
