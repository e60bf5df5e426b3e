# make             build bin/jadevectordb and bin/jadevectordb-cli (BUILD=release)
# make run         install what is missing (Debian, root), build, start the daemon on ./data
# make test        install what the tests need, build, run every test (unit and end to end)
# make unit        the unit tests alone;  make unit T=wal  only files whose name contains "wal"
# make e2e         the tests against the running daemon alone;  E2E_ARGS="-k restart"
# make faults      the fault tests alone (power loss, kills, damage ...);  FAULT_ARGS="-k power"
# make torture     the fault tests with new seeds and more of everything;  HOURS=8
# make mutants     plant the faults of tests/mutants one by one; the tests must notice each
# make fuzz        bytes from outside, made up by libFuzzer (tests/fuzz), each kind for
#                  FUZZ_SECONDS=60;  FUZZ=json  only fuzz_json
# make check       unit and end-to-end tests under ASan+UBSan, then under TSan
# make bench       benchmarks; ratios measured side by side in one run.  B=recall  only those whose
#                  name contains "recall";  BENCH_ARGS=--quick  their options (docs/BENCHMARKS.md)
# make install     DESTDIR= PREFIX=/usr/local: programs, unit files, configuration, documents
# make format      clang-format everything;  make lint  says what is not formatted
# make clean       remove build/ and bin/
#
# BUILD = release | debug | asan | tsan; each has its own build/ folder.  CC=clang works too.
# V=1 shows the commands.

BUILD   ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
O       := build/$(BUILD)
Q       := $(if $(V),,@)
VERSION := 2.2.0

SERVER_PACKAGES := gcc make pkg-config libc6-dev libmicrohttpd-dev libjansson-dev libuv1-dev \
                   libmimalloc-dev libcurl4-openssl-dev nettle-dev zlib1g-dev libzstd-dev \
                   libgnutls28-dev
TEST_PACKAGES   := libcmocka-dev openssl python3 python3-pytest python3-numpy python3-requests curl jq \
                   lsof procps libfuse3-dev fuse3
BENCH_PACKAGES  := g++ libhnswlib-dev
FUZZ_PACKAGES   := clang libclang-rt-dev

ARCH := $(shell $(CC) -dumpmachine)
CFLAGS  ?=
CFLAGS  += -std=c17 -D_GNU_SOURCE -I. -g -MMD -MP -pthread -fPIE -ffp-contract=off
CFLAGS  += -DJADEVECTORDB_VERSION='"$(VERSION)"'
CFLAGS  += -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
LDFLAGS += -pthread -pie

# clang 14 has the last one only with a switch that later versions drop.
if_known = $(shell $(CC) $(1) -fsyntax-only -x c /dev/null 2>/dev/null && echo $(1))
HARDEN := -fstack-protector-strong -fstack-clash-protection \
          $(call if_known,-ftrivial-auto-var-init=zero)
CFLAGS_release := -O2 -D_FORTIFY_SOURCE=3 $(HARDEN)
CFLAGS_debug   := -O1 -D_FORTIFY_SOURCE=2 -fstack-protector-strong
CFLAGS_asan    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CFLAGS_tsan    := -O1 -fsanitize=thread
CFLAGS_fuzz    := $(CFLAGS_asan) -fsanitize=fuzzer-no-link
CFLAGS         += $(CFLAGS_$(BUILD))
LDFLAGS        += $(filter -fsanitize%,$(CFLAGS_$(BUILD)))
LDFLAGS        += -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code

# mimalloc comes first, so that it is the allocator of everything; sanitizers bring their own.
MIMALLOC := $(if $(filter asan tsan fuzz,$(BUILD)),,-Wl,--push-state,--no-as-needed -lmimalloc -Wl,--pop-state)
DAEMON_LIBS = $(MIMALLOC) -lmicrohttpd -lgnutls -luv -ljansson -lnettle -lz -lzstd -lm
CLI_LIBS    = $(MIMALLOC) -lcurl -ljansson -lnettle -lm

