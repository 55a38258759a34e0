# SPDX-License-Identifier: Apache-2.0 OR MIT
# host-iommu: `make demo` and `make test` set up what is missing and run.
# `make help` lists the targets. Kbuild, beside this file, is what builds the module.

CARGO ?= cargo
MSRV := 1.85
# Debian's kernels beside the one that everything runs on, whose module is tested too.
OTHER_SERIES := 7.2

# $(call boot,ARGUMENTS): run the set-up program, after a look at the machine.
define boot
@sh qemu-boot/check-host "$(CARGO)" $(MSRV) root
@$(CARGO) run --quiet --release --locked -p qemu-boot -- $(1)
endef

.PHONY: help demo guest test test-all test-debug bench fuzz setup shell modules install uninstall update clean-cache clippy msrv book api package capi install-capi uninstall-capi fuzz-crate mutants deb

help:
	@echo "make demo               set up what is missing and run the demo (cold 7 to 15 minutes, warm 15 seconds)"
	@echo "make guest              boot a guest on the VMM in user/vmm, and go through its steps (ONLY=\"1 4\"; KERNEL=6.12: another kernel in it;"
	@echo "                        VMM=qemu: on QEMU, VMM=shadow: on it without the module; SECONDS=300: so long with a hostile guest beside it)"
	@echo "make test               set up what is missing and run every test on the stock kernel"
	@echo "make test-all           the same, on a kernel with our patches and on Debian's 7.2 too, with other kernels and QEMU for the guest, and Linux's own selftests"
	@echo "make test-debug         the guest's tests on a kernel that watches its locks and memory"
	@echo "make bench              measure the module beside iommufd and vfio_iommu_type1"
	@echo "make fuzz               fuzz the module's calls on the debug kernel (SECONDS=3600 for an hour; UNITS=1: on units that differ)"
	@echo "make fuzz-crate         fuzz the crate's unit and decoder (SECONDS=60 for each, TARGET=registers)"
	@echo "make mutants            change the crate, a place at a time, and see that its tests notice (SHARD=0/40: a part)"
	@echo "make setup              set up only"
	@echo "make shell              a prompt in the booted machine"
	@echo "make modules            build the module for Debian's kernel (KDIR=DIR: against your own kernel build)"
	@echo "make install            install the module for the running kernel, and load it at boot (MODULE=FILE, SIGN_KEY=, SIGN_CERT=)"
	@echo "make uninstall          remove it again"
	@echo "make update             take the archive's newest kernel and QEMU from now on, and try the module on newer series"
	@echo "make clean-cache        remove everything that was set up"
	@echo "make clippy             lint the crates and the module"
	@echo "make capi               build the C library, shared and static"
	@echo "make install-capi       install it, its header and its pkg-config file (PREFIX=/usr/local DESTDIR=)"
	@echo "make uninstall-capi     remove them again"
	@echo "make book               make the book of docs/ in target/book, and look at its links"
	@echo "make api                compare the crate's interface with user/api.txt (WRITE=1: write it anew)"
	@echo "make package            make the packages for crates.io, and run an example from them"
	@echo "make deb                build the Debian packages, in target/deb"
	@echo "make msrv               check the library by the oldest Rust that it promises"

demo:
	$(call boot,demo)

