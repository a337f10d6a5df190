//go:build unix

package sqsqueue

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"ferry/internal/record"
)

// BenchmarkPublish is beside BenchmarkSDK: the same records in the same requests to the same server, a real one where
// there is one.
//
//	go test -run '^$' -bench . -benchtime 3s ./internal/queue/sqsqueue
func BenchmarkPublish(b *testing.B) {
	for name, parameters := range map[string]string{"fifo": "", "standard": "&fifo=false"} {
		b.Run(name, func(b *testing.B) {
			q := open(b, parse(b, benchServer(b)+parameters))
			topic := "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
			if err := q.Prepare(b.Context(), topic); err != nil {
				b.Fatal(err)
			}
			n, spent := 0, cpu(b)
			for b.Loop() {
				if err := q.Publish(b.Context(), topic, payload(n, benchBatch)); err != nil {
					b.Fatal(err)
				}
				n += benchBatch
			}
			report(b, n, spent)
		})
	}
}

// BenchmarkSDK sends one request after the other, as a message group has to.
func BenchmarkSDK(b *testing.B) {
	for name, attributes := range map[string]map[string]string{"fifo": {"FifoQueue": "true"}, "standard": nil} {
		b.Run(name, func(b *testing.B) {
			c := parse(b, benchServer(b))
			web := &http.Client{Transport: awshttp.NewBuildableClient().GetTransport()} // the SDK's own cannot be closed
			b.Cleanup(web.CloseIdleConnections)
			loaded, err := awsconfig.LoadDefaultConfig(b.Context(), awsconfig.WithRegion(c.Region))
			if err != nil {
				b.Fatal(err)
			}
			client := sqs.NewFromConfig(loaded, func(o *sqs.Options) { o.BaseEndpoint, o.HTTPClient = &c.Endpoint, web })
			queue := "bench-sdk-" + strconv.FormatInt(time.Now().UnixNano(), 36)
			if attributes != nil {
				queue += ".fifo"
			}
			made, err := client.CreateQueue(b.Context(), &sqs.CreateQueueInput{QueueName: &queue, Attributes: attributes})
			if err != nil {
				b.Fatal(err)
			}
			n, spent := 0, cpu(b)
			for b.Loop() {
				for from, batch := 0, payload(n, benchBatch); from < len(batch); from += maxEntries {
					in := &sqs.SendMessageBatchInput{QueueUrl: made.QueueUrl}
					for i, r := range batch[from : from+maxEntries] {
						e := types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(r.Data))}
						e.MessageAttributes = map[string]types.MessageAttributeValue{
							record.HeaderID: sdkText(r.ID), attributeKey: sdkText(r.Key), record.HeaderContentType: sdkText(r.Headers[0].Value),
						}
						if attributes != nil {
							e.MessageGroupId, e.MessageDeduplicationId = &queue, aws.String(r.ID)
						}
						in.Entries = append(in.Entries, e)
					}
					out, err := client.SendMessageBatch(b.Context(), in)
					if err != nil || len(out.Failed) > 0 {
						b.Fatal(err, out)
					}
				}
				n += benchBatch
			}
			report(b, n, spent)
		})
	}
}

const benchBatch = 200

// report says how fast it was, and what it cost this process, which tells more on a busy machine.
func report(b *testing.B, n int, before time.Duration) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/record")
}

// cpu is what this process has spent.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func sdkText(s string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &s}
}

func payload(from, n int) []record.Record {
	all := make([]record.Record, n)
	for i := range all {
		all[i] = record.Record{
			ID: record.ID("bench", strconv.Itoa(from+i), nil), Key: strconv.Itoa(from + i),
			Headers: []record.Header{{Name: record.HeaderContentType, Value: "application/json"}},
			Data:    fmt.Appendf(nil, `{"id":%d,"status":"open","customer":"customer-%d@example.com","note":"%0200d"}`, from+i, from+i, 0),
		}
	}
	return all
}

func benchServer(b *testing.B) string {
	if url := os.Getenv("FERRY_TEST_SQS"); url != "" {
		return url
	}
	return newFake(b).url("")
}
