# One file for the three programs: `docker build --build-arg CMD=server --build-arg VERSION=1.2.3 .`

FROM docker.io/library/golang:1.26 AS build
WORKDIR /src
# The modules change less often than the code, so they have their own layer.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# VERSION becomes the resource attribute service.version of every span.
ARG VERSION=dev
# This builds all three, and CMD is only used below, so that the stage is the same for all and runs once.
# grpcnotrace leaves out gRPC's own debug pages, a third of the binary.
RUN CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -ldflags "-s -w -X 'otel-demo/pkg.version=${VERSION}'" -o /out/ ./cmd/...

# No shell, no package manager, no root.
FROM gcr.io/distroless/static-debian13:nonroot
ARG CMD
COPY --from=build /out/${CMD:?} /app
ENTRYPOINT ["/app"]
