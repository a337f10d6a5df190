package mockapi

import (
	"strconv"
	"time"
)

const golden = 0x9e3779b97f4a7c15

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// dice is a stream of numbers that depends on its start only.
type dice uint64

// roll gives a number from 0 to n-1.
func (d *dice) roll(n int) int {
	*d += golden
	return int(mix(uint64(*d)) >> 33 % uint64(n))
}

var (
	firstNames = [...]string{"Ada", "Björn", "Chloé", "Dmitri", "Élodie", "Fatima", "Grace", "Håkon", "Inés", "Jürgen", "Kaori", "Łukasz", "Mei", "Nuño", "Olga", "Þóra"}
	mailNames  = [...]string{"ada", "bjorn", "chloe", "dmitri", "elodie", "fatima", "grace", "hakon", "ines", "jurgen", "kaori", "lukasz", "mei", "nuno", "olga", "thora"}
	lastNames  = [...]string{"Lovelace", "Öztürk", "Nakamura", "O'Brien", "Müller", "García", "Smith", "Kowalski", "Šimek", "Ng", "van Dijk", "Hopper"}
	countries  = [...]string{"DE", "FR", "JP", "IE", "ES", "GB", "PL", "CZ", "SG", "NL", "US", "BR"}
	currencies = [...]string{"EUR", "USD", "GBP", "JPY", "PLN"}
	statuses   = [...]string{"draft", "open", "paid", "paid", "shipped", "shipped", "shipped", "cancelled"}
	titles     = [...]string{"Rope, 10 m", "Anchor light", "Bilge pump", "Compass", "Deck brush", "Fender (blau)", "Life vest", "Signal flare", "Tarpaulin 2×3", "Winch handle"}
	// notes are JSON as they stand: null, escapes, raw and escaped text beyond ASCII, and what line splitters trip on.
	notes = [...]string{
		`null`, `null`, `null`, `""`,
		`"Leave at the door"`,
		`"Bitte bis Freitag – danke! Größe XL"`,
		`"line one\nline two\twith a tab"`,
		`"she said \"now\" \\ or never\/ever"`,
		`"rocket \ud83d\ude80 by escape, ship 🚢 as it is"`,
		`"至急お願いします"`,
		`"family 👩‍👩‍👧 and a flag 🇪🇺"`,
		`"separators \u2028 \u2029, a null \u0000 and a bracket ]}"`,
	}
	eventTypes = [...]string{"order.created", "order.paid", "order.shipped", "order.cancelled", "user.updated"}
	streets    = [...]string{"Harbour Road", "Rue de la Paix", "Lange Straße", "Calle Mayor", "Kraká"}
	cities     = [...]string{"Kiel", "Marseille", "Zürich", "Málaga", "Ísafjörður", "Kobe"}
)

// appendOrder writes an order. It holds what must survive the way unchanged: integers beyond 2^53, decimals with
// zeros at the end, escapes, and text of every plane.
func appendOrder(b []byte, rw row, d dice, f form) []byte {
	b = append(b, `{"id":`...)
	b = strconv.AppendInt(b, int64(rw.index)+1, 10)
	b = append(b, `,"number":"F-`...)
	b = appendDigits(b, rw.index+1, 8)
	b = append(b, `","account":`...)
	b = strconv.AppendInt(b, 9_007_199_254_740_993+2*int64(rw.index), 10)
	b = append(b, `,"status":"`...)
	b = append(b, statuses[(d.roll(len(statuses))+rw.key-rw.index)%len(statuses)]...)
	b = append(b, `","created_at":`...)
	b = f.time.append(b, seconds(rw.index)-int64(d.roll(36*60)))
	b = append(b, `,"updated_at":`...)
	b = f.time.append(b, seconds(rw.key))
	b = append(b, `,"currency":"`...)
	b = append(b, currencies[d.roll(len(currencies))]...)
	b = append(b, `","customer":{"id":`...)
	customer := d.roll(5000)
	first, last := d.roll(len(firstNames)), d.roll(len(lastNames))
	b = strconv.AppendInt(b, int64(customer), 10)
	b = append(b, `,"email":"`...)
	b = append(b, mailNames[first]...)
	b = strconv.AppendInt(b, int64(customer), 10)
	b = append(b, `@example.com","name":"`...)
	b = append(b, firstNames[first]...)
	b = append(b, ' ')
	b = append(b, lastNames[last]...)
	b = append(b, `","country":"`...)
	b = append(b, countries[d.roll(len(countries))]...)
	b = append(b, `"},"lines":[`...)
	for i := range 1 + d.roll(4) {
		if i > 0 {
			b = append(b, ',')
		}
		title := d.roll(len(titles))
		b = append(b, `{"sku":"SKU-`...)
		b = appendDigits(b, title*100+d.roll(100), 5)
		b = append(b, `","title":"`...)
		b = append(b, titles[title]...)
		b = append(b, `","qty":`...)
		b = strconv.AppendInt(b, int64(1+d.roll(9)), 10)
		b = append(b, `,"price":`...)
		cents := 10 * (1 + d.roll(2000))
		b = strconv.AppendInt(b, int64(cents/100), 10)
		b = append(b, '.')
		b = appendDigits(b, cents%100, 2)
		b = append(b, '}')
	}
	b = append(b, `],"note":`...)
	b = append(b, notes[d.roll(len(notes))]...)
	return append(b, '}')
}

