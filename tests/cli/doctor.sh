#!/bin/bash
# `ringshift doctor` on this host and on hosts that lack something; and that a guest boots, user code
# native, where an ordinary user in a container would start it.
#
#   doctor.sh RINGSHIFT CONTAINER [KERNEL INITRD]
set -u
ringshift=$1 container=$2 kernel=${3-} initrd=${4-}
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=$scratch/out

fail() {
	printf 'FAILED %s:\n%s\n' "$1" "$(cat "$out")"
	failed=1
}

# expect NAME STATUS LINE COMMAND...: the status, and a line of the output.
expect() {
	local name=$1 want=$2 line=$3 status=0

	shift 3
	"$@" >"$out" 2>&1 || status=$?
	if [ $status != "$want" ] || ! grep -Eq -- "$line" "$out"; then
		echo "status $status" >>"$out"
		fail "$name"
	else
		echo "ok $name"
	fi
}

# Where the host itself is fine: 0 and 10 differ by its limits alone.
fine() {
	local status=0

	"$@" || status=$?
	[ $status = 10 ] || return $status
}

one_cpu() {
	taskset -c 0 "$ringshift" doctor
}

few_files() {
	(ulimit -n 100 && "$ringshift" doctor)
}

json() {
	fine "$ringshift" doctor --json >"$scratch/json" || return
	python3 - "$scratch/json" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
names = [f["id"] for f in report["findings"]]
assert len(set(names)) == len(names) > 8, names
assert all(f["level"] in ("ok", "info", "note", "slow", "fail") for f in report["findings"])
assert report["status"] in (0, 10) and report["verdict"]
print("valid")
PYTHON
}

expect 'this host' 0 '^ok +user_spaces +guest programs run natively' fine "$ringshift" doctor
expect '--json' 0 '^valid$' json
expect 'one processor' 10 '^note +cpus +one' one_cpu
expect 'few descriptors' 10 '^note +open_files +100' few_files
expect 'the network helper' 0 '^ok +network +-nic user works' fine "$ringshift" doctor
expect 'no network helper' 10 '^note +network +the helper of -nic user does not start' \
	env RINGSHIFT_NET=/nowhere "$ringshift" doctor
expect 'an unknown argument' 2 "^ringshift: doctor: '-x': all it takes is --json" \
	"$ringshift" doctor -x
expect 'no seccomp filters' 11 '^slow +user_spaces' "$container" --no-seccomp "$ringshift" doctor

# An ordinary user may not be able to reach the build directory.
chmod 755 "$scratch"
cp "$ringshift" "$ringshift-net" "$scratch"
expect 'in a container' 0 '^ok +user_spaces' fine "$container" "$scratch/ringshift" doctor
expect 'it says so' 0 'user 65534; system calls are filtered' fine \
	"$container" "$scratch/ringshift" doctor

# await TEXT: until it is in the output, a minute at most.
await() {
	for ((i = 0; i < 600; i++)); do
		! grep -q -- "$1" "$out" || return
		sleep 0.1
	done
}

boot() {
	# The shell has to be there before it is spoken to.
	{
		await '/root #'
		echo 'echo $((6 * 7)) answers; poweroff -f'
		await 'reboot: Power down'
	} | timeout 120 "$container" "$scratch/ringshift" -kernel "$scratch/kernel" \
		-initrd "$scratch/initrd" -append 'console=ttyS0 panic=-1' -m 512 -nographic \
		-no-reboot -ring3 native --stats=json
}

if [ -n "$kernel" ]; then
	install -m 644 "$kernel" "$scratch/kernel"
	install -m 644 "$initrd" "$scratch/initrd"
	expect 'a guest boots in a container' 0 '^42 answers' boot
	grep -Eq '"space_syscalls": [1-9][0-9]{2,}' "$out" || fail 'its programs ran natively'
fi
exit $failed
