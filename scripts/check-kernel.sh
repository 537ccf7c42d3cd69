#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks whether this kernel tree can build Rust modules with this machine's
# toolchain. Prints "ok", or each reason why not and what to do about it.
#   scripts/check-kernel.sh KDIR
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/series.sh"

tree=${1:?KDIR}
reasons=0

no() {
	printf '%s: cannot build Rust modules: %s\n' "$tree" "$1"
	printf '  what to do: %s\n' "$2"
	reasons=$((reasons + 1))
}
finish() {
	[ "$reasons" = 0 ] || exit 1
	printf 'ok\n'
	exit 0
}

prepare="take the kernel's full source and its config, run 'make olddefconfig modules_prepare' and copy Module.symvers in (scripts/kernel.sh does this for Debian's stock kernel: make modules)"

if [ ! -d "$tree" ]; then
	no "there is no such directory" "give the prepared kernel tree as KDIR=...; on Debian 'apt install linux-source-$SERIES', then $prepare"
	finish
fi
if [ ! -e "$tree/Makefile" ] || [ ! -d "$tree/scripts" ] && [ ! -e "$tree/include/config/kernel.release" ]; then
	no "it is not a kernel tree (no Makefile and scripts/)" "give the prepared kernel tree as KDIR=..."
	finish
fi

# A headers package has its config only beside the generated files.
config=
for f in "$tree/.config" "$tree/include/config/auto.conf"; do
	[ -s "$f" ] && config=$f && break
done
if [ -z "$config" ]; then
	no "it has no .config: it was never configured" "$prepare"
	finish
fi
has() { grep -qE "^$1=(y|m)\$" "$config"; }
value() { sed -n "s/^$1=\"\\(.*\\)\"\$/\\1/p" "$config" | head -n 1; }

release=$(cat "$tree/include/config/kernel.release" 2>/dev/null)
[ -n "$release" ] || release=$(make -s -C "$tree" kernelversion 2>/dev/null)
case $release in
"$SERIES" | "$SERIES".* | "$SERIES"-* | "$SERIES"+*) ;;
'') no "its version is unknown, because it is not prepared (no include/config/kernel.release)" "$prepare" ;;
*) no "it is of the $release series, and the module is written for $SERIES" "use a $SERIES kernel (Debian $SUITE has it in $SUITE-backports); the kernel's Rust interfaces change with every series" ;;
esac

has CONFIG_MODULES || no "CONFIG_MODULES is off" "switch on CONFIG_MODULES and rebuild that kernel"
if ! has CONFIG_RUST; then
	no "CONFIG_RUST is off" "switch on CONFIG_RUST and rebuild that kernel; 'make rustavailable' in its tree says what the toolchain lacks. Debian's $SERIES kernels have it on"
	finish
fi

# Rust symbol names and .rmeta files depend on the exact compiler.
wants=$(value CONFIG_RUSTC_VERSION_TEXT)
if ! command -v rustc >/dev/null; then
	no "there is no rustc here; the tree was configured with '$wants'" "install that very compiler (apt install rustc rust-src)"
elif [ -n "$wants" ] && [ "$(rustc --version)" != "$wants" ]; then
	no "rustc here is '$(rustc --version)', the tree was configured with '$wants'" "put that very compiler first in PATH; another one cannot read the tree's .rmeta files, nor would its symbols match the kernel's"
fi

if ! compgen -G "$tree/rust/*.rmeta" >/dev/null; then
	why="it has no rust/*.rmeta (the compiled kernel crates)"
	case $(cat "$tree/Makefile" 2>/dev/null) in
	*linux-headers*| *-common/Makefile*) why="$why: Debian's linux-headers packages ship none" ;;
	esac
	todo=$prepare
	command -v bindgen >/dev/null || todo="$todo; preparing needs bindgen, which is missing here (apt install bindgen)"
	no "$why" "$todo"
elif [ ! -e "$tree/scripts/target.json" ] && ! grep -q 'CONFIG_UML=y' "$config"; then
	no "it has no scripts/target.json" "$prepare"
fi
[ -e "$tree/Module.symvers" ] || no "it has no Module.symvers" "copy it from the kernel's build or its linux-headers package (/usr/src/linux-headers-$release/Module.symvers), else no symbol of the kernel resolves"
for tool in make gcc ld; do
	command -v $tool >/dev/null || no "$tool is missing here" "apt install build-essential"
done
finish
