package servicebusqueue

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

const (
	propertyKey = "ferry-key" // record.Record.Key

	// idMax is the longest message id, session id and partition key (Service Bus's quotas page).
	idMax = 128
	// topicMax is the longest name of a queue.
	topicMax = 260
	// headerMax is what the properties of a message may weigh.
	headerMax = 64 << 10
	// noSession is the session of records that have nothing to make one of.
	noSession = "none"
)

// checkTopic refuses names that a queue cannot have.
func checkTopic(name string) error {
	wrong := func(why string) error {
		return retry.Permanent(fmt.Errorf("%w: %.80q is no name for a Service Bus queue: %s", queue.ErrNoTopic, name, why))
	}
	switch {
	case name == "":
		return retry.Permanent(fmt.Errorf("%w: a topic has no name", queue.ErrNoTopic))
	case len(name) > topicMax:
		return wrong("it is over 260 characters")
	case strings.Contains(name, "$"):
		return wrong("what holds a $ belongs to the broker")
	case strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/"):
		return wrong("it begins or ends with a slash")
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r) {
			return wrong("it may hold letters, digits, dots, hyphens, underscores and slashes")
		}
	}
	return nil
}

// isDead tells topics of dead letters (queue.DeadTopic) from others. They have no sessions: people read them.
func isDead(topic string) bool { return strings.HasSuffix(topic, queue.DeadTopic("")) }

// short gives an id as it is when Service Bus takes it, otherwise a digest of it: the same for the same id.
func short(id string) string {
	if len(id) <= idMax {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// made gives the session id or partition key of a record, by what it is to be made of; "" for none.
func made(by string, r *record.Record) string {
	switch by {
	case byKey:
		return short(r.Key)
	case byPipeline:
		return short(r.Header(record.HeaderPipeline))
	}
	return ""
}

// lane is what a message's order depends on, and what all messages of a batch must share: its session, or its
// partition.
func (q *Queue) lane(topic string, r *record.Record) (session, partition string) {
	if q.sessions(topic) {
		if session = made(q.cfg.Session, r); session == "" {
			session = noSession
		}
		return session, ""
	}
	return "", made(q.cfg.Partition, r)
}

// sessions tells whether a topic has them.
func (q *Queue) sessions(topic string) bool { return q.cfg.Session != byNone && !isDead(topic) }

// encode gives a record as a message.
func (q *Queue) encode(topic string, r *record.Record) *azservicebus.Message {
	m := &azservicebus.Message{Body: r.Data, ApplicationProperties: make(map[string]any, len(r.Headers)+2)}
	if m.Body == nil {
		m.Body = []byte{}
	}
	for _, h := range r.Headers {
		if h.Name == record.HeaderContentType {
			m.ContentType = &h.Value
			continue
		}
		m.ApplicationProperties[h.Name] = h.Value
	}
	m.ApplicationProperties[record.HeaderID] = r.ID
	if r.Key != "" {
		m.ApplicationProperties[propertyKey] = r.Key
	}
	if r.ID != "" {
		id := short(r.ID)
		m.MessageID = &id
	}
	session, partition := q.lane(topic, r)
	if session != "" {
		m.SessionID = &session
	}
	if partition != "" {
		m.PartitionKey = &partition
	}
	return m
}

// weigh gives what a record's message weighs at most, all of it and its properties alone: each value with its name and
// the bytes that say how long it is (AMQP 1.0, part 1, 1.6).
func (q *Queue) weigh(topic string, r *record.Record) (total, properties int) {
	const value = 5 // constructor and length of a string, at most
	session, partition := q.lane(topic, r)
	properties = 96 + min(len(r.ID), idMax) + len(session) + len(partition)
	properties += len(record.HeaderID) + len(r.ID) + 2*value
	if r.Key != "" {
		properties += len(propertyKey) + len(r.Key) + 2*value
	}
	for _, h := range r.Headers {
		properties += len(h.Name) + len(h.Value) + 2*value
	}
	return properties + len(r.Data) + 16, properties
}

// refuse says why a record can never be taken, or nil.
func (q *Queue) refuse(topic string, r *record.Record) error {
	total, properties := q.weigh(topic, r)
	switch limit := q.maxMessage - framing; {
	case r.Size() > limit: // as Info says
		return &queue.TooLargeError{Size: r.Size(), Limit: limit}
	case total > q.maxMessage:
		return &queue.TooLargeError{Size: total, Limit: q.maxMessage}
	case properties > headerMax:
		return &queue.TooLargeError{Size: properties, Limit: headerMax}
	}
	return nil
}

// decode gives a message as a record. Headers come sorted by name: properties have no order.
func decode(m *azservicebus.ReceivedMessage) record.Record {
	r := record.Record{ID: m.MessageID, Data: body(m)}
	if m.ContentType != nil && *m.ContentType != "" {
		r.Headers = append(r.Headers, record.Header{Name: record.HeaderContentType, Value: *m.ContentType})
	}
	for name, value := range m.ApplicationProperties {
		text, ok := value.(string)
		switch {
		case name == record.HeaderID && ok:
			r.ID = text
		case name == propertyKey && ok:
			r.Key = text
		case ok:
			r.Headers = append(r.Headers, record.Header{Name: name, Value: text})
		default: // someone else's
			r.Headers = append(r.Headers, record.Header{Name: name, Value: fmt.Sprint(value)})
		}
	}
	slices.SortFunc(r.Headers, func(a, b record.Header) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// body gives the data of a message, also of one that somebody else has sent in several sections or as a value.
func body(m *azservicebus.ReceivedMessage) []byte {
	if m.Body != nil || m.RawAMQPMessage == nil {
		return m.Body
	}
	raw := m.RawAMQPMessage.Body
	switch v := raw.Value.(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	}
	return slices.Concat(raw.Data...)
}

func stored(m *azservicebus.ReceivedMessage) queue.Stored {
	s := queue.Stored{Record: decode(m)}
	if m.SequenceNumber != nil {
		s.Position = *m.SequenceNumber
	}
	if m.EnqueuedTime != nil {
		s.Time = *m.EnqueuedTime
	}
	return s
}
