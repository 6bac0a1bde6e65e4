#!/usr/bin/env python3
"""What user programs ask of the kernel: bench/user_rows.c under ringshift, QEMU TCG and UML in turn.

    bench/user.py [--build build] [--guests .cache/guests] [--runs N] [--rows NAMES]
                  [--engines bt,tcg,uml,host]

Microseconds per operation, for each engine the median of N runs of the best round of each; then
ringshift's share of TCG's time. UML (User Mode Linux, a kernel that is a program; scripts/fetch-guests
uml) is a kernel of its own, so what it shows is the way, not the instruction. The program runs as the guest's first process, out of an archive
that is appended to the guest's initial RAM disk. --stats prints ringshift's counters of the last
run.
"""
import os
import re
import sys
import tempfile

import harness
from figures import Suite
from harness import Console, Failure

TROUBLE = harness.TROUBLE + rb"|perror"


def commands(args, program, disk):
    """Engine -> command line."""
    words = ["quiet", "rdinit=/rows", f"rows={args.rows}"]
    append = " ".join([*words, args.append]).strip()
    guest = harness.linux(args, disk, append, args.kernel) + harness.SERIAL + ["-m", "512M"]
    return harness.chosen(args, {
        "bt": harness.ringshift(args, *(["--stats"] if args.stats else [])) + guest,
        "tcg": harness.qemu(args) + guest,
        "uml": harness.uml(args, "512M", f"initrd={disk}", *words),
        "host": [program, args.rows]})


def run(command, timeout, stats):
    """One run: row -> microseconds."""
    with Console(command, tty=False) as con:
        con.expect(rb"ROWS END", timeout, TROUBLE)
        if stats:
            con.wait(20)
            con.errors.seek(0)
            print(con.errors.read().decode(errors="replace"))
        return {name.decode(): float(us)
                for name, us in re.findall(rb"ROW (.+)\t([\d.]+)", con.log)}


def measure(args):
    suite = Suite("What programs ask of a kernel", "tcg")
    with tempfile.TemporaryDirectory() as work:
        packed = harness.pack(args, work, "user_rows.c", "rows", "initramfs.gz")
        engines = commands(args, *packed)
        for _, name in harness.turns("user", args.runs, list(engines)):
            for row, us in run(engines[name], args.timeout, args.stats and name == "bt").items():
                suite.add(name, row, us, "µs")
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg,host")
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--rows", default="0123456789abcdefghi",
                        help="one character each: 0 is the first row of the table (default: all)")
    parser.add_argument("--stats", action="store_true", help="print ringshift's counters")
    args = parser.parse_args()
    try:
        harness.finish(args, measure(args))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
