//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"ferry/internal/embedded"
	"ferry/internal/mockapi"
	"ferry/internal/queue/natsqueue"
	"ferry/internal/record"
)

// serveCeiling is this program as something to compare ferry with.
func serveCeiling(kind string) error {
	switch kind {
	case "static":
		return serveHTTP(func(w http.ResponseWriter, _ *http.Request) {
			answer(w, []byte(`{"message":"Data processed","data":{"transformed_data":{"id":1,"name":"Sample Data","value":42},"status":"processed"}}`))
		})
	case "fetch":
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
		return serveHTTP(func(w http.ResponseWriter, r *http.Request) {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, *target+"/v1/data", nil)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			var b bytes.Buffer
			b.WriteString(`{"message":"Data processed","data":{"transformed_data":`)
			b.Write(bytes.TrimSpace(body))
			b.WriteString(`,"status":"processed"}}`)
			answer(w, b.Bytes())
		})
	case "load": // by itself, for profiling: -serve load -target 127.0.0.1:8080
		r, err := load{addr: *target, path: "/process", conns: 64, time: *seconds, want: `"Data processed"`}.run()
		fmt.Printf("%.0f requests/s, p50 %s, p99 %s\n", r.perSecond(), r.p50, r.p99)
		return err
	case "publish":
		return publishReadyMade()
	case "bare":
		return publishBare()
	}
	return fmt.Errorf("no ceiling %q", kind)
}

func answer(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the load generator sees it
}

func serveHTTP(h http.HandlerFunc) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("{\"url\":\"http://%s\"}\n", l.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { <-ctx.Done(); _ = s.Close() }()
	if err := s.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// publishReadyMade publishes what `ferry run` of the same benchmark publishes, made beforehand, in commits of as many
// records: what the queue alone can do.
func publishReadyMade() error {
	ctx := context.Background()
	srv, err := embedded.Start(ctx, embedded.Options{Dir: *folder, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	cfg, err := natsqueue.ParseURL("embedded:")
	if err != nil {
		return err
	}
	cfg.Connect, cfg.Health, cfg.MaxBatch = srv.Connect, srv.Healthy, srv.MaxBatch()
	q, err := natsqueue.Open(ctx, cfg)
	if err != nil {
		return err
	}
	batch, err := readyMade(1000, false)
	if err != nil {
		return err
	}
	begin := time.Now()
	for range *pages {
		if err := q.Publish(ctx, "orders", batch); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	if err := q.Close(ctx); err != nil {
		return err
	}
	if err := srv.Close(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"seconds": took.Seconds()})
}

// readyMade makes n records as `ferry run` of the benchmarks makes them: projected, or as the simulated API gives them.
func readyMade(n int, whole bool) ([]record.Record, error) {
	answer := httptest.NewRecorder()
	mockapi.New(mockapi.Options{Seed: 1}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, fmt.Sprintf("/none/orders?count=%d&pad=870&gzip=0", n), nil))
	var all []json.RawMessage
	if err := json.Unmarshal(answer.Body.Bytes(), &all); err != nil {
		return nil, fmt.Errorf("read the simulated API's orders: %w", err)
	}
	batch := make([]record.Record, n)
	for i, data := range all {
		if !whole {
			var o struct {
				ID       json.RawMessage
				Status   string
				Customer struct{ Email string }
				Currency string
			}
			if err := json.Unmarshal(data, &o); err != nil {
				return nil, err
			}
			var err error
			if data, err = json.Marshal(map[string]any{"id": o.ID, "status": o.Status, "customer": o.Customer.Email, "currency": o.Currency}); err != nil {
				return nil, err
			}
		}
		batch[i] = record.Record{
			ID: record.ID("orders", strconv.Itoa(i), nil), Key: strconv.Itoa(i), Data: data,
			Headers: []record.Header{{Name: "ferry-pipeline", Value: "orders"}, {Name: "ferry-run", Value: "20261123T061630.123Z-x7f3k"}, {Name: "content-type", Value: "application/json"}},
		}
	}
	return batch, nil
}
