# SPDX-License-Identifier: Apache-2.0
#
#   make            builds the programs into bin/
#   make demo       shows bouheki at work on a throw-away host            (root)
#   make test       runs every test; what was skipped stands at the end   (root)
#   make bench      prints the benchmark tables, 6 minutes                (root)
#                   BENCH='cost memory': some parts; BENCH=-help: parts and flags
#   make lint       formatting, vet, staticcheck, import rules
#   make generate   compiles bpf/ anew (the result is committed)
#   make install    DESTDIR, PREFIX, CNI_BIN_DIR, HOOKS_DIR
#   make uninstall  keeps /etc/bouheki

PREFIX      ?= /usr/local
CNI_BIN_DIR ?= /opt/cni/bin
# The only directory that podman reads without being told to.
HOOKS_DIR   ?= /usr/share/containers/oci/hooks.d
BINDIR       = $(PREFIX)/bin
LIBEXECDIR   = $(PREFIX)/libexec/bouheki
DOCDIR       = $(PREFIX)/share/doc/bouheki

# sudo's PATH often lacks Go's directory: look where Go is usually put, and ask the shell of who called sudo.
SUDO_HOME := $(if $(SUDO_USER),$(shell getent passwd $(SUDO_USER) | cut -d: -f6))
GO ?= $(or $(shell command -v go 2>/dev/null),$(firstword $(wildcard /usr/local/go/bin/go /usr/lib/go/bin/go \
	$(foreach home,$(HOME) $(SUDO_HOME),$(home)/go/bin/go $(home)/.local/go/bin/go $(home)/sdk/*/bin/go) /snap/bin/go /usr/lib/go-*/bin/go)),$(if \
	$(SUDO_USER),$(shell su - $(SUDO_USER) -c 'command -v go' 2>/dev/null | tail -n 1)))
ifneq ($(GO),)
export PATH := $(dir $(shell command -v $(GO))):$(PATH)
endif

# Static programs: they run in any container's mount namespace, and the tests in a machine that has nothing else.
export CGO_ENABLED := 0
# The work tree may belong to someone else than root, who builds: git refuses to tell Go about it.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)

PROGRAMS := $(notdir $(wildcard cmd/*))
BOX      := $(CURDIR)/test/box/box.sh

.PHONY: all demo test bench lint generate install uninstall clean go
all: go
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ $(PROGRAMS:%=./cmd/%)

go:
ifeq ($(GO),)
	@echo 'make: find go: not in PATH and not in the usual places (hint: make GO=/path/to/go, or install Go from https://go.dev/dl)' >&2; exit 1
endif

demo: go
	@test/packages demo
	@$(MAKE) --no-print-directory all
	@go build -o bin/test/ ./test/probe
	@$(BOX) test/demo/demo.sh

test: go
	@test/packages test
	@go run ./test/suite

bench: go
	@test/packages bench
	@go build -trimpath -ldflags '-s -w' -o bin/test/bench/ ./cmd/bouheki-hook ./cmd/bouheki-cni ./test/bench
	@go test -c -o bin/test/bench/enforce.test ./pkg/enforce
	@$(BOX) bin/test/bench/bench -hook bin/test/bench/bouheki-hook -cni bin/test/bench/bouheki-cni \
		-enforce bin/test/bench/enforce.test -version '$(VERSION)' $(BENCH)

lint: go
	@go run ./test/suite -only format,vet,staticcheck,rules

generate: go
	@test/packages generate
	go generate ./pkg/datapath/

# A file is put beside its place and renamed: a hook whose file is missing for a moment is skipped by podman without a word,
# and the container would start open. For the same reason the hook's configuration comes last, and goes first.
define put
	install -d $(dir $(DESTDIR)$(2))
	install -m $(3) $(1) $(DESTDIR)$(2).new
	mv -f $(DESTDIR)$(2).new $(DESTDIR)$(2)

endef

install:
	@test -x bin/bouheki || { echo 'make: install: bin/ is empty (hint: run make first, not as root)' >&2; exit 1; }
	$(call put,bin/bouheki,$(BINDIR)/bouheki,0755)
	$(call put,bin/bouheki-hook,$(LIBEXECDIR)/bouheki-hook,0755)
	$(if $(wildcard bin/bouheki-cni),$(call put,bin/bouheki-cni,$(CNI_BIN_DIR)/bouheki-cni,0755))
	$(call put,net.d/10-bouheki.conflist.example,$(DOCDIR)/10-bouheki.conflist.example,0644)
	install -d $(DESTDIR)/etc/bouheki/policies
	sed 's|@LIBEXECDIR@|$(LIBEXECDIR)|' hooks.d/bouheki.json >bin/bouheki.json
	$(call put,bin/bouheki.json,$(HOOKS_DIR)/bouheki.json,0644)

uninstall:
	rm -f $(DESTDIR)$(HOOKS_DIR)/bouheki.json $(DESTDIR)$(CNI_BIN_DIR)/bouheki-cni $(DESTDIR)$(BINDIR)/bouheki
	rm -rf $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(DOCDIR)

clean:
	rm -rf bin
