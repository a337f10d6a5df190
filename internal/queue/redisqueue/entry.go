package redisqueue

import (
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// The fields of an entry: data, ferry-id, ferry-key where the record has a key, then the record's headers by their own
// names. A stream packs entries tighter whose fields come in the same order.
const (
	fieldData = "data"
	fieldKey  = "ferry-key"
)

const (
	// recordBytes is what ferry puts into one entry. Redis itself would take half a gigabyte, and be slow for everybody.
	recordBytes = 16 << 20
	// commitBytes and commitRecords bound one script, during which the server does nothing else: some 60 ms for 5000
	// records of a kilobyte.
	commitBytes   = 32 << 20
	commitRecords = 5000
	// maxHeaders keeps an entry's fields well below what Lua can hand to one command (8000 values).
	maxHeaders = 1000
)

// Arguments that encode adds: for a group with the headers of ferry's own records, and for each record.
const (
	groupArgs  = 3 + 2*4
	recordArgs = 3
)

// encode adds records to a script's arguments, in the groups that lua/append.lua describes.
func encode(args []any, batch []record.Record) []any {
	for len(batch) > 0 {
		headers, keyed := batch[0].Headers, batch[0].Key != ""
		n := 1
		for n < len(batch) && (batch[n].Key != "") == keyed && slices.Equal(batch[n].Headers, headers) {
			n++
		}
		args = append(args, n, flag(keyed), 2*len(headers))
		for i := range headers {
			args = append(args, headers[i].Name, headers[i].Value)
		}
		for i := range batch[:n] {
			args = append(args, batch[i].Data, batch[i].ID)
			if keyed {
				args = append(args, batch[i].Key)
			}
		}
		batch = batch[n:]
	}
	return args
}

// decode gives an entry's fields, as they lie in the stream, as a record. An entry of someone else has no field data:
// all of its fields are headers then.
func decode(fields []string) record.Record {
	var r record.Record
	for i := 0; i+1 < len(fields); i += 2 {
		switch name, value := fields[i], fields[i+1]; {
		case name == fieldData && r.Data == nil:
			r.Data = []byte(value)
		case name == record.HeaderID:
			r.ID = value
		case name == fieldKey:
			r.Key = value
		default:
			r.Headers = append(r.Headers, record.Header{Name: name, Value: value})
		}
	}
	return r
}

// entry is what a stream holds at an id. Its fields keep their order, which the client library's own type loses.
type entry struct {
	id     entryID
	fields []string
}

func (e *entry) size() int {
	n := 0
	for _, s := range e.fields {
		n += len(s)
	}
	return n
}

// stored gives the entry as a record. Its position is the nearest one where its id has none.
func (e *entry) stored() queue.Stored {
	pos, _ := e.id.position()
	return queue.Stored{Record: decode(e.fields), Position: pos, Time: e.id.time()}
}

// readEntries reads the answer of XRANGE: a list of [id, [name, value, …]]. Entries deleted meanwhile have no fields
// (XAUTOCLAIM before Redis 7) and are left out.
func readEntries(answer any) ([]entry, error) {
	list, ok := answer.([]any)
	if !ok && answer != nil {
		return nil, fmt.Errorf("read entries: the server sent %T", answer)
	}
	entries := make([]entry, 0, len(list))
	for _, item := range list {
		pair, ok := item.([]any)
		if !ok || len(pair) != 2 {
			continue
		}
		text, _ := pair[0].(string)
		id, ok := parseID(text)
		values, isList := pair[1].([]any)
		if !ok || !isList {
			continue
		}
		e := entry{id: id, fields: make([]string, len(values))}
		for i, v := range values {
			e.fields[i], _ = v.(string)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// answerOf unwraps a command's answer; redis.Nil is none.
func answerOf(cmd *redis.Cmd) (any, error) {
	v, err := cmd.Result()
	if err == redis.Nil { //nolint:errorlint // the library returns it as it is
		return nil, nil
	}
	return v, err
}

// checkRecords finds the records that no entry can hold and adds them to failed, by index from first on.
func checkRecords(limit int, batch []record.Record, failed map[int]error, first int) (bytes int, _ map[int]error) {
	for i := range batch {
		size := batch[i].Size()
		bytes += size
		var err error
		switch {
		case size > limit:
			err = &queue.TooLargeError{Size: size, Limit: limit}
		case len(batch[i].Headers) > maxHeaders:
			err = fmt.Errorf("record has %d headers, over the queue's limit of %d", len(batch[i].Headers), maxHeaders)
		default:
			continue
		}
		if failed == nil {
			failed = make(map[int]error)
		}
		failed[first+i] = err
	}
	return bytes, failed
}
