#!/usr/bin/env python3
"""What people do on a machine: a Debian on a disk under ringshift, QEMU TCG, UML, and on the host.

    bench/macro.py [--build build] [--guests .cache/guests] [--runs N] [--engines bt,tcg,uml,host]
                   [--json FILE]

The rows are those of bench/macro_rows.sh, the first process of a Debian that scripts/mkdisk --name
bench made; every engine gets the same disk (a throw-away overlay on it) and kernel, except UML, which
is a kernel of its own. Seconds of wall time, measured outside; for each engine the median of N runs,
taken in turn, then ringshift's share of TCG's time. "host" runs the same programs from the same tree
in a chroot, which only root can.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import harness
from figures import Suite
from harness import Console, Failure, HERE

SOURCES = ["devices", "include"]  # what the guest compiles
TROUBLE = harness.TROUBLE + rb"|FAILED [^\n]*\n[^\n]*"


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
    for folder in SOURCES:
        path = os.path.join(HERE, "..", folder)
        commands += [f"write {path}/{name} {name}" for name in sorted(os.listdir(path))
                     if re.search(r"\.(c|h|def)$", name)]
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
    """Engine -> command line."""
    guest = harness.linux(args, os.path.join(args.guests, "bench-initrd"),
                          "root=/dev/vda rw quiet init=/bench/run", "bench-vmlinuz")
    guest += harness.SERIAL + ["-m", args.memory, "-snapshot",
                               "-drive", f"file={image},format=raw,if=virtio"]
    cow = os.path.join(work, "cow")
    found = {"bt": harness.ringshift(args) + guest,
             "tcg": harness.qemu(args) + guest,
             "uml": harness.uml(args, args.memory, f"ubd0={cow},{image}", "root=/dev/ubda", "rw",
                                "quiet", "init=/bench/run"),
             "host": None}
    engines = harness.chosen(args, found)
    if "host" in engines and os.getuid() != 0:
        del engines["host"]
    elif "host" in engines:
        engines["host"] = ["unshare", "-m", "sh", "-c", 'mount --bind /dev "$0/dev" && '
                           'mount -t tmpfs tmpfs "$0/bench/work" && exec chroot "$0" /bench/run host',
                           tree(image, work)]
    return engines


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
            begin = con.expect(rb"BEGIN ([^\r\n]+)|(ROWS END)", args.timeout, TROUBLE)
            if begin[2]:
                return rows
            started = time.monotonic()
            con.expect(rb"END " + re.escape(begin[1]), args.timeout, TROUBLE)
            rows[begin[1].decode()] = time.monotonic() - started


def measure(args, work):
    suite = Suite("A Debian at work", "tcg")
    engines = commands(args, prepare(args, work), work)
    for _, name in harness.turns("macro", args.runs, list(engines)):
        for row, seconds in run(engines[name], args, work).items():
            suite.add(name, row, seconds, "s")
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg,uml,host", timeout=600)
    parser.add_argument("--memory", default="1024M", help="of the guests (default: %(default)s)")
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="ringshift-macro-")
    try:
        harness.finish(args, measure(args, work))
    except Failure as failure:
        sys.exit(str(failure))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
