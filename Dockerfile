# syntax=docker/dockerfile:1
# ferry as one static binary in an image that holds nothing else: no shell, no package manager.
#
#   docker build -t ferry . && docker run -p 8080:8080 ferry
#
# Without a configuration it carries the simulated API that is built in (the log says so). With one:
#
#   docker run -p 8080:8080 -v ./ferry.yaml:/etc/ferry/ferry.yaml:ro -v ferry-data:/data ferry serve -c /etc/ferry/ferry.yaml
#
# Arguments: where the two bases come from, for registries of one's own, and what `ferry version` says.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=scratch

# The compiler runs on the machine that builds, for the machine that is built for.
FROM --platform=${BUILDPLATFORM} ${GO_IMAGE} AS build
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath \
      -ldflags "-s -w -X ferry/internal/cli.version=${VERSION}" -o /out/ferry ./cmd/ferry \
 && mkdir -p /out/data /out/tmp && cp /etc/ssl/certs/ca-certificates.crt /out/

# What the image is made of: ferry, certificates to check other machines by, and two folders that it may write to. Time
# zones are in the binary.
FROM ${BASE_IMAGE} AS ferry
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ferry" \
      org.opencontainers.image.description="Carries records from HTTP APIs to a message queue, each exactly once where the queue makes that possible." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 --chmod=1777 /out/tmp /tmp
COPY --from=build /out/ferry /usr/local/bin/ferry
ENV FERRY_LISTEN=0.0.0.0:8080 \
    FERRY_DATA=/data \
    PATH=/usr/local/bin
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/ferry", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/ferry"]
CMD ["serve"]
