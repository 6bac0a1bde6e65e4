#!/usr/bin/env python3
"""Networks: TCP between host and guest through NAT, and between two guests, ringshift and QEMU TCG in turn.

    bench/net.py [--build build] [--guests .cache/guests] [--runs N] [--seconds N]
                 [--engines bt,tcg] [--rows host,guest,iperf,iperf_guest,services]

For each engine and row the median of N runs.

  host, guest         net_rows.c through the NAT, and with a second guest: MB/s for get (towards the
                      guest that runs the program) and put, microseconds for a byte there and back; and
                      the CPU time of the emulator with its children in milliseconds for each MB (or
                      each thousand bytes there and back), which a busy host changes less
  iperf, iperf_guest  the same two ways by iperf3, if the host has it: MB/s
  services            ping of the router, a name looked up (--name), HTTP of the guest through a
                      forwarded port: 1 KiB again and again, and 64 MiB

Both engines have virtio-net-pci in front of -netdev
user (libslirp in both cases), or of -netdev stream over a unix socket. --stats prints ringshift's
counters of the last run.
"""
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import harness
from figures import Suite
from harness import Console, Failure, cpio_newc
from boot_test import Shell
from userland import family

KINDS = ("get", "put", "ping")
IPERF = {"get": " -R", "put": ""}
SMALL, LARGE, LOOKUPS, FETCHES = 1 << 10, 64 << 20, 20, 100
UNITS = {"ping router": "ms", "dns": "ms a lookup", "http small": "ms a request", "http large": "MB/s",
         "get": "MB/s", "put": "MB/s", "ping": "µs", "get cpu": "ms/MB", "put cpu": "ms/MB",
         "ping cpu": "ms/1000"}


def pack(args, work):
    """The program, and a RAM disk with it at /net_rows."""
    program, disk = harness.pack(args, work, "net_rows.c", "net_rows", "initramfs-cloud.gz")
    if "iperf" in args.rows:
        with open(disk, "ab") as out:
            out.write(gzip.compress(cpio_newc(iperf_files()), 1))
    return program, disk


def iperf_files():
    """The host's iperf3 with its libraries, for a guest without any."""
    program = shutil.which("iperf3")
    if not program:
        sys.exit("no iperf3 here (package iperf3)")
    shared = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    paths = ["/usr/bin/iperf3", *re.findall(r"(/\S+) \(0x", shared)]
    folders = sorted({"/".join(path.split("/")[1:n]) for path in paths
                      for n in range(2, path.count("/") + 1)})
    files = [(folder, 0o40755, b"") for folder in folders] + [("tmp", 0o41777, b"")]
    for path in paths:
        with open(program if path == paths[0] else path, "rb") as f:
            files.append((path[1:], 0o100755, f.read()))
    return files


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

    def iperf(self, host, port, seconds):
        found = {}
        for kind, option in IPERF.items():
            text = self.run(f"/usr/bin/iperf3 -J -i 0 -c {host} -p {port} -t {seconds}{option}", 60 + 4 * seconds)
            end = json.loads(text[text.index("{"):])["end"]
            found[kind] = end["sum_received"]["bits_per_second"] / 8e6
        return found

    def ping_router(self):
        text = self.run("ping -c 10 10.0.2.2", 60)
        return float(re.search(r"= [\d.]+/([\d.]+)/", text)[1])

    def look_up(self, name):
        """Milliseconds, with the program that asks; None if the host cannot either."""
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            return None
        self.run(f"nslookup {name} 10.0.2.3", 60)
        self.run(f"for i in $(seq {LOOKUPS}); do nslookup {name} 10.0.2.3 >/dev/null || exit; done", 300)
        return (self.answered - self.asked) * 1e3 / LOOKUPS


