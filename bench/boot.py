#!/usr/bin/env python3
"""Boot time of the Debian cloud kernel: ringshift, QEMU TCG and UML in alternation.

    bench/boot.py [--build build] [--guests .cache/guests] [--runs N] [--engines bt,microvm,pc,uml]

wall: from the start of the process to the first line that /init prints (RINGSHIFT-INIT), seconds;
cpu: the processor time used until then, which a busy machine distorts less; guest: the kernel's own
clock when it starts /init. Medians of N runs, and the spread (largest less smallest) of wall in
per cent. "step" is an engine, too; it takes far longer. A boot that does not get there in --timeout
seconds is counted as failed and otherwise left out; ringshift's make the exit status 1.
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from console import Console, Failure  # noqa: E402

TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: "
RUN_INIT = rb"\[ *(\d+\.\d+)\] Run /init as init process"

BASELINE = "microvm"  # what the others are compared with


def commands(args):
    """Engine -> command line."""
    guest = ["-kernel", os.path.join(args.guests, args.kernel),
             "-initrd", os.path.join(args.guests, "initramfs.gz"), "-m", "512M",
             "-append", f"console=ttyS0 {args.append}".strip(),
             "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]
    ringshift = os.path.join(args.build, "ringshift")
    tcg = [args.qemu, "-accel", "tcg", "-cpu", args.cpu]
    found = {"bt": [ringshift, "-accel", "bt"] + guest,
             "step": [ringshift, "-accel", "step"] + guest,
             "microvm": tcg + ["-machine", "microvm,pit=on,pic=on,rtc=on,isa-serial=on"] + guest,
             "pc": tcg + ["-machine", "pc"] + guest,
             "uml": [os.path.join(args.guests, "linux.uml"), "mem=512M", "con=null",
                     "con0=fd:0,fd:1", "console=tty0", "panic=-1", "printk.time=1",
                     "initrd=" + os.path.join(args.guests, "initramfs.gz")]}
    return {name: found[name] for name in args.engines.split(",")}


def boot(command, timeout):
    """One run: wall, cpu and guest seconds."""
    with Console(command, tty=False) as con:
        guest = con.expect(RUN_INIT, timeout, TROUBLE)
        con.expect(rb"RINGSHIFT-INIT \S+", timeout, TROUBLE)
        return {"wall": time.monotonic() - con.started, "cpu": con.cpu_seconds(),
                "guest": float(guest[1])}


def measure(args):
    """Engine -> list of runs, None for one that failed."""
    results = {name: [] for name in commands(args)}
    for i in range(args.runs):
        for name, command in commands(args).items():
            print(f"\rrun {i + 1} of {args.runs}: {name}   ", end="", file=sys.stderr, flush=True)
            try:
                results[name].append(boot(command, args.timeout))
            except Failure as failure:
                print(f"\n{failure}", file=sys.stderr)
                results[name].append(None)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def table(results):
    def median(name, what):
        figures = [run[what] for run in results[name] if run]
        return statistics.median(figures) if figures else float("nan")

    base = median(BASELINE, "wall") if BASELINE in results else float("nan")
    print(f"{'seconds to /init':18}{'wall':>8}{'spread':>9}{'cpu':>8}{'guest':>8}{'failed':>8}"
          f"{'wall/' + BASELINE:>15}")
    for name, runs in results.items():
        walls = [run["wall"] for run in runs if run]
        wall = median(name, "wall")
        spread = 100 * (max(walls, default=0) - min(walls, default=0)) / wall
        print(f"{name:18}{wall:8.2f}{spread:7.0f} %{median(name, 'cpu'):8.2f}"
              f"{median(name, 'guest'):8.2f}{runs.count(None):8}{wall / base:15.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--guests", default=".cache/guests",
                        help="from scripts/fetch-guests (default: %(default)s)")
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--cpu", default="max", help="QEMU's processor (default: %(default)s)")
    parser.add_argument("--engines", default="bt,microvm,pc", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--timeout", type=int, default=120, metavar="SECONDS",
                        help="for one boot (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE, too")
    args = parser.parse_args()
    results = measure(args)
    print(f"{args.kernel}, {args.runs} runs")
    table(results)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"kernel": args.kernel, "runs": results}, f, indent=1)
            f.write("\n")
    if any(None in results.get(name, []) for name in ("bt", "step")):
        sys.exit(1)


if __name__ == "__main__":
    main()
