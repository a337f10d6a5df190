// Command ferry carries records from HTTP APIs to a message queue.
package main

import (
	"io"
	"log" //nolint:depguard // only to silence it
	"os"
	_ "time/tzdata" // time zones of cron, also where the system has none (containers, Windows)

	"ferry/internal/cli"
)

func main() {
	// net/http's client prints pieces of what an upstream sent through the global logger (invariant 8).
	log.SetOutput(io.Discard)
	os.Exit(cli.Main(os.Args[1:], cli.System()))
}
