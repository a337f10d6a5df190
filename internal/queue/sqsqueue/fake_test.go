package sqsqueue

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// fake is SQS as far as this package uses it, over its JSON protocol: batches whose entries fail one by one, the limits
// of sizes, attributes and characters, deduplication, message groups that wait, visibility. It proves nothing about
// SQS; it makes the answers that a real server seldom gives.
type fake struct {
	*httptest.Server
	mu     sync.Mutex
	queues map[string]*fakeQueue
	counts map[string]int // requests by operation
	// on, when not nil, may answer a request itself, or let its answer be lost. It runs without the lock.
	on func(op string, body []byte) answerTo
	// entry, when not nil, may refuse one entry of a SendMessageBatch. It runs under the lock.
	entry func(e fakeEntry) *fakeFailure
}

// answerTo is what happens to a request: nothing special when zero.
type answerTo struct {
	status        int // not 0: this answer, and nothing is done
	code, message string
	lost          bool // it is done, and the connection breaks instead of the answer
	unheard       bool // the connection breaks, and nothing is done
}

type fakeFailure struct {
	ID          string `json:"Id"`
	Code        string
	Message     string
	SenderFault bool
}

type fakeEntry struct {
	ID                     string `json:"Id"`
	MessageBody            string
	MessageAttributes      map[string]fakeAttribute
	MessageGroupId         string
	MessageDeduplicationId string
}

type fakeAttribute struct{ DataType, StringValue string }

type fakeQueue struct {
	name       string
	attributes map[string]string
	tags       map[string]string
	seen       map[string]bool // deduplication ids; tests are shorter than five minutes
	messages   []*fakeMessage
}

type fakeMessage struct {
	fakeEntry
	sent    time.Time
	visible time.Time
	count   int
	handle  string
}

