package servicebusqueue

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
)

const sample = "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=ferry;SharedAccessKey=a+/b=="

func TestParseURL(t *testing.T) {
	for u, want := range map[string]Config{
		"azservicebus://shop.servicebus.windows.net": {Namespace: "shop.servicebus.windows.net"},
		"azservicebus://shop":                        {Namespace: "shop.servicebus.windows.net"},
		"AZServiceBus://shop.servicebus.chinacloudapi.cn?client_id=11-22": {
			Namespace: "shop.servicebus.chinacloudapi.cn", ClientID: "11-22",
		},
		"azservicebus://ferry:a+/b==@shop.servicebus.windows.net?create=true&duplicate_detection=1h&session=key&redelivery=1m": {
			ConnectionString: sample, Create: true, DuplicateDetection: time.Hour, Session: "key", Redelivery: time.Minute,
		},
		"azservicebus://ferry:a%2B%2Fb%3D%3D@shop": {ConnectionString: sample},
		"azservicebus:?connection_string=Endpoint%3Dsb%3A%2F%2Fshop.servicebus.windows.net%2F%3BSharedAccessKeyName%3Dferry%3BSharedAccessKey%3Da%2B%2Fb%3D%3D&websocket=true": {
			ConnectionString: sample, WebSocket: true,
		},
		sample: {ConnectionString: sample},
		sample + "?partition=pipeline&max_record=1MiB&timeout=3s": {
			ConnectionString: sample, Partition: "pipeline", MaxRecord: 1 << 20, Timeout: 3 * time.Second,
		},
		"Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;?management=localhost:5300": {
			ConnectionString: "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;", Management: "localhost:5300",
		},
		"Endpoint=sb://shop/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1&skn=z": {
			ConnectionString: "Endpoint=sb://shop/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1&skn=z",
		},
	} {
		got, err := ParseURL(config.URL(u))
		if err != nil {
			t.Errorf("%s: %v", u, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %#v\nwant %#v", u, got, want)
		}
		if !IsAddress(config.URL(u)) {
			t.Errorf("%s: IsAddress is false", u)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for u, want := range map[string]string{
		"azservicebus:":                                                "queue URL: no namespace, want azservicebus://namespace.servicebus.windows.net",
		"azservicebus://":                                              "queue URL: no namespace, want azservicebus://namespace.servicebus.windows.net",
		"azservicebus://a,b":                                           "queue URL: a namespace is one host, and several are given",
		"azservicebus://shop/orders":                                   "queue URL: nothing goes behind the namespace: which queue it is, is the pipeline's topic",
		"azservicebus://ferry@shop":                                    "queue URL: a login is the policy's name and its key, want azservicebus://KEYNAME:KEY@namespace",
		"azservicebus://:key@shop":                                     "queue URL: a login is the policy's name and its key, want azservicebus://KEYNAME:KEY@namespace",
		"azservicebus://a;b:key@shop":                                  "queue URL: neither a policy's name nor its key holds a semicolon",
		"azservicebus://shop?sesion=key":                               `queue URL: azservicebus has no parameter "sesion"; did you mean session?`,
		"azservicebus://shop?session=id":                               `queue URL: parameter session: "id" is none of none, key and pipeline`,
		"azservicebus://shop?create=maybe":                             `queue URL: parameter create: "maybe" is neither true nor false`,
		"azservicebus://shop?duplicate_detection=10s":                  `queue URL: parameter duplicate_detection: "10s" is not between 20s and 7d`,
		"azservicebus://shop?redelivery=10m":                           `queue URL: parameter redelivery: "10m" is not between 5s and 5m`,
		"azservicebus://shop?max_record=1KiB":                          `queue URL: parameter max_record: "1KiB" is not between 4KiB and 100MiB`,
		"azservicebus://shop?timeout=0s":                               `queue URL: parameter timeout: "0s" is not above zero`,
		"azservicebus://shop?timeout=1s&timeout=2s":                    "queue URL: parameter timeout is given twice",
		"azservicebus://shop?management=x":                             `queue URL: parameter management: "x" is not host:port`,
		"azservicebus://shop?management=x:1":                           "queue URL: management is of an emulator (UseDevelopmentEmulator=true); Service Bus has one address for all",
		"azservicebus://shop?redelivery=1m":                            "queue URL: redelivery is of topics that ferry makes: add create=true, or set the lock duration where the queue is made",
		"azservicebus://shop?session=key&partition=key":                "queue URL: session and partition do not go together: the session id is the partition key",
		"azservicebus://n:k@shop?client_id=1":                          "queue URL: client_id is of a managed identity, and a shared access policy is given",
		"azservicebus://shop?connection_string=" + "Endpoint%3Dsb://x": "queue URL: a connection string names the namespace and the login itself: write azservicebus:?connection_string=… and no host",
		"azservicebus:?connection_string=hello":                        "queue URL: the connection string has no Endpoint=sb://host; copy it whole from the namespace's Shared access policies",
		"Endpoint=sb://shop/":                                          "queue URL: the connection string has no SharedAccessKeyName; copy it whole from the namespace's Shared access policies",
		"Endpoint=sb://shop/;SharedAccessKeyName=n":                    "queue URL: the connection string has no SharedAccessKey; copy it whole from the namespace's Shared access policies",
		"Endpoint=https://shop/;SharedAccessKeyName=n":                 "queue URL: the connection string has no Endpoint=sb://host; copy it whole from the namespace's Shared access policies",
		"Endpoint=sb://l;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true?websocket=true": "queue URL: websocket does not go with an emulator",
		"amqp://shop": `queue URL: scheme "amqp" is not of Service Bus, want azservicebus://namespace`,
	} {
		_, err := ParseURL(config.URL(u))
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", u, err, want)
		}
	}
}

func TestIsAddress(t *testing.T) {
	for _, u := range []string{"amqp://h", "kafkas://$ConnectionString:Endpoint=sb://h@h", "", "embedded:"} {
		if IsAddress(config.URL(u)) {
			t.Errorf("%s is taken for a Service Bus address", u)
		}
	}
}

// FuzzParseURL: nothing panics, no error shows the login, and what is accepted is complete.
func FuzzParseURL(f *testing.F) {
	for _, u := range []string{
		"azservicebus://shop", sample + "?create=true", "azservicebus://ferry:key@shop", "endpoint=",
		"azservicebus:?connection_string=" + sample, "azservicebus://n:k@h?session=key&partition=key",
	} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		const secret = "hunter2"
		for _, login := range []string{"azservicebus://ferry:" + secret + "@", "azservicebus://ferry:" + secret, sample + secret} {
			_, err := ParseURL(config.URL(login + u))
			if err != nil && strings.Contains(err.Error(), secret) && !strings.Contains(u, secret) {
				t.Fatalf("%q: the error shows the login: %v", u, err)
			}
		}
		c, err := ParseURL(config.URL(u))
		if err != nil {
			return
		}
		if host, _ := c.host(); host == "" {
			t.Fatalf("%q: accepted without a host", u)
		}
		if _, err := c.withDefaults(); err != nil {
			t.Fatalf("%q: accepted by ParseURL and refused by Open: %v", u, err)
		}
	})
}
