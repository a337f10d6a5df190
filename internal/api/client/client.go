// Package client calls the HTTP API of a running ferry. Its methods mirror api.Service, so that a command works the same
// on an instance beside it and on one far away.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
)

// Client calls one instance. It is safe for concurrent use. Methods return an *api.Error for what the instance
// answered as a problem, and another error when it could not be reached or is not ferry.
type Client struct {
	base string
	key  string
	http *http.Client
}

// Address reads an instance's address as people write it: the scheme may be left out. It has no slash at its end.
func Address(base string) (string, error) {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("read server address %q: it has to look like http://127.0.0.1:8080", config.URL(base).String())
	}
	return strings.TrimSuffix(base, "/"), nil
}

// New makes a client for the instance at base, such as http://127.0.0.1:8080. key may be empty. Nothing is sent yet.
func New(base, key string) (*Client, error) {
	base, err := Address(base)
	if err != nil {
		return nil, err
	}
	return &Client{
		base: base,
		key:  key,
		http: &http.Client{
			Transport: http.DefaultTransport.(*http.Transport).Clone(),
			// A redirect would carry the key to wherever it points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// URL is the instance's address, with its login hidden: for print.
func (c *Client) URL() string { return config.URL(c.base).String() }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks a running instance for its version. It needs no key.
func (c *Client) Version(ctx context.Context) (string, error) {
	var out api.Alive
	err := c.call(ctx, http.MethodGet, "/livez", nil, nil, &out)
	return out.Version, err
}

// Ready returns nil when requests can be served, otherwise why not. It needs no key.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil, nil)
}

// Process runs the pipeline for one fetch and returns the answer's data.
func (c *Client) Process(ctx context.Context, pipeline string) (json.RawMessage, error) {
	var out struct {
		Data json.RawMessage `json:"data"`
	}
	err := c.call(ctx, http.MethodPost, pipelinePath(pipeline, "process"), nil, nil, &out)
	return out.Data, err
}

// Push carries the records in body through the pipeline's transform.
func (c *Client) Push(ctx context.Context, pipeline, contentType string, body []byte) (api.Pushed, error) {
	return ask[api.Pushed](ctx, c, http.MethodPost, pipelinePath(pipeline, "records"), nil, raw{contentType, body})
}

// Preview reads and transforms the first page and publishes nothing.
func (c *Client) Preview(ctx context.Context, pipeline string, req api.PreviewRequest) (api.Preview, error) {
	return ask[api.Preview](ctx, c, http.MethodPost, pipelinePath(pipeline, "preview"), nil, req)
}

// Pipelines lists them by name.
func (c *Client) Pipelines(ctx context.Context) ([]api.Pipeline, error) {
	out, err := ask[api.PipelineList](ctx, c, http.MethodGet, "/v1/pipelines", nil, nil)
	return out.Pipelines, err
}

// Pipeline tells one pipeline's state.
func (c *Client) Pipeline(ctx context.Context, name string) (api.Pipeline, error) {
	return ask[api.Pipeline](ctx, c, http.MethodGet, pipelinePath(name, ""), nil, nil)
}

// StartRun starts a run, or finds the one under way (started is false then).
func (c *Client) StartRun(ctx context.Context, pipeline string) (run api.Run, started bool, err error) {
	out, err := ask[api.StartedRun](ctx, c, http.MethodPost, pipelinePath(pipeline, "runs"), nil, nil)
	return out.Run, out.New, err
}

// Run tells one run's state.
func (c *Client) Run(ctx context.Context, id string) (api.Run, error) {
	return ask[api.Run](ctx, c, http.MethodGet, "/v1/runs/"+url.PathEscape(id), nil, nil)
}

// WaitRun returns when the run has ended or the context does, with the run as it then is. It asks again and again,
// each time waiting at the server. A deadline is kept by the server, so that the answer comes with it and not too late
// for it; one that does not come is waited for a little longer. With an error comes the run as it was last seen, if it was.
func (c *Client) WaitRun(ctx context.Context, id string) (api.Run, error) {
	var last api.Run
	for {
		run, err := c.waitOnce(ctx, id)
		switch {
		case err != nil && ctx.Err() != nil && last.ID != "":
			return last, nil
		case err != nil:
			return last, err
		case run.Ended != nil:
			return run, nil
		}
		last = run
		select {
		case <-ctx.Done():
			return last, nil
		case <-time.After(100 * time.Millisecond): // an instance that stops answers at once
		}
	}
}

func (c *Client) waitOnce(ctx context.Context, id string) (api.Run, error) {
	const longest, late = time.Minute, 10 * time.Second
	wait := longest
	if end, ok := ctx.Deadline(); ok {
		wait = max(0, min(wait, time.Until(end).Round(time.Millisecond)))
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait+late)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	return ask[api.Run](asking, c, http.MethodGet, "/v1/runs/"+url.PathEscape(id), url.Values{"wait": {wait.String()}}, nil)
}

// CancelRun asks a run to stop at its next commit.
func (c *Client) CancelRun(ctx context.Context, id string) (api.Run, error) {
	return ask[api.Run](ctx, c, http.MethodPost, "/v1/runs/"+url.PathEscape(id)+"/cancel", nil, nil)
}

// Runs lists the newest first; pipeline "" means all, limit 0 the server's default.
func (c *Client) Runs(ctx context.Context, pipeline string, limit int) ([]api.Run, error) {
	q := url.Values{}
	if pipeline != "" {
		q.Set("pipeline", pipeline)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	out, err := ask[api.RunList](ctx, c, http.MethodGet, "/v1/runs", q, nil)
	return out.Runs, err
}

// Instances lists those that share the state store.
func (c *Client) Instances(ctx context.Context) ([]api.Instance, error) {
	out, err := ask[api.InstanceList](ctx, c, http.MethodGet, "/v1/instances", nil, nil)
	return out.Instances, err
}

// Pause keeps the schedule from starting runs.
func (c *Client) Pause(ctx context.Context, pipeline string) (api.Pipeline, error) {
	return ask[api.Pipeline](ctx, c, http.MethodPost, pipelinePath(pipeline, "pause"), nil, nil)
}

// Resume lets the schedule start runs again.
func (c *Client) Resume(ctx context.Context, pipeline string) (api.Pipeline, error) {
	return ask[api.Pipeline](ctx, c, http.MethodPost, pipelinePath(pipeline, "resume"), nil, nil)
}

// Cursor reads a pipeline's saved progress.
func (c *Client) Cursor(ctx context.Context, pipeline string) (api.Cursor, error) {
	return ask[api.Cursor](ctx, c, http.MethodGet, pipelinePath(pipeline, "cursor"), nil, nil)
}

// SetCursor replaces the cursor; a nil value resets it to the beginning.
func (c *Client) SetCursor(ctx context.Context, pipeline string, value json.RawMessage) (api.Cursor, error) {
	if value == nil {
		return ask[api.Cursor](ctx, c, http.MethodDelete, pipelinePath(pipeline, "cursor"), nil, nil)
	}
	return ask[api.Cursor](ctx, c, http.MethodPut, pipelinePath(pipeline, "cursor"), nil, api.SetCursor{Cursor: value})
}

// Topics lists them by name.
func (c *Client) Topics(ctx context.Context) ([]api.Topic, error) {
	out, err := ask[api.TopicList](ctx, c, http.MethodGet, "/v1/topics", nil, nil)
	return out.Topics, err
}

// Topic tells one topic's state.
func (c *Client) Topic(ctx context.Context, topic string) (api.Topic, error) {
	return ask[api.Topic](ctx, c, http.MethodGet, topicPath(topic, ""), nil, nil)
}

// Browse looks at records without taking them; a negative from counts from the end.
func (c *Client) Browse(ctx context.Context, topic string, from int64, limit int) ([]api.Record, error) {
	out, err := ask[api.RecordList](ctx, c, http.MethodGet, topicPath(topic, "records"), page(from, limit), nil)
	return out.Records, err
}

// Receive takes up to limit records and waits up to wait (at most 1m) for the first.
func (c *Client) Receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]api.Delivery, error) {
	req := api.ReceiveRequest{Limit: limit, Wait: wait.String()}
	out, err := ask[api.DeliveryList](ctx, c, http.MethodPost, topicPath(topic, "receive"), nil, req)
	return out.Deliveries, err
}

// Ack says that the records behind these receipts are done with.
func (c *Client) Ack(ctx context.Context, topic string, receipts []string) error {
	return c.call(ctx, http.MethodPost, topicPath(topic, "ack"), nil, api.AckRequest{Receipts: receipts}, nil)
}

// Nack gives the records behind these receipts back.
func (c *Client) Nack(ctx context.Context, topic string, receipts []string) error {
	return c.call(ctx, http.MethodPost, topicPath(topic, "ack"), nil, api.AckRequest{Nack: receipts}, nil)
}

// Dead lists a pipeline's dead letters.
func (c *Client) Dead(ctx context.Context, pipeline string, from int64, limit int) ([]api.DeadLetter, error) {
	out, err := ask[api.DeadList](ctx, c, http.MethodGet, pipelinePath(pipeline, "dead"), page(from, limit), nil)
	return out.Dead, err
}

// Replay sends dead letters through the pipeline again: those at the positions, or all when none is given.
func (c *Client) Replay(ctx context.Context, pipeline string, positions []int64) (api.Replayed, error) {
	return ask[api.Replayed](ctx, c, http.MethodPost, pipelinePath(pipeline, "dead/replay"), nil, api.ReplayRequest{Positions: positions})
}

// Discard takes dead letters out for good: those at the positions, or all when none is given.
func (c *Client) Discard(ctx context.Context, pipeline string, positions []int64) (api.Discarded, error) {
	r := api.DiscardRequest{Positions: positions, All: len(positions) == 0}
	return ask[api.Discarded](ctx, c, http.MethodPost, pipelinePath(pipeline, "dead/discard"), nil, r)
}

func pipelinePath(name, rest string) string { return join("/v1/pipelines/", name, rest) }
func topicPath(name, rest string) string    { return join("/v1/topics/", name, rest) }

func join(prefix, name, rest string) string {
	p := prefix + url.PathEscape(name)
	if rest != "" {
		p += "/" + rest
	}
	return p
}

func page(from int64, limit int) url.Values {
	q := url.Values{"from": {strconv.FormatInt(from, 10)}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// raw is a body that is sent as it is.
type raw struct {
	contentType string
	body        []byte
}

func ask[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var out T
	err := c.call(ctx, method, path, query, body, &out)
	return out, err
}

// call sends body as JSON (or raw) and decodes the answer into out, which may be nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	contentType, payload := "application/json", []byte(nil)
	switch b := body.(type) {
	case nil:
	case raw:
		contentType, payload = b.contentType, b.body
	default:
		var err error
		if payload, err = json.Marshal(b); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.key != "" {
		req.Header.Set("X-API-Key", c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach ferry at %s: %w", c.URL(), plain(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, mostBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("read answer of %s: %w", c.URL(), err)
	case len(answer) > mostBytes:
		return fmt.Errorf("read answer of %s: it is over %d bytes; ask for fewer records at once", c.URL(), mostBytes)
	case resp.StatusCode >= 300:
		return problem(c.URL(), resp, answer)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read answer of %s: not what ferry answers: %w", c.URL(), err)
	}
	return nil
}

// mostBytes bounds an answer (invariant 7).
const mostBytes = 256 << 20

// plain takes the address out of a *url.Error: the caller names the server already.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// problem reads a problem answer back into the *api.Error that it was made of.
func problem(base string, resp *http.Response, body []byte) error {
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Type == "" {
		return fmt.Errorf("%s answered %s without a problem that ferry would send; is it ferry?", base, resp.Status)
	}
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	for _, v := range p.Errors {
		detail += fmt.Sprintf("\n  %s: %s", v.Location, v.Message)
	}
	out := &api.Error{Code: p.Code(), Detail: detail}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		out.RetryAfter = time.Duration(s) * time.Second
	}
	return out
}
