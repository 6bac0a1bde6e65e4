#!/usr/bin/env python3
"""Cycles per operation of a kernel: ringshift, QEMU TCG and the bare host beside each other.

    bench/nano.py [--build build] [--low] [--runs N] [--rows NAME,...] [--json FILE]

Builds the guest bench/nano/ (target bench_nano), runs the same image under `ringshift -accel bt`,
`-accel step`, QEMU TCG and, if it works here, QEMU with KVM, in alternation, N times, and prints the
median of the runs. "host" are the same instructions in a process on the host. The last rows are what
the host kernel takes for what the monitor asks of it. --low: the guest runs at its physical addresses, in
the lower half, as boot code and many small kernels do.
"""
import os
import subprocess
import sys

import harness
from figures import Suite
from harness import Console, Failure

EXIT_OK = 0x10 * 2 + 1  # what the guest's finish(0x10) becomes

KVM_SECONDS = 20  # to boot a kernel; it takes one or two if it works

MACHINE = harness.SERIAL + ["-m", "128", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]

# Cycles under VMware's binary translator.
PUBLISHED = {"call_ret": 51, "port_in": 214, "page_fault": 3927, "pte_change": 391}
SOURCE = ("2006: Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 "
          "Virtualization, ASPLOS 2006: their translator, on the processor they had")


def engines(args):
    image = os.path.join(args.build, "bench/nano", "nano_low" if args.low else "nano")
    guest = MACHINE + ["-kernel", image]
    return harness.chosen(args, {
        "bt": harness.ringshift(args) + guest,
        "step": harness.ringshift(args, "-accel", "step") + guest,
        "tcg": harness.qemu(args) + guest,
        "kvm": harness.qemu(args, "kvm") + guest,
        "host": [os.path.join(args.build, "bench/nano/native")]})


def why_no_kvm(args):
    """None if KVM runs an unmodified kernel; else what it did. A /dev/kvm says little."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm that we may use"
    guest = harness.linux(args, os.path.join(args.guests, "initramfs.gz"), "")
    command = harness.qemu(args, "kvm", cpu="host") + guest + harness.SERIAL + ["-m", "512"]
    with Console(command, tty=False) as con:
        try:
            con.expect(rb"RINGSHIFT-INIT \S+", KVM_SECONDS, harness.TROUBLE)
        except Failure:
            status = con.process.poll()
            how = f"not in {KVM_SECONDS} s" if status is None else f"QEMU ends, status {status}"
            said = (con.stderr().splitlines() or [""])[-1]
            return f"Debian's kernel does not boot under it ({how}) {said}".strip()
    return None


def run(args, name, command):
    """Row -> cycles of one run."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=args.timeout)
    wanted = 0 if name == "host" else EXIT_OK
    text = done.stdout.decode(errors="replace")
    if done.returncode != wanted:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{text}"
                 f"{done.stderr.decode(errors='replace')}")
    lines = text.splitlines()
    if name != "host":  # firmware prints, too
        lines = lines[next(i for i, line in enumerate(lines) if line.endswith("nano")) + 1:]
    return {row: float(cycles) for row, cycles in (line.split() for line in lines)}


def measure(args):
    suite, commands = Suite("What a kernel asks of its processor", "tcg"), engines(args)
    reason = why_no_kvm(args) if "kvm" in commands else None
    if reason:
        suite.note(f"No column for KVM: {reason}")
        del commands["kvm"]
    for _, name in harness.turns("nano", args.runs, list(commands)):
        for row, cycles in run(args, name, commands[name]).items():
            suite.add(name, row, cycles, "cycles")
    for row, cycles in PUBLISHED.items():
        suite.add("2006", row, cycles, "cycles")
    suite.note(SOURCE)
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg,host", runs=5, timeout=300)
    parser.add_argument("--low", action="store_true", help="run in the lower half")
    parser.add_argument("--no-build", action="store_true", help="take the guest as it is")
    parser.add_argument("--rows", help="print only these")
    args = parser.parse_args()
    if not args.no_build:
        subprocess.run(["cmake", "--build", args.build, "--target", "bench_nano"], check=True,
                       stdout=subprocess.DEVNULL)
    harness.finish(args, measure(args), args.rows and args.rows.split(","))


if __name__ == "__main__":
    main()
