#!/usr/bin/env python3
"""Boot time of the Debian cloud kernel: ringshift, QEMU TCG and UML in alternation.

    bench/boot.py [--build build] [--guests .cache/guests] [--runs N] [--engines bt,microvm,pc,uml]

Seconds from the start of the process to the first line that /init prints (RINGSHIFT-INIT); the
processor time used until then, which a busy machine distorts less; and the kernel's own clock when it
starts /init. "step" is an engine, too; it takes far longer. A boot that does not get there in --timeout
seconds is counted as failed and tried again; one of ringshift's is not, and makes the exit status 1.
"""
import os
import sys
import time

import harness
from figures import Suite
from harness import Console, Failure

# On a busy host QEMU's PIT may be too late for the guest's calibration, and the boot hangs there.
TROUBLE = harness.TROUBLE + rb"|could not calculate TSC khz"
ATTEMPTS = 3  # for each boot of theirs; one of ours has to do

OURS = {"bt", "step"}
RUN_INIT = rb"\[ *(\d+\.\d+)\] Run /init as init process"

BASELINE = "microvm"  # what the others are compared with


def commands(args):
    """Engine -> command line."""
    initrd = os.path.join(args.guests, "initramfs.gz")
    guest = harness.linux(args, initrd, args.append, args.kernel) + harness.SERIAL + ["-m", "512M"]
    return harness.chosen(args, {
        "bt": harness.ringshift(args) + guest,
        "step": harness.ringshift(args, "-accel", "step") + guest,
        "microvm": harness.qemu(args, machine=harness.MICROVM, cpu=args.cpu) + guest,
        "pc": harness.qemu(args, cpu=args.cpu) + guest,
        "uml": harness.uml(args, "512M", "printk.time=1", f"initrd={initrd}")})


def boot(command, timeout):
    """One run: what -> seconds."""
    with Console(command, tty=False) as con:
        guest = con.expect(RUN_INIT, timeout, TROUBLE)
        con.expect(rb"RINGSHIFT-INIT \S+", timeout, TROUBLE)
        return {"wall time": time.monotonic() - con.started,
                "processor time": con.cpu_seconds(), "the guest's clock": float(guest[1])}


def measure(args):
    """The suite, and the engines that failed."""
    suite, engines, failed = Suite(f"Boot: {args.kernel} to /init", BASELINE), commands(args), []
    for _, name in harness.turns("boot", args.runs, list(engines)):
        for _ in range(1 if name in OURS else ATTEMPTS):
            try:
                for what, seconds in boot(engines[name], args.timeout).items():
                    suite.add(name, what, seconds, "s")
                break
            except Failure as failure:
                print(str(failure).splitlines()[0] if name not in OURS else failure,
                      file=sys.stderr)
                failed.append(name)
    for name in dict.fromkeys(failed):
        suite.note(f"{name}: {failed.count(name)} boots failed")
    if BASELINE not in suite.engines() and "pc" in suite.engines():
        suite.baseline = "pc"
    return suite, failed


def main():
    parser = harness.parser(__doc__, "bt,microvm,pc", runs=5)
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--cpu", default="max", help="QEMU's processor (default: %(default)s)")
    args = parser.parse_args()
    suite, failed = measure(args)
    harness.finish(args, suite)
    sys.exit(1 if OURS & set(failed) else 0)


if __name__ == "__main__":
    main()
