package jq

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/itchyny/gojq"
)

// benchOrders returns n orders of about 870 bytes, keys in a source's order, not sorted.
func benchOrders(n int) [][]byte {
	records := make([][]byte, n)
	for i := range records {
		records[i] = fmt.Appendf(nil, `{"id":%d,"number":"ORD-2024-%06d","url":"https://api.example.com/v2/shops/%d/orders/%d",`+
			`"customer":{"id":%d,"name":"Ana Müller","email":"user%d@example.com","address":{"street":"alpha str. %d","city":"Köln","zip":"50667",`+
			`"geo":{"lat":50.937531,"lng":6.960279}}},"price":%d.5,"qty":3,"currency":"EUR","tags":["VIP","EU-Region"],"lines":[`+
			`{"sku":"sku-00017","title":"alpha beta","price":99.95,"qty":2,"attrs":{"color":"red","size":"XL"}},`+
			`{"sku":"sku-00018","title":"gamma delta","price":1.05,"qty":%d,"attrs":{"color":"green","size":"S"}}],`+
			`"status":"%s","created_at":"2024-01-02T03:04:05Z","updated_at":"2024-01-02T03:04:05Z",`+
			`"note":"please call before delivery \"urgent\"\nsecond floor, leave at door, handle with care, fragile glass",`+
			`"score":0.123456,"flags":{"gift":true,"express":false},"assignee":null}`,
			1000000+i, i, i%5000, 1000000+i, i%977, i%977, i%200, i%500, i%5, []string{"open", "closed", "draft"}[i%3])
	}
	return records
}

func BenchmarkPrograms(b *testing.B) {
	records := benchOrders(100)
	size := 0
	for _, r := range records {
		size += len(r)
	}
	for _, c := range []struct{ name, src string }{
		{"project", `{id, customer: .customer.email, total: (.lines | map(.price * .qty) | add)}`},
		{"wrap", `{transformed_data: ., status: "processed"}`},
		{"pick", `{id, number, email: .customer.email, city: .customer.address.city, tags}`},
		{"where", `.status != "draft"`},
		{"path", `.customer.email`},
		{"explode", `.lines[] | {sku, price}`},
		{"add", `. + {source: "shop"}`},
		{"select", `select(.status == "open") | {id, status}`},
	} {
		p, err := Compile(c.src)
		if err != nil {
			b.Fatal(err)
		}
		ctx := b.Context()
		b.Run(c.name+"/ferry", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size / len(records)))
			var dst []byte
			var ends []int
			for i := 0; b.Loop(); i++ {
				if dst, ends, err = p.Append(ctx, dst[:0], ends[:0], records[i%len(records)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		ref := newReference(b, c.src)
		b.Run(c.name+"/encoding-json+gojq", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size / len(records)))
			for i := 0; b.Loop(); i++ {
				var v any
				if err := json.Unmarshal(records[i%len(records)], &v); err != nil {
					b.Fatal(err)
				}
				for iter := ref.code.RunWithContext(ctx, v); ; {
					v, ok := iter.Next()
					if !ok {
						break
					}
					if _, err := gojq.Marshal(v); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
