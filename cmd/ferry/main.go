// Command ferry carries records from HTTP APIs to a message queue.
package main

import (
	"os"

	"ferry/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.System()))
}
