#!/usr/bin/env python3
"""What people do on a machine: a Debian on a disk under ringshift, QEMU TCG, UML, and on the host.

    bench/macro.py [--build build] [--guests .cache/guests] [--runs N] [--engines bt,tcg,uml,host]
                   [--json FILE]

First boots to the login prompt; then the rows of bench/macro_rows.sh, the first process of a Debian
that scripts/mkdisk --name bench made. A guest of each engine runs all the time, and a row is measured
in one after the other. Every engine gets the same disk (a throw-away overlay on it) and kernel, except
UML, which is a kernel of its own. Seconds of wall time, measured outside; for each engine the median
of N runs, then ringshift's share of TCG's time. "host" runs the same programs from the same tree
in a chroot, which only root can.
"""
import contextlib
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

SOURCES = ["devices", "devices/disk", "include"]  # what the guest compiles: .c of the first
DISK_ROWS = ("write", "cold", "cached")  # none on the host: its disk is another
ROWS = {"loop": "shell loop, 300,000 rounds",
        "sha256": "sha256 of 100 MB",
        "hash": "hash 500 MiB of memory",
        "aes": "aes-256-ctr of 100 MB",
        "gcc": "gcc -O2, a program of many files",
        "python": "python3, 5 starts",
        "sqlite": "sqlite, 50,000 rows and 200 commits",
        "true": "sh, 200 x /bin/true",
        "walk": "find and tar over /usr",
        "write": "write 256 MiB to the disk, fsync",
        "cold": "read them, cold",
        "cached": "read them, twice, cached"}
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
                     if re.search(r"\.(h|def)$" if folder != SOURCES[0] else r"\.(c|h|def)$", name)]
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
    """Engine -> command line: to the login prompt, and to the rows."""
    def found(rows):
        init = ["init=/bench/run"] if rows else []
        guest = harness.linux(args, os.path.join(args.guests, "bench-initrd"),
                              " ".join(["root=/dev/vda rw quiet", *init]), "bench-vmlinuz")
        guest += harness.SERIAL + ["-m", args.memory, "-snapshot",
                                   "-drive", f"file={image},format=raw,if=virtio"]
        cow = os.path.join(work, "cow-rows" if rows else "cow")
        engines = {"bt": harness.ringshift(args) + guest,
                   "tcg": harness.qemu(args) + guest,
                   "uml": harness.uml(args, args.memory, f"ubd0={cow},{image}", "root=/dev/ubda",
                                      "rw", "quiet", *init, console="tty0" if rows else "ttyS0"),
                   "host": None}
        return harness.chosen(args, engines)

    login, rows = found(False), found(True)
    login.pop("host", None)
    if "host" in rows and os.getuid() != 0:
        del rows["host"]
    elif "host" in rows:
        rows["host"] = ["unshare", "-m", "sh", "-c", 'mount --bind /dev "$0/dev" && '
                        'mount -t tmpfs tmpfs "$0/bench/work" && exec chroot "$0" /bench/run host',
                        tree(image, work)]
    return login, rows


def seconds(args, row, engines, name):
    console = engines.running[name]
    engines.ask(name, row, rb"BEGIN")
    started = time.monotonic()
    console.expect(rb"^END", args.timeout, TROUBLE)
    return time.monotonic() - started


def measure(args, work):
    suite = Suite("A Debian at work", "tcg")
    login, rows = commands(args, prepare(args, work), work)
    if "login" in args.rows:
        for _, name in harness.turns("macro: to login", args.runs, list(login)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(work, "cow"))  # what the last UML wrote
            with Console(login[name], tty=False) as con:
                con.expect(rb"login: ", args.timeout, harness.TROUBLE)
                suite.add(name, "from the start to login:", time.monotonic() - con.started, "s")
    wanted = [row for row, name in ROWS.items()
              if row in args.rows or any(map(name.startswith, args.rows))]
    with harness.Engines(rows, rb"READY", args.timeout, TROUBLE) as engines:
        for _, row, name in harness.turns("macro", args.runs, wanted, list(rows)):
            if name != "host" or row not in DISK_ROWS:
                suite.add(name, ROWS[row], seconds(args, row, engines, name), "s")
    if "host" in args.engines.split(",") and "host" not in rows:
        suite.note("host: no figures, because chroot wants root")
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg,uml,host", timeout=600)
    parser.add_argument("--memory", default="1024M", help="of the guests (default: %(default)s)")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=["login", *ROWS],
                        metavar="NAME,...", help="of " + ", ".join(["login", *ROWS]) +
                        "; or how their names begin")
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
