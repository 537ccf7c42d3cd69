#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots a kernel in QEMU, runs one command in it and returns the command's exit
# status. Emulates (TCG) by default; VM_KVM=1 uses KVM, if that works. Runs
# inside the build root, so the machine needs no QEMU.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/verdict.sh"

usage() {
	cat <<'END'
scripts/vm.sh [OPTION]... -- COMMAND [ARGUMENT]...    (run by the guest's shell in /vm)
  -k stock|kunit     the kernel: Debian's unmodified one (default), or the KUNIT=y one
  -d FILE[,ro][,CACHE]  a disk: a raw image; /dev/vda, /dev/vdb, ... in the order given;
                     CACHE: unsafe (default), writeback or none, as QEMU has them
  -f SOURCE[:NAME]   a file or directory put into the guest as /vm/NAME
  -n NAME            logs are build/log/vm-NAME.console and .out (default: run)
  -m MIB  -c CPUS    the guest's size (default: 1024, 2)
  -t SECONDS         overall limit (default: 300)
  -a WORDS           more of the kernel's command line
  -p FILE            where to write QEMU's process id
  -i                 one processor, whose clock advances by a nanosecond for each
                     instruction, so a time is a number of instructions
  -x PLUGIN[,ARG=VALUE]  a plugin of QEMU, for emulation
  -u                 do not fail on complaints in the kernel's log
Exit status: the command's; 124 = out of time, 125 = the guest died, 126 = the
kernel complained.
END
}

kernel=stock name=run mem=1024 cpus=2 limit=300 words='' scan=1 pidfile='' count='' plugin=''
disks=() files=()
args=("$@")
while getopts k:d:f:n:m:c:t:a:p:ix:uh o; do
	case $o in
	k) kernel=$OPTARG ;;
	d) disks+=("$OPTARG") ;;
	f) files+=("$OPTARG") ;;
	n) name=$OPTARG ;;
	m) mem=$OPTARG ;;
	c) cpus=$OPTARG ;;
	t) limit=$OPTARG ;;
	a) words=$OPTARG ;;
	p) pidfile=$OPTARG ;;
	i) count=1 cpus=1 ;;
	x) plugin=$OPTARG ;;
	u) scan= ;;
	h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { usage >&2; exit 2; }
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/vm.sh "${args[@]}"

case $kernel in
stock)
	dir=$("$TOP/scripts/kernel.sh")
	image=$dir/stock/usr/lib/modules/$(cat "$dir/release")/vmlinuz
	;;
kunit) image=$("$TOP/scripts/kernel-kunit.sh" x86_64)/image ;;
*) die "no kernel $kernel: stock or kunit" ;;
esac
base=$("$TOP/scripts/initramfs.sh" "$kernel")

mkdir -p "$BUILD/log"
console=$BUILD/log/vm-$name.console output=$BUILD/log/vm-$name.out
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Packs what belongs to this run, as an archive behind the base archive; the
# kernel unpacks both.
pack() {
	local f source target
	mkdir -p "$work/tree/vm"
	for f in "${files[@]}"; do
		source=${f%%:*} target=${f#*:}
		[ "$target" != "$f" ] || target=$(basename "$source")
		mkdir -p "$(dirname "$work/tree/vm/$target")"
		cp -rL "$source" "$work/tree/vm/$target"
	done
	printf 'exec' >"$work/tree/vm/job"
	printf ' %q' "$@" >>"$work/tree/vm/job"
	echo >>"$work/tree/vm/job"
	(cd "$work/tree" && find . | cpio --quiet -H newc -o -R 0:0) >"$work/own.cpio"
	cat "$base" "$work/own.cpio" >"$work/initrd"
}

accel=(-accel 'tcg,thread=multi' -cpu max)
[ -z "${VM_KVM:-}" ] || accel=(-accel kvm -cpu host)
# shellcheck disable=SC2054 # the commas are QEMU's
[ -z "$count" ] || accel=(-accel 'tcg,thread=single' -icount shift=0,sleep=off -cpu max)
[ -z "$plugin" ] || accel+=(-plugin "$plugin")

# The host caches the disks, because in these tests only the guest crashes,
# never the host.
run() {
	local command=() n=0 d ro cache
	# shellcheck disable=SC2054 # the commas are QEMU's
	command=(qemu-system-x86_64 "${accel[@]}" -nodefaults -no-user-config -display none
		-no-reboot -smp "$cpus" -m "$mem"
		-kernel "$image" -initrd "$work/initrd"
		-append "console=ttyS0 panic=-1 loglevel=7 $words"
		-chardev "file,id=c,path=$console" -serial chardev:c
		-chardev file,id=o,path=/dev/stdout -serial chardev:o
		-chardev "file,id=s,path=$work/status" -serial chardev:s)
	for d in "${disks[@]}"; do
		ro=off cache=unsafe
		case $d in *,none | *,writeback) cache=${d##*,} d=${d%,*} ;; esac
		[ "${d%,ro}" = "$d" ] || ro=on
		command+=(-drive "if=none,id=d$n,format=raw,cache=$cache,aio=threads,readonly=$ro,file=${d%,ro}"
			-device "virtio-blk-pci,drive=d$n")
		n=$((n + 1))
	done
	command+=(-pidfile "${pidfile:-$work/pid}")
	timeout -k 5 "$limit" "${command[@]}" </dev/null
}

# On a busy host an emulated machine sometimes hangs early in its boot, busy among
# its timers, or finds that its timer does not work and panics, before anything of
# ours has run. A machine that hangs is killed, and both are booted again, twice at most.
boot_limit=120
begun() { grep -aq 'Run /[^ ]* as init process' "$console"; }
watch_boot() {
	local n
	for ((n = 0; n < boot_limit * 2; n++)); do
		! begun || return 0
		sleep 0.5
	done
	touch "$work/hung"
	kill -KILL "$(cat "${pidfile:-$work/pid}")"
}

boot() {
	local watch
	rm -f "$work/hung"
	: >"$console"
	code=0
	watch_boot &
	watch=$!
	run | tee "$output" || code=${PIPESTATUS[0]}
	kill "$watch" 2>/dev/null || true
	wait "$watch" 2>/dev/null || true
	# A caller that kills the machine, by its pidfile, wants no other.
	begun || [ "$code" = 137 ] || touch "$work/hung"
}

pack "$@"
boot
for again in 1 2; do
	[ -e "$work/hung" ] || break
	say "the guest's kernel did not start init within $boot_limit s: boot $((again + 1)); the end of its console:" >&2
	tail -n 3 "$console" >&2
	boot
done
[ ! -e "$work/hung" ] || { say "the guest's kernel did not start init in three boots: see $console" >&2; exit 125; }
verdict "$code" "$limit" "$work/status" "$console" "${scan:+scan}"
