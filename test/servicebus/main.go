// Command servicebus runs the Service Bus server of internal/queue/servicebusqueue/servicebustest as a process, for
// tests that need one outside: it prints {"connection_string":…} and runs until it is interrupted.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"ferry/internal/queue/servicebusqueue/servicebustest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on, AMQP and management alike")
	tier := flag.String("tier", "Standard", "Basic, Standard or Premium")
	flag.Parse()
	if err := run(*listen, *tier); err != nil {
		fmt.Fprintln(os.Stderr, "servicebus:", err)
		os.Exit(1)
	}
}

func run(listen, tier string) error {
	o := servicebustest.Options{Address: listen, Tier: tier}
	if tier == "Premium" {
		o.MaxMessage = 1 << 20
	}
	s, err := servicebustest.Start(o)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	err = json.NewEncoder(os.Stdout).Encode(map[string]string{"connection_string": s.ConnectionString()})
	if err != nil {
		return err
	}
	<-stop
	return nil
}
