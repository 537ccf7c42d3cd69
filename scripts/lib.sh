# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Functions and paths that all scripts here share: stages and their reports, the
# package mirror, the key of a cached thing. Sourced, never run.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${UNIONBLK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/unionblk}
BUILD=$TOP/build
mkdir -p "$CACHE" "$BUILD"

die() { printf 'error: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }

# stage NAME COMMAND...: runs it with its output in build/log/NAME.log, prints
# what runs and how long it took, and prints the end of the log if it fails.
stage() {
	local name=$1 log start pid secs
	shift
	mkdir -p "$BUILD/log"
	log=$BUILD/log/${name//[^a-zA-Z0-9._-]/-}.log
	start=$SECONDS
	if [ -n "${V:-}" ]; then
		say ">> $name"
		"$@"
		say "   $name: $((SECONDS - start)) s"
		return
	fi
	printf '%-46s ' ">> $name"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# One dot for every ten seconds shows that it still runs.
	( while sleep 10; do printf .; done ) &
	local dots=$!
	if wait "$pid"; then
		kill "$dots" 2>/dev/null; wait "$dots" 2>/dev/null || true
		secs=$((SECONDS - start))
		say " ok (${secs} s)"
	else
		kill "$dots" 2>/dev/null; wait "$dots" 2>/dev/null || true
		say " FAILED after $((SECONDS - start)) s; the end of $log:"
		tail -n 40 "$log" | sed 's/^/   | /'
		return 1
	fi
}

# key FILE-OR-WORD...: a short hash of the words and of the contents of files.
key() {
	local x
	for x; do
		if [ -f "$x" ]; then sha256sum <"$x"; else printf '%s\n' "$x"; fi
	done | sha256sum | cut -c1-12
}

# Prints the programs that cargo's messages name, from standard input.
executables() {
	python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable"):
        print(m["executable"])'
}

# Prints the mirror of this machine's apt sources; UNIONBLK_MIRROR overrides it.
mirror() {
	if [ -n "${UNIONBLK_MIRROR:-}" ]; then printf '%s\n' "$UNIONBLK_MIRROR"; return; fi
	local found
	found=$(
		shopt -s nullglob
		for f in /etc/apt/sources.list.d/*.sources; do
			awk '/^URIs:/ { print $2 }' "$f"
		done
		for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
			[ -f "$f" ] && sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' "$f"
		done
		true
	)
	found=$(grep -E '/debian/?$' <<<"$found" | head -n 1 || true)
	[ -n "$found" ] || die "no Debian mirror in this machine's apt sources; set UNIONBLK_MIRROR=<address of a Debian archive>"
	printf '%s\n' "${found%/}"
}

need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root: it makes a build root with debootstrap and enters it with chroot"; }

# Prints what no kernel log may contain after a run, as one expression for grep
# -E.
complaints() { sed '/^#/d' "$TOP/scripts/kernel-complaints.txt" | paste -sd '|'; }
