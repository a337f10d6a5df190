package api

import (
	"context"
	"net/http"
	"time"
)

func (h *Handler) registerInstances(rt *router) {
	typed(rt, operation{
		id: "list-instances", method: http.MethodGet, path: "/v1/instances", tag: tagService, role: roleRead,
		summary: "List instances", description: "Who shares the state store with this instance, and which pipelines each has the lease of. " +
			"One that has not been heard of for an hour is left out.",
		says: "Instances.", example: InstanceList{Instances: []Instance{exampleInstance()}},
	}, func(ctx context.Context, _ *struct{}) (*body[InstanceList], error) {
		v, err := h.svc.Instances(ctx)
		return reply(InstanceList{some(v)}, err)
	})
}

func exampleInstance() Instance {
	started := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Instance{
		ID: "ferry-1-k3j5wq", Name: "ferry-1", Self: true, URL: "http://127.0.0.1:8080", Version: "1.0.0", Queue: "kafka://kafka:9092",
		Started: started, Seen: started.Add(time.Hour), Alive: true, Holds: []Holding{{Pipeline: "orders", Run: exampleRun().ID, Fence: 7}},
	}
}