guest:
	$(call boot,guest $(if $(VMM),--vmm $(VMM)) $(if $(KERNEL),--kernel $(KERNEL)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(ONLY))

test:
	$(call boot,test $(if $(PART),--part $(PART)) $(ONLY))

test-all:
	$(call boot,test --kernel stock --kernel patched \
		--part cargo --part hardware --part guest --part l2 --part outside --part install)
	@for series in $(OTHER_SERIES); do \
		HOST_IOMMU_KERNEL_SERIES=$$series $(MAKE) --no-print-directory test PART=guest || exit 1; done
	@$(MAKE) --no-print-directory guest VMM=qemu

test-debug:
	$(call boot,test --kernel debug $(if $(STORM),--storm $(STORM)) $(ONLY))

bench:
	$(call boot,bench $(if $(PROFILE),--profile $(PROFILE)) $(ONLY))

ifdef ENDS
fuzz:
	$(call boot,test --part guest --kernel $(or $(KERNEL),stock) --ends $(ENDS) ends)
else
fuzz:
	$(call boot,fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(REPLAY),--replay "$(abspath $(REPLAY))") \
		$(if $(KERNEL),--kernel $(KERNEL)) $(if $(SEED),--seed $(SEED)) $(if $(CPUS),--cpus $(CPUS)) \
		$(if $(UNITS),--units) $(if $(PLANTED),--planted))
endif

# libFuzzer's instrumentation by flags that stable Rust has. libfuzzer-sys needs a C++ compiler.
FUZZ_TARGETS := registers descriptors tables records
FUZZ_FLAGS := --cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
	-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
	-C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1

fuzz-crate:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV) c++
	@cd user/fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --quiet --release \
		--target x86_64-unknown-linux-gnu --target-dir "$(abspath $(or $(CARGO_TARGET_DIR),target))/fuzz"
	@cd user/fuzz && for target in $(or $(TARGET),$(FUZZ_TARGETS)); do \
		mkdir -p corpus/$$target artifacts && echo "fuzz-crate: $$target, $(or $(SECONDS),60) seconds" && \
		"$(abspath $(or $(CARGO_TARGET_DIR),target))/fuzz/x86_64-unknown-linux-gnu/release/$$target" \
			-max_total_time=$(or $(SECONDS),60) -timeout=20 -artifact_prefix=artifacts/$$target- corpus/$$target \
			> artifacts/$$target.log 2>&1 || { tail -n 30 artifacts/$$target.log; exit 1; }; \
		grep -E "DONE|^Done" artifacts/$$target.log || exit 1; \
	done

# cargo-mutants changes the crate, a place at a time, and runs its tests. Survivors are in
# target/mutants/mutants.out/missed.txt. Its status 3 says that some tests did not end, and so noticed.
MUTANTS := 27.1.0
mutants:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	@$(CARGO) install --quiet --locked --root target/tools --version $(MUTANTS) cargo-mutants
	@# A mutant may ask for memory without end.
	@mkdir -p target/mutants && ulimit -v 8388608 && PATH="$(abspath target/tools/bin):$$PATH" $(CARGO) mutants \
		--config user/mutants.toml --package host-iommu --output target/mutants \
		$(if $(SHARD),--shard $(SHARD)) || test $$? -eq 3

setup:
	$(call boot,setup)

shell:
	$(call boot,shell)

modules:
ifeq ($(KDIR),)
	$(call boot,modules)
else
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	@$(CARGO) run --quiet --release --locked -p qemu-boot -- modules --kdir "$(KDIR)"
endif

install:
ifeq ($(MODULE),)
	$(call boot,modules)
endif
	@sh qemu-boot/install-module install "$(or $(MODULE),target/modules/vfio_iommu_ioasid.ko)"

uninstall:
	@sh qemu-boot/install-module uninstall

update:
	$(call boot,update)

clean-cache:
	$(call boot,clean-cache)

clippy:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(call boot,clippy)

msrv:
	$(call boot,msrv)

book:
	$(call boot,book)

deb:
	$(call boot,deb)

# The pages are those that .ci/run has made.
api:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --workspace --no-deps --locked --all-features
	@$(CARGO) run --quiet --release --locked -p qemu-boot -- api $(if $(WRITE),--write)

