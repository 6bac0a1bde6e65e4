#!/usr/bin/env python3
"""Feed ringshift what is broken, missing or malicious.

    badinput_test.py path/to/ringshift [--guests .cache/guests] [--sanitized] [GROUP...]

What is refused must be refused with one line on standard error that begins with "ringshift: " and
names the file or option, and with the right status; what is run must end in an orderly way,
whatever it is. Never a death by signal, a sanitizer's report, or more time than TIME_LIMIT.

The same checks are first made with images that are in order: they must run.
"""
import argparse
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import images
from images import EXIT, PT_LOAD, PT_NOTE, STATUS

OK, ERROR, USAGE, TRIPLE_FAULT, UNSUPPORTED, LIMIT = 0, 1, 2, 4, 6, 8
# How a guest that does nonsense may end: on its own, by triple fault, by what the engine lacks, by
# --max-insns, by something it writes to isa-debug-exit; or it halts for ever (under the translator,
# which counts nothing: or goes on for ever), and SIGTERM ends it.
ORDERLY = {OK, TRIPLE_FAULT, UNSUPPORTED, LIMIT, *range(1, 256, 2)}
HALTED = "halted"

TIME_LIMIT = 60  # seconds, on a busy machine, under a sanitizer; usual are 0.03
GUEST = ["-nodefaults", "-display", "none", "-no-reboot", *EXIT]
NOBODY = 65534


def cpu_ticks(pid):
    """State and CPU time of a process, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])
    except OSError:
        return None


def is_asleep(pid):
    """Does it sleep, and use no CPU?"""
    before = cpu_ticks(pid)
    time.sleep(0.3)
    return before and before[0] == "S" and cpu_ticks(pid) == before


class Suite:
    def __init__(self, args, scratch):
        self.ringshift = os.path.abspath(args.ringshift)
        self.guests = args.guests
        self.sanitized = args.sanitized
        self.counts = args.accel == "step"  # the engine that knows --max-insns
        self.guest = ["-accel", args.accel, *GUEST]
        if self.counts:
            self.guest += ["--max-insns", "1000000"]
        self.scratch = scratch
        self.random = random.Random(args.seed)
        self.files = self.checks = self.failures = 0

    def file(self, data, name=None):
        """A file with these bytes; its path."""
        self.files += 1
        path = os.path.join(self.scratch, name or f"file-{self.files % 8}")
        with open(path, "wb") as f:
            f.write(data)
        return path

    # --- running and judging ---

    def run(self, options, **how):
        """(status, stdout, stderr); the status is "time-out" if there is none."""
        how.setdefault("stdin", subprocess.DEVNULL)
        how.setdefault("stdout", subprocess.PIPE)
        how.setdefault("stderr", subprocess.PIPE)
        with subprocess.Popen([self.ringshift, *options], start_new_session=True, **how) as process:
            try:
                out, err = process.communicate(timeout=TIME_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                return "time-out", *process.communicate()
            return process.returncode, out, err and self.without_notes(err)

    def run_or_halt(self, options, **how):
        """As run(); the status is HALTED if it slept until it was told to end, and then did.

        An engine that does not count instructions may also be busy until it is told.
        """
        with tempfile.TemporaryFile() as err, subprocess.Popen(
                [self.ringshift, *options], start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=err, **how) as process:
            status = None
            for _ in range(TIME_LIMIT):
                try:
                    process.wait(1)
                    break
                except subprocess.TimeoutExpired:
                    if is_asleep(process.pid) or not self.counts:
                        status = HALTED
                        process.terminate()
            if process.poll() is None:
                process.kill()
                process.wait()
                status = "time-out"
            elif not status or process.returncode != -signal.SIGTERM:
                status = process.returncode
            err.seek(0)
            return status, b"", self.without_notes(err.read())

    def without_notes(self, err):
        """AddressSanitizer's remark, not a finding, on jumping off an alternate signal stack."""
        if not self.sanitized:
            return err
        return re.sub(rb"==\d+==WARNING: ASan is ignoring requested __asan_handle_no_return.*\n"
                      rb"False positive .*\nFor details .*\n", b"", err)

    @staticmethod
    def without_fallbacks(err):
        """Lines, but for those that say what is done instead of what the host has no means for."""
        return [line for line in err.split("\n") if not line.startswith("ringshift: note: ")]

    def judge(self, name, options, result, wanted, problem):
        """Count a check; report it if there is a problem or the status is not a wanted one."""
        status, out, err = result
        err = (err or b"").decode(errors="replace")
        self.checks += 1
        if not isinstance(status, int) or status < 0:
            problem = f"ended by signal {-status}" if isinstance(status, int) else status
        elif any(s in err for s in ("Sanitizer", "runtime error:", "BUG")):
            problem = "a report of a bug of its own"
        elif status not in wanted:
            problem = f"status {status}, not one of {sorted(wanted)[:6]}"
        if problem:
            self.failures += 1
            print(f"FAILED {name}: {problem}\n  ringshift {' '.join(options)[:400]}\n"
                  f"  status {status}, stderr: {err[-3000:]!r}\n  stdout: {(out or b'')[:200]!r}")

    def refused(self, name, options, mention, status=ERROR, **how):
        """ringshift must say no, in one line that contains mention (a note of a fallback aside)."""
        result = self.run(options, **how)
        lines = self.without_fallbacks((result[2] or b"").decode(errors="replace"))
        problem = None
        if len(lines) != 2 or lines[1]:
            problem = "not exactly one line on stderr"
        elif not lines[0].startswith("ringshift: "):
            problem = "the line does not begin with 'ringshift: '"
        elif mention not in lines[0]:
            problem = f"the line does not say {mention!r}"
        elif any(ord(c) < 32 or ord(c) == 127 for c in lines[0]):
            problem = "the line contains control characters"
        elif len(lines[0]) > 600:
            problem = "the line is very long"
        elif result[1]:
            problem = "output on stdout"
        self.judge(name, options, result, {status}, problem)

    def runs(self, name, options, status=STATUS, **how):
        """It is in order: it must run."""
        result = self.run(options, **how)
        self.judge(name, options, result, {status}, "a message" if result[2] else None)

    def survives(self, name, options, insns=20000, **how):
        """Refused or run, in an orderly way."""
        if self.counts:
            options = [*options, "--max-insns", str(insns)]
        result = self.run_or_halt(options, **how)
        if result[0] == HALTED:
            result = (OK, *result[1:])
        err = (result[2] or b"").decode(errors="replace").strip()
        problem = None
        if err and not err.startswith("ringshift: "):
            problem = "stderr does not begin with 'ringshift: '"
        elif result[0] == ERROR and len(self.without_fallbacks(err)) != 1:
            problem = "not exactly one error on stderr"
        self.judge(name, options, result, ORDERLY | {ERROR}, problem)

    def image_refused(self, name, data, *options, mention=None):
        path = self.file(data)
        self.refused(name, ["-kernel", path, *self.guest, *options], mention or path)

    def image_runs(self, name, data, *options):
        self.runs(name, ["-kernel", self.file(data), *self.guest, *options])

    def image_survives(self, name, data, *options):
        self.survives(name, ["-kernel", self.file(data), *self.guest, *options])


