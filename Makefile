# Holdfast. Start with: make run, make test. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

export GOFLAGS := -mod=readonly -buildvcs=false
export CGO_ENABLED := 0
export NO_UPDATE_NOTIFIER := 1

VERSION := $(shell image/version.sh)
# What is packed has the commit's time, so that it is the same each time.
EPOCH   ?= $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000))
LDFLAGS := -s -w -X holdfast/appliance.Version=$(VERSION)
DATA    ?= data
PORT    ?= 8008
TLSPORT ?= 8443
FUZZTIME ?= 1m
FUZZPKGS ?= ./...

UI := web/ui
UI_SOURCES := $(shell find $(UI)/src $(UI)/public $(UI)/scripts $(UI)/*.json $(UI)/*.ts $(UI)/index.html -type f 2>/dev/null | grep -v '\.gen\.')
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4

say = @printf '\033[1m== %s\033[0m\n' $(1)

.PHONY: help
help: ## what there is
	@echo "Holdfast: one program for chat, calls and single sign-on."
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

.PHONY: run
run: build ## build it and run it at http://localhost:8008 (PORT, TLSPORT and DATA change where)
	$(call say,"starting Holdfast on the folder $(DATA); Ctrl-C stops it")
	@exec bin/holdfast serve --data $(DATA) --set listen.http=127.0.0.1:$(PORT) --set listen.https=:$(TLSPORT)

.PHONY: build
build: web/dist/index.html tools-go ## build bin/holdfast, a static program with the user interface inside
	$(call say,"building bin/holdfast $(VERSION) (the first time takes some minutes)")
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/holdfast ./cmd/holdfast
	@ls -l bin/holdfast | awk '{printf "   %.1f MB\n", $$5/1e6}'

# --- tools -------------------------------------------------------------------

.PHONY: tools-go tools-node tools-test
tools-go:
	@command -v go >/dev/null || { echo "Go is missing. Install Go 1.26 or later (https://go.dev/dl, or your distribution's package golang)."; exit 1; }

tools-node:
	@command -v node >/dev/null && command -v npm >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "== installing Node.js (apt-get)"; apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -qy nodejs npm >/dev/null; \
	  else echo "Node.js is missing. Install Node.js 20.19 or later with npm (https://nodejs.org, or your distribution's packages nodejs and npm)."; exit 1; fi; }
	@node -e 'const [a,b]=process.versions.node.split(".").map(Number); if (a<20||(a==20&&b<19)) { console.error("Node.js "+process.versions.node+" is too old: install 20.19 or later."); process.exit(1) }'

# The end-to-end tests need a browser, and ip(8) for a network without a way out.
# What else tests are judged by (test/need) is for CI: on a person's machine some of these packages would start services.
tools-test: tools-go tools-node
	@missing=""; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	if [ "$${CI:-}" = true ]; then \
	  for p in caddy:caddy nginx:nginx-light systemd-analyze:systemd cpio:cpio openssl:openssl redis-server:redis-server iptables:iptables slapd:slapd pdftoppm:poppler-utils zbarimg:zbar-tools \
	    cryptsetup:cryptsetup-bin mke2fs:e2fsprogs sfdisk:fdisk fsck.fat:dosfstools \
	    qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils swtpm:swtpm \
	    sbverify:sbsigntool sig-list-to-certs:efitools dnsmasq:dnsmasq-base radvd:radvd; do \
	    command -v $${p%%:*} >/dev/null || [ -x /usr/sbin/$${p%%:*} ] || missing="$$missing $${p#*:}"; done; fi; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "== installing$$missing (apt-get)"; apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing >/dev/null; \
	  else echo "Missing:$$missing. Install it with your package manager, then run make again."; exit 1; fi; fi

# --- user interface ------------------------------------------------------------

$(UI)/node_modules/.package-lock.json: $(UI)/package.json $(UI)/package-lock.json | tools-node
	$(call say,"fetching the packages of the user interface (npm ci)")
	@cd $(UI) && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

web/dist/index.html: $(UI)/node_modules/.package-lock.json $(UI_SOURCES)
	$(call say,"building the user interface")
	@cd $(UI) && npm run --silent build
	@touch $@

.PHONY: ui
ui: web/dist/index.html

# --- checks and tests ------------------------------------------------------------

.PHONY: check
check: tools-go $(UI)/node_modules/.package-lock.json ui ## formatting, vet, staticcheck, known vulnerabilities, house rules, UI types
	$(call say,"gofmt")
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "run gofmt -w on:"; echo "$$out"; exit 1; }
	$(call say,"go vet")
	@go vet ./...
	$(call say,"staticcheck")
	@go run $(STATICCHECK) ./...
	$(call say,"govulncheck")
	@if curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then go run $(GOVULNCHECK) ./...; \
	 else echo "   skipped: https://vuln.go.dev cannot be reached from here"; fi
	$(call say,"house rules: imports - package comments - table owners - generated files")
	@go test -count=1 ./test/house ./appliance/config ./store/schema
	$(call say,"user interface: types and lint")
	@cd $(UI) && npm run --silent check

.PHONY: test test-go test-oracle test-ui
test: tools-test ui build ## all tests: Go, user interface, real clients, browsers
	@$(MAKE) -k test-go test-oracle test-ui test-clients test-browser

test-go: ui build ## tests of the Go packages, and the program asked over HTTP
	$(call say,"Go")
	@HOLDFAST_BIN=$(CURDIR)/bin/holdfast go test -shuffle=on -timeout 20m ./...

test-oracle: tools-go ## room algorithms against other implementations
	$(call say,"room algorithms against other implementations")
	@cd test/oracle && GOEXPERIMENT=jsonv2 go test -count=1 -tags goolm ./...

test-ui: $(UI)/node_modules/.package-lock.json ## tests of the user interface
	$(call say,"user interface: messages - types - lint - tests")
	@cd $(UI) && npm run --silent check && npm run --silent test

test/clients/js/node_modules/.package-lock.json: test/clients/js/package.json test/clients/js/package-lock.json | tools-node
	$(call say,"fetching matrix-js-sdk and a Node.js that it runs on (npm ci)")
	@cd test/clients/js && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

.PHONY: test-clients
test-clients: build test/clients/js/node_modules/.package-lock.json ## encrypted messages between real client libraries and the real program
	$(call say,"client libraries (mautrix-go and matrix-js-sdk)")
	@cd test/clients && HOLDFAST_BIN=$(CURDIR)/bin/holdfast go test -count=1 -tags goolm -v ./...

.PHONY: test-browser
test-browser: build tools-test test/clients/js/node_modules/.package-lock.json ## end to end in headless Chromium
	$(call say,"browsers (headless Chromium)")
	@[ "$$(uname -s)" != Linux ] || go build -o bin/tools/machine ./test/browser/machine
	@go build -o bin/tools/idp ./test/browser/idp
	@test/browser/run

# --- packages --------------------------------------------------------------------

ARCH  ?= $(shell go env GOARCH)

.PHONY: deb oci
deb: build ## make a Debian package in bin/
	$(call say,"packing for Debian")
	@go build -C image/deb -o $(CURDIR)/bin/tools/deb . && bin/tools/deb -binary bin/holdfast -arch $(ARCH) -version $(VERSION) -epoch $(EPOCH) -out bin

oci: build ## make a container image in bin/
	$(call say,"packing a container image")
	@go run ./image/oci -binary bin/holdfast -arch $(ARCH) -version $(VERSION) -epoch $(EPOCH) -out bin

.PHONY: race
race: tools-go ## the race detector on what runs concurrently (needs a C compiler, takes a while)
	$(call say,"race detector")
	@CGO_ENABLED=1 go test -race -short -shuffle=on -timeout 30m ./store/... ./homeserver/... ./identity/... ./web

.PHONY: bench
bench: tools-go ## measure the store and the hot paths
	@go test -run '^$$' -bench . -benchmem ./store/... ./homeserver/... ./identity/... ./appliance

.PHONY: bench-calls
bench-calls: build ## how much the call relay carries, next to LiveKit's own program
	@go build -C test/calls/plain -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/tools/livekit-server github.com/livekit/livekit-server/cmd/server
	@HOLDFAST_BIN=$(CURDIR)/bin/holdfast LIVEKIT_SERVER=$(CURDIR)/bin/tools/livekit-server go test -count=1 -timeout 40m -v -run 'TestCapacity$$' ./test/calls

.PHONY: fuzz
fuzz: tools-go ## run every fuzz target for FUZZTIME (1m), of FUZZPKGS (./...)
	@for pkg in $$(go list $(FUZZPKGS)); do \
	  list=$$(go test -list '^Fuzz' $$pkg) || { echo "$$list"; exit 1; }; \
	  for f in $$(grep '^Fuzz' <<<"$$list" || true); do \
	    printf '\033[1m== %s %s\033[0m\n' "$$pkg" "$$f"; \
	    go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

# --- disk image ---------------------------------------------------------------------

ARCHES  ?= amd64 arm64
FORMATS ?= raw zst qcow2 vmdk hfu rpi
IMAGE   = go run ./image/build -version $(VERSION) -epoch $(EPOCH) -apt-sources '$(APT_SOURCES)' $(if $(SNAPSHOT),-snapshot '$(SNAPSHOT)') -keys '$(KEYS)'

.PHONY: image image-pins image-keys image-sources tools-image
image: web/dist/index.html tools-go tools-image ## the bootable disk images in bin/image (ARCHES, FORMATS, KEYS=FOLDER, SECUREBOOT=1, NOTES=FILE)
	@for arch in $(ARCHES); do \
	  printf '\033[1m== building the program for %s\033[0m\n' $$arch; \
	  GOOS=linux GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS)' -o bin/linux-$$arch/holdfast ./cmd/holdfast; done
	$(call say,"building the images $(VERSION)")
	@$(IMAGE) -arch '$(ARCHES)' -formats '$(FORMATS)' -notes '$(NOTES)' $(if $(SECUREBOOT),-secureboot)

image-pins: tools-go tools-image ## ask which Debian packages are served now and pin them
	@$(IMAGE) -pins

.PHONY: test-image tools-test-image
TESTS ?= .
test-image: tools-test-image ## boot the disk image in QEMU (TESTS=TestBoot for one, HOLDFAST_CUTS=50 power cuts; long)
	@test/image/run -run '$(TESTS)'
	@[ '$(TESTS)' != . ] || HOLDFAST_TEST_VM=1 go test -count=1 -run TestInImageKernel ./image/network ./image/clock

.PHONY: test-systemd tools-test-systemd
SUITES ?= bookworm
test-systemd: build tools-test-systemd ## the package and `holdfast install` under a real systemd, in QEMU (TESTS=TestSystemdInstall for one)
	@test/image/run-systemd -run '$(if $(filter-out .,$(TESTS)),$(TESTS),^TestSystemd)'

tools-test-systemd: tools-image
	@[ "$$(id -u)" = 0 ] || { echo "Only root can make a Debian root folder: run make test-systemd as root."; exit 1; }
	@missing=""; \
	for p in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap; do \
	  command -v $${p%%:*} >/dev/null || missing="$$missing $${p#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "== installing$$missing (apt-get)"; apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing ipxe-qemu >/dev/null; fi

tools-test-image: tools-image
	@missing=""; \
	for p in qemu-system-x86_64:qemu-system-x86 qemu-system-aarch64:qemu-system-arm swtpm:swtpm mcopy:mtools mkfs.vfat:dosfstools; do \
	  command -v $${p%%:*} >/dev/null || [ -x /usr/sbin/$${p%%:*} ] || missing="$$missing $${p#*:}"; done; \
	[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || missing="$$missing ovmf"; \
	[ -e /usr/share/AAVMF/AAVMF_CODE.fd ] || missing="$$missing qemu-efi-aarch64"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "== installing$$missing (apt-get)"; apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing ipxe-qemu >/dev/null; \
	  else echo "Missing:$$missing. Install it with your package manager, then run make again."; exit 1; fi; fi

image-keys: tools-go ## make keys for updates and Secure Boot in KEYS=FOLDER, outside the repository
	@$(IMAGE) -new-keys

image-sources: tools-go tools-image ## fetch the exact source packages of the image into bin/image/sources
	@$(IMAGE) -sources bin/image/sources

tools-image:
	@for t in apt-get dpkg-deb; do command -v $$t >/dev/null || { echo "$$t is missing: the image is built of Debian's packages, on Debian."; exit 1; }; done
	@[ -x /usr/sbin/mke2fs ] || command -v mke2fs >/dev/null || { echo "mke2fs is missing. Install the package e2fsprogs."; exit 1; }

.PHONY: notices
notices: tools-go $(UI)/node_modules/.package-lock.json ## write NOTICES.txt: what is built in and under which licence
	$(call say,"collecting licences")
	@go test -count=1 ./test/house -run TestNotices -update

.PHONY: generate
generate: notices ## write all generated files anew
	@go test -count=1 ./appliance/config ./test/house ./store/schema -update

.PHONY: clean
clean: ## remove what was built; the data folder stays
	@rm -rf bin web/dist $(UI)/node_modules
