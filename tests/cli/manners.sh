#!/bin/bash
# What any good program does: statuses, streams, and messages of one line.
#
#   manners.sh path/to/ringshift
set -u
ringshift=$1
failed=0
err=$(mktemp)
trap 'rm -f "$err"' EXIT

# expect NAME STATUS STDERR-PATTERN COMMAND...: the last status and one line at most of stderr.
expect() {
	local name=$1 want=$2 pattern=$3 status=0

	shift 3
	"$@" 2>"$err" || status=$?
	if [ $status != "$want" ] || [ "$(wc -l <"$err")" -gt 1 ] ||
		! grep -Eq -- "$pattern" <(cat "$err"; echo); then
		printf 'FAILED %s: status %d, stderr: %s\n' "$name" "$status" "$(cat "$err")"
		failed=1
	else
		echo "ok $name"
	fi
}

version_prints() {
	[ "$("$ringshift" -version | grep -Ec '^ringshift [0-9]+\.[0-9]+\.[0-9]+$')" = 1 ]
}

help_prints() {
	"$ringshift" -help | grep -q -- '^  -kernel FILE'
}

help_names_the_default() {
	"$ringshift" -help | grep -A 1 -- '^  -accel' | grep -q 'bt: .*(default' &&
		"$ringshift" -help | grep -A 1 -- '^  -max-insns' | grep -q 'implies -accel step'
}

full() {
	"$ringshift" "$@" >/dev/full
}

closed_output() {
	"$ringshift" "$@" >&-
}

all_closed() {
	"$ringshift" "$@" <&- >&- 2>&-
}

expect '-version' 0 '^$' version_prints
expect '-help' 0 '^$' help_prints
expect '-help names the default engine' 0 '^$' help_names_the_default
expect '-version with stdin closed' 0 '^$' "$ringshift" -version <&-
expect '-version to a full disk' 1 '^ringshift: cannot write to standard output: No space' full -version
expect '-help to a closed descriptor' 1 '^ringshift: cannot write to standard output' closed_output -help
expect 'all descriptors closed' 1 '^$' all_closed -version
expect 'no arguments' 2 '^ringshift: nothing to boot' "$ringshift"
expect 'unknown option' 2 '^ringshift: -frob: unknown option' "$ringshift" -frob
expect 'bad size' 2 "^ringshift: -m: '12Q' is not a size\$" "$ringshift" -m 12Q
expect 'kvm' 2 "^ringshift: -accel: 'kvm' is not in this version" "$ringshift" -accel kvm -kernel x
expect '--max-insns under bt' 2 '^ringshift: --max-insns: needs -accel step: translated code' \
	"$ringshift" -kernel x -accel bt --max-insns 9
expect 'translator options under step' 2 '^ringshift: -bt-no-chain: needs -accel bt$' \
	"$ringshift" -kernel x -accel step -bt-no-chain
expect 'a bad symbol file' 1 '^ringshift: --symbols: /dev/null: holds no symbols$' \
	"$ringshift" -kernel x -accel step --symbols /dev/null
expect 'an unknown option does not print help' 2 '^ringshift: ' "$ringshift" --kernle x

exit $failed
