// Command ferry carries records from HTTP APIs to a message queue.
package main

import (
	"os"
	_ "time/tzdata" // time zones of cron, also where the system has none (containers, Windows)

	"ferry/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.System()))
}
