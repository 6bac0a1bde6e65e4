#!/usr/bin/env python3
"""Cycles per operation of a kernel: ringshift, QEMU TCG and the bare host beside each other.

    bench/nano.py [--build build] [--low] [--runs N] [--rows NAME,...] [--json FILE]

Builds the guest bench/nano/ (target bench_nano), runs the same image under `ringshift -accel bt`,
`-accel step` and QEMU TCG, in alternation, N times, and prints the median of the runs. "native" are
the same instructions in a process on the host. "bt/TCG" below 1: we win. The last rows are what the
host kernel takes for what the monitor asks of it. --low: the guest runs at its physical addresses, in
the lower half, as boot code and many small kernels do.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

EXIT_OK = 0x10 * 2 + 1  # what the guest's finish(0x10) becomes
TIMEOUT = 120  # seconds, on a busy machine

MACHINE = ["-m", "128", "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot",
           "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]

# Cycles under VMware's binary translator: Adams and Agesen, A Comparison of Software and Hardware
# Techniques for x86 Virtualization, ASPLOS 2006.
PUBLISHED = {"call_ret": 51, "port_in": 214, "page_fault": 3927, "pte_change": 391}


def engines(args):
    image = os.path.join(args.build, "bench/nano", "nano_low" if args.low else "nano")
    ringshift = os.path.join(args.build, "ringshift")
    guest = MACHINE + ["-kernel", image]
    found = {"bt": [ringshift, "-accel", "bt"] + guest,
             "step": [ringshift, "-accel", "step"] + guest,
             "TCG": [args.qemu, "-accel", "tcg", "-machine", "pc", "-cpu", "max"] + guest,
             "native": [os.path.join(args.build, "bench/nano/native")]}
    return {name: found[name] for name in args.engines.split(",")}


def run(name, command):
    """Row -> cycles of one run."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
    wanted = 0 if name == "native" else EXIT_OK
    text = done.stdout.decode(errors="replace")
    if done.returncode != wanted:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{text}"
                 f"{done.stderr.decode(errors='replace')}")
    lines = text.splitlines()
    if name != "native":  # firmware prints, too
        lines = lines[next(i for i, line in enumerate(lines) if line.endswith("nano")) + 1:]
    return {row: float(cycles) for row, cycles in (line.split() for line in lines)}


def measure(args):
    """Engine -> row -> cycles, one per run."""
    results = {name: {} for name in engines(args)}
    for i in range(args.runs):
        for name, command in engines(args).items():
            print(f"\rrun {i + 1} of {args.runs}: {name}   ", end="", file=sys.stderr, flush=True)
            for row, cycles in run(name, command).items():
                results[name].setdefault(row, []).append(cycles)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def table(results, only):
    medians = {name: {row: statistics.median(c) for row, c in rows.items()}
               for name, rows in results.items()}
    names = list(results)
    rows = list(dict.fromkeys(row for name in names for row in medians[name]))
    print(f"{'cycles per operation':22}" + "".join(f"{name:>11}" for name in names) +
          f"{'bt/TCG':>9}{'bt/native':>11}{'bt spread':>11}{'2006':>7}")
    for row in rows:
        if only and row not in only:
            continue
        values = [medians[name].get(row) for name in names]
        bt = medians.get("bt", {}).get(row)
        runs = results.get("bt", {}).get(row)

        def ratio(other):
            base = medians.get(other, {}).get(row)
            return f"{bt / base:.2f}" if bt is not None and base else ""

        spread = f"{100 * (max(runs) - min(runs)) / bt:.0f} %" if runs else ""
        print(f"{row:22}" + "".join(f"{'' if v is None else format(v, '.2f'):>11}" for v in values) +
              f"{ratio('TCG'):>9}{ratio('native'):>11}{spread:>11}{PUBLISHED.get(row, ''):>7}")


def cpu_model():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")),
                    platform.machine())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--low", action="store_true", help="run in the lower half")
    parser.add_argument("--no-build", action="store_true", help="take the guest as it is")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--engines", default="bt,step,TCG,native", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--rows", help="print only these")
    parser.add_argument("--json", metavar="FILE", help="write all figures to FILE, too")
    args = parser.parse_args()
    if not args.no_build:
        subprocess.run(["cmake", "--build", args.build, "--target", "bench_nano"], check=True,
                       stdout=subprocess.DEVNULL)
    results = measure(args)
    print(f"{cpu_model()}; median of {args.runs} runs, each the median of 15 batches")
    table(results, args.rows and args.rows.split(","))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"cpu": cpu_model(), "runs": args.runs, "cycles": results}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
