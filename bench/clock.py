#!/usr/bin/env python3
"""Does the guest's clock go as fast as the host's? ringshift, or QEMU TCG.

    bench/clock.py [--build build] [--guests .cache/guests] [--engine bt|tcg] [--minutes 20] [--busy]

Asks a program in the guest (clock_ask.c, under Debian's cloud kernel) for CLOCK_MONOTONIC over the
serial port, --samples times at the start, each minute, and at the end. The host's clocks are read
before each question and behind each answer: the guest read its own in between, so each answer
confines the offset of the clocks to an interval, and all of one minute's together to their
intersection. Printed are its middle and half its width; at the end the drift in milliseconds an hour
with its uncertainty, against both clocks of the host that matter: CLOCK_MONOTONIC_RAW is the bare
counter, CLOCK_MONOTONIC is what NTP makes of it, which a guest without NTP cannot know of.
--busy has the guest compute all the time.
"""
import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from boot_test import Shell  # noqa: E402
from console import Console, Failure  # noqa: E402
from userland import cpio_newc  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
CLOCKS = {"MONOTONIC_RAW": time.CLOCK_MONOTONIC_RAW, "MONOTONIC": time.CLOCK_MONOTONIC}
HOUR = 3600e9


def pack(args, work):
    """A RAM disk with the program at /clock_ask."""
    program, disk = os.path.join(work, "clock_ask"), os.path.join(work, "initrd")
    subprocess.run([args.cc, "-O2", "-Wall", "-static", "-o", program,
                    os.path.join(HERE, "clock_ask.c")], check=True)
    with open(program, "rb") as f:
        archive = cpio_newc([("clock_ask", 0o100755, f.read())])
    with open(disk, "wb") as out, open(os.path.join(args.guests, "initramfs-cloud.gz"), "rb") as first:
        out.write(first.read() + gzip.compress(archive, 1))
    return disk


def command(args, disk):
    front = {"bt": [os.path.join(args.build, "ringshift")],
             "tcg": [args.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "pc", "-vga", "none",
                     "-nic", "none"]}
    return [*front[args.engine], "-kernel", os.path.join(args.guests, "vmlinuz-cloud"), "-initrd", disk,
            "-m", "512M", "-append", "console=ttyS0 panic=-1", "-nographic", "-no-reboot"]


def read_host():
    return [time.clock_gettime_ns(clock) for clock in CLOCKS.values()]


def ask(con):
    """The host's clocks before and behind, and the guest's."""
    before = read_host()
    con.send(b"\r")
    answer = con.expect(rb"CLOCK (\d+)\r*\n", 120)
    return before, read_host(), int(answer[1])


def offsets(con, samples):
    """For each clock of the host (lowest, highest) offset of the guest's from it, and its time."""
    found = [(-float("inf"), float("inf"))] * len(CLOCKS)
    for _ in range(samples):
        before, after, guest = ask(con)
        found = [(max(low, guest - b), min(high, guest - a))
                 for (low, high), a, b in zip(found, before, after)]
        time.sleep(0.02)
    for low, high in found:
        if low > high:
            raise Failure(f"the clocks move {(low - high) / 1e3:.1f} us within one minute's samples")
    return found, read_host()


def middle(bounds):
    return (bounds[0] + bounds[1]) / 2


def report(first, last):
    for i, name in enumerate(CLOCKS):
        (a, at), (b, then) = first, last
        passed = then[i] - at[i]
        drift = (middle(b[i]) - middle(a[i])) * HOUR / passed
        doubt = (b[i][1] - b[i][0] + a[i][1] - a[i][0]) / 2 * HOUR / passed
        print(f"against {name}: {drift / 1e6:+.3f} ms an hour, within {doubt / 1e6:.3f}; "
              f"over {passed / 60e9:.1f} minutes")


def measure(args, con):
    sh = Shell(con)
    source = sh.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    print(f"{args.engine}{', busy' if args.busy else ''}; the guest's clock source: {source}", flush=True)
    if args.busy:
        sh.run("(while :; do :; done) & true")
    sh.type("/clock_ask")
    con.expect(rb"CLOCK ready", 120)
    offsets(con, args.samples)  # warm
    first = last = offsets(con, args.samples)
    for minute in range(args.minutes):
        time.sleep(60)
        last = offsets(con, args.samples)
        print(f"minute {minute + 1}: " + "; ".join(
            f"{name} {(middle(b) - middle(a)) / 1e3:+.1f} us, within {(b[1] - b[0]) / 2e3:.1f}"
            for name, a, b in zip(CLOCKS, first[0], last[0])), flush=True)
    report(first, last)
    con.send(b"end\r")
    sh.power_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--cc", default="cc")
    parser.add_argument("--engine", choices=("bt", "tcg"), default="bt")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--busy", action="store_true", help="the guest computes all the time")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as work, Console(command(args, pack(args, work))) as con:
            measure(args, con)
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
