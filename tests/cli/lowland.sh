#!/bin/bash
# The lowland start-up, from every kind of parent: ringshift must find its arguments and its
# environment, and nothing of it may lie above lowland's end.
#
#   lowland.sh path/to/ringshift
set -u
ringshift=$1
failed=0

# check NAME COMMAND...: the command prints a clean memory map and ends with 0.
check() {
	local name=$1 out status=0

	shift
	out=$("$@" 2>&1) || status=$?
	if [ $status != 0 ] || ! grep -q '^lowland: yes' <<<"$out" ||
		grep -q 'NOT IN LOWLAND' <<<"$out"; then
		printf 'FAILED %s (status %d):\n%s\n' "$name" "$status" "$out"
		failed=1
	else
		echo "ok $name"
	fi
}

many_times() {
	for ((i = 0; i < 100; i++)); do
		"$ringshift" --check-lowland >/dev/null || return 1
	done
	"$ringshift" --check-lowland
}

unlimited_stack() {
	ulimit -s unlimited 2>/dev/null || ulimit -s "$(ulimit -H -s)"
	"$@"
}

small_stack() {
	ulimit -s 256
	"$@"
}

empty_argv0() {
	(exec -a "" "$ringshift" --check-lowland)
}

big_environment() {
	local long i

	printf -v long '%0100000d' 0
	for ((i = 0; i < 15; i++)); do
		export "RINGSHIFT_TEST_$i=$long"
	done
	"$ringshift" --check-lowland
}

# ulimit -v counts reservations too: guest RAM is not there yet, the stack is.
tight_address_space() {
	ulimit -v 300000
	"$ringshift" --check-lowland
}

check 'plain, address space layout random' many_times
check 'layout not random' setarch -R "$ringshift" --check-lowland
check 'unlimited stack (bottom-up layout)' unlimited_stack "$ringshift" --check-lowland
check 'unlimited stack, big environment' unlimited_stack big_environment
check 'small stack' small_stack "$ringshift" --check-lowland
check 'legacy layout' setarch -L "$ringshift" --check-lowland
check 'empty argv[0]' empty_argv0
check 'empty environment' env -i "$ringshift" --check-lowland
check 'big environment' big_environment
check 'little address space' tight_address_space
check 'by a relative path' sh -c 'cd "${1%/*}" && "./${1##*/}" --check-lowland' sh "$ringshift"

# Arguments arrive whole.
long=$(printf '%0100000d' 0)
out=$("$ringshift" -kernel "$long" -m 12Q 2>&1)
[ "$out" = "ringshift: -m: '12Q' is not a size" ] || {
	echo "FAILED long argument: $out"
	failed=1
}

# The check can fail: the same program, entered at libc's _start, refuses.
copy=$(mktemp)
trap 'rm -f "$copy"' EXIT
entry=$(nm "$ringshift" | sed -n 's/^\([0-9a-f]*\) T _start$/\1/p')
cp "$ringshift" "$copy" && chmod +x "$copy"
# e_entry: 8 bytes, little endian, at offset 24 of the ELF header.
for ((i = 0; i < 8; i++)); do
	printf '%b' "\\x${entry:14-2*i:2}"
done | dd of="$copy" bs=1 seek=24 conv=notrunc status=none
out=$("$copy" -version 2>&1)
status=$?
if [ $status != 1 ] || [ "$out" != 'ringshift: not started at its own entry point' ]; then
	echo "FAILED wrong entry point (status $status): $out"
	failed=1
fi

exit $failed
