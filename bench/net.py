#!/usr/bin/env python3
"""Networks: TCP between host and guest through NAT, and between two guests, ringshift and QEMU TCG in turn.

    bench/net.py [--build build] [--guests .cache/guests] [--runs N] [--seconds N]
                 [--engines bt,tcg] [--rows host,guest]

For each engine and row the median of N runs: MB/s for get (towards the guest that runs the program)
and put, microseconds for a byte there and back. Both engines have virtio-net-pci in front of -netdev
user (libslirp in both cases), or of -netdev stream over a unix socket. --stats prints ringshift's
counters of the last run.
"""
import argparse
import gzip
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from boot_test import Shell  # noqa: E402
from console import Console  # noqa: E402
from userland import cpio_newc  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = ("get", "put", "ping")


def pack(args, work):
    """The program, and a RAM disk with it at /net_rows."""
    program, disk = os.path.join(work, "net_rows"), os.path.join(work, "initrd")
    subprocess.run([args.cc, "-O2", "-Wall", "-static", "-o", program,
                    os.path.join(HERE, "net_rows.c")], check=True)
    with open(program, "rb") as f:
        archive = cpio_newc([("net_rows", 0o100755, f.read())])
    with open(disk, "wb") as out, open(os.path.join(args.guests, "initramfs-cloud.gz"), "rb") as first:
        out.write(first.read() + gzip.compress(archive, 1))
    return program, disk


def command(args, engine, disk, netdev, number):
    front = {"bt": [os.path.join(args.build, "ringshift"), *(["--stats"] if args.stats else [])],
             "tcg": [args.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "pc", "-vga", "none"]}
    return [*front[engine], "-kernel", os.path.join(args.guests, "vmlinuz-cloud"), "-initrd", disk,
            "-m", "512M", "-append", "console=ttyS0 panic=-1 quiet loglevel=5", "-nographic",
            "-no-reboot", "-netdev", netdev,
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:00:01:0{number}"]


class Guest(Shell):
    """A guest at its prompt, with its network card up."""

    def __init__(self, con, number):
        self.con, self.count = con, 0
        self.qemu = "qemu" in con.argv[0]
        con.expect(rb"# (\x1b\[6n)?\Z", 300)
        self.run("dmesg -n 1; modprobe virtio_pci && modprobe virtio_net")
        if number:
            self.run(f"ip addr add 10.7.7.{number}/24 dev eth0 && ip link set eth0 up")
        else:
            self.run("udhcpc -q -n -f -i eth0", 60)

    def rows(self, host, port, seconds):
        found = {}
        for kind in KINDS:
            text = self.run(f"/net_rows {kind} {host} {port} {seconds}", 60 + 4 * seconds)
            found[kind] = float(re.search(rf"^{kind} ([\d.]+)", text, re.MULTILINE)[1])
        return found


def with_host(args, engine, program, disk):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([program, "serve", str(port)])
    try:
        with Console(command(args, engine, disk, "user,id=n0", 1)) as con:
            guest = Guest(con, 0)
            found = guest.rows("10.0.2.2", port, args.seconds)
            guest.power_off()
            report(args, con)
            return found
    finally:
        server.kill()
        server.wait()


def with_guest(args, engine, _, disk):
    with tempfile.TemporaryDirectory() as scratch:
        where = f"id=n0,addr.type=unix,addr.path={scratch}/cable"
        with Console(command(args, engine, disk, f"stream,server=on,{where}", 1)) as first:
            time.sleep(0.5)
            with Console(command(args, engine, disk, f"stream,server=off,{where}", 2)) as second:
                server = Guest(first, 1)
                server.run("/net_rows serve 9000 >/dev/null 2>&1 & true")
                client = Guest(second, 2)
                client.run("ping -c 1 -w 20 10.7.7.1")
                found = client.rows("10.7.7.1", 9000, args.seconds)
                client.power_off()
                report(args, second)
            server.power_off()
    return found


def report(args, con):
    if args.stats:
        print("\n".join(line for line in con.stderr().splitlines()
                        if not re.match(r"\s+0 ", line)), file=sys.stderr)


ROWS = {"host": with_host, "guest": with_guest}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--cc", default="cc")
    parser.add_argument("--engines", default="bt,tcg")
    parser.add_argument("--rows", default="host,guest")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--stats", action="store_true")
    args = parser.parse_args()
    engines, results = args.engines.split(","), {}
    with tempfile.TemporaryDirectory() as work:
        program, disk = pack(args, work)
        for n in range(args.runs):
            for row in args.rows.split(","):
                for engine in engines:
                    found = ROWS[row](args, engine, program, disk)
                    print(f"run {n + 1}: {row:6}{engine:4}", found, flush=True)
                    for kind, value in found.items():
                        results.setdefault((row, kind), {}).setdefault(engine, []).append(value)
    print(f"\n{'':32}" + "".join(f"{e:>12}" for e in engines))
    for (row, kind), values in results.items():
        unit = "us" if kind == "ping" else "MB/s"
        cells = "".join(f"{statistics.median(values[e]):12.1f}" for e in engines)
        print(f"{f'{row} {kind}, {unit}':32}{cells}")


if __name__ == "__main__":
    main()
