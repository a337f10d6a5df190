package sqsqueue

import (
	"errors"
	"fmt"
	"strings"

	"ferry/internal/config"
	"ferry/internal/queue/queueurl"
)

// IsAddress tells whether a URL is the address of a queue as SQS itself gives it:
// https://sqs.eu-west-1.amazonaws.com/123456789012/orders, one of its older and foreign forms, or an emulator's
// http://localhost:9324/000000000000/orders. No other queue is reached by http or https.
func IsAddress(u config.URL) bool {
	scheme, rest, _, err := queueurl.Split(u)
	if err != nil || scheme != "https" && scheme != "http" {
		return false
	}
	host, path, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "/")
	_, _, ok := splitPath(path, isAWS(host))
	return ok && host != ""
}

// readAddress reads a queue's address.
func (c *Config) readAddress(a queueurl.Address) error {
	if len(a.Hosts) != 1 {
		return errors.New("queue URL: want one host in a queue's address: https://sqs.region.amazonaws.com/account/name")
	}
	host := a.Hosts[0]
	account, name, ok := splitPath(a.Path, isAWS(host))
	if !ok {
		return fmt.Errorf("queue URL: no SQS queue: want %s://%s/account/name, with an account of 12 digits and a name of letters, digits, - and _, which ends in .fifo for a FIFO queue", a.Scheme, host)
	}
	if isAWS(host) {
		region, old := regionOf(host)
		switch {
		case region == "":
			return fmt.Errorf("queue URL: %q names no AWS region, want https://sqs.region.amazonaws.com/account/name", host)
		case a.Scheme != "https":
			return errors.New("queue URL: AWS is reached by https only")
		case c.Region != "" && c.Region != region:
			return fmt.Errorf("queue URL: parameter region says %s, the address %s", c.Region, region)
		}
		c.Region = region
		if !old { // the old hosts do not serve every call that today's SDK makes
			c.Endpoint = a.Scheme + "://" + host
		}
	} else {
		c.Endpoint = a.Scheme + "://" + host
	}
	c.FIFO = strings.HasSuffix(name, fifoSuffix)
	c.Address = a.Scheme + "://" + host + "/" + account + "/" + name
	return nil
}

// splitPath reads account/name. Emulators may say queue/name.
func splitPath(path string, aws bool) (account, name string, ok bool) {
	account, name, _ = strings.Cut(strings.TrimSuffix(path, "/"), "/")
	return account, name, isQueueName(name) && (isAccount(account) || !aws && account == "queue")
}

// isAWS tells AWS's hosts, of all its partitions, from an emulator's.
func isAWS(host string) bool {
	for _, domain := range [...]string{
		".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws", ".api.amazonwebservices.com.cn",
		".c2s.ic.gov", ".sc2s.sgov.gov", ".csp.hci.ic.gov", ".cloud.adc-e.uk",
	} {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}

// regionOf reads the region out of sqs.REGION.domain, sqs-fips.REGION.domain, vpce-….sqs.REGION.vpce.domain and of the
// old forms REGION.queue.domain and queue.amazonaws.com.
func regionOf(host string) (region string, old bool) {
	labels := strings.Split(host, ".")
	for i, label := range labels {
		switch {
		case (label == "sqs" || label == "sqs-fips") && i+1 < len(labels) && isRegion(labels[i+1]):
			return labels[i+1], false
		case label == "queue" && i == 1 && isRegion(labels[0]):
			return labels[0], true
		}
	}
	if host == "queue.amazonaws.com" {
		return "us-east-1", true
	}
	return "", false
}

// isRegion tells what looks like a region (eu-west-1, us-gov-east-1, eusc-de-east-1); which there are is AWS's to say.
func isRegion(s string) bool {
	parts := strings.Split(s, "-")
	if len(parts) < 3 {
		return false
	}
	for i, part := range parts {
		last := i == len(parts)-1
		for _, c := range []byte(part) {
			if last != (c >= '0' && c <= '9') || !last && (c < 'a' || c > 'z') {
				return false
			}
		}
		if part == "" {
			return false
		}
	}
	return true
}

func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

const (
	fifoSuffix = ".fifo"
	deadSuffix = "-dead"
	maxName    = 80
)

// isQueueName follows SQS: up to 80 letters, digits, hyphens and underscores, .fifo at the end included.
func isQueueName(name string) bool {
	base := strings.TrimSuffix(name, fifoSuffix)
	if base == "" || len(name) > maxName {
		return false
	}
	for _, c := range []byte(base) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
