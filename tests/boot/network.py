"""Networks: NAT through the helper, two machines on one cable, what happens when an end goes.

Each scenario gets boot_test's tools in `kit`: Console, Shell, check, Missing.
"""
import functools
import hashlib
import http.server
import json
import os
import random
import re
import signal
import socket
import tempfile
import threading
import time
import urllib.request

DRIVER = "modprobe virtio_pci && modprobe virtio_net"
SIZE = 20 << 20


def payload(seed, size=SIZE):
    return random.Random(seed).randbytes(size)


class Quiet(http.server.BaseHTTPRequestHandler):
    """Serves one file."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        self.wfile.write(self.server.data)

    def log_message(self, *args):
        pass


class Server:
    """An HTTP server on the host's loopback interface, and a port that sums up what is sent."""

    def __enter__(self):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        self.http.data = payload(1)
        self.port = self.http.server_address[1]
        self.digest = hashlib.sha256(self.http.data).hexdigest()
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.sink = socket.create_server(("127.0.0.1", 0))
        self.sink_port = self.sink.getsockname()[1]
        self.sums = []
        threading.Thread(target=self.take, daemon=True).start()
        return self

    def take(self):
        while True:
            try:
                connection = self.sink.accept()[0]
            except OSError:  # closed
                return
            digest = hashlib.sha256()
            with connection:
                while data := connection.recv(1 << 16):
                    digest.update(data)
                self.sums.append(digest.hexdigest())

    def __exit__(self, *args):
        self.sink.shutdown(socket.SHUT_RDWR)
        self.sink.close()
        self.http.shutdown()
        self.http.server_close()


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def helpers_of(pid):
    """The network helpers a process has started."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        except (OSError, IndexError):
            continue
        if name == "ringshift-net" and int(rest.split()[1]) == pid:
            found.append(int(entry))
    return found


def wait_for(sh, kit, command, wanted, seconds=20):
    """Ask until the answer is as wanted."""
    end = time.monotonic() + seconds
    while True:
        got = sh.run(command).strip()
        if got == wanted:
            return
        kit.check(sh.con, time.monotonic() < end, f"{command!r}: {got!r}, not {wanted!r}")
        time.sleep(0.5)


def lease(sh):
    sh.run("ip link set lo up; udhcpc -q -n -f -i eth0", 60)
    sh.matches("ip addr show dev eth0", r"inet 10\.0\.2\.15/24")
    sh.equals("cat /etc/resolv.conf", "nameserver 10.0.2.3")


def fetch(sh, kit, server, host="10.0.2.2"):
    """Both ways through TCP, with the right checksum."""
    sh.run(f"wget -q -O /tmp/f http://{host}:{server.port}/")
    sh.equals("sha256sum </tmp/f", f"{server.digest}  -")
    server.sums.clear()
    sh.run(f"nc {host} {server.sink_port} </tmp/f; rm /tmp/f")
    kit.check(sh.con, server.sums == [server.digest], "what came is not what was sent")


def host_resolves():
    """Does the host's name server answer at all? Any answer will do."""
    try:
        with open("/etc/resolv.conf", encoding="ascii", errors="replace") as f:
            server = re.search(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)", f.read(), re.MULTILINE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(3)
            s.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", (server[1], 53))
            return len(s.recv(512)) > 12
    except (OSError, TypeError):
        return False


def forwards(sh, kit, port):
    """What listens in the guest is reached from the host."""
    sh.run("mkdir -p /www && seq 1 100000 >/www/f && httpd -p 80 -h /www")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/f", timeout=60) as answer:
        body = answer.read()
    want = "".join(f"{i}\n" for i in range(1, 100001)).encode()
    kit.check(sh.con, body == want, f"through hostfwd: {len(body)} bytes, not {len(want)}")


def net_user(kit, setup):
    """NAT: DHCP, names, both directions, forwarded ports; the helper killed"""
    port = free_port()
    nic = f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:80"
    options = setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz")
    with Server() as server, kit.Console(setup.command(
            "-nographic", "-no-reboot", "-nic", nic, *options)) as con:
        sh = kit.Shell(con)
        sh.run(DRIVER)
        sh.equals("cat /sys/class/net/eth0/address", "52:54:00:12:34:56")
        lease(sh)
        sh.matches("ping -c 3 10.0.2.2", "3 packets received")
        sh.matches("ping -c 1 -s 9000 10.0.2.2", "1 packets received")  # in fragments
        if host_resolves():
            sh.matches("nslookup example.com; true", r"Server:\s+10\.0\.2\.3\s.*Address")
            kit.check(con, "timed out" not in sh.run("nslookup example.com; true"), "no name server")
        fetch(sh, kit, server)
        forwards(sh, kit, port)
        sh.run("rmmod virtio_net && modprobe virtio_net")
        lease(sh)
        fetch(sh, kit, server)
        if not sh.qemu:
            unplugged(sh, kit, con, server)
            killed(sh, kit, con)
        kit.check_log(sh)
        sh.power_off()


def unplugged(sh, kit, con, server):
    """The cable out, and in again."""
    sh.run("ip link set eth0 up")
    for how, carrier in (("off", "0"), ("on", "1")):
        con.send(b"\x01c")
        con.expect(rb"\(ringshift\) ", 20)
        con.send(f"set_link nic0 {how}\r".encode())
        con.expect(rb"\(ringshift\) ", 20)
        con.send(b"\x01c")
        wait_for(sh, kit, "cat /sys/class/net/eth0/carrier", carrier, 60)
        if how == "off":
            sh.matches("ping -c 1 -W 1 10.0.2.2; true", "0 packets received")
    fetch(sh, kit, server)


