package telemetry

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"ferry/internal/config"
)

// Tracing makes spans of requests, runs, pages and commits, and sends them to a collector over OTLP/HTTP. Without a
// collector it makes none and costs nothing, but a caller's traceparent (W3C Trace Context) still passes through to
// the records. The zero value and nil are such a Tracing. Safe for concurrent use.
type Tracing struct {
	provider *sdktrace.TracerProvider // nil: no spans
	tracer   trace.Tracer
	exporter *quietExporter
}

// Environment variables by which OpenTelemetry names a collector.
const (
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
)

// NewTracing starts to export spans when the configuration or OpenTelemetry's own environment variables name a
// collector. It does not wait for the collector; failures to export go to log, at most one a minute.
func NewTracing(ctx context.Context, cfg config.Trace, version string, log *slog.Logger) (*Tracing, error) {
	var opts []otlptracehttp.Option
	switch endpoint := cfg.Endpoint.Reveal(); {
	case endpoint != "":
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			// The address may hold a login, so the parser's error, which repeats it, stays here (invariant 8).
			return nil, fmt.Errorf("trace.endpoint: %s is not an address; write for example http://127.0.0.1:4318", cfg.Endpoint)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		if u.User != nil {
			password, _ := u.User.Password()
			r := &http.Request{Header: http.Header{}}
			r.SetBasicAuth(u.User.Username(), password)
			opts = append(opts, otlptracehttp.WithHeaders(map[string]string{"Authorization": r.Header.Get("Authorization")}))
			u.User = nil
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.String()))
	case os.Getenv(envTracesEndpoint) == "" && os.Getenv(envEndpoint) == "":
		return &Tracing{}, nil
	}
	exporter, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("start trace exporter: %w", err)
	}
	quiet := &quietExporter{SpanExporter: exporter, log: log}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(quiet),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Sample))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", serviceName()), attribute.String("service.version", version))),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("ferry"), exporter: quiet}, nil
}

func serviceName() string {
	if name := os.Getenv("OTEL_SERVICE_NAME"); name != "" {
		return name
	}
	return "ferry"
}

// quietExporter logs failures itself: the SDK would hand them to a handler that the whole process shares.
type quietExporter struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	last atomic.Int64 // Unix seconds of the last line
}

func (e *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil || e.log == nil {
		return nil
	}
	if now, last := time.Now().Unix(), e.last.Load(); now-last >= 60 && e.last.CompareAndSwap(last, now) {
		e.log.WarnContext(ctx, "cannot export traces; they are dropped", "spans", len(spans), "error", err)
	}
	return nil
}

// lastExport is how long the end of the process waits for a collector.
const lastExport = 2 * time.Second

// Shutdown exports what is left, for a short time and until ctx ends. What cannot be exported is said in the log and is no
// error: a collector that does not answer must not make a clean stop a failed one.
func (t *Tracing) Shutdown(ctx context.Context) {
	if !t.Enabled() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastExport)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		if e := t.exporter; e.log != nil {
			e.last.Store(time.Now().Unix()) // this line is enough
			e.log.WarnContext(ctx, "cannot export the last traces; they are dropped", "error", err)
		}
		_ = t.exporter.Shutdown(ctx) // ends the export under way
	}
}

// Enabled tells whether spans go anywhere.
func (t *Tracing) Enabled() bool { return t != nil && t.provider != nil }

// Extract returns the request's context with the caller's trace, if the request has a valid traceparent.
func (t *Tracing) Extract(r *http.Request) context.Context {
	if len(r.Header["Traceparent"]) == 0 {
		return r.Context()
	}
	return propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
}

// Traceparent returns the context's position in its trace as the header of that name, for records and for requests to
// others; empty without a trace.
func (t *Tracing) Traceparent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	const version = "00-"
	b := make([]byte, 0, 55)
	id, span := sc.TraceID(), sc.SpanID()
	b = append(b, version...)
	b = hex.AppendEncode(b, id[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{byte(sc.TraceFlags())})
	return string(b)
}

// End ends a span; an error marks it as failed. It is never nil.
type End func(err error)

func noEnd(error) {}

// Run begins the span of a run.
func (t *Tracing) Run(ctx context.Context, pipeline, run, trigger string) (context.Context, End) {
	if !t.Enabled() {
		return ctx, noEnd
	}
	return t.start(ctx, "run "+pipeline, attribute.String("ferry.pipeline", pipeline),
		attribute.String("ferry.run", run), attribute.String("ferry.trigger", trigger))
}

// Page begins the span of reading one page.
func (t *Tracing) Page(ctx context.Context, pipeline string) (context.Context, End) {
	if !t.Enabled() {
		return ctx, noEnd
	}
	return t.start(ctx, "page", attribute.String("ferry.pipeline", pipeline))
}

// Commit begins the span of one commit or publish.
func (t *Tracing) Commit(ctx context.Context, pipeline string, records int) (context.Context, End) {
	if !t.Enabled() {
		return ctx, noEnd
	}
	return t.start(ctx, "commit", attribute.String("ferry.pipeline", pipeline), attribute.Int("ferry.records", records))
}

func (t *Tracing) start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, End) {
	ctx, span := t.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Middleware puts the caller's trace into the context and makes a span of each request, named by its method and route.
func (t *Tracing) Middleware(next http.Handler) http.Handler {
	if !t.Enabled() {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header["Traceparent"]) > 0 {
				r = r.WithContext(t.Extract(r))
			}
			next.ServeHTTP(w, r)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := t.tracer.Start(t.Extract(r), r.Method, trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("http.request.method", r.Method)))
		defer span.End()
		sw := &statusWriter{ResponseWriter: w}
		r = r.WithContext(ctx)
		defer func() {
			// The mux has written the pattern into r by now. It has the method in front already.
			if r.Pattern != "" {
				span.SetName(r.Pattern)
				span.SetAttributes(attribute.String("http.route", r.Pattern))
			}
			status := sw.status
			if status == 0 {
				status = http.StatusOK
			}
			span.SetAttributes(attribute.Int("http.response.status_code", status))
			if status >= 500 {
				span.SetStatus(codes.Error, "")
			}
		}()
		next.ServeHTTP(sw, r)
	})
}

// statusWriter remembers the status. It hands on flushing, and everything else by http.ResponseController.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Flush()                      { _ = http.NewResponseController(w.ResponseWriter).Flush() }
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