GROUPS = {}


def group(function):
    GROUPS[function.__name__] = function
    return function


# Every kind of image, in order.
def good_images():
    for bits in (32, 64):
        yield f"pvh{bits}", images.pvh(bits)
        yield f"multiboot{bits}", images.multiboot_elf(bits)
    yield "aout", images.multiboot_aout()
    yield "bzimage64", images.bzimage()
    yield "bzimage32", images.bzimage(xloadflags=0)
    for name, pack in images.PACKERS.items():
        yield f"payload-{name}", images.with_payload(pack(images.vmlinux()))


@group
def good(s):
    for name, data in good_images():
        s.image_runs(name, data)
        s.image_runs(f"{name} with an initrd", data, "-initrd", s.file(b"anything", "initrd"))


@group
def engines(s):
    """Nobody asks for an engine: the best there is, and a notice if that is not the translator."""
    path = s.file(images.bzimage())
    options = ["-kernel", path, *GUEST]
    if s.sanitized:
        result = s.run(options)
        note = result[2].decode(errors="replace")
        s.judge("no translator", options, result, {STATUS}, None if
                note.startswith("ringshift: note: -accel step") and note.count("\n") == 1 else
                "not exactly one notice")
        s.refused("-accel bt", [*options, "-accel", "bt"], "-accel bt: this build")
        s.refused("translator's option", [*options, "-bt-no-chain"], "-accel bt: this build")
    else:
        s.runs("default", options)
        s.runs("-accel bt", [*options, "-accel", "bt"])
    s.runs("-accel step", [*options, "-accel", "step"])


# --- the command line ---


@group
def options(s):
    kernel = s.file(images.bzimage(), "kernel")

    def usage(mention, *opts):
        s.refused(" ".join(opts)[:60] or "no options", list(opts), mention, USAGE)

    usage("-kernel")
    usage("-kernel", "-kernel")
    usage("stray", "stray")
    usage("'-'", "-")
    usage("''", "")
    for name in ("-frob", "--frob", "-kernl", "-Kernel", "-kernelx", "---kernel", "-k"):
        usage(name, name, "x")
        usage(name, "-kernel", kernel, name)
        usage(name, "-kernel", kernel, f"{name}=1")
    usage("-nographic", "-kernel", kernel, "-nographic=1")
    for count in ("2", "cpus=4", "1,cores=2", "0", "-1", "x", "", "99999999999999999999",
                  "1,maxcpus=8"):
        usage("-smp", "-kernel", kernel, "-smp", count)
    for size in ("0", "0M", "1K", "1023K", "1048575B", "-1", "12Q", "", "x", "1.5G", "0x", "7T",
                 "1G1", "99999999999999999999", "18446744073709551615", "16777216T", "1G,slots=2",
                 "size=", "maxmem=4G", "1e9", " 1G", "+1G"):
        usage("-m", "-kernel", kernel, "-m", size)
    for option, value in (("-accel", "kvm"), ("-accel", "tcg"), ("-accel", "warp"), ("-accel", ""),
                          ("-cpu", "486"), ("-cpu", "host,+vmx"), ("-machine", "virt"),
                          ("-M", "virt"), ("-machine", "pc,smm=on"), ("-vga", "std"),
                          ("-display", "gtk"), ("-serial", "tcp:name:1"), ("-serial", "file:"),
                          ("-serial", ""), ("-device", "e1000"), ("-device", ""),
                          ("-device", "isa-debug-exit,iobase=0x10000"),
                          ("-device", "isa-debug-exit,iobase=x"),
                          ("-device", "isa-debug-exit,iosize=0"),
                          ("-device", "isa-debug-exit,frob=1"), ("-d", "everything"), ("-d", ""),
                          ("-boot", "d"), ("-monitor", "telnet::1"), ("-qmp", "smoke"),
                          ("-serial", "chardev:x"), ("-mon", "x"), ("-chardev", "null"),
                          ("-chardev", "file,id=f"), ("-uuid", "1"), ("-action", "panic=none"),
                          ("-net", "user"),
                          ("-max-insns", "many"), ("-max-insns", ""), ("-max-insns", "-5"),
                          ("-hda", "disk.img")):
        usage(option, "-kernel", kernel, option, value)
    usage("-stats", "-kernel", kernel, "-stats=xml")
    usage("-serial", "-kernel", kernel, *["-serial", "none"] * 5)
    usage("-serial", "-kernel", kernel, *["-serial", "stdio"] * 2)
    usage("-frob", "-frob" + "\x1b[31m\n\r\t")
    usage("-", "-" + "x" * 100000)
    usage("-m", "-kernel", kernel, "-m", "9" * 100000)
    # With everything it takes, it runs.
    s.runs("options in order", ["--kernel", kernel, "-m", "size=64M", "-smp", "cpus=1", "-accel",
                                "bt", "-cpu", "max", "-M", "microvm,accel=step", "-nographic",
                                "-vga", "none", "-net", "none", *EXIT])


