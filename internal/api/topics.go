package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// TopicPath names a topic in the address.
type TopicPath struct {
	Topic string `path:"topic" maxLength:"255" doc:"The topic." example:"orders"`
}

// PageQuery says which records to look at.
type PageQuery struct {
	From  int64 `query:"from" doc:"Position to begin at; 0 is the oldest kept, -20 means the last 20." example:"0"`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most records to show."`
}

func (h *Handler) registerTopics(rt *router) {
	typed(rt, operation{
		id: "list-topics", method: http.MethodGet, path: "/v1/topics", tag: tagTopics, role: roleRead,
		summary: "List topics", description: "Every topic that ferry has written, dead-letter topics included, with what it holds.",
		says: "All topics.", example: TopicList{Topics: []Topic{exampleTopic()}}, problems: []Code{CodeQueue},
	}, func(ctx context.Context, _ *struct{}) (*body[TopicList], error) {
		v, err := h.svc.Topics(ctx)
		return reply(TopicList{some(v)}, err)
	})

	typed(rt, operation{
		id: "get-topic", method: http.MethodGet, path: "/v1/topics/{topic}", tag: tagTopics, role: roleRead,
		summary: "Show a topic", description: "How many records it holds, and between which positions.",
		says: "The topic.", example: exampleTopic(), problems: []Code{CodeQueue},
	}, func(ctx context.Context, in *TopicPath) (*body[Topic], error) {
		return reply(h.svc.Topic(ctx, in.Topic))
	})

	typed(rt, operation{
		id: "list-records", method: http.MethodGet, path: "/v1/topics/{topic}/records", tag: tagTopics, role: roleRead,
		summary: "Look at records", description: "Shows records without taking them. `next` is the `from` that goes on.",
		says: "Records in the topic's order.", example: RecordList{Records: []Record{exampleRecord()}, Next: 43}, problems: []Code{CodeQueue},
	}, func(ctx context.Context, in *struct {
		TopicPath
		PageQuery
	},
	) (*body[RecordList], error) {
		v, err := h.svc.Browse(ctx, in.Topic, in.From, in.Limit)
		out := RecordList{Records: some(v), Next: max(in.From, 0)}
		if n := len(v); n > 0 {
			out.Next = v[n-1].Position + 1
		}
		return reply(out, err)
	})

	typed(rt, operation{
		id: "receive-records", method: http.MethodPost, path: "/v1/topics/{topic}/receive", tag: tagTopics, role: roleRun, timeout: -1,
		summary: "Take records",
		description: "Takes records for this caller. Each has to be acknowledged with its receipt, otherwise it comes again (30 s). " +
			"For trying out and for small amounts: real consumers use their broker's own client.",
		says:    "The records taken; none when nothing came in time.",
		example: DeliveryList{Deliveries: []Delivery{{Record: exampleRecord(), Receipt: "42.1.9b2f", Attempt: 1}}},
		request: ReceiveRequest{Limit: 10, Wait: "20s"}, problems: []Code{CodeQueue},
	}, func(ctx context.Context, in *struct {
		TopicPath
		Repeatable
		Body *ReceiveRequest
	},
	) (*body[DeliveryList], error) {
		req := ReceiveRequest{}
		if in.Body != nil {
			req = *in.Body
		}
		if req.Limit == 0 {
			req.Limit = 10
		}
		wait, why := duration(req.Wait, MostReceiveWait)
		if why != "" {
			return nil, invalid("body.wait", why)
		}
		v, err := h.receive(ctx, in.Topic, req.Limit, wait)
		return reply(DeliveryList{some(v)}, err)
	})

	typed(rt, operation{
		id: "ack-records", method: http.MethodPost, path: "/v1/topics/{topic}/ack", tag: tagTopics, role: roleRun,
		summary: "Acknowledge records",
		description: "`receipts` are done with and not delivered again; `nack` are given back and delivered again at once. " +
			"The answer comes after the queue has confirmed. An unknown or outdated receipt is an error; the others of " +
			"its list are done with all the same, and `nack` is not looked at when `receipts` has one.",
		says: "How many were acknowledged and given back.", example: Acked{Acked: 1}, request: AckRequest{Receipts: []string{"42.1.9b2f"}},
		problems: []Code{CodeQueue, CodeConflict},
	}, func(ctx context.Context, in *struct {
		TopicPath
		Repeatable
		Body AckRequest
	},
	) (*body[Acked], error) {
		if len(in.Body.Receipts)+len(in.Body.Nack) == 0 {
			return nil, invalid("body", "expected receipts or nack")
		}
		if len(in.Body.Receipts) > 0 {
			if err := h.svc.Ack(ctx, in.Topic, in.Body.Receipts); err != nil {
				return nil, err
			}
		}
		if len(in.Body.Nack) > 0 {
			if err := h.svc.Nack(ctx, in.Topic, in.Body.Nack); err != nil {
				return nil, err
			}
		}
		return reply(Acked{len(in.Body.Receipts), len(in.Body.Nack)}, nil)
	})
}

