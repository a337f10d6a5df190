package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// errNoLogin: AWS's default chain gave nothing.
var errNoLogin = errors.New("no login for AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a role (EC2, ECS, EKS)")

// login marks the errors of the credentials chain, which otherwise look like any other failure of a call.
type login struct{ chain aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider.
func (l login) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := l.chain.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", errNoLogin, err)
	}
	return c, err
}

// code gives the short form of an error code of SQS: emulators write a namespace before a #, and the older protocol's
// names (AWS.SimpleQueueService.NonExistentQueue) stand beside the newer ones (QueueDoesNotExist).
func code(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	return shortCode(api.ErrorCode())
}

func shortCode(code string) string {
	code = code[strings.LastIndexByte(code, '#')+1:]
	code = strings.TrimPrefix(code, "AWS.SimpleQueueService.")
	code = strings.ReplaceAll(code, "KMS.", "Kms")
	return strings.TrimSuffix(code, "Exception")
}

// kind is what an error code means for the caller.
type kind int

const (
	refused kind = iota // asking again will not help
	missing
	throttled
	unwell
	forbidden
	wrongLogin
	lateLogin
	key // of encryption
	tooLarge
	poison // of one record, in an answer to several
)

func kindOf(code string) kind {
	switch code {
	case "QueueDoesNotExist", "NonExistentQueue":
		return missing
	case "Throttling", "RequestThrottled", "KmsThrottled", "KmsThrottling", "TooManyRequests", "RequestLimitExceeded",
		"Throttled", "BandwidthLimitExceeded", "SlowDown", "PriorRequestNotComplete", "OverLimit", "LimitExceeded":
		return throttled
	case "ServiceUnavailable", "InternalFailure", "InternalError", "InternalServerError", "RequestTimeout", "QueueDeletedRecently",
		"InvalidChecksum":
		return unwell
	case "AccessDenied", "OptInRequired", "InvalidSecurity", "NotAuthorized", "AuthorizationError":
		return forbidden
	case "InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidAccessKeyId", "MissingAuthenticationToken",
		"IncompleteSignature", "AuthFailure":
		return wrongLogin
	case "ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "TokenRefreshRequired", "InvalidSignature":
		return lateLogin
	case "KmsAccessDenied", "KmsDisabled", "KmsNotFound", "KmsInvalidState", "KmsInvalidKeyUsage", "KmsOptInRequired":
		return key
	case "BatchRequestTooLong", "MessageTooLong":
		return tooLarge
	case "InvalidMessageContents":
		return poison
	}
	return refused
}

// mapError turns what the SDK says into the contract's errors. It keeps the cause. t is nil where no queue is meant.
func (q *Queue) mapError(ctx context.Context, what string, t *target, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errNoLogin) {
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
	}
	if c := code(err); c != "" {
		k := kindOf(c)
		if k == missing && t != nil {
			return q.gone(what, t)
		}
		var response *awshttp.ResponseError
		if k == refused && errors.As(err, &response) && (response.HTTPStatusCode() >= 500 || response.HTTPStatusCode() == 429) {
			k = unwell
		}
		return explain(what, k, brief(err))
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx)) // the caller's own wish, or Close
	}
	// Timeouts, lost connections, nobody listening.
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}

// explain words an answer of SQS.
func explain(what string, k kind, err error) error {
	switch k {
	case throttled:
		return fmt.Errorf("%s: %w: AWS holds back (a quota of requests or of records in flight): %w", what, queue.ErrFull, err)
	case unwell:
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
	case forbidden:
		return retry.Permanent(fmt.Errorf("%s: %w (allow it in the IAM policy of ferry's login, and in the queue's own policy if it has one)", what, err))
	case wrongLogin:
		return retry.Permanent(fmt.Errorf("%s: %w (is the AWS login right: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the profile?)", what, err))
	case lateLogin:
		return fmt.Errorf("%s: %w: %w (renew the AWS login, and check this machine's clock)", what, queue.ErrUnavailable, err)
	case key:
		return retry.Permanent(fmt.Errorf("%s: %w (the queue's KMS key: ferry's login needs kms:GenerateDataKey and kms:Decrypt on it, and it must be enabled)", what, err))
	}
	return retry.Permanent(fmt.Errorf("%s: %w", what, err))
}

// brief leaves out how the SDK came to the answer (operation, attempts, request id).
func brief(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		return &answer{api}
	}
	return err
}

type answer struct{ smithy.APIError }

func (a *answer) Error() string { return shortCode(a.ErrorCode()) + ": " + a.ErrorMessage() }
func (a *answer) Unwrap() error { return a.APIError }
