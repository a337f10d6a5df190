//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"ferry/internal/config"
	"ferry/internal/queue/servicebusqueue"
	"ferry/internal/record"
)

// bareCommit is how many records the bare clients put into one step, as many as ferry does by default.
const bareCommit = 5000

// bareCursor is what the bare clients save with each step where records and cursor can be one: without it a program that
// is killed would not know where to go on, and the guarantee would be another.
const bareCursor = `{"v":1,"by":"cursor","token":"MTAwMA","pages":5}`

// publishBare publishes ready-made records by a broker's client library alone, as a program would that does nothing
// else, and prints how long it took. The topic is made before the clock starts.
func publishBare() error {
	u, err := url.Parse(*target)
	if err != nil {
		return err
	}
	batch, err := readyMade(bareCommit, *whole)
	if err != nil {
		return err
	}
	bare := map[string]func(context.Context, *url.URL, []record.Record) (func() error, func(), error){
		"kafka": bareKafka, "redis": bareRedis, "rabbitmq": bareRabbit, "nats": bareNATS, "sqs": bareSQS, "servicebus": bareServiceBus,
	}[*only]
	if bare == nil {
		return fmt.Errorf("no bare client for %q", *only)
	}
	commit, end, err := bare(context.Background(), u, batch)
	if err != nil {
		return err
	}
	defer end()
	begin := time.Now()
	for range *pages * 1000 / bareCommit {
		if err := commit(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"seconds": time.Since(begin).Seconds()})
}

func bareKafka(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(u.Host, ",")...), kgo.DefaultProduceTopic(*folder), kgo.TransactionalID(*folder))
	if err != nil {
		return nil, nil, err
	}
	cursors := *folder + "-cursors"
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, *folder); err != nil {
		return nil, nil, err
	}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, map[string]*string{"cleanup.policy": new("compact")}, cursors); err != nil {
		return nil, nil, err
	}
	return func() error {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		var failed error
		note := func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		}
		for i := range batch {
			r := &kgo.Record{Key: []byte(batch[i].Key), Value: batch[i].Data, Headers: []kgo.RecordHeader{{Key: record.HeaderID, Value: []byte(batch[i].ID)}}}
			for _, h := range batch[i].Headers {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
			}
			cl.Produce(ctx, r, note)
		}
		cl.Produce(ctx, &kgo.Record{Topic: cursors, Key: []byte("orders"), Value: []byte(bareCursor)}, note)
		if err := cl.Flush(ctx); err != nil {
			return err
		}
		return errors.Join(failed, cl.EndTransaction(ctx, kgo.TryCommit))
	}, cl.Close, nil
}

func bareRedis(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	cl := redis.NewClient(&redis.Options{Addr: u.Host, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
	return func() error {
		_, err := cl.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for i := range batch {
				values := []any{"data", batch[i].Data, record.HeaderID, batch[i].ID, "ferry-key", batch[i].Key}
				for _, h := range batch[i].Headers {
					values = append(values, h.Name, h.Value)
				}
				p.XAdd(ctx, &redis.XAddArgs{Stream: *folder, Values: values})
			}
			p.HSet(ctx, *folder+".cursor", "cursor", bareCursor)
			return nil
		})
		return err
	}, func() { _ = cl.Close() }, nil
}

func bareRabbit(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	conn, err := amqp.Dial((&url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: "/"}).String())
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, nil, err
	}
	if _, err := ch.QueueDeclare(*folder, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return nil, nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, nil, err
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, bareCommit))
	return func() error {
		for i := range batch {
			headers := amqp.Table{record.HeaderID: batch[i].ID, "ferry-key": batch[i].Key}
			for _, h := range batch[i].Headers {
				headers[h.Name] = h.Value
			}
			err := ch.PublishWithContext(ctx, "", *folder, true, false, amqp.Publishing{
				Headers: headers, ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: batch[i].ID, Body: batch[i].Data,
			})
			if err != nil {
				return err
			}
		}
		for range batch {
			if c, ok := <-confirms; !ok || !c.Ack {
				return errors.New("not confirmed")
			}
		}
		return nil
	}, func() { _ = conn.Close() }, nil
}

