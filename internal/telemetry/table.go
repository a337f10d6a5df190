package telemetry

// Doc describes one metric, for the documentation and for the registry, which is built from it.
type Doc struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels []string
	Help   string
}

// MetricsTable lists every metric that ferry has of its own. Those of the Go runtime (go_…) and of the process
// (process_…) come beside them. The order is that of the documentation.
func MetricsTable() []Doc {
	const counter, gauge, histogram = "counter", "gauge", "histogram"
	l := func(names ...string) []string { return names }
	return []Doc{
		{"ferry_build_info", gauge, l("version", "commit", "goversion"), "Always 1; what runs is in the labels."},
		{"ferry_requests_total", counter, l("route", "method", "status"), "Answers of the HTTP API."},
		{"ferry_request_duration_seconds", histogram, l("route", "method"), "Time to answer a request of the HTTP API."},
		{"ferry_requests_in_flight", gauge, nil, "Requests of the HTTP API being worked on, without probes and streams."},
		{"ferry_runs_total", counter, l("pipeline", "status"), "Runs that have ended, by how: succeeded, failed, rate_limited, stalled, fenced, cancelled."},
		{"ferry_run_duration_seconds", histogram, l("pipeline"), "Time that runs took."},
		{"ferry_pipeline_running", gauge, l("pipeline"), "1 while a run of the pipeline is under way on this instance."},
		{"ferry_pipeline_last_progress_timestamp_seconds", gauge, l("pipeline"), "When the pipeline last read a page or committed, in Unix time."},
		{"ferry_pipeline_next_run_timestamp_seconds", gauge, l("pipeline"), "When the next scheduled run starts, in Unix time. Absent when none is planned."},
		{"ferry_cursor_age_seconds", gauge, l("pipeline"), "Time since the cursor was last known to be current: since its last commit, or the last run that found nothing new. The pipeline's lag."},
		{"ferry_pages_total", counter, l("pipeline"), "Pages read to their end."},
		{"ferry_records_read_total", counter, l("pipeline"), "Records that the source gave: the sum over the outcomes of ferry_records_total, once they are known."},
		{"ferry_records_total", counter, l("pipeline", "outcome"), "What became of records: published, filtered, seen (committed by an earlier run) or dead."},
		{"ferry_records_out_total", counter, l("pipeline"), "Results published; more than the published records where a map gives several."},
		{"ferry_read_bytes_total", counter, l("pipeline"), "Bytes of answers' bodies as the upstream sent them."},
		{"ferry_published_bytes_total", counter, l("pipeline"), "Bytes of records that the queue has confirmed."},
		{"ferry_upstream_requests_total", counter, l("host", "status"), "Requests to third-party APIs, by status class (2xx, 3xx, 4xx, 5xx; error when no answer came)."},
		{"ferry_upstream_request_duration_seconds", histogram, l("host"), "Time of requests to third-party APIs, to the end of the body."},
		{"ferry_retries_total", counter, l("host", "reason"), "Waits before another try of a request to a third-party API."},
		{"ferry_publish_duration_seconds", histogram, nil, "Time until the queue has confirmed a commit or a publish as durable."},
		{"ferry_publish_records", histogram, nil, "Records in one commit or publish."},
		{"ferry_queue_up", gauge, nil, "1 while the queue answers, 0 while it does not."},
	}
}