# What is published must build by itself: the other packages of the workspace stand beside it.
PACKAGES := $(abspath $(or $(CARGO_TARGET_DIR),target))/package
PACKAGED := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
package:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	$(CARGO) package --quiet --locked --no-verify -p host-iommu-bindings -p host-iommu-sys -p host-iommu
	@cd "$(PACKAGES)" && for name in host-iommu-bindings host-iommu-sys host-iommu; do \
		rm -rf $$name-$(PACKAGED) && tar xf $$name-$(PACKAGED).crate && \
		for text in LICENSE-APACHE LICENSE-MIT README.md; do \
			[ -s $$name-$(PACKAGED)/$$text ] || { echo "error: $$name has no $$text"; exit 1; }; \
		done; \
	done
	cd "$(PACKAGES)/host-iommu-$(PACKAGED)" && \
		CARGO_TARGET_DIR="$(abspath $(or $(CARGO_TARGET_DIR),target))" $(CARGO) run --quiet \
		--config 'patch.crates-io.host-iommu-bindings.path="../host-iommu-bindings-$(PACKAGED)"' \
		--config 'patch.crates-io.host-iommu-sys.path="../host-iommu-sys-$(PACKAGED)"' \
		--example vtd --features soft,vtd

# The C API: its version is that of the crate, and the number in the soname that of the header.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
CAPI_STRIP ?= -C strip=symbols
CAPI_API := $(shell sed -n 's/^.define HOST_IOMMU_API_VERSION //p' user/include/host_iommu.h)
CAPI_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
CAPI_OUT := $(or $(CARGO_TARGET_DIR),target)/release

capi:
	@sh qemu-boot/check-host "$(CARGO)" $(MSRV)
	$(CARGO) rustc --quiet --locked --release -p host-iommu --lib --features capi \
		--crate-type cdylib,staticlib -- \
		-C link-arg=-Wl,-soname,libhost_iommu.so.$(CAPI_API) $(CAPI_STRIP)

install-capi: capi
	install -d "$(DESTDIR)$(PREFIX)/include" "$(DESTDIR)$(LIBDIR)/pkgconfig"
	install -m 644 user/include/host_iommu.h "$(DESTDIR)$(PREFIX)/include"
	install -m 644 $(CAPI_OUT)/libhost_iommu.a "$(DESTDIR)$(LIBDIR)"
	install -m 755 $(CAPI_OUT)/libhost_iommu.so "$(DESTDIR)$(LIBDIR)/libhost_iommu.so.$(CAPI_VERSION)"
	ln -sf libhost_iommu.so.$(CAPI_VERSION) "$(DESTDIR)$(LIBDIR)/libhost_iommu.so.$(CAPI_API)"
	ln -sf libhost_iommu.so.$(CAPI_API) "$(DESTDIR)$(LIBDIR)/libhost_iommu.so"
	sed -e 's,@PREFIX@,$(PREFIX),' -e 's,@LIBDIR@,$(LIBDIR),' -e 's,@VERSION@,$(CAPI_VERSION),' user/host_iommu.pc.in \
		> "$(DESTDIR)$(LIBDIR)/pkgconfig/host_iommu.pc"
	@# The loader finds a new library after ldconfig alone; with DESTDIR it is a packager's.
	@[ -n "$(DESTDIR)" ] || ! command -v ldconfig > /dev/null || ldconfig || true
	@echo "installed in $(PREFIX); compile with: cc prog.c \$$(pkg-config --cflags --libs host_iommu)"
	@command -v pkg-config > /dev/null || echo "pkg-config is not installed (Debian: apt-get install pkg-config)"

uninstall-capi:
	rm -f "$(DESTDIR)$(PREFIX)/include/host_iommu.h" "$(DESTDIR)$(LIBDIR)/pkgconfig/host_iommu.pc" \
		"$(DESTDIR)$(LIBDIR)/libhost_iommu.a" "$(DESTDIR)$(LIBDIR)/libhost_iommu.so" \
		"$(DESTDIR)$(LIBDIR)/libhost_iommu.so.$(CAPI_API)" "$(DESTDIR)$(LIBDIR)/libhost_iommu.so.$(CAPI_VERSION)"
	@[ -n "$(DESTDIR)" ] || ! command -v ldconfig > /dev/null || ldconfig || true
