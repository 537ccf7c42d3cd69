# SPDX-License-Identifier: GPL-2.0
# The targets for users and developers. kbuild reads Kbuild, and not this file.
#
# Without KDIR everything is built in the build root, against Debian's stock
# kernel. With KDIR the machine's own toolchain builds against that tree.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PREFIX ?= /usr/local
DESTDIR ?=
T ?=
export SIZE SEED REPLAY FUZZ_SECONDS FUZZ_RUNS SOAK_SECONDS ICOUNT

running := /lib/modules/$(shell uname -r)/build
ifeq ($(KDIR),running)
override KDIR := $(running)
endif

own := build/own
own_ko := $(own)/kmod/unionblk.ko
own_ubctl := $(own)/cargo/release/ubctl
# make install takes the files that the machine's own toolchain has built, if they
# exist, or else those of the build root.
ko = $(firstword $(wildcard $(own_ko) build/kmod/unionblk.ko))
ubctl = $(firstword $(wildcard $(own_ubctl) build/cargo/x86_64-unknown-linux-gnu/release/ubctl))
# Installed only if it was built.
ubsnapd = $(firstword $(wildcard $(own)/cargo/release/ubsnapd build/cargo/x86_64-unknown-linux-gnu/release/ubsnapd))

.PHONY: help
help:
	@echo 'unionblk: a read-only root and a private leaf, shown as one read-write disk'
	@echo
	@echo '  make demo            unions of a Debian image and layers of it, over three boots of'
	@echo '                       the stock kernel, in QEMU'
	@echo '  make test            every test, cheapest first; ends with "N passed, N failed";'
	@echo '                       FULL=1: the crash campaigns in full, ten minutes of fuzzing,'
	@echo '                       all device tests with lockdep, 1,000 unions on 32 layers'
	@echo
	@echo '  make crash           the crash campaigns: SIZE=quick, full or soak; SEED=1;'
	@echo "                       REPLAY='OPERATIONS' for one failure that it printed"
	@echo
	@echo '  make fuzz            coverage-guided fuzzing of all that reads a leaf or a layer, ten minutes;'
	@echo '                       FUZZ_SECONDS=3600, FUZZ_RUNS=1000000, T=attach for one target'
	@echo
	@echo '  make soak            fio writes and verifies for two hours, beside frozen queues,'
	@echo '                       CPU hotplug and lack of memory; SOAK_SECONDS=300'
	@echo
	@echo 'One kind of test alone:'
	@echo '  make check           format, lint, strata and documentation checks'
	@echo '  make test-core       cargo tests of the core and the tool'
	@echo '  make kunit           KUnit suites in QEMU'
	@echo '  make kunit-uml       KUnit suites in User-Mode Linux (the quick loop)'
	@echo '  make test-vm         device tests on the stock kernel; T=unionblk/003 for one,'
	@echo '                       T="-g discard" for a subject, T=list to list them;'
	@echo '                       KERNEL=kunit for the kernel with lockdep and kmemleak'
	@echo
	@echo 'Measuring:'
	@echo '  make bench           beside dm-linear, dm-snapshot, dm-thin and dm-clone, into'
	@echo '                       bench/results; QUICK=1: fewer cases and repetitions;'
	@echo '                       COUNT=1: only instructions, against their goals and by function,'
	@echo '                       on any machine'
	@echo
	@echo 'Building:'
	@echo '  make modules tools   unionblk.ko and ubctl, in the build root'
	@echo '  make ubsnapd         the snapshotter for containerd, in the build root or with KDIR='
	@echo '  make KDIR=DIR modules tools'
	@echo '                       with this machine'"'"'s toolchain, for the kernel tree DIR'
	@echo '                       (KDIR=running: the tree of the running kernel)'
	@echo '  make docs            pages and man pages, by Sphinx, into build/docs'
	@echo '  make check-kernel [KDIR=DIR]'
	@echo '                       can that tree build Rust modules? "ok", or why not;'
	@echo '                       without KDIR: the tree of the running kernel'
	@echo '  make install         module, tool, udev rule, unit, man pages and completions, and'
	@echo '                       ubsnapd if it was built;'
	@echo '                       PREFIX=/usr/local DESTDIR=; needs modinfo and depmod (kmod)'
	@echo
	@echo '  make deb             Debian packages: ubctl, ubsnapd, unionblk-modules-RELEASE for the'
	@echo '                       stock kernel, unionblk-dkms; build/deb is an apt repository'
	@echo
	@echo '  make clean           remove what was built here'
	@echo '  make distclean       and the cache: build root, kernels, images, tools'
	@echo
	@echo 'Needs superuser rights and a Debian mirror; V=1 shows the output of every stage.'

.PHONY: demo test crash fuzz soak check test-core kunit kunit-uml test-vm
demo:
	@scripts/demo.sh
test:
	@tests/run.sh
crash:
	@tests/crash/run.sh
fuzz:
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) tests/fuzz/run.sh $(T)
soak:
	@SOAK_SECONDS=$(or $(SOAK_SECONDS),7200) tests/run-vm.sh soak
check:
	@tests/run.sh format lint shell strata docs
test-core:
	@tests/run.sh core
kunit:
	@scripts/kunit.sh x86_64
kunit-uml:
	@scripts/kunit.sh um
test-vm:
	@tests/run-vm.sh $(T)

.PHONY: bench
bench:
	@bench/run.sh

.PHONY: modules tools ubsnapd docs
ifeq ($(KDIR),)
docs:
	@scripts/in-root.sh scripts/docs.sh
modules tools ubsnapd:
	@scripts/build.sh $@
	@echo 'built $(if $(filter modules,$@),build/kmod/unionblk.ko,build/cargo/x86_64-unknown-linux-gnu/release/$(@:tools=ubctl))'
else
modules:
	@scripts/check-kernel.sh $(KDIR)
	$(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(CURDIR)/$(own)/kmod modules
	@echo 'built $(own_ko)'
tools:
	cargo build --release --locked --target-dir $(own)/cargo -p ubctl
	@echo 'built $(own_ubctl)'
ubsnapd:
	cargo build --release --locked --target-dir $(own)/cargo -p ubsnapd
	@echo 'built $(own)/cargo/release/ubsnapd'
docs:
	@scripts/docs.sh
endif

.PHONY: check-kernel
check-kernel:
	@scripts/check-kernel.sh $(or $(KDIR),$(running))

.PHONY: install
install:
	@scripts/install.sh '$(ko)' '$(ubctl)' '$(PREFIX)' '$(DESTDIR)' '$(ubsnapd)'

.PHONY: deb
deb:
	@scripts/deb.sh

.PHONY: clean distclean
clean:
	rm -rf build
distclean: clean
	@scripts/clean-cache.sh