func bareNATS(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	nc, err := nats.Connect("nats://" + u.Host)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, err
	}
	cursor := *folder + ".cursor"
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: *folder, Subjects: []string{*folder, cursor}, AllowAtomicPublish: true, AllowRollup: true}); err != nil {
		return nil, nil, err
	}
	return func() error {
		for from := 0; from < len(batch); from += 999 {
			part := batch[from:min(from+999, len(batch))]
			b, err := jetstreamext.NewBatchPublisher(js)
			if err != nil {
				return err
			}
			for i := range part {
				m := &nats.Msg{Subject: *folder, Data: part[i].Data, Header: nats.Header{record.HeaderID: {part[i].ID}, "ferry-key": {part[i].Key}}}
				for _, h := range part[i].Headers {
					m.Header[h.Name] = []string{h.Value}
				}
				if err := b.AddMsg(m); err != nil {
					return err
				}
			}
			if _, err := b.CommitMsg(ctx, &nats.Msg{Subject: cursor, Data: []byte(bareCursor), Header: nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}}}); err != nil {
				return err
			}
		}
		return nil
	}, nc.Close, nil
}

func bareSQS(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	cl := sqs.New(sqs.Options{
		Region: u.Host, BaseEndpoint: aws.String(u.Query().Get("endpoint")),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "x", SecretAccessKey: "x"}, nil
		}),
	})
	q, err := cl.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(*folder + ".fifo"), Attributes: map[string]string{"FifoQueue": "true"}})
	if err != nil {
		return nil, nil, err
	}
	n := 0 // ids have to differ, or nothing would be stored
	return func() error {
		for from := 0; from < len(batch); from += 10 {
			in := &sqs.SendMessageBatchInput{QueueUrl: q.QueueUrl}
			for i := from; i < from+10; i++ {
				n++
				text := func(s string) types.MessageAttributeValue {
					return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(s)}
				}
				attributes := map[string]types.MessageAttributeValue{record.HeaderID: text(batch[i].ID), "ferry-key": text(batch[i].Key)}
				for _, h := range batch[i].Headers {
					attributes[h.Name] = text(h.Value)
				}
				in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{
					Id: aws.String(strconv.Itoa(i - from)), MessageBody: aws.String(string(batch[i].Data)), MessageAttributes: attributes,
					MessageGroupId: aws.String("orders"), MessageDeduplicationId: aws.String(strconv.Itoa(n)),
				})
			}
			out, err := cl.SendMessageBatch(ctx, in)
			if err != nil {
				return err
			}
			if len(out.Failed) > 0 {
				return errors.New("an entry failed")
			}
		}
		return nil
	}, func() {}, nil
}

func bareServiceBus(ctx context.Context, u *url.URL, batch []record.Record) (func() error, func(), error) {
	text := *target
	if given := u.Query().Get("connection_string"); given != "" {
		text = given
	}
	if err := makeServiceBusQueue(ctx); err != nil {
		return nil, nil, err
	}
	cl, err := azservicebus.NewClientFromConnectionString(text, nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := cl.NewSender(*folder, nil)
	if err != nil {
		return nil, nil, err
	}
	n := 0
	return func() error {
		for i := 0; i < len(batch); {
			b, err := s.NewMessageBatch(ctx, nil)
			if err != nil {
				return err
			}
			for ; i < len(batch); i++ {
				n++
				m := &azservicebus.Message{Body: batch[i].Data, MessageID: aws.String(strconv.Itoa(n)), ApplicationProperties: map[string]any{record.HeaderID: batch[i].ID, "ferry-key": batch[i].Key}}
				for _, h := range batch[i].Headers {
					m.ApplicationProperties[h.Name] = h.Value
				}
				if err := b.AddMessage(m, nil); errors.Is(err, azservicebus.ErrMessageTooLarge) {
					break
				} else if err != nil {
					return err
				}
			}
			if err := s.SendMessageBatch(ctx, b, nil); err != nil {
				return err
			}
		}
		return nil
	}, func() { _ = s.Close(ctx); _ = cl.Close(ctx) }, nil
}

// makeServiceBusQueue lets ferry make the topic, by the same settings as for its own run.
func makeServiceBusQueue(ctx context.Context) error {
	c, err := servicebusqueue.ParseURL(config.URL(*target))
	if err != nil {
		return err
	}
	q, err := servicebusqueue.Open(ctx, c)
	if err != nil {
		return err
	}
	if err := q.Publish(ctx, *folder, []record.Record{{ID: "first", Data: []byte("0")}}); err != nil {
		return err
	}
	return q.Close(ctx)
}
