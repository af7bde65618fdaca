# make up: a cluster to try.  make test: what CI runs.  make help: the rest.
SHELL := /bin/bash
ARCH ?= $(shell go env GOARCH)
BIN := $(if $(filter $(shell go env GOARCH),$(ARCH)),bin,bin/$(ARCH))
# Asked once: programs and images must agree on it, even if somebody commits meanwhile.
VERSION := $(or $(VERSION),$(shell git describe --tags --always --dirty 2>/dev/null || echo dev))
COMMIT := $(or $(shell git rev-parse HEAD 2>/dev/null),unknown)
KUBERNETES := v1.37.2
LDFLAGS := -s -w -X main.version=$(VERSION) \
  -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES)+orlop.$(VERSION) -X k8s.io/client-go/pkg/version.gitCommit=$(COMMIT) \
  -X k8s.io/component-base/version.gitVersion=$(KUBERNETES)+orlop.$(VERSION) \
  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37
PROGRAMS := ./cmd/orlop ./cmd/orlop-server
# The plugin starts for each container, so it starts quicker than Go programs do: see its main.go.
CNI_START_amd64 := -E main.start
CNI_START_arm64 := -E main.start
BUILD_CNI = GOARCH=$(ARCH) go build -ldflags '$(LDFLAGS) $(CNI_START_$(ARCH))' -o $(BIN)/ ./cmd/orlop-cni
# Debian's containerd has another folder than everybody else; its configuration says so.
CNI_BIN ?= $(or $(shell sed -En "s/^[[:space:]]*bin_dirs?[[:space:]]*=[[:space:]]*\[?[[:space:]]*[\"']([^\"']+)[\"'].*/\1/p" /etc/containerd/config.toml 2>/dev/null | head -n 1),/opt/cni/bin)
CC_amd64 := x86_64-linux-gnu-gcc
CC_arm64 := aarch64-linux-gnu-gcc
PAUSE_FLAGS := -Os -nostdlib -static -ffreestanding -fno-pie -no-pie -fno-asynchronous-unwind-tables -fno-stack-protector \
  -Wl,--build-id=none -Wl,-n -Wl,-z,norelro -Wl,-z,noseparate-code -s
export CGO_ENABLED := 0
# The same flags for programs and tests: they share one build cache.
export GOFLAGS := $(shell go env GOFLAGS) -trimpath
DEPS := go run ./integration/cmd/deps

.PHONY: build images up down demo test test-unit test-kernel test-integration test-race test-vm conformance bench chaos check generate install-cni release clean help

build: $(BIN)/pause ## the programs, static and stripped, into bin/ (ARCH=arm64: into bin/arm64)
	GOARCH=$(ARCH) go build -ldflags '$(LDFLAGS)' -o $(BIN)/ $(PROGRAMS) ./integration/testimage k8s.io/sample-apiserver
	$(BUILD_CNI)
	@# gRPC's pages of traces are all in these that calls methods by name: without them the linker drops what nobody calls, 20 MB each.
	GOARCH=$(ARCH) go build -tags grpcnotrace -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/orlop-kubelet ./cmd/orlop-agent

$(BIN)/pause: cmd/pause/pause.c
	@$(DEPS) -need build-$(ARCH)
	@mkdir -p $(BIN)
	$(CC_$(ARCH)) $(PAUSE_FLAGS) -o $@ $<

images: build ## the container images, as OCI archives, into bin/images
	go run ./integration/cmd/mkimage -bin $(BIN) -o $(BIN)/images -version $(VERSION) -arch $(ARCH)

up: images ## a two-node cluster with the demo, on this machine
	@$(DEPS) -need up
	$(BIN)/orlop up --reuse
	$(BIN)/orlop demo

down: ## remove the cluster of `make up`, without a trace
	$(BIN)/orlop down --name orlop

demo: ## ask the demo's Service by name, five times
	$(BIN)/orlop demo

test: ## all tests that CI runs
	@$(DEPS) -need test
	@$(MAKE) --no-print-directory images test-unit test-kernel test-integration

test-unit: ## no root, no kernel
	go test -skip '^TestKernel' $$(go list ./... | grep -v /integration$$ | grep -v /integration/conformance | grep -v /integration/system | grep -v /integration/api | grep -v /integration/chaos | grep -v /integration/vm)

test-kernel: ## as root: network namespaces, BPF, cgroups
	ORLOP_REQUIRE=kernel go test -count=1 -p 1 -run '^TestKernel' $$(grep -rl --include=*_test.go '^func TestKernel' . | xargs -n1 dirname | sort -u)

test-integration: ## as root: the built programs, from outside
	go test -count=1 -p 1 -v -timeout 25m ./integration ./integration/api ./integration/system ./integration/conformance

test-race: ## unit tests under the race detector, and the API tests against programs built with it
	CGO_ENABLED=1 go test -race -skip '^TestKernel' ./bpf/... ./cni/... ./cri/... ./proxy/... ./kubelet/... ./cmd/...
	CGO_ENABLED=1 go build -race -ldflags '$(LDFLAGS)' -o $(BIN)/race/ ./cmd/orlop-server
	ORLOP_BIN=$(abspath $(BIN))/race go test -count=1 -timeout 40m ./integration/api -run 'TestRoundTrip|TestNo|TestCustomResources|TestDefinitionsChange|TestManyAtOnce'

test-vm: ## as root: Orlop on a stock Debian 12 (kernel 6.1, systemd, cgroup v2) in qemu, some 20 minutes
	@$(DEPS) -need test-vm
	@$(MAKE) --no-print-directory images
	go test -count=1 -v -timeout 120m ./integration/vm

conformance: images ## every conformance row, on a cluster of its own
	go test -count=1 -timeout 120m ./integration/conformance -rows all

bench: images ## README's figures: seconds to ready, memory of each process
	go run ./integration/cmd/figures -bin $(BIN)
	go test ./cmd/scheduler -run '^$$' -bench Schedule -benchtime 500x
	go test -v ./proxy/ebpf -run '^$$' -bench KernelNodePort -benchtime 1x
	go test -v -timeout 60m ./proxy/modes -run '^$$' -bench KernelConnect -benchtime 1x

chaos: images ## as root, two hours or more: what a cluster rests on breaks for as long as outages last
	go test -count=1 -p 1 -v -timeout 240m ./integration/chaos/...
	go test -count=1 -timeout 60m ./integration/simulation -run TestSimulation -seeds 20000

check: ## generated files are fresh, code is formatted and vetted
	@$(DEPS) -need generate
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	$(MAKE) generate && git diff --exit-code

generate: ## write generated files anew (needs clang)
	go generate ./...

install-cni: ## the CNI plugin alone, where containerd looks for plugins, or into /opt/cni/bin (CNI_BIN=FOLDER: there)
	$(BUILD_CNI)
	install -D $(BIN)/orlop-cni $(CNI_BIN)/orlop-cni

release: ## the CNI plugin alone, as bin/orlop-cni-VERSION-linux-ARCH.tar.gz
	$(BUILD_CNI)
	tar -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u+w,go-w,a+rX --transform 's,^\(LICENSE\|cni\.md\)$$,orlop-cni.\1,;s,cni\.cni\.md,cni.md,' \
	  -C $(abspath $(BIN)) orlop-cni -C $(CURDIR) LICENSE -C docs cni.md | gzip -9n > $(BIN)/orlop-cni-$(VERSION)-linux-$(ARCH).tar.gz

clean: ## remove what was built
	rm -rf bin

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20
