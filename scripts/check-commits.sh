#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks commit messages against CONTRIBUTING.md: a subject of at
# most 72 characters without a full stop, an empty line, a body, and a
# Signed-off-by.
#   scripts/check-commits.sh [RANGE]    (default: all since this check exists)
set -euo pipefail
cd "$(dirname "$0")/.."
git=(git -c safe.directory='*')
"${git[@]}" rev-parse --git-dir >/dev/null 2>&1 || { echo "no git history here: nothing to check"; exit 0; }

range=${1:-}
if [ -z "$range" ]; then
	first=$("${git[@]}" log --diff-filter=A --format=%H -- scripts/check-commits.sh | tail -n 1)
	range=${first:+$first..}HEAD
	[ -n "$first" ] || exit 0
fi

breaches=0
breach() {
	printf '%s: %s: %s\n' "${commit:0:12}" "$1" "$subject"
	breaches=$((breaches + 1))
}
commits=$("${git[@]}" rev-list --no-merges "$range")
for commit in $commits; do
	message=$("${git[@]}" log -1 --format=%B "$commit")
	subject=$(head -n 1 <<<"$message")
	body=$(tail -n +3 <<<"$message" | grep -v '^Signed-off-by: ' || true)
	[ ${#subject} -le 72 ] || breach "${#subject} characters in the subject, 72 at most"
	[[ $subject != *. ]] || breach "a full stop ends the subject"
	[ -z "$(sed -n 2p <<<"$message")" ] || breach "no empty line below the subject"
	grep -q '[a-z]' <<<"$body" || breach "no body"
	grep -q '^Signed-off-by: .* <.*>$' <<<"$message" || breach "no Signed-off-by"
done
[ "$breaches" = 0 ]
