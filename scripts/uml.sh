#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots User-Mode Linux, runs one command in it and returns the command's exit
# status: kernel code at native speed. Runs inside the build root.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/verdict.sh"

usage() {
	cat <<'END'
scripts/uml.sh [OPTION]... -- COMMAND [ARGUMENT]...   (run by the guest's shell in /vm)
  -k KERNEL          um: the kernel with KUnit; bench-up, bench-smp: those for speed, for one
                     processor or more (default: the one that CPUS needs)
  -f SOURCE[:NAME]   a file or directory put into the guest as /vm/NAME
  -s DIR             shared with the guest, there /host; it is emptied first
  -n NAME            the console's log is build/log/uml-NAME.console (default: run)
  -m MIB  -c CPUS    the guest's size (default: 1024, 1)
  -t SECONDS         overall limit (default: 300)
  -a WORDS           more of the kernel's command line
  -w COMMAND         run this on the host at the same time, with the PID of the guest's kernel
Exit status: the command's; 124 = out of time, 125 = the guest died, 126 = the
kernel complained.
END
}

kernel='' name=run mem=1024 cpus=1 limit=300 words='' shared='' watch='' files=()
args=("$@")
while getopts k:f:s:n:m:c:t:a:w:h o; do
	case $o in
	k) kernel=$OPTARG ;;
	f) files+=("$OPTARG") ;;
	s) shared=$OPTARG ;;
	n) name=$OPTARG ;;
	m) mem=$OPTARG ;;
	c) cpus=$OPTARG ;;
	t) limit=$OPTARG ;;
	a) words=$OPTARG ;;
	w) watch=$OPTARG ;;
	h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { usage >&2; exit 2; }
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/uml.sh "${args[@]}"

[ -n "$kernel" ] || kernel=bench-$([ "$cpus" = 1 ] && echo up || echo smp)
image=$("$TOP/scripts/kernel-kunit.sh" "$kernel")/image
base=$("$TOP/scripts/initramfs.sh" um)
mkdir -p "$BUILD/log"
console=$BUILD/log/uml-$name.console
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shared=$(realpath -m "${shared:-$work/shared}")
rm -rf "$shared"
mkdir -p "$shared" "$work/tree/vm"

for f in "${files[@]}"; do
	target=${f#*:}
	[ "$target" != "$f" ] || target=$(basename "$f")
	mkdir -p "$(dirname "$work/tree/vm/$target")"
	cp -rL "${f%%:*}" "$work/tree/vm/$target"
done
{
	printf 'exec'
	printf ' %q' "$@"
	echo
} >"$work/tree/vm/job"
echo "$shared" >"$work/tree/vm/hostfs"
(cd "$work/tree" && find . | cpio --quiet -H newc -o -R 0:0) | cat "$base" - >"$work/initrd"

# Prints the command's output as it appears.
: >"$shared/out"
tail -f -n +1 "$shared/out" &
follow=$!
code=0
# User-Mode Linux keeps its memory in a file of TMPDIR, which must be memory and
# allow execution; several processors want seccomp.
# shellcheck disable=SC2086 # they are words
TMPDIR=/tmp timeout -k 5 "$limit" "$image" "mem=${mem}M" "initrd=$work/initrd" seccomp=on "ncpus=$cpus" \
	con=null con0=null,fd:1 panic=-1 loglevel=7 $words </dev/null >"$console" 2>&1 &
guest=$!
# When this script ends, the guest ends.
trap 'kill "$guest" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 143' TERM INT HUP
if [ -n "$watch" ]; then
	# Soon the kernel is timeout's only child.
	while kernel_pid=$(cat "/proc/$guest/task/$guest/children") && [ -z "$kernel_pid" ]; do sleep 0.01; done
	# shellcheck disable=SC2086 # a command and its words
	$watch ${kernel_pid% } &
fi
wait "$guest" || code=$?
sleep 0.3
kill "$follow" 2>/dev/null || true
wait "$follow" 2>/dev/null || true
verdict "$code" "$limit" "$shared/status" "$console" scan
