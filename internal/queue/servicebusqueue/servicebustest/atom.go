package servicebustest

import (
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// web serves the management calls: Atom entries over HTTP, as in Service Bus's REST reference for queues. Connections
// come from the one listener.
type web struct {
	s      *Server
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func newWeb(s *Server) *web {
	w := &web{s: s, conns: make(chan net.Conn), done: make(chan struct{})}
	w.server = &http.Server{Handler: w, ReadHeaderTimeout: 10 * time.Second}
	s.running.Go(func() { _ = w.server.Serve(w) })
	return w
}

// hand gives a connection, of which r may hold the beginning, to the HTTP server.
func (w *web) hand(c net.Conn, r *bufio.Reader) {
	select {
	case w.conns <- &peeked{c, r}:
	case <-w.done:
		_ = c.Close()
	}
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// Accept, Close and Addr make it the net.Listener of its own server.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *web) Close() error   { w.once.Do(func() { close(w.done) }); return nil }
func (w *web) Addr() net.Addr { return &net.TCPAddr{} }

func (w *web) close() { _ = w.Close(); _ = w.server.Close() }

type feed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	Title   string   `xml:"title"`
	Entries []entry  `xml:"entry"`
}

type entry struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
	Title   string   `xml:"title"`
	Content content  `xml:"content"`
}

type content struct {
	Type      string         `xml:"type,attr"`
	Queue     *description   `xml:"QueueDescription"`
	Namespace *namespaceInfo `xml:"NamespaceInfo"`
}

type namespaceInfo struct {
	XMLName      xml.Name `xml:"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect NamespaceInfo"`
	CreatedTime  string
	MessagingSKU string
	ModifiedTime string
	Name         string
}

type description struct {
	XMLName                             xml.Name `xml:"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect QueueDescription"`
	LockDuration                        string   `xml:",omitempty"`
	MaxSizeInMegabytes                  int64    `xml:",omitempty"`
	RequiresDuplicateDetection          bool
	RequiresSession                     bool
	DuplicateDetectionHistoryTimeWindow string `xml:",omitempty"`
	MaxDeliveryCount                    int    `xml:",omitempty"`
	SizeInBytes                         int64
	MessageCount                        int
	Status                              string `xml:",omitempty"`
	CreatedAt, UpdatedAt, AccessedAt    string `xml:",omitempty"`
	CountDetails                        *counts
	MaxMessageSizeInKilobytes           int `xml:",omitempty"`
}

type counts struct {
	ActiveMessageCount, DeadLetterMessageCount int
}

// ServeHTTP implements http.Handler.
func (w *web) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	key := w.s.authorize(r.Header.Get("Authorization"))
	if key == nil || key.Rights&Manage == 0 {
		fault(out, http.StatusUnauthorized, "MalformedToken or missing claim: Manage is required for this operation.")
		return
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	name := strings.Trim(r.URL.Path, "/")
	switch {
	case r.Method == http.MethodGet && name == "$namespaceinfo":
		at := w.s.now().UTC().Format(time.RFC3339)
		answer(out, http.StatusOK, entry{Title: "namespace", Content: content{Type: "application/xml", Namespace: &namespaceInfo{
			CreatedTime: at, ModifiedTime: at, MessagingSKU: w.s.options.Tier, Name: "servicebustest",
		}}})
	case r.Method == http.MethodGet && strings.EqualFold(name, "$Resources/Queues"):
		w.list(out, r.URL.Query())
	case r.Method == http.MethodGet:
		q := w.s.find(name)
		if q == nil { // as Service Bus: an empty feed, not a 404
			answer(out, http.StatusOK, feed{Title: "Publicly Listed Services"})
			return
		}
		answer(out, http.StatusOK, q.entry())
	case r.Method == http.MethodPut:
		w.put(out, r, name)
	default:
		fault(out, http.StatusMethodNotAllowed, "not part of this server")
	}
}

func (w *web) put(out http.ResponseWriter, r *http.Request, name string) {
	var e entry
	if err := xml.NewDecoder(http.MaxBytesReader(out, r.Body, 1<<20)).Decode(&e); err != nil || e.Content.Queue == nil {
		fault(out, http.StatusBadRequest, fmt.Sprintf("the body is no entry with a QueueDescription: %v", err))
		return
	}
	o, err := e.Content.Queue.options()
	if err != nil {
		fault(out, http.StatusBadRequest, err.Error())
		return
	}
	if w.s.options.Tier == "Basic" && (o.Sessions || o.DuplicateDetection > 0) {
		fault(out, http.StatusBadRequest, "SubCode=40000. Sessions and duplicate detection are not available in the Basic tier.")
		return
	}
	if err := w.s.create(name, o); err != nil {
		fault(out, http.StatusConflict, "SubCode=40900. Conflict: "+err.Error())
		return
	}
	answer(out, http.StatusCreated, w.s.find(name).entry())
}

func (w *web) list(out http.ResponseWriter, q url.Values) {
	names := make([]string, 0, len(w.s.queues))
	for name := range w.s.queues {
		names = append(names, name)
	}
	slices.Sort(names)
	skip, _ := strconv.Atoi(q.Get("$skip"))
	top, err := strconv.Atoi(q.Get("$top"))
	if err != nil || top > 100 {
		top = 100
	}
	names = names[min(max(skip, 0), len(names)):]
	f := feed{Title: "Queues"}
	for _, name := range names[:min(top, len(names))] {
		f.Entries = append(f.Entries, w.s.queues[name].entry())
	}
	answer(out, http.StatusOK, f)
}

func (s *Server) authorize(token string) *Key {
	if bearer, ok := strings.CutPrefix(token, "Bearer "); ok {
		token = bearer
	}
	if s.options.Token != "" && token == s.options.Token {
		return &Key{Rights: Send | Listen | Manage}
	}
	return s.signature(token)
}

func (q *queue) entry() entry {
	at := q.made.UTC().Format(time.RFC3339)
	d := &description{
		LockDuration: iso(q.options.Lock), MaxSizeInMegabytes: q.options.MaxBytes >> 20,
		RequiresDuplicateDetection: q.options.DuplicateDetection > 0, RequiresSession: q.options.Sessions,
		DuplicateDetectionHistoryTimeWindow: iso(q.options.DuplicateDetection), MaxDeliveryCount: q.options.MaxDeliveries,
		SizeInBytes: q.bytes, MessageCount: q.live(), Status: "Active", CreatedAt: at, UpdatedAt: at, AccessedAt: at,
		CountDetails: &counts{ActiveMessageCount: q.live()},
	}
	if q.dead != nil {
		d.CountDetails.DeadLetterMessageCount = q.dead.live()
		d.MessageCount += q.dead.live()
		d.SizeInBytes += q.dead.bytes
	}
	if q.s.options.Tier == "Premium" {
		d.MaxMessageSizeInKilobytes = q.s.options.MaxMessage >> 10
	}
	return entry{Title: q.name, Content: content{Type: "application/xml", Queue: d}}
}

func (d *description) options() (QueueOptions, error) {
	o := QueueOptions{Sessions: d.RequiresSession, MaxBytes: d.MaxSizeInMegabytes << 20, MaxDeliveries: d.MaxDeliveryCount}
	var err, err2 error
	if d.LockDuration != "" {
		o.Lock, err = fromISO(d.LockDuration)
	}
	if o.Lock > 5*time.Minute {
		return o, errors.New("SubCode=40000. The value for the LockDuration property must be at most 5 minutes")
	}
	if d.RequiresDuplicateDetection {
		o.DuplicateDetection = 10 * time.Minute
		if d.DuplicateDetectionHistoryTimeWindow != "" {
			o.DuplicateDetection, err2 = fromISO(d.DuplicateDetectionHistoryTimeWindow)
		}
		if o.DuplicateDetection < 20*time.Second || o.DuplicateDetection > 7*24*time.Hour {
			return o, errors.New("SubCode=40000. DuplicateDetectionHistoryTimeWindow is outside of 20 seconds to 7 days")
		}
	}
	return o, errors.Join(err, err2)
}

// iso writes an ISO 8601 duration, in seconds.
func iso(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "PT" + strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "S"
}

// fromISO reads P[nD]T[nH][nM][nS].
func fromISO(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration", text)
	days, clock, _ := strings.Cut(strings.TrimPrefix(text, "P"), "T")
	var total time.Duration
	if days != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(days, "D"))
		if err != nil {
			return 0, bad
		}
		total = time.Duration(n) * 24 * time.Hour
	}
	if clock != "" {
		d, err := time.ParseDuration(strings.ToLower(clock))
		if err != nil {
			return 0, bad
		}
		total += d
	}
	return total, nil
}

func answer(out http.ResponseWriter, code int, body any) {
	b, err := xml.Marshal(body)
	if err != nil {
		fault(out, http.StatusInternalServerError, err.Error())
		return
	}
	out.Header().Set("Content-Type", "application/atom+xml;type=entry;charset=utf-8")
	out.WriteHeader(code)
	_, _ = out.Write(append([]byte(xml.Header), b...))
}

func fault(out http.ResponseWriter, code int, detail string) {
	out.Header().Set("Content-Type", "application/xml; charset=utf-8")
	out.WriteHeader(code)
	b, _ := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    int
		Detail  string
	}{Code: code, Detail: detail})
	_, _ = out.Write(b)
}
