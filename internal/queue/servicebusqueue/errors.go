package servicebusqueue

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/go-amqp"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// Conditions that Service Bus adds to those of AMQP ("AMQP 1.0 errors in Service Bus").
const (
	serverBusy     amqp.ErrCond = "com.microsoft:server-busy"
	entityDisabled amqp.ErrCond = "com.microsoft:entity-disabled"
	cannotLock     amqp.ErrCond = "com.microsoft:session-cannot-be-locked"
)

// errLost is why something was cut short by this side.
var errLost = errors.New("no answer in time")

// mapError turns what the SDK says into the contract's errors. It keeps the cause.
func mapError(what string, err error) error {
	if err == nil || errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrUnavailable) || retry.IsPermanent(err) {
		return err
	}
	if errors.Is(err, context.Canceled) { // the caller's own wish
		return fmt.Errorf("%s: %w", what, err)
	}
	never := func(hint string) error { return retry.Permanent(fmt.Errorf("%s: %w (%s)", what, err, hint)) }
	missing := func() error {
		return retry.Permanent(fmt.Errorf("%s: %w: make the queue in the namespace, or add create=true to the queue's URL: %w", what, queue.ErrNoTopic, err))
	}
	const login = "is the login in the queue's URL right, and does it have the claim or role: Send (Azure Service Bus Data Sender) to publish, Listen (Data Receiver) to read?"
	var said *amqp.Error
	var bus *azservicebus.Error
	var identity *azidentity.AuthenticationFailedError
	var certificate certificateError
	var hopeless interface{ NonRetriable() }
	var web *azcore.ResponseError
	switch {
	case errors.As(err, &said):
		switch said.Condition {
		case amqp.ErrCondNotFound:
			return missing()
		case amqp.ErrCondUnauthorizedAccess:
			return never(login)
		case amqp.ErrCondResourceLimitExceeded:
			return fmt.Errorf("%s: %w: the queue is at its maximum size: receive from it, or make it larger: %w", what, queue.ErrFull, err)
		case serverBusy:
			return fmt.Errorf("%s: %w: Service Bus is throttling: %w", what, queue.ErrUnavailable, err)
		case entityDisabled:
			return fmt.Errorf("%s: %w: the queue is disabled: set its status to active: %w", what, queue.ErrUnavailable, err)
		case amqp.ErrCondNotAllowed:
			return never("a queue with sessions goes with session=key or session=pipeline in the queue's URL, and one without goes with neither")
		case amqp.ErrCondMessageSizeExceeded:
			return never("max_record in the queue's URL is more than this queue takes")
		}
	case errors.As(err, &identity):
		return never("Entra ID refuses the identity; client_id picks a user-assigned one")
	case errors.As(err, &certificate):
		return never("is there a proxy in between that opens TLS? Its authority must be trusted by the system, see SSL_CERT_FILE")
	case errors.As(err, &hopeless):
		return never("there is no identity here: give the container a workload or managed identity, or write a policy's name and key into the queue's URL")
	case errors.As(err, &web):
		return mapResponse(what, err, web, login, never)
	}
	if errors.As(err, &bus) {
		switch bus.Code {
		case azservicebus.CodeUnauthorizedAccess:
			return never(login)
		case azservicebus.CodeNotFound:
			return missing()
		case azservicebus.CodeLockLost:
			return fmt.Errorf("%s: %w: %w", what, queue.ErrReceipt, err)
		}
	}
	// Timeouts, lost connections, a service that is restarting.
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}

// mapResponse is mapError for the management calls, which are HTTP.
func mapResponse(what string, err error, web *azcore.ResponseError, login string, never func(string) error) error {
	switch code := web.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return never(login + " To make and look at queues it takes Manage (Data Owner)")
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
	}
	return retry.Permanent(fmt.Errorf("%s: %w", what, err))
}

// forbidden tells whether the login may not do this, as opposed to that it failed.
func forbidden(err error) bool {
	var web *azcore.ResponseError
	return errors.As(err, &web) && (web.StatusCode == http.StatusUnauthorized || web.StatusCode == http.StatusForbidden)
}

// lost tells whether the connection is not worth another word: the next call makes a new one.
func lost(err error) bool {
	var bus *azservicebus.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLost) ||
		errors.As(err, &bus) && (bus.Code == azservicebus.CodeConnectionLost || bus.Code == azservicebus.CodeClosed)
}