// appendUser writes a user: a text as id, an address inside the address, and nulls.
func appendUser(b []byte, rw row, d dice, f form) []byte {
	b = append(b, `{"id":"usr_`...)
	b = appendDigits(b, rw.index+1, 8)
	first, last := d.roll(len(firstNames)), d.roll(len(lastNames))
	b = append(b, `","name":"`...)
	b = append(b, firstNames[first]...)
	b = append(b, ' ')
	b = append(b, lastNames[last]...)
	b = append(b, `","email":"`...)
	b = append(b, mailNames[first]...)
	b = strconv.AppendInt(b, int64(rw.index), 10)
	b = append(b, `@example.com","phone":`...)
	if d.roll(3) == 0 {
		b = append(b, `null`...)
	} else {
		b = append(b, `"+49 431 `...)
		b = appendDigits(b, d.roll(1_000_000), 6)
		b = append(b, '"')
	}
	b = append(b, `,"address":{"street":"`...)
	b = append(b, streets[d.roll(len(streets))]...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(1+d.roll(200)), 10)
	b = append(b, `","city":"`...)
	b = append(b, cities[d.roll(len(cities))]...)
	b = append(b, `","zip":"`...)
	b = appendDigits(b, d.roll(100_000), 5)
	b = append(b, `","geo":{"lat":`...)
	b = strconv.AppendInt(b, int64(d.roll(180)-90), 10)
	b = append(b, '.')
	b = appendDigits(b, d.roll(10_000), 4)
	b = append(b, `,"lng":`...)
	b = strconv.AppendInt(b, int64(d.roll(360)-180), 10)
	b = append(b, '.')
	b = appendDigits(b, d.roll(10_000), 4)
	b = append(b, `}},"tags":[`...)
	for i := range d.roll(3) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, countries[d.roll(len(countries))]...)
		b = append(b, '"')
	}
	b = append(b, `],"active":`...)
	b = strconv.AppendBool(b, (d.roll(5)+rw.key-rw.index)%5 != 0)
	b = append(b, `,"created_at":`...)
	b = f.time.append(b, seconds(rw.index)-int64(d.roll(90*24*60*60)))
	b = append(b, `,"updated_at":`...)
	b = f.time.append(b, seconds(rw.key))
	return append(b, `,"deleted_at":null}`...)
}

// appendEvent writes an entry of a log: short, flat and without raw line ends, as NDJSON wants it.
func appendEvent(b []byte, rw row, d dice, f form) []byte {
	b = append(b, `{"id":"evt_`...)
	b = appendDigits(b, rw.index+1, 10)
	b = append(b, `","type":"`...)
	b = append(b, eventTypes[d.roll(len(eventTypes))]...)
	b = append(b, `","order_id":`...)
	b = strconv.AppendInt(b, int64(1+d.roll(10_000)), 10)
	b = append(b, `,"revision":`...)
	b = strconv.AppendInt(b, int64(1+rw.key-rw.index), 10)
	b = append(b, `,"note":`...)
	b = append(b, notes[d.roll(len(notes))]...)
	b = append(b, `,"updated_at":`...)
	b = f.time.append(b, seconds(rw.key))
	return append(b, '}')
}

// append writes a time as a JSON value.
func (t timeForm) append(b []byte, sec int64) []byte {
	switch t {
	case timeUnix:
		return strconv.AppendInt(b, sec, 10)
	case timeUnixMS:
		return strconv.AppendInt(b, sec*1000, 10)
	}
	at := time.Unix(sec, 0).UTC()
	b = append(b, '"')
	switch t {
	case timeDate:
		b = at.AppendFormat(b, time.DateOnly)
	case timeZone:
		b = at.In(zone).AppendFormat(b, time.RFC3339)
	case timeFraction:
		b = at.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	default:
		b = at.AppendFormat(b, time.RFC3339)
	}
	return append(b, '"')
}

// appendDigits writes n with at least width digits.
func appendDigits(b []byte, n, width int) []byte {
	for limit, i := 10, 1; i < width; limit, i = limit*10, i+1 {
		if n < limit {
			b = append(b, '0')
		}
	}
	return strconv.AppendInt(b, int64(n), 10)
}

// padSpread is how far sizes go to either side of the average.
const padSpread = 32

// appendPad fills the record that begins at b[from:] up with a member "pad", so that records are average bytes long on
// average. Records that are longer already stay as they are.
func appendPad(b []byte, from, average, index int) []byte {
	target := average - padSpread + int(mix(uint64(index))%(2*padSpread+1))
	need := target - (len(b) - from) - len(`,"pad":""`)
	if need < 0 {
		return b
	}
	b = append(b[:len(b)-1], `,"pad":"`...)
	at := index * 7 % len(filler)
	for need > 0 {
		part := filler[at:min(at+need, len(filler))]
		b = append(b, part...)
		need -= len(part)
		at = 0
	}
	return append(b, `"}`...)
}

const filler = "A ferry carries whatever is put aboard from one side to the other and asks no questions of it. " +
	"It leaves when it is full or when it is time, whichever comes first; it waits for nobody who is late, and it " +
	"turns back for nobody who has forgotten something. On foggy days it sounds its horn every two minutes. On clear " +
	"days the captain reads the water, which is never twice the same, and steers by the church on the far bank. What " +
	"was counted at the one pier is counted again at the other: no crate more, no crate less. Once, in the winter of " +
	"the great ice, it lay fast in the middle of the river for nine days, and the crew wrote down every morning what " +
	"was still aboard. When the thaw came they landed all of it, in order, and nobody had noticed but the baker. "
