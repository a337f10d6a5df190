package api

import (
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// The bodies of the HTTP API that are more than one value of a Service. Lists are objects with one named list, so that
// something can be added beside it.

// PipelineList is the answer of GET /v1/pipelines.
type PipelineList struct {
	Pipelines []Pipeline `json:"pipelines" nullable:"false" doc:"By name."`
}

// StartedRun is the answer of POST /v1/pipelines/{name}/runs.
type StartedRun struct {
	Run
	New bool `json:"new" doc:"Whether this request started the run; false when one was under way, and this is it."`
}

// RunList is the answer of GET /v1/runs.
type RunList struct {
	Runs []Run `json:"runs" nullable:"false" doc:"The newest first."`
}

// InstanceList is the answer of GET /v1/instances.
type InstanceList struct {
	Instances []Instance `json:"instances" nullable:"false" doc:"By name."`
}

// TransformSchema is huma.SchemaTransformer: Service takes steps as they were sent, and they have a shape all the same.
func (PreviewRequest) TransformSchema(r huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["transform"].Items = r.Schema(reflect.TypeFor[PreviewStep](), true, "")
	return s
}

// PreviewStep is a step to try. One of the two has to be there; schema files are the operator's.
type PreviewStep struct {
	Where string `json:"where,omitempty" doc:"jq: records for which this is false or null are filtered out." example:".status != \"draft\""`
	Map   string `json:"map,omitempty" doc:"jq: each result takes the record's place." example:"{id, total: .amount}"`
}

// SetCursor is the body of PUT /v1/pipelines/{name}/cursor. What GET answered can be sent back as it is.
type SetCursor struct {
	Pipeline string          `json:"pipeline,omitempty" doc:"When given, must be the pipeline in the address."`
	Cursor   json.RawMessage `json:"cursor" doc:"As GET showed it; null means the beginning."`
}

// TopicList is the answer of GET /v1/topics.
type TopicList struct {
	Topics []Topic `json:"topics" nullable:"false" doc:"By name, dead-letter topics included."`
}

// RecordList is the answer of GET /v1/topics/{topic}/records.
type RecordList struct {
	Records []Record `json:"records" nullable:"false" doc:"In the topic's order."`
	Next    int64    `json:"next" doc:"The from that goes on after these records."`
}

// ReceiveRequest is the body of POST /v1/topics/{topic}/receive.
type ReceiveRequest struct {
	Limit int    `json:"limit,omitempty" minimum:"1" maximum:"1000" default:"10" doc:"Most records to take."`
	Wait  string `json:"wait,omitempty" maxLength:"16" default:"0s" doc:"How long to wait for the first record, such as 20s; at most 1m."`
}

// DeliveryList is the answer of POST /v1/topics/{topic}/receive.
type DeliveryList struct {
	Deliveries []Delivery `json:"deliveries" nullable:"false" doc:"In the topic's order. A record that is not acknowledged comes again."`
}

// AckRequest is the body of POST /v1/topics/{topic}/ack.
type AckRequest struct {
	Receipts []string `json:"receipts,omitempty" nullable:"false" maxItems:"1000" doc:"Done with: these records are not delivered again."`
	Nack     []string `json:"nack,omitempty" nullable:"false" maxItems:"1000" doc:"Give these back; they are delivered again at once."`
}

// Acked is the answer of POST /v1/topics/{topic}/ack.
type Acked struct {
	Acked  int `json:"acked"`
	Nacked int `json:"nacked"`
}

// DeadList is the answer of GET /v1/pipelines/{name}/dead.
type DeadList struct {
	Dead []DeadLetter `json:"dead" nullable:"false" doc:"In the order in which they died."`
	Next int64        `json:"next" doc:"The from that goes on after these dead letters."`
}

// ReplayRequest is the body of POST /v1/pipelines/{name}/dead/replay.
type ReplayRequest struct {
	Positions []int64 `json:"positions,omitempty" nullable:"false" maxItems:"10000" doc:"Which dead letters; absent: all of them."`
}

// DiscardRequest is the body of POST /v1/pipelines/{name}/dead/discard. One of the two has to be there.
type DiscardRequest struct {
	Positions []int64 `json:"positions,omitempty" nullable:"false" minItems:"1" maxItems:"10000" doc:"Which dead letters."`
	All       bool    `json:"all,omitempty" doc:"All of the pipeline's."`
}

// Alive is the answer of GET /livez and GET /readyz.
type Alive struct {
	Status  string `json:"status" enum:"ok"`
	Version string `json:"version"`
}