LIB_SRC    := $(wildcard storage/*.c storage/*/*.c api/*.c config/*.c)
SERVER_SRC := $(wildcard server/*.c)
CLI_SRC    := $(wildcard server/cli/*.c) server/data_dir.c
TEST_SRC   := $(wildcard tests/*/test_*.c tests/*/*/test_*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
# The same without libFuzzer: they only run their seeds.
FUZZ_SMOKE := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=tests/fuzz/smoke_%)
BENCH_SRC  := $(wildcard bench/*.c)
BENCH_LIB  := $(wildcard bench/support/*.c)
BENCH_PEER := $(patsubst %.cc,$(O)/%.o,$(wildcard bench/support/*.cc))
# Tools of the fault tests: file systems (*fs.c) are programs, *_shim.c are preloaded libraries.
FAULT_FS   := $(wildcard tests/faults/*fs.c)
FAULT_SHIM := $(wildcard tests/faults/*_shim.c)
obj         = $(patsubst %.c,$(O)/%.o,$(1))
bin         = $(patsubst %.c,$(O)/%,$(1))
PROGRAMS   := $(O)/jadevectordb $(O)/jadevectordb-cli
FAULT_TOOLS := $(call bin,$(FAULT_FS)) $(FAULT_SHIM:%.c=$(O)/%.so)

all: $(PROGRAMS)
	@mkdir -p bin
	@for p in $(PROGRAMS); do ln -f $$p bin/ 2>/dev/null || cp -f $$p bin/; done

$(O)/jadevectordb: $(call obj,$(SERVER_SRC)) $(O)/libjadevectordb.a
	$(LINK) $(DAEMON_LIBS)
$(O)/jadevectordb-cli: $(call obj,$(CLI_SRC)) $(O)/libjadevectordb.a
	$(LINK) $(CLI_LIBS)
$(O)/libjadevectordb.a: $(call obj,$(LIB_SRC))
$(call bin,$(filter-out tests/server/%,$(TEST_SRC))): $(O)/%: $(O)/%.o $(O)/libjadevectordb.a
	$(LINK) $(MIMALLOC) -lcmocka -ljansson -lnettle -lm
$(call bin,$(filter tests/server/%,$(TEST_SRC))): $(O)/%: $(O)/%.o $(O)/libserver.a \
    $(O)/libjadevectordb.a
	$(LINK) $(MIMALLOC) -lcmocka -lmicrohttpd -lgnutls -luv -ljansson -lnettle -lz -lzstd -lm
FUZZ_PARTS = $(O)/tests/fuzz/common.o $(O)/tests/fuzz/disk.o $(O)/libserver.a $(O)/libjadevectordb.a
FUZZ_LIBS  = $(MIMALLOC) -lmicrohttpd -lgnutls -luv -ljansson -lnettle -lz -lzstd -lm
$(call bin,$(FUZZ_SRC)): $(O)/%: $(O)/%.o $(O)/tests/fuzz/seeds.o $(FUZZ_PARTS)
	$(LINK) -fsanitize=fuzzer $(FUZZ_LIBS)
$(addprefix $(O)/,$(FUZZ_SMOKE)): $(O)/tests/fuzz/smoke_%: $(O)/tests/fuzz/fuzz_%.o \
    $(O)/tests/fuzz/smoke.o $(FUZZ_PARTS)
	$(LINK) $(FUZZ_LIBS)
$(O)/libserver.a: $(call obj,$(filter-out server/main.c,$(SERVER_SRC)))
$(call bin,$(BENCH_SRC)): $(O)/%: $(O)/%.o $(O)/libbench.a $(O)/libjadevectordb.a
	$(LINK) $(MIMALLOC) -ljansson -lcurl -lm -Wl,--as-needed -lstdc++
$(O)/libbench.a: $(call obj,$(BENCH_LIB)) $(BENCH_PEER)
# What the index is compared with, at its best: for this very CPU, whatever BUILD is.
$(O)/%.o: %.cc
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CXX   $<")
	$(Q)$(CXX) -std=c++17 -O3 -march=native -I. -g -MMD -MP -pthread -fPIE -Wall -Wextra -c -o $@ $<

# The daemon under test has sanitizers, its tools do not.
$(call bin,$(FAULT_FS)): $(O)/%: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -pthread -o $@ $< \
	    $(shell pkg-config --cflags --libs fuse3 2>/dev/null)
$(FAULT_SHIM:%.c=$(O)/%.so): $(O)/%.so: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -pthread -fPIC -shared -o $@ $< -ldl

# Loops over the numbers of a code, in plain C: they are worth what makes them wide.
ifeq ($(BUILD),release)
$(O)/storage/index/codec.o $(O)/storage/index/graph_link.o $(O)/storage/index/search.o: CFLAGS += -O3
endif

# Of their comparisons libFuzzer learns nothing; they would take half of its time.
ifeq ($(BUILD),fuzz)
$(O)/storage/kernel/%.o $(O)/storage/index/graph%.o $(O)/storage/index/codec.o \
$(O)/storage/index/search%.o $(O)/storage/index/nearest.o: CFLAGS += -fno-sanitize-coverage=trace-cmp
endif

# Each file is for one instruction set; storage/kernel/kernel.c decides at run time.
# ("%o" stands for ".o" and "_codes.o" alike: "%" is never empty.)
ifneq (,$(findstring x86_64,$(ARCH)))
$(O)/storage/kernel/kernel_avx2%o:       CFLAGS += -mavx2 -mfma
$(O)/storage/kernel/kernel_avx512%o:     CFLAGS += -mavx512f -mavx512dq -mavx512bw -mavx512vl
$(O)/storage/kernel/kernel_avx512vnni.o:  CFLAGS += -mavx512vnni
$(O)/storage/kernel/kernel_avxvnni.o:     CFLAGS += -mavx2 -mavxvnni
else ifneq (,$(findstring aarch64,$(ARCH)))
$(O)/storage/kernel/kernel_neondot.o:     CFLAGS += -march=armv8.2-a+dotprod
endif
# The OpenAPI document is embedded as it stands.
$(O)/api/openapi.o: api/openapi.json

LINK = $(if $(Q),@echo "  LD    $@";) $(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^)
$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<
$(O)/%.a:
	$(if $(Q),@echo "  AR    $@")
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# ---- set-up: only what is missing, and only where apt-get is ----
define need
	@missing=; for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' \
	    || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "please install:$$missing"; exit 1; }; \
	    echo "installing:$$missing"; \
	    { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -q --no-install-recommends $$missing; } >build-deps.log 2>&1 \
	      || { tail -20 build-deps.log; exit 1; }; rm -f build-deps.log; \
	fi
endef
deps:
	$(call need,$(SERVER_PACKAGES))
test-deps: deps
	$(call need,$(TEST_PACKAGES))

run: deps
	@$(MAKE) --no-print-directory all
	@scripts/run.sh

# ---- tests ----
UNIT_SRC = $(if $(T),$(foreach t,$(TEST_SRC),$(if $(findstring $(T),$(t)),$(t))),$(TEST_SRC))
UNIT_SMOKE = $(if $(T),$(foreach t,$(FUZZ_SMOKE),$(if $(findstring $(T),$(t)),$(t))),$(FUZZ_SMOKE))
UNIT_BIN   = $(call bin,$(UNIT_SRC)) $(addprefix $(O)/,$(UNIT_SMOKE))
unit-programs: $(call bin,$(TEST_SRC)) $(addprefix $(O)/,$(FUZZ_SMOKE))
unit: $(UNIT_BIN)
	@scripts/run-unit-tests.sh $(UNIT_BIN)
e2e: all
	@scripts/run-e2e-tests.sh $(O) $(E2E_ARGS)
fault-tools: $(FAULT_TOOLS)
faults: all fault-tools
	@scripts/run-fault-tests.sh $(O) $(FAULT_ARGS)
HOURS ?= 1
torture: test-deps
	@$(MAKE) --no-print-directory all fault-tools
	@scripts/torture.sh $(O) $(HOURS)
mutants: test-deps
	@scripts/run-mutants.sh $(O) $(MUTANTS)
FUZZ_SECONDS ?= 60
# A folder of its own: other compiler, other flags.
FUZZ_O := $(if $(filter file,$(origin O)),build/fuzz,$(O)-fuzz)
fuzz-programs: $(call bin,$(foreach f,$(FUZZ_SRC),$(if $(findstring fuzz_$(FUZZ),$(f)),$(f))))
fuzz: deps
	$(call need,$(FUZZ_PACKAGES))
	@$(MAKE) --no-print-directory CC=clang BUILD=fuzz O=$(FUZZ_O) fuzz-programs
	@scripts/fuzz.sh $(FUZZ_O) $(FUZZ_SECONDS) '$(FUZZ)'
test: test-deps
	@$(MAKE) --no-print-directory all unit-programs fault-tools
	@scripts/run-all-tests.sh $(O)
check: test-deps
	@scripts/check.sh

bench-deps: deps
	$(call need,$(BENCH_PACKAGES))
bench-programs: $(call bin,$(BENCH_SRC))
bench: bench-deps
	@$(MAKE) --no-print-directory all bench-programs
	@scripts/bench.sh $(O) '$(B)' $(BENCH_ARGS)

# ---- the rest ----
DOC_DIR := $(DESTDIR)$(PREFIX)/share/doc/jadevectordb
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system \
	    $(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d \
	    $(DESTDIR)/etc/jadevectordb $(DOC_DIR)/examples
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	sed 's|/usr/local/|$(PREFIX)/|g' systemd/jadevectordb.service >$(O)/jadevectordb.service
	sed 's|/usr/local/|$(PREFIX)/|g' systemd/jadevectordb.socket >$(O)/jadevectordb.socket
	install -m 644 $(O)/jadevectordb.service $(O)/jadevectordb.socket \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 systemd/jadevectordb.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/jadevectordb.conf
	install -m 644 systemd/jadevectordb.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/jadevectordb.conf
	test -e $(DESTDIR)/etc/jadevectordb/config.json || \
	    install -m 644 config/production-balanced.json $(DESTDIR)/etc/jadevectordb/config.json
	install -m 644 README.md LICENSE $(wildcard docs/*.md) $(DOC_DIR)
	install -m 644 config/*.json $(DOC_DIR)/examples
	@test -n "$(DESTDIR)" || echo "next: systemd-sysusers && systemd-tmpfiles --create &&" \
	    "systemctl daemon-reload && systemctl enable --now jadevectordb"
C_FILES = $(shell git ls-files '*.c' '*.h')
format:
	clang-format -i $(C_FILES)
lint:
	@clang-format --dry-run -Werror $(C_FILES)
help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile
clean:
	rm -rf build bin

-include $(shell find $(O) -name '*.d' 2>/dev/null)
.PHONY: all deps test-deps run unit unit-programs e2e faults fault-tools torture mutants fuzz fuzz-programs test check bench-deps bench-programs bench install format lint help clean
.SECONDARY:
