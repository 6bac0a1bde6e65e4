"""What the scripts here share: arguments, the engines' command lines, turns and the line that tells
how far they are, programs for the guest.
"""
import argparse
import gzip
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../tests/boot"))
import figures  # noqa: E402
import console  # noqa: E402
from console import Failure  # noqa: E402, F401
from userland import cpio_newc, family  # noqa: E402, F401

LOG_EVERY = 15  # seconds between lines of progress that are no terminal's

# What a guest or an engine says when nothing good will follow.
TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: "

# QEMU's smallest machine; without a PIT Debian's kernel cannot calibrate the TSC.
MICROVM = "microvm,pit=on,pic=on,rtc=on,isa-serial=on"

# The part of a command line that ringshift and QEMU have in common.
SERIAL = ["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]


class Console(console.Console):
    """One that also ends what its program leaves behind: User Mode Linux's helpers outlive it."""

    def close(self):
        super().close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


# --- arguments ---


def parser(doc, engines=None, runs=3, timeout=120):
    """The arguments that all take; those of comparisons if there are engines.

    Being terminated is an exit like others from here on: guests end, files go.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    p = argparse.ArgumentParser(description=doc,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="build directory (default: build)")
    p.add_argument("--guests", default=".cache/guests",
                   help="from scripts/fetch-guests (default: %(default)s)")
    p.add_argument("--runs", type=int, default=runs, help="default: %(default)s")
    p.add_argument("--timeout", type=int, default=timeout, metavar="SECONDS",
                   help="for one run (default: %(default)s)")
    p.add_argument("--cc", default="cc", help="C compiler with a static libc")
    if engines:
        p.add_argument("--qemu", default="qemu-system-x86_64")
        p.add_argument("--engines", default=engines, help="default: %(default)s")
        p.add_argument("--json", metavar="FILE", help="write all figures there, too")
    return p


def chosen(args, found):
    """Those of the command lines that were asked for, in the order asked."""
    names = args.engines.split(",")
    unknown = [name for name in names if name not in found]
    if unknown:
        sys.exit(f"no engine is called {unknown[0]}: {', '.join(found)} are")
    return {name: found[name] for name in names}


# --- engines ---


def ringshift(args, *options):
    return [os.path.join(args.build, "ringshift"), *options]


def qemu(args, accel="tcg", machine="pc", cpu="max"):
    return [args.qemu, "-accel", accel, "-machine", machine, "-cpu", cpu]


def uml(args, memory, *words, console="tty0"):
    """User Mode Linux: a kernel of its own that is a program; the words are its command line. Debian
    has a login prompt on its console if that is ttyS0."""
    line = {"tty0": "con0", "ttyS0": "ssl0"}[console]
    return [os.path.join(args.guests, "linux.uml"), f"mem={memory}", "con=null", "ssl=null",
            f"{line}=fd:0,fd:1", f"console={console}", "panic=-1", *words]


def linux(args, initrd, append, kernel="vmlinuz-cloud"):
    """Options that start a kernel, the same for ringshift and QEMU."""
    return ["-kernel", os.path.join(args.guests, kernel), "-initrd", initrd,
            "-append", f"console=ttyS0 panic=-1 {append}".strip()]


# --- turns ---


class Progress:
    """One line on a terminal that the next one replaces; "" ends it. In a log, one now and then."""

    def __init__(self):
        self.logged = time.monotonic()

    def __call__(self, text):
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif text and time.monotonic() - self.logged > LOG_EVERY:
            self.logged = time.monotonic()
            print(text, file=sys.stderr, flush=True)


progress = Progress()


def turns(what, runs, *lists):
    """(run, item of each list...), the last list changing fastest, with a line of progress."""
    count, started = 0, time.monotonic()
    products = [()]
    for items in lists:
        products = [before + (item,) for before in products for item in items]
    for run in range(runs):
        for items in products:
            done, gone = count / (runs * len(products)), time.monotonic() - started
            left = f", {gone / done - gone:.0f} s left" if count else ""
            progress(f"{what}: run {run + 1} of {runs}, {', '.join(map(str, items))}; "
                     f"{100 * done:.0f} %{left}")
            yield (run, *items)
            count += 1
    progress("")


# --- conversations ---


class Engines:
    """A guest of each engine that waits for rows to be asked for; leaving the `with` ends them.

    So each boots once, and a row is measured under one engine right after the other.
    """

    def __init__(self, commands, ready, timeout, trouble=TROUBLE):
        self.commands, self.ready = commands, ready
        self.timeout, self.trouble = timeout, trouble
        self.running = {}

    def __enter__(self):
        for name, command in self.commands.items():
            progress(f"{name} starts")
            self.running[name] = Console(command, tty=False)
            self.expect(name, self.ready)
        return self

    def __exit__(self, *_):
        for console in self.running.values():
            console.close()

    def expect(self, name, pattern):
        return self.running[name].expect(pattern, self.timeout, self.trouble)

    def ask(self, name, text, answer):
        """Write a line, wait for what matches the answer."""
        self.running[name].send(text.encode() + b"\n")
        return self.expect(name, answer)


# --- programs ---


def compile_static(args, source, program):
    subprocess.run([args.cc, "-O2", "-Wall", "-static", "-o", program, os.path.join(HERE, source)],
                   check=True)


def pack(args, work, source, name, base):
    """Compile a program for host and guest; its path, and a RAM disk: base with it at /name."""
    program, disk = os.path.join(work, name), os.path.join(work, "initrd")
    compile_static(args, source, program)
    with open(program, "rb") as file:
        archive = gzip.compress(cpio_newc([(name, 0o100755, file.read())]), 1)
    with open(disk, "wb") as out, open(os.path.join(args.guests, base), "rb") as first:
        out.write(first.read() + archive)
    return program, disk


# --- the end ---


def finish(args, suite, only=None):
    """What came out: for the reader, and for report.py."""
    figures.print_table(suite, only)
    if args.json:
        suite.write(args.json)
