package jq

// plan is a faster way to a program's results.
type plan struct{}
