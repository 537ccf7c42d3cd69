#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Kills machines at random moments under load, on a leaf that survives them. The
# next machine attaches the leaf, checks every sector, continues the load, and
# is killed in turn. SIZE, SEED as in run.sh.
. "$(dirname "$0")/lib.sh"

crash_build
work=$BUILD/crash-kills
rm -rf "$work"
mkdir -p "$work"
kills=0
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

# Waits for the second result of the guest; fails if it ends before, or reports a
# failure.
attached() {
	while ! grep -q '^ok 2 ' "$work/out"; do
		! grep -q '^not ok' "$work/out" || return 1
		kill -0 $job 2>/dev/null || { grep -q '^ok 2 ' "$work/out"; return; }
		sleep 0.1
	done
}

# Prints what the guest has noted; counts if ubctl check has found no damage in
# what the last kill left.
guest_notes() {
	grep '^# ' "$work/out" || true
	! grep -q '^ok 1 - ubctl check' "$work/out" || note "checks: 1"
}

# strike CACHE HUNDREDTHS: kills the machine so many hundredths of a second from
# now
strike() {
	sleep "$(printf '%d.%02d' $(($2 / 100)) $(($2 % 100)))"
	kill -KILL "$(cat "$work/pid")"
	wait $job || true
	kills=$((kills + 1))
	guest_notes
	note "kills: 1"
	passes "kill $kills, leaf cached $1"
}

failed() {
	tail -n 20 "$work/out" "$work/err" | notes
	fails "kill $kills, seed $SEED, leaf cached $1"
	wait $job || true
}

# kill_all KILLS: each machine uses another cache mode for the leaf on the host.
kill_all() {
	local what=begin n caches=(none writeback) cache
	rm -f "$work/leaf" "$work/notes"
	truncate -s 10M "$work/leaf"
	truncate -s 16M "$work/notes"
	plan $(($1 + 1))
	for ((n = 0; n < $1; n++)); do
		cache=${caches[n % 2]}
		guest $what $((SEED * 1000 + kills)) "$cache"
		# Some are killed while they attach what the last one has left,
		# or before.
		if [ $what = go ] && [ $((RANDOM % 5)) = 0 ]; then
			while [ ! -s "$work/pid" ]; do sleep 0.1; done
			strike "$cache" $((RANDOM % 600))
			continue
		fi
		attached || { failed "$cache"; return; }
		what=go
		strike "$cache" $((RANDOM % 250))
	done
	guest last 0 none
	attached || { failed none; return; }
	wait $job || { failed none; return; }
	guest_notes
	passes "the leaf after the last kill"
}

case $SIZE in
quick) kill_all 3 ;;
full) kill_all 200 ;;
*) while [ $failures = 0 ]; do kill_all 50; done ;;
esac
[ $failures = 0 ]