def fetch(port, name, size):
    """Seconds."""
    begin = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=300) as answer:
        got = 0
        while piece := answer.read(1 << 20):
            got += len(piece)
    assert got == size, f"{name}: {got} bytes, not {size}"
    return time.monotonic() - begin


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def services(args, engine, _, disk):
    port = free_port()
    with Console(command(args, engine, disk, f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:80", 1)) as con:
        guest = Guest(con, 0)
        guest.run(f"mkdir -p /www && head -c {SMALL} /dev/zero >/www/small && "
                  f"head -c {LARGE} /dev/zero >/www/large && httpd -h /www")
        found = {"ping router": guest.ping_router(), "dns": guest.look_up(args.name)}
        fetch(port, "small", SMALL)
        found["http small"] = sum(fetch(port, "small", SMALL) for _ in range(FETCHES)) * 1e3 / FETCHES
        found["http large"] = LARGE / 1e6 / fetch(port, "large", LARGE)
        guest.power_off()
        report(args, con)
    return {kind: value for kind, value in found.items() if value is not None}


def beside(args, engine, disk, serve, measure):
    """serve: what the host runs, given a port; measure: what is asked of the guest."""
    port = free_port()
    server = subprocess.Popen(serve(str(port)), stdout=subprocess.DEVNULL)
    try:
        with Console(command(args, engine, disk, "user,id=n0", 1)) as con:
            guest = Guest(con, 0)
            found = measure(guest, "10.0.2.2", port, args.seconds)
            guest.power_off()
            report(args, con)
            return found
    finally:
        server.kill()
        server.wait()


def with_host(args, engine, program, disk):
    return beside(args, engine, disk, lambda port: [program, "serve", port], Guest.rows)


def iperf(args, engine, _, disk):
    return beside(args, engine, disk, lambda port: ["iperf3", "-s", "-B", "127.0.0.1", "-p", port],
                  Guest.iperf)


def two_guests(args, engine, disk, serve, measure):
    """serve: what the first one runs on port 9000; measure: what is asked of the second."""
    with tempfile.TemporaryDirectory() as scratch:
        where = f"id=n0,addr.type=unix,addr.path={scratch}/cable"
        with Console(command(args, engine, disk, f"stream,server=on,{where}", 1)) as first:
            time.sleep(0.5)
            with Console(command(args, engine, disk, f"stream,server=off,{where}", 2)) as second:
                server = Guest(first, 1)
                server.run(f"{serve} >/dev/null 2>&1 & true")
                client = Guest(second, 2)
                client.run("ping -c 1 -w 20 10.7.7.1")
                found = measure(client, "10.7.7.1", 9000, args.seconds)
                client.power_off()
                report(args, second)
            server.power_off()
    return found


def with_guest(args, engine, _, disk):
    return two_guests(args, engine, disk, "/net_rows serve 9000", Guest.rows)


def iperf_guest(args, engine, _, disk):
    return two_guests(args, engine, disk, "/usr/bin/iperf3 -s -p 9000", Guest.iperf)


def report(args, con):
    if args.stats:
        print("\n".join(line for line in con.stderr().splitlines()
                        if not re.match(r"\s+0 ", line)), file=sys.stderr)


ROWS = {"host": with_host, "guest": with_guest, "iperf": iperf, "iperf_guest": iperf_guest,
        "services": services}


def measure(args):
    suite = Suite("TCP between host and guest, and between guests", "tcg")
    rows, engines = args.rows.split(","), args.engines.split(",")
    with tempfile.TemporaryDirectory() as work:
        program, disk = pack(args, work)
        for _, row, engine in harness.turns("net", args.runs, rows, engines):
            for kind, value in ROWS[row](args, engine, program, disk).items():
                suite.add(engine, f"{row}: {kind}", value, UNITS[kind])
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg")
    parser.add_argument("--rows", default="host,guest", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--name", default="deb.debian.org", help="to look up (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="for each row (default: %(default)s)")
    parser.add_argument("--stats", action="store_true", help="print ringshift's counters")
    args = parser.parse_args()
    try:
        harness.finish(args, measure(args))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