func newFake(t testing.TB) *fake {
	f := &fake{queues: make(map[string]*fakeQueue), counts: make(map[string]int)}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// url gives what goes into queue:.
func (f *fake) url(parameters string) string {
	return "sqs://us-east-1?endpoint=" + f.URL + "&create=true" + parameters
}

func (f *fake) address(name string) string { return f.URL + "/123456789012/" + name }

func (f *fake) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

// bodies of a queue's messages, in order.
func (f *fake) bodies(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	if q := f.queues[name]; q != nil {
		for _, m := range q.messages {
			all = append(all, m.MessageBody)
		}
	}
	return all
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	body := make([]byte, r.ContentLength)
	for n := 0; n < len(body); {
		k, err := r.Body.Read(body[n:])
		if n += k; err != nil && n < len(body) {
			return // the client is gone
		}
	}
	var do answerTo
	f.mu.Lock()
	f.counts[op]++
	on := f.on
	f.mu.Unlock()
	if on != nil {
		do = on(op, body)
	}
	if do.unheard {
		panic(http.ErrAbortHandler)
	}
	status, answer := do.status, any(map[string]string{"__type": "com.amazonaws.sqs#" + do.code, "message": do.message})
	if status == 0 {
		status, answer = f.serve(r, op, body)
	}
	if do.lost {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

// fakeRequest has the fields of all operations.
type fakeRequest struct {
	QueueName, QueueUrl string
	Attributes, Tags    map[string]string
	Entries             []json.RawMessage
	MaxNumberOfMessages int
	WaitTimeSeconds     int
	VisibilityTimeout   int
	MaxResults          int
	NextToken           string
}

func (f *fake) serve(r *http.Request, op string, body []byte) (int, any) {
	var in fakeRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return refuse("InvalidRequest", err.Error())
	}
	name := in.QueueName
	if name == "" {
		name = in.QueueUrl[strings.LastIndexByte(in.QueueUrl, '/')+1:]
	}
	if op == "ReceiveMessage" {
		return f.receive(r, name, in)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queues[name]
	switch {
	case op == "ListQueues":
		return f.list(in)
	case op == "CreateQueue":
		if fifo := in.Attributes["FifoQueue"] == "true"; fifo != strings.HasSuffix(name, ".fifo") {
			return refuse("InvalidParameterValue", "the name does not fit the kind of queue")
		}
		if q == nil {
			f.queues[name] = &fakeQueue{name: name, attributes: in.Attributes, tags: in.Tags, seen: make(map[string]bool)}
		}
		return http.StatusOK, map[string]string{"QueueUrl": f.address(name)}
	case q == nil:
		return refuse("QueueDoesNotExist", "The specified queue does not exist.")
	}
	switch op {
	case "GetQueueUrl":
		return http.StatusOK, map[string]string{"QueueUrl": f.address(name)}
	case "GetQueueAttributes":
		size := q.attributes["MaximumMessageSize"]
		if size == "" {
			size = "1048576"
		}
		return http.StatusOK, map[string]any{"Attributes": map[string]string{
			"MaximumMessageSize": size, "ApproximateNumberOfMessages": strconv.Itoa(len(q.messages)),
		}}
	case "ListQueueTags":
		return http.StatusOK, map[string]any{"Tags": q.tags}
	case "SendMessageBatch":
		return f.send(q, in)
	case "DeleteMessageBatch", "ChangeMessageVisibilityBatch":
		return q.settle(op, in)
	}
	return refuse("InvalidAction", op)
}

func refuse(code, message string) (int, any) {
	return http.StatusBadRequest, map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": message}
}

func (f *fake) list(in fakeRequest) (int, any) {
	var urls []string
	for name := range f.queues {
		urls = append(urls, f.address(name))
	}
	slices.Sort(urls)
	from, _ := strconv.Atoi(in.NextToken)
	out := map[string]any{}
	if to := from + in.MaxResults; in.MaxResults > 0 && to < len(urls) {
		out["NextToken"], urls = strconv.Itoa(to), urls[:to]
	}
	out["QueueUrls"] = urls[from:]
	return http.StatusOK, out
}

func (f *fake) send(q *fakeQueue, in fakeRequest) (int, any) {
	if len(in.Entries) == 0 || len(in.Entries) > 10 {
		return refuse("TooManyEntriesInBatchRequest", strconv.Itoa(len(in.Entries)))
	}
	limit, err := strconv.Atoi(q.attributes["MaximumMessageSize"])
	if err != nil {
		limit = 1 << 20
	}
	entries, total := make([]fakeEntry, len(in.Entries)), 0
	for i, raw := range in.Entries {
		if err := json.Unmarshal(raw, &entries[i]); err != nil {
			return refuse("InvalidRequest", err.Error())
		}
		total += entries[i].size()
	}
	if total > 1<<20 {
		return refuse("BatchRequestTooLong", strconv.Itoa(total))
	}
	type success struct {
		ID               string `json:"Id"`
		MD5OfMessageBody string
		MessageId        string
	}
	out := struct {
		Successful []success
		Failed     []fakeFailure
	}{}
	for _, e := range entries {
		failure := e.check(q, limit)
		if failure == nil && f.entry != nil {
			failure = f.entry(e)
		}
		if failure != nil {
			failure.ID = e.ID
			out.Failed = append(out.Failed, *failure)
			continue
		}
		sum := md5.Sum([]byte(e.MessageBody))
		out.Successful = append(out.Successful, success{ID: e.ID, MD5OfMessageBody: hex.EncodeToString(sum[:]), MessageId: "m"})
		if e.MessageDeduplicationId != "" {
			if q.seen[e.MessageDeduplicationId] {
				continue
			}
			q.seen[e.MessageDeduplicationId] = true
		}
		now := time.Now()
		q.messages = append(q.messages, &fakeMessage{fakeEntry: e, sent: now, visible: now})
	}
	return http.StatusOK, out
}

func (e *fakeEntry) size() int {
	n := len(e.MessageBody)
	for name, a := range e.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.StringValue)
	}
	return n
}

// check refuses what SQS refuses of one entry.
func (e *fakeEntry) check(q *fakeQueue, limit int) *fakeFailure {
	bad := func(code string) *fakeFailure { return &fakeFailure{Code: code, Message: "refused", SenderFault: true} }
	texts := []string{e.MessageBody}
	for name, a := range e.MessageAttributes {
		if a.StringValue == "" || a.DataType == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return bad("InvalidAttributeValue")
		}
		texts = append(texts, a.StringValue)
	}
	for _, s := range texts {
		if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
			return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
		}) {
			return bad("InvalidMessageContents")
		}
	}
	fifo := strings.HasSuffix(q.name, ".fifo")
	switch {
	case e.size() > limit:
		return bad("InvalidParameterValue")
	case len(e.MessageAttributes) > 10:
		return bad("InvalidParameterValue")
	case fifo && (!isToken(e.MessageGroupId) || !isToken(e.MessageDeduplicationId)):
		return bad("InvalidParameterValue")
	case !fifo && e.MessageGroupId+e.MessageDeduplicationId != "":
		return bad("InvalidParameterValue")
	}
	return nil
}

func isToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (f *fake) receive(r *http.Request, name string, in fakeRequest) (int, any) {
	end := time.Now().Add(time.Duration(in.WaitTimeSeconds) * time.Second)
	for {
		f.mu.Lock()
		q := f.queues[name]
		if q == nil {
			f.mu.Unlock()
			return refuse("QueueDoesNotExist", "The specified queue does not exist.")
		}
		got := q.take(in)
		f.mu.Unlock()
		if len(got) > 0 || !time.Now().Before(end) || r.Context().Err() != nil {
			return http.StatusOK, map[string]any{"Messages": got}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-r.Context().Done():
		}
	}
}

func (q *fakeQueue) take(in fakeRequest) []map[string]any {
	now := time.Now()
	var got []map[string]any
	away := map[string]bool{} // groups of which a message was out before this request
	for _, m := range q.messages {
		if m.visible.After(now) && m.MessageGroupId != "" {
			away[m.MessageGroupId] = true
		}
	}
	for _, m := range q.messages {
		if len(got) == in.MaxNumberOfMessages {
			break
		}
		if m.visible.After(now) || away[m.MessageGroupId] {
			continue
		}
		m.visible = now.Add(time.Duration(in.VisibilityTimeout) * time.Second)
		m.count++
		m.handle = fmt.Sprintf("%p-%d", m, m.count)
		sum := md5.Sum([]byte(m.MessageBody))
		got = append(got, map[string]any{
			"MessageId": "m", "Body": m.MessageBody, "MD5OfBody": hex.EncodeToString(sum[:]), "ReceiptHandle": m.handle,
			"MessageAttributes": m.MessageAttributes,
			"Attributes": map[string]string{
				"ApproximateReceiveCount": strconv.Itoa(m.count), "SentTimestamp": strconv.FormatInt(m.sent.UnixMilli(), 10),
			},
		})
	}
	return got
}

func (q *fakeQueue) settle(op string, in fakeRequest) (int, any) {
	out := struct {
		Successful []map[string]string
		Failed     []fakeFailure
	}{}
	for _, raw := range in.Entries {
		var e struct {
			ID            string `json:"Id"`
			ReceiptHandle string
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return refuse("InvalidRequest", err.Error())
		}
		i := slices.IndexFunc(q.messages, func(m *fakeMessage) bool { return m.handle == e.ReceiptHandle })
		switch {
		case !strings.HasPrefix(e.ReceiptHandle, "0x"):
			out.Failed = append(out.Failed, fakeFailure{ID: e.ID, Code: "ReceiptHandleIsInvalid", SenderFault: true})
			continue
		case i < 0 && op == "ChangeMessageVisibilityBatch":
			out.Failed = append(out.Failed, fakeFailure{ID: e.ID, Code: "InvalidParameterValue", SenderFault: true})
			continue
		case i < 0: // done with already: SQS says yes
		case op == "DeleteMessageBatch":
			q.messages = slices.Delete(q.messages, i, i+1)
		default:
			q.messages[i].visible = time.Now()
		}
		out.Successful = append(out.Successful, map[string]string{"Id": e.ID})
	}
	return http.StatusOK, out
}
