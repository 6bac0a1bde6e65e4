#!/usr/bin/env python3
"""A whole Debian with systemd on a virtio disk: boot, log in, look, work, power off.

    debian_test.py --ringshift build/ringshift --guests .cache/guests [--cycles N] [--online]
    debian_test.py --qemu qemu-system-x86_64 --guests .cache/guests

The disk is a copy of what scripts/mkdisk made. Each cycle boots it to the login prompt with Debian's own
initial RAM disk, logs in, asks systemd how it is, writes files, and powers off; the status must be 0
and the file system clean, and what earlier cycles wrote must be there. --online also runs apt-get update
through the network card. Status 77: there is no disk.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

from console import Console, Failure

SKIPPED = 77
BOOT, ANSWER, END = 600, 300, 300
TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: |Give root password"
PROMPT = rb"root@debian:[^#]*# "
# Units that cannot work here, and why. Others that fail are our fault.
EXPLAINED = {}


def command(args, disk):
    machine = ["-m", "1024", "-append", "root=/dev/vda console=ttyS0", "-nographic", "-no-reboot",
               "-kernel", os.path.join(args.guests, "disk-vmlinuz"),
               "-initrd", os.path.join(args.guests, "disk-initrd"),
               "-drive", f"file={disk},format=raw,if=virtio", "-nic", "user,model=virtio-net-pci",
               "-device", "virtio-rng-pci"]
    if args.qemu:
        return [args.qemu, "-accel", "tcg", "-cpu", "max"] + machine
    return [args.ringshift] + machine


def ask(con, line, timeout=ANSWER):
    """What a command prints, and its status."""
    con.send(line.encode() + b"; echo status $?\r")
    answer = con.expect(rb"(?s)(.*?)status (\d+)\r*\n", timeout, TROUBLE)
    con.expect(PROMPT, timeout)
    return answer[1].decode(errors="replace"), int(answer[2])


def must(con, line, timeout=ANSWER):
    text, status = ask(con, line, timeout)
    if status:
        raise con.failure(f"{line!r}: status {status}:\n{text}")
    return text


def check_units(con):
    state = ask(con, "systemctl is-system-running --wait")[0]
    failed = re.findall(r"^\S*?([\w@.-]+\.\w+) ",
                        ask(con, "systemctl --failed --plain --no-legend --no-pager")[0], re.M)
    unexplained = [unit for unit in failed if unit not in EXPLAINED]
    if "running" not in state and "degraded" not in state or unexplained:
        raise con.failure(f"the system is {state!r}; failed: {failed}")


def cycle(args, disk, number):
    with Console(command(args, disk)) as con:
        con.expect(rb"debian login: ", BOOT, TROUBLE)
        seconds = time.monotonic() - con.started
        con.send(b"root\r")
        con.expect(PROMPT, ANSWER, TROUBLE)
        must(con, "stty -echo cols 200; export PAGER=cat TERM=dumb; bind 'set enable-bracketed-paste off'")
        check_units(con)
        for earlier in range(number):
            must(con, f"sha256sum -c /root/{earlier}.sum")
        must(con, f"head -c 3000000 /dev/urandom >/root/{number}; "
                  f"sha256sum /root/{number} >/root/{number}.sum")
        must(con, "ip -4 addr show scope global | grep 'inet 10.0.2.15'")
        if args.online:
            must(con, "apt-get -q update")
        con.send(b"poweroff\r")
        status = con.wait(END)
        if status:
            raise con.failure(f"status {status}, not 0")
    done = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"e2fsck after cycle {number}: {done.stdout}{done.stderr}")
    print(f"cycle {number}: login prompt after {seconds:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ringshift", default="build/ringshift")
    parser.add_argument("--qemu", help="test the test with this emulator instead")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--online", action="store_true", help="the guest can reach Debian's archive")
    args = parser.parse_args()
    image = os.path.join(args.guests, "disk.img")
    if not os.path.exists(image):
        print(f"{image} is missing: scripts/mkdisk")
        return SKIPPED
    with tempfile.TemporaryDirectory() as work:
        disk = os.path.join(work, "disk.img")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        try:
            for number in range(args.cycles):
                cycle(args, disk, number)
        except Failure as failure:
            print(failure)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
