#!/usr/bin/env python3
"""What user programs ask of the kernel: bench/user_rows.c under ringshift, QEMU TCG and UML in turn.

    bench/user.py [--build build] [--guests .cache/guests] [--runs N] [--rows NAMES]
                  [--engines bt,tcg,uml,host]

Microseconds per operation, for each engine the median of N runs of the best round of each; then
ringshift's share of TCG's time. A guest of each engine runs all the time, and a row is measured in one
after the other. UML (User Mode Linux, a kernel that is a program; scripts/fetch-guests
uml) is a kernel of its own, so what it shows is the way, not the instruction. The program runs as the guest's first process, out of an archive
that is appended to the guest's initial RAM disk. --stats prints ringshift's counters of the last
run.
"""
import os
import shutil
import subprocess
import sys
import tempfile

import harness
from figures import Suite
from harness import Failure

TROUBLE = harness.TROUBLE + rb"|perror"


def executable_busybox(args, work):
    """The guest's, for the host to run."""
    path = shutil.copy(os.path.join(args.guests, "busybox"), work)
    os.chmod(path, 0o755)
    return path


def commands(args, program, disk, busybox):
    """Engine -> command line."""
    words = ["quiet", "rdinit=/rows"]
    append = " ".join([*words, args.append]).strip()
    guest = harness.linux(args, disk, append, args.kernel) + harness.SERIAL + ["-m", "512M"]
    return harness.chosen(args, {
        "bt": harness.ringshift(args, *(["--stats"] if args.stats else [])) + guest,
        "tcg": harness.qemu(args) + guest,
        "uml": harness.uml(args, "512M", f"initrd={disk}", *words),
        "host": ["env", f"BUSYBOX={busybox}", program]})


def names_of(program):
    """Character -> row."""
    lines = subprocess.run([program, "list"], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in lines.splitlines())


def measure(args):
    suite = Suite("What programs ask of a kernel", "tcg")
    with tempfile.TemporaryDirectory() as work:
        program, disk = harness.pack(args, work, "user_rows.c", "rows", "initramfs.gz")
        names, started = names_of(program), commands(args, program, disk,
                                                      executable_busybox(args, work))
        rows = [names[c] for c in args.rows or names]
        of = {name: c for c, name in names.items()}
        with harness.Engines(started, rb"ROWS READY", args.timeout, TROUBLE) as engines:
            for _, row, name in harness.turns("user", args.runs, rows, list(started)):
                figure = engines.ask(name, of[row], rb"ROW .+\t([\d.]+|nan)\r*\n")[1]
                if figure != b"nan":
                    suite.add(name, row, float(figure), "µs")
            if args.stats:
                engines.ask("bt", ".", rb"ROWS END")
                engines.running["bt"].wait(args.timeout)
                print(engines.running["bt"].stderr())
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg,host")
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--rows", help="one character each: 0 is the first row of the table "
                        "(default: all)")
    parser.add_argument("--stats", action="store_true", help="print ringshift's counters")
    args = parser.parse_args()
    try:
        harness.finish(args, measure(args))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
