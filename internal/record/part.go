package record

// A Part is a stretch of consecutive records of one page, in the page's order. A small page is one Part; a large one
// comes as several, so that a page of any size costs a bounded amount of memory (invariant 7).
type Part struct {
	// Records of this part. Their Data may point into one buffer that belongs to the part.
	Records []Record
	// Bad holds, by index into Records, why a record cannot go on (no key, nested too deep, …). Its Data is what
	// was read; where that is only a text of its beginning, it has the header HeaderDeadSize. Such a record is a dead
	// letter of the stage "source". Nil when all are well.
	Bad map[int]error
	// Seen counts the records of this stretch that were left out because an earlier run has committed them. They are
	// not in Records. Read = len(Records) + Seen (invariant 5).
	Seen int
	// After returns the cursor that is right once the first n of Records are committed, 0 <= n <= len(Records).
	// After(len(Records)) is where the reading goes on. It may be called from any goroutine, later, several times.
	After func(n int) Cursor
	// Bytes is the memory that the part holds on to.
	Bytes int
	// Remaining is how many records the source says come behind this part, 0 when it does not say. It is not exact.
	Remaining int64
	// PageEnd marks the last part of its page.
	PageEnd bool
	// End marks the last part of the last page: the source has no more for now, and the next run starts from
	// After(len(Records)). It implies PageEnd.
	End bool
	// Warning, when not empty, says something a person should know of this part without being a failure, such as
	// "the page changed while it was being committed; up to 20 records may come twice".
	Warning string
}
