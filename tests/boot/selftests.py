#!/usr/bin/env python3
"""Linux's x86 selftests in a guest, under ringshift and QEMU, side by side (scripts/selftests builds
them and calls this).

A number is the exit status of a test: 0 passed, 4 skipped, 128 + n killed by a signal (137: also because
it had not finished in two minutes). Status 0: all pass or are skipped under ringshift but for those in
EXPECTED.
"""
import argparse
import os
import re
import sys
import tempfile

import boot_test
from console import Console, Failure
import userland

SECONDS = 120
HUNG = "hangs"  # the whole guest
SKIPPED = 4

# What may be other than 0 or "skipped" under ringshift.
EXPECTED = {"amx_64": 1}
# Why a test does not pass, there or under QEMU 7.2.
WHY = {
    "amx_64": "no AMX",
    "mov_ss_trap_64": "TCG delivers the #DB that MOV SS holds back at once, not after SYSCALL; RSP is bad "
                      "then, so the signal kills",
    "sigreturn_32": "IRET to an outer ring makes a null selector 0, under TCG it stays 3",
    "sysret_ss_attrs_64": "TCG reads the stack of a far return from ring 3 as the kernel would: SMAP (passes "
                          "with -cpu smap=off)",
    "test_syscall_vdso_32": "as sysret_ss_attrs_64",
}


def image(guests, selftests, destination):
    """The test initramfs with the programs in /selftests, and their libraries."""
    files = {"selftests": (0o40755, b"")}
    names = sorted(os.listdir(os.path.join(selftests, "programs")))
    for name in names:
        with open(os.path.join(selftests, "programs", name), "rb") as f:
            files[f"selftests/{name}"] = (0o100755, f.read())
    for folder, _, inside in os.walk(os.path.join(selftests, "lib")):
        below = os.path.relpath(folder, os.path.join(selftests, "lib"))
        if below != ".":
            files[below] = (0o40755, b"")
        for name in inside:
            with open(os.path.join(folder, name), "rb") as f:
                files[os.path.join(below, name)] = (0o100755, f.read())
    with open(os.path.join(guests, "initramfs.gz"), "rb") as f, open(destination, "wb") as out:
        out.write(f.read() + userland.gzip.compress(
            userland.cpio_newc([(path, *what) for path, what in files.items()]), 1))
    return names


def run_some(setup, initrd, names, status, logs):
    """Run tests until one hangs the guest. status: {test: exit status}; logs: a folder for what they
    print."""
    engine = os.path.basename(logs)
    options = setup.linux("vmlinuz-cloud", "panic=-1", "1G", initrd=None)
    with Console(setup.command("-nographic", "-no-reboot", *options, "-initrd", initrd)) as con:
        sh = boot_test.Shell(con)
        sh.run("mkdir -p /tmp; cd /selftests")
        for name in names:
            try:
                text = sh.run(f"timeout -s KILL {SECONDS} ./{name} >/tmp/out 2>&1; rc=$?; "
                              "cat /tmp/out; echo; echo status=$rc", SECONDS + 60)
                status[name] = int(re.search(r"status=(\d+)\s*\Z", text)[1])
            except Failure as failure:
                text, status[name] = str(failure), HUNG
            with open(os.path.join(logs, name), "w", encoding="utf-8") as f:
                f.write(text)
            print(f"{engine}: {name}: {status[name]}", file=sys.stderr, flush=True)
            if status[name] == HUNG:
                return
        dmesg = sh.run("dmesg")
        with open(os.path.join(logs, "dmesg"), "w", encoding="utf-8") as f:
            f.write(dmesg)
        found = re.findall(f"^.*(?:{boot_test.COMPLAINTS}).*$", dmesg, re.MULTILINE)
        if found:
            print(f"{engine}: the guest's log: {found}", file=sys.stderr)
        sh.power_off()


def run(setup, initrd, names, logs):
    """{test: exit status} of one emulator."""
    status = {}
    while len(status) < len(names):
        run_some(setup, initrd, [n for n in names if n not in status], status, logs)
    return status


def table(results):
    """Lines of a table in Markdown; how many results of ringshift's nobody expects."""
    engines = list(results)
    lines = [f"| test | {' | '.join(engines)} | why |", "|---" * (len(engines) + 2) + "|"]
    bad = 0
    for name in next(iter(results.values())):
        got = [results[engine][name] for engine in engines]
        why = WHY.get(name, "") if any(g not in (0, SKIPPED) for g in got) else ""
        if got[0] not in (0, SKIPPED, EXPECTED.get(name)):
            bad += 1
            why = "**not expected**"
        lines.append(f"| {name} | {' | '.join(map(str, got))} | {why} |")
    return lines, bad


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ringshift", required=True)
    parser.add_argument("--guests", required=True)
    parser.add_argument("--selftests", required=True)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--accel", default="bt")
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", help="the table also to this file")
    parser.add_argument("--logs", help="what the tests printed: folders in this one")
    args = parser.parse_args()
    args.extra, ours, qemu = [], args.ringshift, args.qemu
    engines = {"ringshift": None} if args.no_qemu else {"ringshift": None, "QEMU TCG": qemu}
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        initrd = os.path.join(scratch, "initrd")
        names = [n for n in image(args.guests, args.selftests, initrd) if re.search(args.only, n)]
        for engine, args.qemu in engines.items():
            args.ringshift = ours
            logs = os.path.join(args.logs or scratch, engine.split()[0].lower())
            os.makedirs(logs, exist_ok=True)
            try:
                results[engine] = run(boot_test.Setup(args), initrd, names, logs)
            except Failure as failure:  # not even a boot
                print(failure, file=sys.stderr)
                return 1
    lines, bad = table(results)
    print("\n".join(lines))
    if args.markdown:
        with open(args.markdown, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
