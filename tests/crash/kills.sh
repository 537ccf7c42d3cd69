#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kills machines at random moments under load, on a leaf that survives them. The
# next machine attaches the leaf, judges every sector, continues the load, and
# is killed in turn. SIZE, SEED as in run.sh.
. "$(dirname "$0")/lib.sh"

crash_build
work=$BUILD/crash-kills
rm -rf "$work"
mkdir -p "$work"
kills=0 checks=0 failures=0
RANDOM=$SEED

# guest WHAT SEED CACHE: in the background
guest() {
	# Removes what the previous guest wrote.
	rm -f "$work/pid"
	: >"$work/out"
	crash_guest kills 300 -p "$work/pid" -d "$work/leaf,$3" -d "$work/notes,writeback" \
		-- sh crash/kills "$1" "$2" >"$work/out" 2>"$work/err" &
	job=$!
}

# said TEXT: waits until the guest has said so; fails if it ends before, or
# reports a failure.
said() {
	while ! grep -q "^$1" "$work/out"; do
		! grep -q '^FAILED' "$work/out" || return 1
		kill -0 $job 2>/dev/null || { grep -q "^$1" "$work/out"; return; }
		sleep 0.1
	done
}

# Counts if ubctl check has found no damage in what the last kill left.
count_check() { ! grep -q '^checked' "$work/out" || checks=$((checks + 1)); }

# Kills the machine some hundredths of a second from now.
strike() {
	sleep "$(printf '%d.%02d' $(($1 / 100)) $(($1 % 100)))"
	kill -KILL "$(cat "$work/pid")"
	wait $job || true
	kills=$((kills + 1))
	count_check
}

failed() {
	echo "FAILED: kill $kills, seed $SEED, leaf cached $1: $(grep '^FAILED' "$work/out" || echo 'no answer')"
	tail -n 20 "$work/out" "$work/err"
	failures=$((failures + 1))
	wait $job || true
}

# lives KILLS: each machine uses another cache mode for the leaf on the host.
lives() {
	local what=begin n caches=(none writeback) cache
	rm -f "$work/leaf" "$work/notes"
	truncate -s 10M "$work/leaf"
	truncate -s 16M "$work/notes"
	for ((n = 0; n < $1; n++)); do
		cache=${caches[n % 2]}
		guest $what $((SEED * 1000 + kills)) "$cache"
		# Some are killed while they attach what the last one has left,
		# or before.
		if [ $what = go ] && [ $((RANDOM % 5)) = 0 ]; then
			while [ ! -s "$work/pid" ]; do sleep 0.1; done
			strike $((RANDOM % 600))
			continue
		fi
		said ready || { failed "$cache"; return; }
		what=go
		grep '^deeds' "$work/out" || true
		strike $((RANDOM % 250))
	done
	guest last 0 none
	said lawful || { failed none; return; }
	grep '^deeds' "$work/out"
	wait $job || failed none
	count_check
}

case $SIZE in
quick) lives 3 ;;
full) lives 200 ;;
*) while [ $failures = 0 ]; do lives 50; done ;;
esac
echo "kills=$kills checks=$checks failures=$failures"
[ $failures = 0 ]
