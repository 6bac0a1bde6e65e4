#!/usr/bin/env python3
"""What people do on a machine: a Debian on a disk under ringshift, QEMU TCG, UML, and on the host.

    bench/macro.py [--build build] [--guests .cache/guests] [--runs N] [--engines bt,tcg,uml,host]
                   [--rows NAMES] [--json FILE]

The rows are those of bench/macro_rows.sh, the first process of a Debian that scripts/mkdisk --name
bench made; every engine gets the same disk (a throw-away overlay on it) and kernel, except UML, which
is a kernel of its own. Seconds of wall time, measured outside; for each engine the median of N runs,
taken in turn, then ringshift's share of TCG's time. "host" runs the same programs from the same tree
in a chroot, which only root can. With both it and ringshift the table says how much of the host's
speed ringshift has: `--rows shell,sha256 --engines bt,host` for what is not to lose any.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from console import Console, Failure  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = {"devices": r"\.(c|h|def)$", "include": r"\.(h|def)$",  # what the guest compiles
           "devices/disk": r"\.h$"}
TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: |FAILED [^\n]*\n[^\n]*"


def put(image, commands):
    """Change the file system in an image: lines for debugfs."""
    done = subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", image], input="\n".join(commands),
                          capture_output=True, text=True, check=True)
    errors = [line for line in done.stderr.splitlines()[1:] if line.strip()]
    if errors:
        sys.exit(f"debugfs: {errors[0]}")


def prepare(args, work):
    """A copy of the image with our program and the sources to compile in it."""
    image = os.path.join(work, "disk.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto",
                    os.path.join(args.guests, "bench.img"), image], check=True)
    commands = ["mkdir bench", "mkdir bench/src", "mkdir bench/work", "cd bench",
                f"write {HERE}/macro_rows.sh run", "set_inode_field run mode 0100755", "cd src"]
    for folder, names in SOURCES.items():
        path = os.path.join(HERE, "..", folder)
        commands += [f"write {path}/{name} {name}" for name in sorted(os.listdir(path))
                     if re.search(names, name)]
    commands.append(f"write {args.build}/aml/aml.h aml.h")  # generated
    put(image, commands)
    return image


def tree(image, work):
    """The same tree as a directory."""
    root = os.path.join(work, "root")
    os.mkdir(root)
    subprocess.run(["debugfs", "-R", f"rdump / {root}", image], check=True, capture_output=True)
    return root


def commands(args, image, work):
    """Engine -> command line, or a function that gives one."""
    kernel = ["-kernel", os.path.join(args.guests, "bench-vmlinuz"),
              "-initrd", os.path.join(args.guests, "bench-initrd")]
    append = f"root=/dev/vda rw console=ttyS0 panic=-1 quiet init=/bench/run rows={args.rows}"
    machine = ["-m", args.memory, "-append", append, "-nodefaults", "-nographic", "-serial",
               "stdio", "-no-reboot", "-snapshot", "-drive", f"file={image},format=raw,if=virtio"]
    cow = os.path.join(work, "cow")
    found = {"bt": [os.path.join(args.build, "ringshift")] + kernel + machine,
             "tcg": [args.qemu, "-accel", "tcg", "-cpu", "max"] + kernel + machine,
             "uml": [os.path.join(args.guests, "linux.uml"), f"mem={args.memory}",
                     f"ubd0={cow},{image}", "root=/dev/ubda", "rw", "con=null", "con0=fd:0,fd:1",
                     "console=tty0", "panic=-1", "quiet", "init=/bench/run", f"rows={args.rows}"]}
    chosen = args.engines.split(",")
    if "host" in chosen and os.getuid() == 0:
        found["host"] = ["env", f"rows={args.rows}", "unshare", "-m", "sh", "-c", 'mount --bind /dev "$0/dev" && '
                         'mount -t tmpfs tmpfs "$0/bench/work" && exec chroot "$0" /bench/run host',
                         tree(image, work)]
    return {name: found[name] for name in chosen if name in found}


def run(command, args, work):
    """One run: row -> seconds."""
    cow = os.path.join(work, "cow")
    if os.path.exists(cow):
        os.unlink(cow)
    rows = {}
    with Console(command, tty=False) as con:
        started = con.started
        con.expect(rb"READY", args.timeout, TROUBLE)
        rows["start to the first row"] = time.monotonic() - started
        while True:
            begin = con.expect(rb"BEGIN ([^\r\n]+)\r?\n|(ROWS END)", args.timeout, TROUBLE)
            if begin[2]:
                return rows
            started = time.monotonic()
            con.expect(rb"END " + re.escape(begin[1]), args.timeout, TROUBLE)
            rows[begin[1].decode()] = time.monotonic() - started


def measure(args, work):
    results = {}
    engines = commands(args, prepare(args, work), work)
    for i in range(args.runs):
        for name, command in engines.items():
            print(f"\rrun {i + 1} of {args.runs}: {name}   ", end="", file=sys.stderr, flush=True)
            results.setdefault(name, []).append(run(command, args, work))
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def table(results):
    names = list(results)
    shares = [(a, b) for a, b in (("bt", "tcg"), ("host", "bt")) if {a, b} <= set(names)]
    print(f"{'seconds':40}" + "".join(f"{name:>10}" for name in names) +
          "".join(f"{a + '/' + b:>10}" for a, b in shares))
    for row in results[names[0]][0]:
        times = {name: statistics.median(run[row] for run in results[name])
                 for name in names if row in results[name][0]}
        print(f"{row:40}" + "".join(f"{times[name]:10.2f}" if name in times else f"{'':10}"
                                    for name in names) +
              "".join(f"{times[a] / times[b]:10.2f}" for a, b in shares
                      if a in times and b in times))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--guests", default=".cache/guests",
                        help="from scripts/fetch-guests and mkdisk (default: %(default)s)")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--memory", default="1024M", help="of the guests (default: %(default)s)")
    parser.add_argument("--engines", default="bt,tcg,uml,host", help="default: %(default)s")
    parser.add_argument("--rows", default="", metavar="NAMES",
                        help="beginnings of their names, separated by commas (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write all runs there")
    parser.add_argument("--timeout", type=int, default=600, metavar="SECONDS",
                        help="for one row (default: %(default)s)")
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="ringshift-macro-")
    try:
        results = measure(args, work)
        table(results)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as out:
                json.dump(results, out, indent=1)
    except Failure as failure:
        sys.exit(str(failure))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
