# Thin: what each target does is one command, or a piece of .ci/run.
.DEFAULT_GOAL := help
.PHONY: help dev test race lint format bench crash verify build generate tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## everything on this machine: simulated API, embedded queue, HTTP API
	go run ./cmd/ferry dev

test: ## all tests
	go test ./...

race: ## all tests with the race detector, in a random order
	.ci/run race

lint: ## golangci-lint, at its pinned version
	.ci/run lint

format: ## gofumpt over everything
	scripts/tools gofumpt
	bin/gofumpt -w cmd internal test bench

bench: ## the measurements behind docs/performance.md
	go run ./bench

crash: ## kill -9, stop and fence the real binary (ROUNDS=50 of each)
	.ci/run crash

verify: ## everything that CI does
	.ci/run

build: ## dist/ferry, for this machine
	CGO_ENABLED=0 go build -trimpath -o dist/ferry ./cmd/ferry

generate: ## write again what is made from code: configuration schema and reference, OpenAPI, tables
	go test ./internal/config ./internal/api ./test/readme -update

tools: ## the pinned tools, into bin/
	scripts/tools

clean: ## remove what was built; the data folder stays
	rm -rf dist bin
	go clean -testcache
