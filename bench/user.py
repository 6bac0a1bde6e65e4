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
import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from console import Console, Failure  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: |perror"


def pack(args, work):
    """The program, and a RAM disk with it at /rows."""
    program, disk = os.path.join(work, "rows"), os.path.join(work, "initrd")
    subprocess.run([args.cc, "-O2", "-Wall", "-static", "-o", program,
                    os.path.join(HERE, "user_rows.c")], check=True)
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], input=b"rows\n",
                             cwd=work, check=True, stdout=subprocess.PIPE).stdout
    with open(disk, "wb") as out, open(os.path.join(args.guests, "initramfs.gz"), "rb") as first:
        out.write(first.read() + gzip.compress(archive))
    return program, disk


def commands(args, program, disk):
    """Engine -> command line."""
    append = f"console=ttyS0 panic=-1 quiet rdinit=/rows rows={args.rows} {args.append}".strip()
    guest = ["-kernel", os.path.join(args.guests, args.kernel), "-initrd", disk, "-m", "512M",
             "-append", append, "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]
    stats = ["--stats"] if args.stats else []
    found = {"bt": [os.path.join(args.build, "ringshift"), *stats] + guest,
             "tcg": [args.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "pc"] + guest,
             "uml": [os.path.join(args.guests, "linux.uml"), "mem=512M", f"initrd={disk}",
                     "con=null", "con0=fd:0,fd:1", "console=tty0", "panic=-1", "quiet",
                     "rdinit=/rows", f"rows={args.rows}"],
             "host": [program, args.rows]}
    return {name: found[name] for name in args.engines.split(",")}


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
    results = {}
    with tempfile.TemporaryDirectory() as work:
        engines = commands(args, *pack(args, work))
        for i in range(args.runs):
            for name, command in engines.items():
                print(f"\rrun {i + 1} of {args.runs}: {name}   ", end="", file=sys.stderr,
                      flush=True)
                got = run(command, args.timeout, args.stats and name == "bt")
                results.setdefault(name, []).append(got)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def table(results):
    names = list(results)
    print(f"{'microseconds':32}" + "".join(f"{name:>10}" for name in names) +
          ("    bt/tcg" if {"bt", "tcg"} <= set(names) else ""))
    for row in results[names[0]][0]:
        us = {name: statistics.median(run[row] for run in results[name]) for name in names}
        ratio = f"{us['bt'] / us['tcg']:10.2f}" if {"bt", "tcg"} <= set(names) else ""
        print(f"{row:32}" + "".join(f"{us[name]:10.2f}" for name in names) + ratio)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--guests", default=".cache/guests",
                        help="from scripts/fetch-guests (default: %(default)s)")
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--cc", default="cc", help="C compiler with a static libc")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--engines", default="bt,tcg,host", help="default: %(default)s")
    parser.add_argument("--rows", default="0123456789abcdefghi",
                        help="one character each: 0 is the first row of the table (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--stats", action="store_true", help="print ringshift's counters")
    parser.add_argument("--json", metavar="FILE", help="write all runs there")
    parser.add_argument("--timeout", type=int, default=120, metavar="SECONDS",
                        help="for one run (default: %(default)s)")
    args = parser.parse_args()
    try:
        results = measure(args)
        table(results)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as out:
                json.dump(results, out, indent=1)
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
