# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What a measurement says of the machine. Sourced, after scripts/lib.sh.

# Figures from a busy machine are noise, so they are marked, or not made at all.
# The load average still counts a build that has just ended, so the processors'
# idle time over three seconds decides.
is_quiet() {
	local before after busy
	before=$(awk '/^cpu / { print $5 + $6, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat)
	sleep 3
	after=$(awk '/^cpu / { print $5 + $6, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat)
	busy=$(awk -v a="$before" -v b="$after" 'BEGIN {
		split(a, x); split(b, y); t = y[2] - x[2]
		printf "%d", t ? 100 - 100 * (y[1] - x[1]) / t : 0 }')
	say "load average $(cut -d' ' -f1 /proc/loadavg), processors $busy % busy"
	[ "$busy" -le 5 ]
}

cpu_model() { sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1; }