@group
def sizes(s):
    """Of RAM: the least, the most, and beyond what the host may have."""
    s.image_runs("-m 1, a kernel below 1 MiB", images.multiboot_aout(), "-m", "1")
    for name, data in good_images():
        if name != "aout":
            s.image_refused(f"-m 1, {name}", data, "-m", "1")
            s.image_survives(f"-m 1025K, {name}", data, "-m", "1025K")
    path = s.file(images.bzimage())
    for size in ("2G", "3583M", "3584M", "3585M", "4G", "5G", "64G"):
        s.runs(f"-m {size}", ["-kernel", path, *s.guest, "-m", size])
    for size in ("1T", "6T"):
        # The host may not have the address space, or may not let us promise that much.
        s.survives(f"-m {size}", ["-kernel", path, *s.guest, "-m", size])


@group
def cmdline(s):
    """Kernel command lines that are too long."""
    bz = images.bzimage()
    s.image_runs("bzImage, longest", bz, "-append", "x" * 255)
    s.image_refused("bzImage, 1 too long", bz, "-append", "x" * 256)
    s.image_refused("bzImage, far too long", bz, "-append", "x" * 100000)
    old = images.bzimage(version=0x205, xloadflags=0)
    s.image_refused("old bzImage", old, "-append", "x" * 256)
    s.image_survives("bzImage, no limit of its own", images.bzimage(cmdline_size=0xffffffff),
                     "-append", "x" * 100000)
    s.image_runs("PVH, long", images.pvh(), "-append", "x" * 60000)
    s.image_refused("PVH, too long", images.pvh(), "-append", "x" * 100000)
    s.image_runs("multiboot, long", images.multiboot_aout(), "-append", "x" * 100000)
    s.image_survives("multiboot, long, no room", images.multiboot_aout(), "-append", "x" * 130000,
                     "-m", "1")


# --- files that are not what they should be ---


