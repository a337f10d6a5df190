package embedded

import (
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// stopLimit is how long a server may go on with what it was asked for before it is stopped.
	stopLimit = 10 * time.Second
	// stopLooks is how often in a row, a millisecond apart, it must be seen idle: what came just before its client was
	// cut off is read and queued within that.
	stopLooks = 5
)

// shutdown stops a server after it has ended what it was asked for. Without that it would stop the streams it has and
// then finish a stream that it is still making, for a caller who has given up, say: that one's store would stay open
// and write into a folder that the next server uses.
func shutdown(ns *server.Server) {
	if conns, err := ns.Connz(&server.ConnzOptions{Limit: ns.NumClients() + 1}); err == nil {
		for _, c := range conns.Conns {
			_ = ns.DisconnectClientByID(c.Cid) // gone already is as good
		}
	}
	limit := time.Now().Add(stopLimit)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for idle := 0; idle < stopLooks && time.Now().Before(limit); <-tick.C {
		js, err := ns.Jsz(nil)
		if err != nil || js.Disabled {
			break
		}
		if idle++; js.API.Inflight > 0 {
			idle = 0
		}
	}
	ns.Shutdown()
	ns.WaitForShutdown()
}
