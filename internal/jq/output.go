package jq

// output takes a run's results and holds them to the bounds.
type output struct {
	dst   []byte
	ends  []int
	start int // len(dst) and len(ends) before the run
	first int
	enc   *encoder

	one    bool // stop after the first result
	truth  bool // write nothing; stop after the first result that is true
	isTrue bool
}

// value takes one result as gojq's value; more is false when no further one is wanted.
func (o *output) value(v any) (more bool, err error) {
	if o.truth {
		o.isTrue = v != nil && v != false
		return !o.isTrue, nil
	}
	o.enc.limit = o.start + MaxOutput
	if o.dst, err = o.enc.value(o.dst, v, 0); err != nil {
		return false, err
	}
	return !o.one, o.end()
}

// raw takes one result as valid JSON text.
func (o *output) raw(b []byte) error {
	if o.truth {
		o.isTrue = b[0] != 'n' && b[0] != 'f'
		return nil
	}
	o.dst = o.enc.canonical(o.dst, b)
	return o.end()
}

func (o *output) end() error {
	if len(o.dst)-o.start > MaxOutput {
		return ErrTooLarge
	}
	if len(o.ends)-o.first >= MaxResults {
		return ErrTooMany
	}
	o.ends = append(o.ends, len(o.dst))
	return nil
}

// undo drops what the run has given so far.
func (o *output) undo() {
	o.dst, o.ends, o.isTrue = o.dst[:o.start], o.ends[:o.first], false
}