def killed(sh, kit, con):
    """The machine outlives its helper."""
    helpers = helpers_of(con.process.pid)
    kit.check(con, len(helpers) == 1, f"helpers: {helpers}")
    sh.equals("cat /sys/class/net/eth0/carrier", "1")
    con.send(b"\x01c")
    con.expect(rb"\(ringshift\) |\(qemu\) ", 20)
    con.send(b"info network\r")
    con.expect(rb"nic0: user, link up, takes offloads\r", 20)
    con.send(b"info qtree\r")
    con.expect(rb"virtio-net, .*netdev nic0, 52:54:00:12:34:56, link up", 20)
    con.send(b"\x01c")
    os.kill(helpers[0], signal.SIGKILL)
    wait_for(sh, kit, "cat /sys/class/net/eth0/carrier", "0")
    sh.run("ping -c 1 -w 2 10.0.2.2; true")
    sh.equals("echo $((6 * 7))", "42")
    kit.check(con, "helper ended" in con.stderr(), "nothing said that the helper has ended")


def net_plain(kit, setup):
    """the same for a driver without offloads and merged buffers; IPv4 alone, another network"""
    off = ",".join(f"{key}=off" for key in ("csum", "guest_csum", "mrg_rxbuf", "ctrl_vq", "event_idx",
                                           "indirect_desc", "status"))
    options = setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz")
    with Server() as server, kit.Console(setup.command(
            "-nographic", "-no-reboot", "--stats=json",
            "-netdev", "user,id=n0,ipv6=off,net=192.168.9.0/24,dhcpstart=192.168.9.50",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:99,{off}", *options)) as con:
        sh = kit.Shell(con)
        sh.run(DRIVER)
        sh.equals("cat /sys/class/net/eth0/address", "52:54:00:00:00:99")
        sh.run("udhcpc -q -n -f -i eth0", 60)
        sh.matches("ip addr show dev eth0", r"inet 192\.168\.9\.50/24")
        fetch(sh, kit, server, "192.168.9.2")
        kit.check_log(sh)
        sh.power_off()
        if not sh.qemu:
            stats = json.loads(con.stderr())
            kit.check(con, stats["net_rx_software"] > 100, "nothing was cut for the driver")


# --- two machines ---


def address(sh, number):
    sh.run(DRIVER)
    sh.run(f"ip addr add 10.7.7.{number}/24 dev eth0 && ip link set eth0 up")


def exchange(one, other, kit):
    """A file each way, with its checksum."""
    for here, there, number in ((one, other, 2), (other, one, 1)):
        there.run("nc -l -p 9000 -e sha256sum >/dev/null 2>&1 & true")
        wait_for(there, kit, "netstat -ltn | grep -c :9000; true", "1")
        here.run("dd if=/dev/urandom of=/tmp/f bs=1M count=20 2>/dev/null")
        want = here.run("sha256sum </tmp/f").strip()
        got = here.run(f"nc 10.7.7.{number} 9000 </tmp/f; rm /tmp/f", 120).strip()
        kit.check(here.con, got == want, f"{got!r} has come, not {want!r}")


def pair(kit, setup, first, second, other=None):
    """Two machines with a network card each; `other` runs the second."""
    kernel = setup.linux("vmlinuz-cloud", memory="256M", initrd="initramfs-cloud.gz")
    card = "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0"
    a = kit.Console(setup.command("-nographic", "-no-reboot", "-netdev", first, "-device", card + "1",
                                  *kernel))
    b = (other or setup).command("-nographic", "-no-reboot", "-netdev", second, "-device", card + "2",
                                 *kernel)
    return a, b


def together(kit, setup, first, second, other=None, again=True):
    one, second = pair(kit, setup, first, second, other)
    with one as a:
        sh = kit.Shell(a)
        address(sh, 1)
        if not sh.qemu:
            sh.equals("cat /sys/class/net/eth0/carrier", "0")  # nobody is there yet
        with kit.Console(second) as b:
            sh2 = kit.Shell(b)
            address(sh2, 2)
            sh.matches("ping -c 3 -w 20 10.7.7.2", "[1-3] packets received")
            exchange(sh, sh2, kit)
            b.process.kill()
        if not sh.qemu:
            wait_for(sh, kit, "cat /sys/class/net/eth0/carrier", "0")
        if again:  # somebody else comes
            with kit.Console(second) as b:
                sh2 = kit.Shell(b)
                address(sh2, 2)
                sh.matches("ping -c 3 -w 20 10.7.7.2", "[1-3] packets received")
                kit.check_log(sh2)
                sh2.power_off()
        kit.check_log(sh)
        sh.power_off()


def net_link(kit, setup):
    """two machines on a unix socket, one killed, another in its place; then over TCP"""
    with tempfile.TemporaryDirectory() as scratch:
        where = f"addr.type=unix,addr.path={scratch}/cable"
        together(kit, setup, f"stream,id=n0,server=on,{where}", f"stream,id=n0,server=off,{where}")
    port = free_port()
    together(kit, setup, f"socket,id=n0,listen=127.0.0.1:{port}",
             f"socket,id=n0,connect=127.0.0.1:{port}", again=False)


def net_qemu(kit, setup):
    """the second machine is QEMU's"""
    if not setup.args.oracle:
        raise kit.Missing("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as scratch:
        where = f"addr.type=unix,addr.path={scratch}/cable"
        together(kit, setup, f"stream,id=n0,server=on,{where}", f"stream,id=n0,server=off,{where}",
                 setup.with_oracle())


def scenarios(kit):
    """By name, for boot_test."""
    def bind(function):
        bound = functools.partial(function, kit)
        bound.__doc__ = function.__doc__
        return bound
    return {f.__name__: bind(f) for f in (net_user, net_plain, net_link, net_qemu)}
