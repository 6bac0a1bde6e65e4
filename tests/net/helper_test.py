#!/usr/bin/env python3
"""Talk to the network helper as the monitor does: a guest made of Python at one end of its socket.

    helper_test.py build/ringshift-net
"""
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

GUEST_MAC = bytes.fromhex("525400123456")
HELLO = b"ringshift: frames with meta data, 1"
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def ip(text):
    return socket.inet_aton(text)


def checksum(data):
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Helper:
    """The helper, and the wire to it."""

    def __init__(self, options, monitor=None):
        self.wire, theirs = socket.socketpair()
        self.wire.settimeout(10)
        self.process = subprocess.Popen(
            [sys.argv[1], str(theirs.fileno()), str(monitor or os.getpid()), options],
            pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        self.mac = None

    def __enter__(self):
        check(HELLO in self.receive(), "the first frame is no hello")
        return self

    def __exit__(self, *args):
        self.wire.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.wire.recv(size - len(data))
            check(part, "the helper has closed the wire")
            data += part
        return data

    def receive(self):
        """One frame, without its meta data."""
        word, = struct.unpack(">I", self.exactly(4))
        return self.exactly(word & 0x7fffffff)[10 if word >> 31 else 0:]

    def send(self, frame):
        self.wire.sendall(struct.pack(">I", len(frame)) + frame)

    def answer_arp(self, frame, address):
        """If it asks for our address, say it."""
        if frame[12:14] != b"\x08\x06" or frame[20:22] != b"\0\1" or frame[38:42] != address:
            return False
        self.send(frame[6:12] + GUEST_MAC + frame[12:20] + b"\0\2" + GUEST_MAC + address +
                  frame[22:32])
        return True

    def packet(self, protocol, address="10.0.2.15"):
        """The next IPv4 packet of a protocol: (source, its bytes after the IP header)."""
        while True:
            frame = self.receive()
            if self.answer_arp(frame, ip(address)) or frame[12:14] != b"\x08\x00":
                continue
            self.mac = frame[6:12]
            if frame[23] == protocol:
                size, = struct.unpack(">H", frame[16:18])
                return frame[26:30], frame[34:14 + size]

    def send_udp(self, source, sport, target, dport, data):
        udp = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
        head += ip(source) + ip(target)
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        self.send((self.mac or b"\xff" * 6) + GUEST_MAC + b"\x08\0" + head + udp)

    def dhcp(self, kind):
        """Ask, and what is offered: (our address, {option: value})."""
        ask = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + GUEST_MAC
        ask += bytes(202) + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + b"\xff"
        self.send_udp("0.0.0.0", 68, "255.255.255.255", 67, ask)
        source, data = self.packet(17)
        answer, options, at = data[8:], {}, 240
        while answer[at] != 255:
            options[answer[at]] = answer[at + 2:at + 2 + answer[at + 1]]
            at += 2 + answer[at + 1]
        return socket.inet_ntoa(answer[16:20]), options


def status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if status(pid)["State"].startswith("Z"):
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_sandbox_is_closed():
    with Helper("user,id=n") as h:
        found = status(h.process.pid)
        check(found["Seccomp"] == "2", f"Seccomp: {found['Seccomp']}")
        check(found["NoNewPrivs"] == "1", "it may gain privileges")
        # Standard streams and the wire.
        check(set(os.listdir(f"/proc/{h.process.pid}/fd")) == set("0123"), "descriptors")


def test_lease():
    with Helper("user,id=n,net=172.16.5.0/24,dhcpstart=172.16.5.77,dns=172.16.5.9,hostname=box,"
                "dnssearch=example.org") as h:
        address, options = h.dhcp(1)
        check(address == "172.16.5.77", f"offered {address}")
        check(options[1] == ip("255.255.255.0"), "mask")
        check(options[3] == ip("172.16.5.2"), "router")
        check(options[6] == ip("172.16.5.9"), "name server")
        check(options[12] == b"box", "host name")
        check(b"example" in options[119], "search list")


def test_udp_out_and_back():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host, Helper("user,id=n") as h:
        host.bind(("127.0.0.1", 0))
        host.settimeout(10)
        h.dhcp(1)
        h.send_udp("10.0.2.15", 4000, "10.0.2.2", host.getsockname()[1], b"ping")
        data, peer = host.recvfrom(100)
        check(data == b"ping", f"the host got {data!r}")
        host.sendto(b"pong", peer)
        source, data = h.packet(17)
        check((source, data[8:]) == (ip("10.0.2.2"), b"pong"), f"the guest got {data!r}")


def test_large_datagram_comes_in_fragments():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host, Helper("user,id=n") as h:
        host.bind(("127.0.0.1", 0))
        host.settimeout(10)
        h.dhcp(1)
        h.send_udp("10.0.2.15", 4000, "10.0.2.2", host.getsockname()[1], b"ping")
        peer = host.recvfrom(100)[1]
        text = bytes(range(256)) * 15
        host.sendto(text, peer)
        got = b"".join(h.packet(17)[1] for _ in range(3))
        check(got[8:] == text, f"{len(got)} bytes came")


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_hostfwd_udp():
    port = free_port(socket.SOCK_DGRAM)
    with Helper(f"user,id=n,hostfwd=udp:127.0.0.1:{port}-:53") as h, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.settimeout(10)
        h.dhcp(1)
        host.sendto(b"hello", ("127.0.0.1", port))
        source, data = h.packet(17)
        sport, dport = struct.unpack(">HH", data[:4])
        check((dport, data[8:]) == (53, b"hello"), f"port {dport}: {data!r}")
        h.send_udp("10.0.2.15", 53, socket.inet_ntoa(source), sport, b"back")
        check(host.recv(100) == b"back", "no answer")


def test_hostfwd_tcp():
    port = free_port(socket.SOCK_STREAM)
    with Helper(f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-10.0.2.40:22") as h:
        h.dhcp(1)
        thread = threading.Thread(target=socket.create_connection, args=(("127.0.0.1", port), 5))
        thread.start()
        _, data = h.packet(6, "10.0.2.40")
        check(struct.unpack(">H", data[2:4])[0] == 22 and data[13] == 2, "no SYN to port 22")
        thread.join()


def test_restrict():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host, \
            Helper("user,id=n,restrict=on") as h:
        host.bind(("127.0.0.1", 0))
        host.settimeout(1)
        h.dhcp(1)
        h.send_udp("10.0.2.15", 4000, "10.0.2.2", host.getsockname()[1], b"ping")
        try:
            check(False, f"the host got {host.recv(100)!r}")
        except socket.timeout:
            pass


def test_refusals():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = f"user,id=n,hostfwd=tcp:127.0.0.1:{taken.getsockname()[1]}-:22"
        h = Helper(options)
        answer = h.wire.recv(1000)
        check(answer.startswith(b"!hostfwd: cannot listen on tcp port"), f"{answer!r}")
        check(h.process.wait(10) == 1, "status")
        h.__exit__()


def test_ends_with_the_wire():
    with Helper("user,id=n") as h:
        h.wire.close()
        check(h.process.wait(10) == 0, "status")


def test_nonsense_is_survived_or_ends_it():
    with Helper("user,id=n") as h:
        for size in (0, 1, 13, 14, 15, 60, 1500, 65000):
            h.send(os.urandom(size))
        for kind in (b"\x08\0", b"\x86\xdd", b"\x08\x06"):
            for size in range(0, 200, 3):
                h.send(b"\xff" * 6 + GUEST_MAC + kind + os.urandom(size))
        h.wire.sendall(struct.pack(">I", 0x80000000 | 5) + bytes(5))
        check(h.dhcp(1)[0] == "10.0.2.15", "no lease afterwards")
        h.wire.sendall(b"\xff\xff\xff\xff")
        check(h.process.wait(10) == 1, "a stream of no frames does not end it")


def test_dies_with_the_monitor():
    """A monitor that is killed, and whose end of the wire somebody else still holds."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    monitor = os.fork()
    if not monitor:
        child = subprocess.Popen([sys.argv[1], str(theirs.fileno()), str(os.getpid()), "user,id=n"],
                                 pass_fds=[theirs.fileno()])
        os.write(write, b"%d" % child.pid)
        signal.pause()
    theirs.close()
    pid = int(os.read(read, 20))
    ours.settimeout(10)
    check(ours.recv(100)[4:] and not gone(pid, 0.2), "it has not started")
    os.kill(monitor, signal.SIGKILL)
    os.waitpid(monitor, 0)
    check(gone(pid), "it lives on")


def main():
    # What a killed monitor leaves behind is ours to see end.
    LIBC.prctl(36, 1)
    failed = 0
    for name, test in sorted(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
            print(f"ok {name}")
        except (Failure, OSError) as e:
            print(f"FAILED {name}: {e!r}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
