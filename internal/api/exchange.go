package api

import (
	"context"
	"net/http"
	"time"
)

// exchange is one request and its answer: the writer that every handler writes to, and what is known of the request.
// It belongs to the request's goroutine.
type exchange struct {
	http.ResponseWriter
	id      string
	route   string      // the path as the OpenAPI document writes it; "" until one has matched
	query   []Violation // parts of the query that the operation cannot take
	caller  string      // name of the API key; "" without one
	started time.Time
	patient time.Duration // how long the client may take for the answer
	hurried bool          // the body has not been read, and has a deadline
	status  int           // 0 until the header is written
	keep    *kept         // copies the answer for an Idempotency-Key; nil without one
}

type exchangeKey struct{}

// exchangeOf finds the exchange of a request's context. Outside of a request it is an empty one.
func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

// RequestInfo tells the request id and the name of the caller's API key ("" without one) of a request's context, for
// log lines written further down.
func RequestInfo(ctx context.Context) (id, caller string) {
	x := exchangeOf(ctx)
	return x.id, x.caller
}

func (x *exchange) instance() string {
	if x.id == "" {
		return ""
	}
	return "urn:ferry:request:" + x.id
}

// WriteHeader passes the first final status on, and gives the client limited time to take the answer from here.
func (x *exchange) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		x.ResponseWriter.WriteHeader(status)
		return
	}
	if x.status != 0 {
		return
	}
	x.status = status
	if x.patient > 0 {
		d := x.patient
		if x.hurried { // net/http reads the rest of the body first, for as long as that may take
			d *= 2
		}
		x.patience(d)
	}
	if x.keep != nil {
		x.keep.header(status, x.Header())
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	if x.keep != nil {
		x.keep.write(p)
	}
	return x.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// patience ends the connection when what is written from now on is not taken within d.
func (x *exchange) patience(d time.Duration) {
	// Not every writer has a deadline (a recorder in tests has none); there is nothing to do about one without.
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Now().Add(d))
}

// hurry ends the connection when the request's body has not come within d; 0 takes the limit away. It has to be taken
// away once the body is read: net/http goes on reading to see the client leave, and a deadline that passes then looks
// like a client that left.
func (x *exchange) hurry(d time.Duration) {
	var at time.Time
	if x.hurried = d > 0; x.hurried {
		at = time.Now().Add(d)
	}
	_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(at)
}