def odd_files(s):
    """(what, path): nothing that can be read as a regular file."""
    yield "missing", os.path.join(s.scratch, "missing")
    yield "empty name", ""
    yield "a directory", s.scratch
    yield "below a file", os.path.join(s.file(b"x", "plain"), "file")
    yield "name too long", os.path.join(s.scratch, "n" * 300)
    yield "path too long", "/n" * 5000
    loop = os.path.join(s.scratch, "loop")
    os.symlink("loop", loop)
    yield "symbolic link to itself", loop
    path = os.path.join(s.scratch, "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        yield "a socket", path
    yield "unreadable memory", "/proc/self/mem"
    yield "no terminal", "/dev/tty"
    yield "nothing", "/dev/null"


@group
def files(s):
    kernel = s.file(images.bzimage(), "kernel")
    module_user = s.file(images.multiboot_elf(), "module-user")
    for what, path in odd_files(s):
        mention = path if len(path) < 200 else path[:100]
        s.refused(f"kernel: {what}", ["-kernel", path, *s.guest], mention)
        s.refused(f"initrd: {what}", ["-kernel", kernel, *s.guest, "-initrd", path], mention)
        if path and what not in ("nothing", "unreadable memory"):  # an empty module is a module
            s.refused(f"module: {what}", ["-kernel", module_user, *s.guest, "-initrd",
                                          f"{kernel} a,{path} b"], mention)
    s.refused("endless kernel", ["-kernel", "/dev/zero", *s.guest], "/dev/zero")
    s.refused("endless initrd", ["-kernel", kernel, *s.guest, "-initrd", "/dev/zero", "-m", "64"],
              "/dev/zero")
    control = s.file(b"", "a\x1b[31m\nname")
    s.refused("control characters in a name", ["-kernel", control, *s.guest], "name")
    s.refused("control characters in a log's name",
              ["-kernel", kernel, *s.guest, "-serial", f"file:{s.scratch}/no\x1b[31m\n/log"],
              "/log")
    for options, mention in ((["-serial", f"file:{s.scratch}/missing/log"], "/missing/log"),
                             (["-serial", f"file:{s.scratch}"], s.scratch),
                             (["-debugcon", f"file:{s.scratch}/missing/log"], "/missing/log"),
                             (["-D", f"{s.scratch}/missing/log", "-d", "int"], "/missing/log")):
        s.refused(options[0], ["-kernel", kernel, *s.guest, *options], mention)
    unreadable(s, kernel)


def unreadable(s, kernel):
    """Mode 0. Root reads it anyhow, so root becomes nobody, with a copy nobody can execute."""
    secret = s.file(images.bzimage(), "secret")
    os.chmod(secret, 0)
    how = {}
    original = s.ringshift
    if os.getuid() == 0:
        how["user"] = NOBODY
        how["group"] = NOBODY
        os.chmod(s.scratch, 0o755)
        os.chmod(os.path.dirname(s.scratch), 0o755)
        s.ringshift = shutil.copy(s.ringshift, os.path.join(s.scratch, "ringshift"))
    s.refused("unreadable kernel", ["-kernel", secret, *s.guest], secret, **how)
    s.refused("unreadable initrd", ["-kernel", kernel, *s.guest, "-initrd", secret], secret, **how)
    s.runs("as anybody", ["-kernel", kernel, *s.guest], **how)
    s.ringshift = original


@group
def initrds(s):
    big = os.path.join(s.scratch, "big")
    for name, data in good_images():
        kernel = s.file(data, f"kernel-{name}")
        multiboot = name.startswith(("multiboot", "aout"))
        for megabytes, options in ((65, ["-m", "64"]), (64, ["-m", "64"]), (63, ["-m", "64"]),
                                   (5 << 10, ["-m", "5G"]), (4 << 20, ["-m", "64"])):
            if megabytes == 63 and name == "aout":
                continue  # all below 1 MiB, so this fits
            with open(big, "wb") as f:
                f.truncate(megabytes << 20)
            s.refused(f"{name}: an initrd of {megabytes} MiB, {options[1]}",
                      ["-kernel", kernel, *s.guest, "-initrd", big, *options], big)
        empty = s.file(b"", "empty")
        if not multiboot:
            s.refused(f"{name}: empty initrd", ["-kernel", kernel, *s.guest, "-initrd", empty],
                      empty)
        junk = s.file(s.random.randbytes(100001), "junk")
        s.runs(f"{name}: an initrd of random bytes", ["-kernel", kernel, *s.guest, "-initrd", junk])
    for limit in (0, 0x1000, 0xfffff, 0x100000):
        s.image_refused(f"initrd_addr_max {limit:#x}", images.bzimage(initrd_addr_max=limit),
                        "-initrd", junk, mention=junk)
    s.image_survives("initrd_addr_max 4G-1", images.bzimage(initrd_addr_max=0xffffffff),
                     "-initrd", junk)


@group
def modules(s):
    kernel = s.file(images.multiboot_elf(), "kernel")
    one = s.file(b"one", "one")

    def with_modules(string):
        return ["-kernel", kernel, *s.guest, "-initrd", string]

    s.runs("64 modules", with_modules(",".join([one] * 64)))
    s.refused("65 modules", with_modules(",".join([one] * 65)), kernel)
    s.refused("a module without a name", with_modules(f"{one},, ,{one}"), one)
    s.refused("a comma in a name", with_modules(f"{one},,x"), f"{one},x")
    s.survives("an empty list", with_modules(""))
    for string in (",", ",,", ",,,", " ", f"{one},", f",{one}", f"{one} ,,,", "  ,  ",
                   f"{one} " + "a" * 90000):
        s.survives(f"modules {string[-40:]!r}", with_modules(string))


# --- kernels ---


@group
def rubbish(s):
    """Kernels that are none."""
    s.image_refused("empty", b"")
    for size in (1, 2, 3, 4, 511, 512, 513, 0x1f1, 0x202, 0x206, 0x264, 0x26c, 1024, 8191, 8192,
                 8193, 70000):
        s.image_refused(f"{size} zeros", bytes(size))
        s.image_refused(f"{size} random bytes", s.random.randbytes(size))
        s.image_refused(f"{size} bytes of text", (b"#!/bin/sh\nexit\n" * 5000)[:size])
    s.image_refused("ELF magic alone", b"\x7fELF")


def lengths(data, interesting=()):
    """At which lengths to cut: all around the headers, then fewer and fewer."""
    wanted = {*range(0, min(len(data), 0x280), 7), *interesting}
    wanted.update(range(max(len(data) - 40, 0), len(data), 3))
    wanted.update(len(data) * i // 60 for i in range(60))
    return sorted(n for n in wanted if 0 <= n < len(data))


@group
def truncated(s):
    for name, data in good_images():
        # bzImages count in units of 16 bytes, the last of which may be partly filled; nothing says
        # how long an a.out image is.
        sure = len(data)
        if name == "aout":
            sure = 32
        elif name.startswith(("bzimage", "payload")):
            sure -= 16
        for length in lengths(data)[::4 if name.startswith("payload") else 1]:
            cut = data[:length]
            if length < sure:
                s.image_refused(f"{name} cut to {length} of {len(data)}", cut)
            else:
                s.image_survives(f"{name} cut to {length} of {len(data)}", cut)


@group
def elves(s):
    """ELF files with wild or overlapping segments."""
    code = images.pad(images.CODE_EXIT, 16)
    for bits in (32, 64):
        top = (1 << bits) - 1
        for kind, make in (("pvh", images.pvh), ("multiboot", images.multiboot_elf)):
            name = f"{kind}{bits}"

            def no(what, *more, **over):
                s.image_refused(f"{name}: {what}", make(bits, more=more, **over))

            def any_end(what, *more, **over):
                s.image_survives(f"{name}: {what}", make(bits, more=more, **over))

            def load(paddr, data=code, **over):
                return (PT_LOAD, paddr, data, over)

            s.image_runs(f"{name}: a second segment", make(bits, more=[load(0x200000)]))
            s.image_runs(f"{name}: empty segments", make(bits, more=[
                load(0x100000, b""), load(0x9fc00, b""), load(top, b"")]))
            no("the same segment twice", load(0x100000))
            no("segments overlap by a byte", load(0x10000f))
            no("a segment around the other", load(0xff000, memsz=0x3000))
            no("beyond RAM", load(0x20000000))
            no("half beyond RAM", load(0x1ffff000, memsz=0x2000))
            no("in the PCI hole", load(0xfee00000))
            no("in the VGA hole", load(0xa0000))
            no("in the ACPI tables", load(0xe0000))
            no("across the VGA hole", load(0x90000, memsz=0x40000))
            no("at the top", load(top - 0xf))
            no("wraps round", load(top - 7))
            no("wraps round to the start", load(0x1000, memsz=top))
            no("enormous", load(0x200000, memsz=top >> 1))
            no("more in the file than in memory", load(0x200000, memsz=8))
            no("beyond the file", load(0x200000, offset=0x10000))
            no("far beyond the file", load(0x200000, offset=top - 0xf))
            no("offset wraps round", load(0x200000, offset=top, filesz=2, memsz=2))
            no("size beyond the file", load(0x200000, filesz=0x10000, memsz=0x10000))
            no("size far beyond the file", load(0x200000, filesz=top, memsz=top))
            no("80 segments", *[load(0x200000 + i * 0x1000) for i in range(80)])
            no("no program headers", phnum=0)
            no("more program headers than file", phnum=1000)
            no("65,534 program headers", phnum=65534)
            no("program headers beyond the file", phoff=0x100000)
            no("program headers far beyond the file", phoff=top - 3)
            no("big endian", data=2)
            no("class 0", elf_class=0)
            no("class 3", elf_class=3)
            no("a relocatable file", type=1)
            no("a core file", type=4)
            no("for ARM", machine=40)
            no("data encoding 0", data=0)
            any_end("the other machine", machine=images.EM_X86_64 if bits == 32 else images.EM_386)
            any_end("a shared object", type=3)
            any_end("size of program headers 0", phentsize=0)
            any_end("size of program headers odd", phentsize=33)
            any_end("size of program headers 0xffff", phentsize=0xffff)
            any_end("program headers counted in a section that is not there", phnum=0xffff)
            any_end("program headers counted in a wild section", phnum=0xffff, shoff=top - 60,
                    shnum=1, shentsize=40 if bits == 32 else 64)
            any_end("program headers in the header", phoff=0)
            any_end("program headers at an odd place", phoff=53)
            any_end("sections beyond the file", shoff=top - 3, shnum=9, shentsize=64, shstrndx=8)
            any_end("sections without end", shoff=16, shnum=0xfeff, shentsize=40)
            any_end("entry in nowhere", entry=0x7000000)
            any_end("entry at the top", entry=0xfffffff0)
            any_end("virtual addresses wrap round", load(0x200000, vaddr=top - 3))
            any_end("a wild type", (0x6fffffff, 0x200000, code, {"offset": top}))
            any_end("program header table overlaps itself", (PT_NOTE, 0, code, {"offset": 0}))
    notes(s)
    s.image_refused("multiboot64: entry above 4 GiB", images.multiboot_elf(64, entry=1 << 32))


def notes(s):
    """PVH notes: what is not understood is no note, and without one there is no PVH."""
    for bits in (32, 64):
        for what, bad in (
                ("another name", images.note(0x100000, name=b"Yen\0")),
                ("another type", images.note(0x100000, kind=17)),
                ("empty", b""),
                ("cut short", images.note(0x100000)[:15]),
                ("cut in the header", images.note(0x100000)[:9]),
                ("name without end", images.note(0x100000, namesz=0xffffffff)),
                ("name of 0xfffffffd bytes", images.note(0x100000, namesz=0xfffffffd)),
                ("description without end", images.note(0x100000, descsz=0xffffffff)),
                ("description of 5 bytes", images.note(0x100000, descsz=5)),
                ("description of 0 bytes", images.note(0x100000, descsz=0)),
                ("nothing but zeros", bytes(100))):
            s.image_refused(f"pvh{bits}: note: {what}", images.pvh(bits, the_note=bad))
        s.image_refused(f"pvh{bits}: entry in no segment",
                        images.pvh(bits, the_note=images.note(0)))
        far = {"offset": 0x1000, "filesz": 20, "memsz": 20}
        s.image_refused(f"pvh{bits}: note beyond the file",
                        images.elf(bits, 0x100000, [(PT_LOAD, 0x100000, images.CODE_EXIT, {}),
                                                    (PT_NOTE, 0, b"", far)]))
        s.image_runs(f"pvh{bits}: after another note",
                     images.pvh(bits, the_note=images.note(1, b"GNU\0", kind=3) +
                                images.note(0x100000)))


@group
def multiboots(s):
    code = images.CODE_EXIT
    aout = images.multiboot_aout
    s.image_runs("the header at the end of its range", aout(header_at=8192 - 32))
    s.image_runs("load_end and bss_end", aout(load_end=0x8100, bss_end=0x9000) + bytes(0x100))
    for what, data in (
            ("wrong checksum", images.multiboot_header(images.AOUT, checksum=1) + bytes(20) + code),
            ("the header beyond its range", aout(header_at=8192)),
            ("the header at an odd place", b"x" + aout()),
            ("the header cut short", images.multiboot_header(images.AOUT)),
            ("the header cut by the file", aout()[:31]),
            ("no address, no ELF", images.multiboot_header() + code),
            ("unknown flags", images.multiboot_header(8) + bytes(20) + code),
            ("all flags", images.multiboot_header(0xffffffff) + bytes(20) + code),
            ("header_addr below load_addr", aout(header=0x7000)),
            ("header_addr far above load_addr", aout(header=0x9000)),
            ("header_addr at the top", aout(header=0xffffffff)),
            ("load_addr 0", aout(load=0)),
            ("load_addr in the VGA hole", aout(load=0xa0000)),
            ("load_addr in the ACPI tables", aout(load=0xf0000)),
            ("load_addr in the PCI hole", aout(load=0xfee00000)),
            ("load_addr beyond RAM", aout(load=0x40000000)),
            ("wraps round", aout(load=0xfffffff0, entry=0x8000)),
            ("load_end_addr below load_addr", aout(load_end=0x7000)),
            ("load_end_addr beyond the file", aout(load_end=0x10000)),
            ("load_end_addr at the top", aout(load_end=0xffffffff)),
            ("bss_end_addr below load_end_addr", aout(bss_end=0x8001)),
            ("bss_end_addr at the top", aout(bss_end=0xffffffff)),
            ("bss_end_addr across the VGA hole", aout(bss_end=0xb0000))):
        if what == "load_addr 0":
            s.image_survives(what, data)
        else:
            s.image_refused(what, data)
    s.image_survives("ELF and kludge at once",
                     images.elf(32, 0x100000, [(PT_LOAD, 0x100000, images.pad(code, 16), {})],
                                prefix=images.pad(images.multiboot_header(
                                    images.AOUT, addresses=(1, 2, 3, 4, 5)), 16)))
    for entry in (0, 0x7fff, 0x9fc00, 0xa0000, 0xfffff, 0xfee00000, 0xffffffff):
        s.image_survives(f"entry at {entry:#x}", aout(entry=entry))


@group
def bzimages(s):
    """Header fields that lie."""
    bz, payload = images.bzimage, images.PACKERS["gzip"](images.vmlinux())
    for what, data in (
            ("protocol 2.01", bz(version=0x201)),
            ("protocol 0", bz(version=0)),
            ("a zImage", bz(loadflags=0)),
            ("no boot flag", bz(boot_flag=0)),
            ("no magic", bz(magic=b"HdrX")),
            ("all setup code", bz(setup_sects=1)[:1024]),
            ("setup code without end", bz()[:0x1f1] + b"\xff" + bz()[0x1f2:]),
            ("longer than the file", bz(syssize=0x100)),
            ("as long as can be", bz(syssize=0xffffffff)),
            ("needs more than RAM", bz(init_size=0x20000000)),
            ("needs all there can be", bz(init_size=0xffffffff)),
            ("belongs beyond RAM", bz(pref_address=0x40000000)),
            ("belongs above 4 GiB", bz(pref_address=0x100000000)),
            ("belongs at the top", bz(pref_address=0xfffffffffffff000)),
            ("belongs in the VGA hole", bz(pref_address=0xa0000)),
            ("not relocatable, beyond RAM", bz(relocatable=0, code32_start=0xf0000000)),
            ("payload beyond the file", images.with_payload(payload, payload_offset=0x10000)),
            ("payload ends beyond the file", images.with_payload(payload, payload_length=0x10000)),
            ("payload at the top", images.with_payload(payload, payload_offset=0xffffffff)),
            ("payload without end", images.with_payload(payload, payload_length=0xffffffff)),
            ("payload of 1 byte", images.with_payload(payload, payload_length=1)),
            ("payload of 4 bytes", images.with_payload(payload, payload_length=4)),
            ("payload is code", images.with_payload(payload, payload_offset=0)),
            ("payload needs beyond RAM", images.with_payload(payload, init_size=0x20000000))):
        s.image_refused(what, data)
    for what, data in (
            ("setup_sects 0", bz(setup_sects=0) + bytes(4096)),
            ("setup_sects 255", bz() + bytes(200000)),
            ("a header of 0 bytes", bz(jump=0)),
            ("a header of 255 bytes", bz(jump=255)),
            ("protocol 0xffff", bz(version=0xffff)),
            ("init_size 0", bz(init_size=0)),
            ("syssize 0", bz(syssize=0)),
            ("belongs at 0", bz(pref_address=0)),
            ("belongs at an odd address", bz(pref_address=0x100001)),
            ("at 0x8000", bz(relocatable=0, code32_start=0x8000)),
            ("where boot_params go", bz(relocatable=0, code32_start=0x10000)),
            ("64-bit entry beyond the file", bz(images.CODE_EXIT)),
            ("cmdline_size 0", bz(cmdline_size=0))):
        s.image_survives(what, data)
    s.image_refused("cmdline_size 0, a command line", bz(cmdline_size=0), "-append", "x")
    s.image_runs("-boot stub ignores the payload", images.bzimage(
        images.pad(images.CODE_EXIT, 512) + images.CODE_EXIT, payload_offset=0x10000,
        payload_length=0x10000), "-boot", "stub")


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@group
def payloads(s):
    """What is in a bzImage is not a kernel, or damaged, or lies about its size."""
    kernel = images.vmlinux(code=images.CODE_EXIT + s.random.randbytes(3000))
    for name, pack in images.PACKERS.items():
        packed = pack(kernel)
        s.image_runs(f"{name}: in order", images.with_payload(packed))
        for length in lengths(packed, (len(packed) - 4, len(packed) - 5))[1::3]:  # 0: no payload
            s.image_refused(f"{name} cut to {length} of {len(packed)}",
                            images.with_payload(packed[:length]))
        for bit in s.random.sample(range(32, len(packed) * 8), 25):
            # gzip's header is not covered by its checksum, the others have none, or it is optional.
            check = s.image_refused if name == "xz" or name == "gzip" and bit >= 80 else \
                s.image_survives
            check(f"{name}: bit {bit} flipped", images.with_payload(flipped(packed, bit)))
        for size in (0, 1, len(kernel) - 1, len(kernel) + 1, 1 << 28, 1 << 29, 0x7fffffff,
                     0xffffffff):
            if name != "none":
                s.image_refused(f"{name}: says it is {size} bytes", images.with_payload(
                    packed[:-4] + struct.pack("<I", size)))
        s.image_refused(f"{name}: random inside",
                        images.with_payload(pack(s.random.randbytes(3000))))
        if name != "none":
            s.image_refused(f"{name}: nothing inside", images.with_payload(pack(b"")))
        s.image_refused(f"{name}: half a kernel inside", images.with_payload(pack(kernel[:100])))
    for what, magic in (("bzip2", b"BZh9"), ("lzo", b"\x89LZO"), ("nothing known", b"frob")):
        s.image_refused(f"packed with {what}", images.with_payload(magic + bytes(100)))
    # Zeros unpack to a thousand times their size: what counts is RAM.
    bomb = images.PACKERS["gzip"](bytes(80 << 20))
    s.image_refused("a bomb, little RAM", images.with_payload(bomb), "-m", "64")
    s.image_refused("a bomb", images.with_payload(bomb))
    zeros = (PT_LOAD, 0x1000000, bytes(16), {})
    for what, inside in (
            ("a 32-bit kernel inside", images.elf(32, 0x1000000, [zeros])),
            ("linked above 4 GiB", images.vmlinux(at=1 << 32)),
            ("entry in nowhere", images.vmlinux(entry=0x5000000)),
            ("segments overlap", images.elf(64, 0x1000000, [zeros, zeros])),
            ("beyond RAM", images.vmlinux(at=0x30000000)),
            ("larger than RAM", images.elf(64, 0x1000000, [
                (PT_LOAD, 0x1000000, bytes(16), {"memsz": 1 << 62})])),
            ("another bzImage inside", images.bzimage())):
        for name in ("gzip", "none"):
            s.image_refused(f"{name}: {what}",
                            images.with_payload(images.PACKERS[name](inside)))


# --- what a guest may do ---


@group
def code(s):
    """Guests that run random bytes."""
    for i in range(60):
        wild = s.random.randbytes(4096)
        s.image_survives(f"random code {i}, 64 bits", images.bzimage(bytes(512) + wild))
        s.image_survives(f"random code {i}, 32 bits", images.multiboot_aout(code=wild))
    for value in (0, 0xff, 0xcc, 0xf1, 0x0f, 0x66, 0xf0, 0xf3, 0x2e, 0xcd, 0xf4):
        wild = bytes([value]) * 100000
        s.image_survives(f"only {value:#04x}, 64 bits", images.bzimage(wild))
        s.image_survives(f"only {value:#04x}, 32 bits", images.multiboot_aout(code=wild))


@group
def fuzz(s):
    """Images in order but for a few bytes."""
    for name, data in good_images():
        header = min(len(data), 0x280)
        for i in range(40):
            changed = bytearray(data)
            for _ in range(s.random.randint(1, 4)):
                at = s.random.randrange(header if i % 4 else len(data))
                changed[at] = s.random.choice((0, 1, 0x7f, 0x80, 0xff, s.random.randrange(256)))
            s.image_survives(f"{name}, mutation {i}", bytes(changed), "-append", "console=ttyS0")


# --- what the host may do ---


@group
def output(s):
    """Output that nobody takes."""
    kernel = s.file(images.bzimage(images.pad(images.CODE_SHOUT, 512) + images.CODE_SHOUT), "shout")
    options = ["-kernel", kernel, "-nodefaults", "-serial", "stdio"]
    gone = "cannot write to standard output"

    def closed_pipe(**kinds):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return {"stdout": writer, **kinds}, writer
        except OSError:
            os.close(writer)
            raise

    for what, serial in (("stdio", ["-serial", "stdio"]), ("mon:stdio", ["-serial", "mon:stdio"]),
                         ("-nographic", ["-nographic"])):
        how, writer = closed_pipe()
        start = ["-kernel", kernel] + (serial if what == "-nographic" else ["-nodefaults", *serial])
        s.refused(f"{what} to a closed pipe", start, gone, **how)
        os.close(writer)
    head = subprocess.Popen(["head", "-c", "100"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    s.refused("| head -c 100", options, gone, stdout=head.stdin)
    head.stdin.close()
    s.checks += 1
    if head.stdout.read() != b"A" * 100:
        s.failures += 1
        print("FAILED | head -c 100: head has not read 100 letters")
    head.stdout.close()
    head.wait()

    with open("/dev/full", "wb") as full:
        s.refused("stdout is a full disk", options, gone, stdout=full)
    s.refused("stdout closed", options, gone, preexec_fn=lambda: os.close(1))
    s.refused("stdin and stdout closed", options, gone,
              preexec_fn=lambda: (os.close(0), os.close(1)))
    s.refused("-serial file on a full disk", ["-kernel", kernel, "-serial", "file:/dev/full"],
              "/dev/full")
    result = s.run(options, preexec_fn=lambda: (os.close(0), os.close(1), os.close(2)))
    s.judge("all closed", options, result, {ERROR}, None)
    how, writer = closed_pipe()
    result = s.run(options, stdout=writer, stderr=writer)
    os.close(writer)
    s.judge("stdout and stderr closed pipes", options, result, {ERROR}, None)

    # Messages and statuses do not depend on stderr.
    for what, wanted, opts in (("a usage error", USAGE, ["-frob"]),
                               ("an error", ERROR, ["-kernel", "/missing"]),
                               ("the end of a guest", STATUS,
                                ["-kernel", s.file(images.bzimage()), *s.guest, "--stats"])):
        how, writer = closed_pipe()
        result = s.run(opts, stderr=writer)
        s.judge(f"stderr a closed pipe, {what}", opts, result, {wanted}, None)
        os.close(writer)
        result = s.run(opts, preexec_fn=lambda: os.close(2))
        s.judge(f"stderr closed, {what}", opts, result, {wanted}, None)

    # Whoever reads slowly, or never, can still end it.
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        reader, writer = os.pipe()
        with subprocess.Popen([s.ringshift, *options], stdin=subprocess.DEVNULL, stdout=writer,
                              stderr=subprocess.PIPE, start_new_session=True) as process:
            try:
                process.wait(1)  # long enough to fill the pipe
                problem = "ended by itself"
            except subprocess.TimeoutExpired:
                process.send_signal(sig)
                try:
                    process.wait(TIME_LIMIT)
                    problem = None if process.returncode == -sig else \
                        f"status {process.returncode}"
                except subprocess.TimeoutExpired:
                    process.kill()
                    problem = "time-out"
            s.judge(f"{sig.name} while output blocks", options, (0, b"", process.stderr.read()),
                    {0}, problem)
        os.close(reader)
        os.close(writer)


@group
def host(s):
    """Limits of the host."""
    kernel = s.file(images.bzimage(), "kernel")
    options = ["-kernel", kernel, *s.guest]

    def limited(kind, value):
        return {"preexec_fn": lambda: resource.setrlimit(kind, (value, value))}

    for number in range(6 if s.sanitized else 3, 12):  # a sanitizer brings libraries to open
        s.survives(f"{number} descriptors", options, **limited(resource.RLIMIT_NOFILE, number))
    s.survives("files of 1 MiB at most", options, **limited(resource.RLIMIT_FSIZE, 1 << 20))
    s.survives("no locked memory", options, **limited(resource.RLIMIT_MEMLOCK, 0))
    if s.sanitized:
        return
    for megabytes in (20, 50, 100, 300, 600, 1000, 2000, 100000):
        s.survives(f"{megabytes} MiB of address space", options,
                   **limited(resource.RLIMIT_AS, megabytes << 20))
    for megabytes in (2, 5, 10, 100):  # with less, libc does not get as far as main
        s.survives(f"{megabytes} MiB of data", options,
                   **limited(resource.RLIMIT_DATA, megabytes << 20))
    s.survives("no core files, no stack to speak of", options,
               **limited(resource.RLIMIT_STACK, 64 << 10))


@group
def kernels(s):
    """Real kernels, damaged; only if scripts/fetch-guests has been run."""
    for name in ("vmlinuz-cloud", "vmlinuz-amd64", "memtest64.bin"):
        path = os.path.join(s.guests, name)
        if not os.path.exists(path):
            print(f"no {path}")
            continue
        with open(path, "rb") as f:
            data = f.read()
        s.survives(f"{name} in order", ["-kernel", path, *s.guest])
        for i in range(12):
            length = s.random.randrange(0x300, len(data) - 4096)
            s.image_refused(f"{name} cut to {length} of {len(data)}", data[:length])
            bit = s.random.randrange(len(data) // 20, len(data) - 20000) * 8
            s.image_survives(f"{name}, bit {bit} flipped", flipped(data, bit))
        if name != "memtest64.bin":
            middle = len(data) // 2
            s.image_refused(f"{name} with a hole",
                            data[:middle] + bytes(65536) + data[middle + 65536:])
        s.survives(f"{name}, 32 MiB", ["-kernel", path, *s.guest, "-m", "32"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ringshift")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--sanitized", action="store_true",
                        help="the program has a sanitizer in it")
    parser.add_argument("--accel", default="step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the files, and say where")
    parser.add_argument("group", nargs="*", help="all of: " + ", ".join(GROUPS))
    args = parser.parse_intermixed_args()
    for name in args.group:
        if name not in GROUPS:
            parser.error(f"no group is called {name}")

    failures = 0
    scratch = tempfile.mkdtemp(prefix="badinput-")
    try:
        for name in args.group or GROUPS:
            suite = Suite(args, tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
            GROUPS[name](suite)
            print(f"{name}: {suite.checks} checks, {suite.failures} failures", flush=True)
            failures += suite.failures
    finally:
        if args.keep:
            print(scratch)
        else:
            shutil.rmtree(scratch)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
