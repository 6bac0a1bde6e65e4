#!/usr/bin/env python3
"""Networks: TCP between host and guest through NAT, and between two guests, ringshift and QEMU TCG in turn.

    bench/net.py [--build build] [--guests .cache/guests] [--runs N] [--seconds N]
                 [--engines bt,tcg] [--rows host,guest]

For each engine and row the median of N runs: MB/s for get (towards the guest that runs the program)
and put, microseconds for a byte there and back; and the CPU time of the emulator with its children
in milliseconds for each MB (or each thousand bytes there and back), which a busy host changes less.
Both engines have virtio-net-pci in front of -netdev
user (libslirp in both cases), or of -netdev stream over a unix socket. --stats prints ringshift's
counters of the last run.
"""
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

import harness
from figures import Suite
from harness import Console, Failure
from boot_test import Shell
from userland import family

KINDS = ("get", "put", "ping")
UNITS = {"get": "MB/s", "put": "MB/s", "ping": "µs", "get cpu": "ms/MB", "put cpu": "ms/MB",
         "ping cpu": "ms/1000"}


def cpu_seconds(pid):
    """CPU time of a process and its children that live."""
    ticks = 0
    for one in family(pid):
        try:
            with open(f"/proc/{one}/stat", encoding="ascii", errors="replace") as f:
                ticks += sum(map(int, f.read().rpartition(")")[2].split()[11:13]))
        except OSError:  # it has ended
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def command(args, engine, disk, netdev, number):
    front = {"bt": harness.ringshift(args, *(["--stats"] if args.stats else [])),
             "tcg": harness.qemu(args) + ["-vga", "none"]}
    return [*harness.chosen(args, front)[engine], *harness.linux(args, disk, "quiet loglevel=5"),
            "-m", "512M", "-nographic", "-no-reboot", "-netdev", netdev,
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
            begin = cpu_seconds(self.con.process.pid)
            text = self.run(f"/net_rows {kind} {host} {port} {seconds}", 60 + 4 * seconds)
            used = cpu_seconds(self.con.process.pid) - begin
            value, count = re.search(rf"^{kind} ([\d.]+).*, (\d+)", text, re.MULTILINE).groups()
            found[kind] = float(value)
            found[f"{kind} cpu"] = used * 1e3 / (int(count) / (1e3 if kind == "ping" else 1e6))
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


def measure(args):
    suite = Suite("TCP between host and guest, and between guests", "tcg")
    rows, engines = args.rows.split(","), args.engines.split(",")
    with tempfile.TemporaryDirectory() as work:
        program, disk = harness.pack(args, work, "net_rows.c", "net_rows", "initramfs-cloud.gz")
        for _, row, engine in harness.turns("net", args.runs, rows, engines):
            for kind, value in ROWS[row](args, engine, program, disk).items():
                suite.add(engine, f"{row}: {kind}", value, UNITS[kind])
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg")
    parser.add_argument("--rows", default="host,guest", help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=5, help="for each row (default: %(default)s)")
    parser.add_argument("--stats", action="store_true", help="print ringshift's counters")
    args = parser.parse_args()
    try:
        harness.finish(args, measure(args))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