// receive waits for records, but not past this instance's stop.
func (h *Handler) receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+h.opt.Server.RequestTimeout.D())
	defer cancel()
	// Wait in short steps, so that a stop is noticed without cutting a delivery short: records on their way would come
	// again only after the redelivery time.
	const step = time.Second
	for {
		v, err := h.svc.Receive(ctx, topic, limit, min(wait, step))
		if wait -= step; err != nil || len(v) > 0 || wait <= 0 {
			return v, err
		}
		select {
		case <-h.stop:
			return v, nil
		default:
		}
	}
}

func (h *Handler) registerDead(rt *router) {
	typed(rt, operation{
		id: "list-dead-letters", method: http.MethodGet, path: "/v1/pipelines/{name}/dead", tag: tagDead, role: roleRead,
		summary: "Look at dead letters", description: "The records of the pipeline that could not go on: what they were, at which stage, and why.",
		says: "Dead letters in the order in which they died.", example: DeadList{Dead: []DeadLetter{exampleDead()}, Next: 8}, problems: []Code{CodeQueue},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		PageQuery
	},
	) (*body[DeadList], error) {
		v, err := h.svc.Dead(ctx, in.Name, in.From, in.Limit)
		out := DeadList{Dead: some(v), Next: max(in.From, 0)}
		if n := len(v); n > 0 {
			out.Next = v[n-1].Position + 1
		}
		return reply(out, err)
	})

	typed(rt, operation{
		id: "replay-dead-letters", method: http.MethodPost, path: "/v1/pipelines/{name}/dead/replay", tag: tagDead, role: roleAdmin,
		summary: "Replay dead letters",
		description: "Sends dead letters through the pipeline again: those at the positions, or all of them. Those that fail again are " +
			"dead letters again, with the new reason (where the queue deduplicates, as they were). Those of which only the beginning was kept are left as they are.",
		says: "What became of them.", example: Replayed{Pipeline: "orders", Read: 2, Published: 1, Dead: 1}, request: ReplayRequest{Positions: []int64{7}},
		problems: []Code{CodeQueue, CodeQueueFull, CodeConflict, CodeStopping},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Repeatable
		Body *ReplayRequest
	},
	) (*body[Replayed], error) {
		var positions []int64
		if in.Body != nil {
			if positions = in.Body.Positions; positions != nil && len(positions) == 0 {
				return nil, invalid("body.positions", "expected at least one position, or no positions at all for all dead letters")
			}
		}
		return reply(h.svc.Replay(ctx, in.Name, positions))
	})

	typed(rt, operation{
		id: "discard-dead-letters", method: http.MethodPost, path: "/v1/pipelines/{name}/dead/discard", tag: tagDead, role: roleAdmin,
		summary:     "Discard dead letters",
		description: "Takes dead letters out for good: those at the positions, or all of them when all is true.",
		says:        "How many there were.", example: Discarded{Pipeline: "orders", Discarded: 1}, request: DiscardRequest{Positions: []int64{7}},
		problems: []Code{CodeQueue, CodeConflict, CodeStopping},
	}, func(ctx context.Context, in *struct {
		PipelinePath
		Repeatable
		Body DiscardRequest
	},
	) (*body[Discarded], error) {
		if in.Body.All == (len(in.Body.Positions) > 0) {
			return nil, invalid("body.positions", "expected positions, or all: true, and not both")
		}
		return reply(h.svc.Discard(ctx, in.Name, in.Body.Positions))
	})
}

// jsonResponse documents a further answer of success.
func jsonResponse[T any](rt *router, says string, example T) *huma.Response {
	return &huma.Response{Description: says, Content: map[string]*huma.MediaType{
		"application/json": {Schema: schema[T](rt), Example: example},
	}}
}

func exampleTopic() Topic {
	return Topic{Topic: "orders", Records: 10_000, Waiting: 9_990, Bytes: 8_700_000, First: 1, Last: 10_000}
}

func exampleRecord() Record {
	return Record{
		ID: "9f86d081884c7d659a2feaa0c55ad015", Topic: "orders", Position: 42,
		Time:    time.Date(2026, 3, 1, 6, 0, 2, 0, time.UTC),
		Headers: map[string]string{"ferry-pipeline": "orders", "ferry-run": "01JNB4X7Z8QK", "content-type": "application/json"},
		Data:    json.RawMessage(`{"id":4711,"total":20}`),
	}
}

func exampleDead() DeadLetter {
	r := exampleRecord()
	r.Topic, r.Position = "orders.dead", 7
	r.Data = json.RawMessage(`{"id":4712,"lines":null}`)
	return DeadLetter{Record: r, Reason: "cannot iterate over: null", Stage: "map", Run: "01JNB4X7Z8QK"}
}
