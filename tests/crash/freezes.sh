#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Live freezes on the stock kernel, of which the n-th lower I/O fails or is the last before a power
# failure. With SIZE=full a driver that ignores such a failure must be found. SIZE, SEED as in run.sh;
# KERNEL=kunit for the kernel with lockdep.
. "$(dirname "$0")/lib.sh"

# Builds the driver of a copy of the tree, with a patch of tests/crash/mutants.
mutant=$BUILD/freezes-mutant
build_mutant() {
	rm -rf "$mutant"
	mkdir "$mutant"
	(cd "$TOP" && find . -mindepth 1 -maxdepth 1 ! -name build ! -name .git -exec cp -r {} "$mutant" \;)
	patch -s -p1 -F0 --no-backup-if-mismatch -d "$mutant" <"$TOP/tests/crash/mutants/$1.patch"
	"$mutant/scripts/build.sh" modules
}

crash_build
if [ "$SIZE" != quick ] && [ "$KERNEL" = stock ]; then
	name=freeze-failure-ignored log=$BUILD/log/mutant-freeze-failure-ignored.log
	plan 1
	if ! build_mutant $name >"$log" 2>&1; then
		note "$log"
		fails "$name: it is built"
	elif "$TOP/scripts/vm.sh" "${guest[@]/%"kmod/unionblk.ko"/freezes-mutant/build/kmod/unionblk.ko}" -n crash-freezes-mutant \
		-t 900 -m 768 -- sh crash/freezes quick "$SEED" >>"$log"; then
		fails "$name: a freeze is found that did not happen"
	else
		passes "$name, caught by: $(grep -m 1 -o 'the freeze was reported.*' "$log")"
	fi
fi
crash_guest freezes 3600 -m 768 -- sh crash/freezes "$SIZE" "$SEED" || failures=1
[ "$failures" = 0 ]
