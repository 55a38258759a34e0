# SPDX-License-Identifier: Apache-2.0 OR MIT
# host-iommu: `make demo` and `make test` set up what is missing and run.
# `make help` lists the targets. Kbuild, beside this file, is what builds the module.

CARGO ?= cargo
MSRV := 1.85

# $(call boot,ARGUMENTS): run the set-up program, after a look at cargo.
define boot
@sh qemu-boot/check-cargo "$(CARGO)" $(MSRV)
@$(CARGO) run --quiet --release --locked -p qemu-boot -- $(1)
endef

.PHONY: help demo test test-all test-debug bench fuzz setup shell modules update clean-cache clippy msrv

help:
	@echo "make demo               set up what is missing and run the demo (cold 7 to 15 minutes, warm 15 seconds)"
	@echo "make test               set up what is missing and run every test on the stock kernel"
	@echo "make test-all           the same, on a kernel with our patches too, and Linux's own vfio and iommufd selftests"
	@echo "make test-debug         the guest's tests on a kernel that watches its locks and memory"
	@echo "make bench              measure the module beside iommufd and vfio_iommu_type1"
	@echo "make fuzz               fuzz the module's calls on the debug kernel (SECONDS=3600 for an hour)"
	@echo "make setup              set up only"
	@echo "make shell              a prompt in the booted machine"
	@echo "make modules KDIR=DIR   build the module against your own kernel build"
	@echo "make update             take the archive's newest kernel and QEMU from now on"
	@echo "make clean-cache        remove everything that was set up"
	@echo "make clippy             lint the crates and the module"
	@echo "make msrv               check the library by the oldest Rust that it promises"

demo:
	$(call boot,demo)

test:
	$(call boot,test $(if $(PART),--part $(PART)) $(ONLY))

test-all:
	$(call boot,test --kernel stock --kernel patched \
		--part cargo --part hardware --part guest --part outside)

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
		$(if $(PLANTED),--planted))
endif

setup:
	$(call boot,setup)

shell:
	$(call boot,shell)

modules:
ifeq ($(KDIR),)
	@echo "make modules needs KDIR=<your kernel's build folder>" >&2; exit 2
else
	$(call boot,modules --kdir "$(abspath $(KDIR))")
endif

update:
	$(call boot,update)

clean-cache:
	$(call boot,clean-cache)

clippy:
	@sh qemu-boot/check-cargo "$(CARGO)" $(MSRV)
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(call boot,clippy)

msrv:
	$(call boot,msrv)
