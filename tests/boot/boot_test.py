#!/usr/bin/env python3
"""Boot real guests and talk to them over the serial console.

    boot_test.py --ringshift build/ringshift --guests .cache/guests SCENARIO...
    boot_test.py --qemu qemu-system-x86_64 --guests .cache/guests SCENARIO...

With --qemu QEMU runs the same scenarios, which tests the tests: they must pass there, too.
--list prints the scenarios. Status 0: all passed; 1: one failed; 77: a guest is missing
(scripts/fetch-guests).
"""
import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from console import Console, Failure
import control
import network
from patching import patch_everything
import userland as programs

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 77
TRIPLE_FAULT = 4

# Seconds, on a busy machine.
BOOT = 900
ANSWER = 120
END = 60

# A kernel that prints one of these before it prints what is expected has failed already.
TROUBLE = rb"Kernel panic - |Oops: |\] BUG: |triple fault|ringshift: "
# What a healthy kernel log does not contain.
COMPLAINTS = r"WARNING:|BUG:|Oops|Call Trace|unchecked MSR|soft lockup|rcu: INFO|fault in kernel"


class Missing(Exception):
    """A guest that has not been fetched."""


def check(con, condition, text):
    if not condition:
        raise con.failure(text)


class Setup:
    """Which emulator, and where the guests are."""

    def __init__(self, args):
        self.args = args

    def with_oracle(self):
        """The same with QEMU, beside the emulator under test."""
        return Setup(argparse.Namespace(**{**vars(self.args), "qemu": self.args.oracle}))

    def guest(self, name):
        path = os.path.join(self.args.guests, name)
        if not os.path.exists(path):
            raise Missing(path)
        return path

    def command(self, *options):
        """ringshift's command line, or QEMU's for the same."""
        if not self.args.qemu:
            return [self.args.ringshift, "-accel", self.args.accel, *options, *self.args.extra]
        options = [o for o in options if not o.startswith("--stats")]
        if "-boot" in options:  # QEMU enters the stub anyhow
            at = options.index("-boot")
            del options[at:at + 2]
        return [self.args.qemu, "-accel", "tcg", "-cpu", "max,la57=off", "-vga", "none", "-nic", "none",
                *options]

    def linux(self, kernel, append="", memory="512M", initrd="initramfs.gz"):
        """Options for a Linux kernel with its console on the first serial port."""
        options = ["-kernel", self.guest(kernel), "-m", memory,
                   "-append", f"console=ttyS0 {append}".strip()]
        if initrd:
            options += ["-initrd", self.guest(initrd)]
        return options


class Shell:
    """The busybox shell of the test initramfs."""

    def __init__(self, con):
        """Wait for the boot, then for the prompt."""
        self.con = con
        self.qemu = os.path.basename(con.argv[0]).startswith("qemu")
        self.count = 0
        # The first line comes late under the single-step engine only if there is no earlyprintk.
        con.expect(rb"Linux version \d", BOOT, TROUBLE)
        self.release = con.expect(rb"RINGSHIFT-INIT (\S+)\s", BOOT, TROUBLE)[1].decode()
        self.boot_seconds = time.monotonic() - con.started
        con.expect(rb"# (\x1b\[6n)?\Z", ANSWER, TROUBLE)
        self.run("dmesg -n 1")  # the log does not come between our questions and their answers

    def type(self, line):
        self.con.send(line.encode() + b"\r")

    def run(self, command, timeout=ANSWER):
        """What a command prints, without carriage returns; it must end with status 0."""
        self.count += 1
        begin, end = f"@@{self.count}<", f"@@{self.count}>"
        # Quotes keep the echo of what is typed from looking like what is printed.
        self.type(f"echo '@''@{self.count}<'; {command}; echo '@''@{self.count}>'$?")
        self.con.expect(re.escape(begin.encode()) + rb"\r*\n", timeout, TROUBLE)
        self.asked = time.monotonic()
        found = self.con.expect(re.escape(end.encode()) + rb"(\d+)\r*\n", timeout, TROUBLE)
        self.answered = time.monotonic()
        text = found.string[:found.start()].replace(b"\r", b"").decode(errors="replace")
        check(self.con, found[1] == b"0", f"{command!r}: status {found[1].decode()}")
        self.con.expect(rb"# (\x1b\[6n)?\Z", timeout, TROUBLE)
        return text

    def equals(self, command, wanted):
        got = self.run(command).strip()
        check(self.con, got == wanted, f"{command!r}: got {got!r}, not {wanted!r}")

    def matches(self, command, pattern):
        got = self.run(command)
        found = re.search(pattern, got, re.MULTILINE)
        check(self.con, found, f"{command!r}: got {got!r}, nothing like {pattern!r}")
        return found

    def power_off(self):
        self.type("poweroff -f")
        status = self.con.wait(END)
        check(self.con, status == 0, f"poweroff -f ended with status {status}")
        check(self.con, self.con.terminal_is_as_found(), "the terminal has not been restored")

    def reboot(self, wanted=0):
        self.type("reboot -f")
        status = self.con.wait(END)
        check(self.con, status == wanted, f"reboot -f ended with status {status}, not {wanted}")


def quit_by_key(con):
    check(con, con.terminal_is_raw(), "the terminal is not raw")
    con.send(b"\x01x")
    status = con.wait(END)
    check(con, status == 0, f"Ctrl-a x ended with status {status}")
    check(con, con.terminal_is_as_found(), "the terminal has not been restored")


# --- what a running guest is asked ---


def check_cpu(sh):
    info = sh.run("cat /proc/cpuinfo")
    fields = dict(re.findall(r"^(\S[^\t:]*?)\s*: (.*)$", info, re.MULTILINE))
    check(sh.con, info.count("processor\t") == 1, "not one processor")
    check(sh.con, fields.get("vendor_id") in ("GenuineIntel", "AuthenticAMD"),
          f"vendor_id {fields.get('vendor_id')!r}")
    check(sh.con, 100 < float(fields.get("cpu MHz", 0)) < 10000, f"cpu MHz {fields.get('cpu MHz')}")
    check(sh.con, float(fields.get("bogomips", 0)) > 100, f"bogomips {fields.get('bogomips')}")
    flags = fields.get("flags", "").split()
    absent = {"fpu", "tsc", "cx8", "cmov", "sse2", "syscall", "nx", "lm", "hypervisor"} - set(flags)
    check(sh.con, not absent, f"flags lack {absent}")
    odd = {"vmx", "svm", "monitor"} & set(flags)
    check(sh.con, not odd or sh.qemu, f"flags have {odd}")


def check_memory(sh, mib):
    total = int(sh.matches("cat /proc/meminfo", r"^MemTotal: +(\d+) kB")[1]) / 1024
    check(sh.con, mib * 0.85 < total < mib, f"{total:.0f} of {mib} MiB of memory")


def check_computing(sh):
    sh.equals("echo $((6 * 7)) $((-7 / 2)) $((-7 % 2)) $((1 << 62)) $((0xffff ^ 255))",
              "42 -3 -1 4611686018427387904 65280")
    n = 1000
    sh.equals(f"i=0; s=0; while [ $i -lt {n} ]; do s=$((s + i * i)); i=$((i + 1)); done; echo $s",
              str(sum(i * i for i in range(n))))
    text = "".join(f"{i}\n" for i in range(1, 5001)).encode()
    for name in ("md5", "sha1", "sha256", "sha512"):
        sh.equals(f"seq 1 5000 | {name}sum", hashlib.new(name, text).hexdigest() + "  -")
    sh.equals("seq 1 5000 | gzip | gunzip | sha256sum",
              hashlib.sha256(text).hexdigest() + "  -")
    # Floating point, and printing it: e as the sum of 1/n!.
    total = term = 1.0
    for i in range(1, 25):
        term /= i
        total += term
    sh.equals("awk 'BEGIN { s = t = 1; for (i = 1; i < 25; i++) { t /= i; s += t } "
              "printf \"%.15f\", s }'", f"{total:.15f}")


def check_processes(sh):
    sh.equals("for i in 1 2 3 4 5 6 7 8 9 10; do (exit $i) || echo -n $?; done", "12345678910")
    sh.equals("yes | head -n 1000 | wc -l", "1000")
    sh.matches("(kill -SEGV $(sh -c 'echo $PPID')) 2>/dev/null; echo $?", r"^139$")
    sh.equals("trap 'echo caught' USR1; kill -USR1 $$; trap - USR1", "caught")
    sh.equals("mkdir /tmp/d && echo x >/tmp/d/f && mv /tmp/d /tmp/e && cat /tmp/e/f", "x")
    sh.equals("rm -r /tmp/e && ls /tmp", "")


def check_time(sh):
    sh.run("sleep 1")
    took = sh.answered - sh.asked
    check(sh.con, 0.99 < took < 4, f"sleep 1 took {took:.2f} s of the host's time")
    took = float(sh.matches("time -p sleep 1 2>&1", r"^real (\S+)")[1])
    check(sh.con, 0.99 < took < 3, f"sleep 1 took {took} s of the guest's time")
    check_date(sh)


def check_date(sh):
    before = time.time()
    date = int(sh.run("date +%s"))
    off = f"the guest's date is {date - before:+.1f} s off"
    print(off)
    slack = 5 if sh.qemu else 2  # QEMU's clocks lose time on a busy host
    check(sh.con, before - slack <= date <= time.time() + slack, off)


def check_keys(sh):
    """What is typed arrives: an interrupt, Ctrl-a, and a long paste."""
    con = sh.con
    sh.type("sleep 1000; echo in''terrupted")
    con.read_for(3)
    con.send(b"\x03")
    con.expect(rb"# (\x1b\[6n)?\Z", ANSWER)
    sh.type("echo re''ady; head -n 1 | hexdump -e '/1 \"<%02x>\"'")
    con.expect(rb"ready", ANSWER)
    con.read_for(1)
    con.send(b"\x01\x01\x01?z\r")  # Ctrl-a ? means nothing
    con.expect(rb"<01><7a><0a>", ANSWER)
    con.expect(rb"# (\x1b\[6n)?\Z", ANSWER)
    paste = "".join(f"{i:04} {'pasted text ' * 4}\n" for i in range(100))
    sh.type("stty -echo; echo re''ady; head -n 100 | sha256sum; stty echo")
    con.expect(rb"ready\r*\n", ANSWER)
    con.read_for(1)
    con.send(paste.replace("\n", "\r").encode())
    con.expect(hashlib.sha256(paste.encode()).hexdigest().encode(), ANSWER)
    con.expect(rb"# (\x1b\[6n)?\Z", ANSWER)


def check_log(sh):
    found = sh.run(f"dmesg | grep -E '{COMPLAINTS}' || true").strip()
    check(sh.con, not found, f"the kernel complains:\n{found}")


def check_idle(sh):
    con = sh.con
    con.read_for(3)
    begin, cpu = time.monotonic(), con.cpu_seconds()
    con.read_for(10)
    share = (con.cpu_seconds() - cpu) / (time.monotonic() - begin)
    print(f"idle: {share * 100:.2f} % of a CPU")
    check(con, share < 0.03, f"an idle guest uses {share * 100:.1f} % of a CPU")


def check_stats(con, stats, accel):
    stepped = stats["guest_insns"]
    if accel == "step":
        check(con, stepped > 10**8, f"{stepped} instructions")
        return
    check(con, stats["bt_blocks"] > 10**4, f"{stats['bt_blocks']} blocks translated")
    check(con, stats["bt_entries"] > 10**4, f"translated code entered {stats['bt_entries']} times")
    check(con, stats["user_exits"] > 10**3, f"user code left its space {stats['user_exits']} times")
    reasons = {name: n for name, n in stats.items() if name.startswith("stepped_")}
    print(reasons)
    check(con, stepped == sum(reasons.values()), f"{stepped} stepped, but {reasons}")


# --- scenarios ---


def check_sandbox(con, wanted):
    """Seccomp's mode 2 in every thread of the monitor, or in none (docs/security.md)."""
    path = f"/proc/{con.process.pid}/task"
    for task in os.listdir(path):
        with open(f"{path}/{task}/status", encoding="ascii", errors="replace") as f:
            found = re.search(r"^Seccomp:\s*(\d)", f.read(), re.MULTILINE)
        check(con, found and found[1] == wanted, f"thread {task}: {found and found[0]!r}")


def cloud(setup):
    """cloud kernel, 512 MiB: everything that can be asked, then poweroff -f"""
    with Console(setup.command("-nographic", "-no-reboot", "--stats=json",
                               *setup.linux("vmlinuz-cloud"))) as con:
        sh = Shell(con)
        print(f"prompt after {sh.boot_seconds:.1f} s")
        check(con, con.terminal_is_raw(), "the terminal is not raw")
        if not setup.args.qemu:
            check_sandbox(con, "2")
        sh.equals("echo hello, world", "hello, world")
        sh.equals("uname -r", sh.release)
        check(con, "cloud" in sh.release, f"release {sh.release!r}")
        check_cpu(sh)
        check_memory(sh, 512)
        check_computing(sh)
        check_processes(sh)
        check_time(sh)
        check_keys(sh)
        check_log(sh)
        check_idle(sh)
        check_date(sh)  # again: clocks do not drift apart in an idle guest
        sh.power_off()
        if not setup.args.qemu:
            check_stats(con, json.loads(con.stderr()), setup.args.accel)


def noacpi(setup):
    """cloud kernel, acpi=off noapic nolapic: 8259 and 8254 alone; reboot -f by the 8042"""
    with Console(setup.command("-nographic", "-no-reboot",
                               *setup.linux("vmlinuz-cloud", "acpi=off noapic nolapic"))) as con:
        sh = Shell(con)
        sh.matches("cat /proc/interrupts", r"^ *0: +[1-9]\d* +XT-PIC +timer")
        sh.matches("cat /proc/interrupts", r"^ *4: +[1-9]\d* +XT-PIC +ttyS0")
        check_time(sh)
        check_log(sh)
        sh.reboot()


def cloud5g(setup):
    """cloud kernel, 5 GiB: memory above 4 GiB; Ctrl-a x"""
    with Console(setup.command("-nographic", "-no-reboot",
                               *setup.linux("vmlinuz-cloud", memory="5G"))) as con:
        sh = Shell(con)
        check_memory(sh, 5120)
        sh.matches("cat /proc/iomem", r"^100000000-1[0-9a-f]{8} : System RAM")
        sh.equals("dd if=/dev/zero bs=1M count=4 2>/dev/null | tee /tmp/zero | sha256sum",
                  hashlib.sha256(bytes(4 << 20)).hexdigest() + "  -")
        sh.equals("sha256sum </tmp/zero", hashlib.sha256(bytes(4 << 20)).hexdigest() + "  -")
        check_log(sh)
        quit_by_key(con)


def stub(setup):
    """cloud kernel through its own decompressor (-boot stub); poweroff -f"""
    with Console(setup.command("-nographic", "-no-reboot", "-boot", "stub",
                               *setup.linux("vmlinuz-cloud", "earlyprintk=ttyS0"))) as con:
        sh = Shell(con)
        sh.equals("uname -r", sh.release)
        sh.power_off()


def generic(setup):
    """linux-image-amd64, 512 MiB; reboot -f through ACPI"""
    with Console(setup.command("-nographic", "-no-reboot", *setup.linux("vmlinuz-amd64"))) as con:
        sh = Shell(con)
        check(con, "cloud" not in sh.release, f"release {sh.release!r}")
        sh.equals("uname -r", sh.release)
        check_cpu(sh)
        check_time(sh)
        check_log(sh)
        sh.reboot()


def patch(setup, kernel):
    with Console(setup.command("-nographic", "-no-reboot",
                               *setup.linux(f"vmlinuz-{kernel}",
                                            initrd=f"initramfs-{kernel}.gz"))) as con:
        sh = Shell(con)
        patch_everything(sh)
        check_log(sh)
        sh.power_off()


def patching(setup):
    """cloud kernel: modules, ftrace, probes, static keys and calls; a clean log after all that"""
    patch(setup, "cloud")


def patching_generic(setup):
    """the same with the generic kernel"""
    patch(setup, "amd64")


def sysfs_pci(sh):
    """What the guest's kernel has found: {address: (vendor, device, class)}."""
    listing = sh.run("cd /sys/bus/pci/devices && for d in *; do "
                     "echo $d $(cat $d/vendor $d/device $d/class); done; cd")
    return {fields[0]: tuple(fields[1:]) for fields in map(str.split, listing.splitlines())}


def check_random(sh, name):
    """Random bytes come from the device called name, and are not the same twice."""
    sh.equals(f"echo {name} >/sys/class/misc/hw_random/rng_current; "
              "cat /sys/class/misc/hw_random/rng_current", name)
    count = "dd if=/dev/hwrng bs=512 count=32 2>/dev/null | "
    sh.equals(count + "wc -c", "16384")
    check(sh.con, sh.run(count + "sha256sum") != sh.run(count + "sha256sum"), "the same bytes twice")


def rng(setup):
    """two virtio-rng-pci, by MSI-X and by pin; PCI as the guest sees it"""
    devices = ("-device", "virtio-rng-pci,addr=6,disable-legacy=on",
               "-device", "virtio-rng-pci,addr=0x1f,vectors=0,event_idx=off,disable-legacy=on")
    with Console(setup.command("-nographic", "-no-reboot", "--stats=json", *devices,
                               *setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz"))) as con:
        sh = Shell(con)
        found = sysfs_pci(sh)
        card = ("0x1af4", "0x1044", "0x00ff00")
        if not sh.qemu:
            check(con, found == {"0000:00:00.0": ("0x1b36", "0x0008", "0x060000"),
                                 "0000:00:06.0": card, "0000:00:1f.0": card}, f"PCI: {found}")
        check(con, found["0000:00:06.0"] == found["0000:00:1f.0"] == card, f"PCI: {found}")
        sh.run("modprobe virtio_pci && modprobe virtio-rng")
        check_random(sh, "virtio_rng.0")
        check_random(sh, "virtio_rng.1")
        sh.matches("cat /proc/interrupts", r"^ *\d+: +[1-9]\d* +PCI-MSI \S+ +virtio0-input")
        pin = r"\d+" if sh.qemu else "19"  # 16 + 0x1f % 4
        sh.matches("cat /proc/interrupts", rf"^ *\d+: +[1-9]\d* +IO-APIC +{pin}-fasteoi +virtio1")
        for _ in range(3):  # reset in the middle of life
            sh.run("rmmod virtio-rng && modprobe virtio-rng")
        check_random(sh, "virtio_rng.0")
        check_log(sh)
        sh.power_off()
        if not setup.args.qemu:
            stats = json.loads(con.stderr())
            check(con, stats["msi_sent"] > 50 and stats["pci_intx"] > 50, "no interrupts?")
            check(con, stats["virtio_broken"] == 0, "a device was broken")


def rng_noacpi(setup):
    """the same without ACPI: PCI by mechanism 1, a pin to the 8259"""
    with Console(setup.command("-nographic", "-no-reboot", "-no-acpi", "-device",
                               "virtio-rng-pci,addr=6,disable-legacy=on",
                               *setup.linux("vmlinuz-cloud", "acpi=off noapic nolapic pci=nomsi",
                                            initrd="initramfs-cloud.gz"))) as con:
        sh = Shell(con)
        sh.run("modprobe virtio_pci && modprobe virtio-rng")
        check_random(sh, "virtio_rng.0")
        sh.matches("cat /proc/interrupts", r"^ *1[01]: +[1-9]\d* +XT-PIC +virtio0")
        check_log(sh)
        sh.reboot()


class Qmp:
    """A client of the machine protocol on a unix socket."""

    def __init__(self, path):
        deadline = time.monotonic() + END
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                return answer


def ram_taken(con):
    """MiB of guest RAM that the host has given ringshift."""
    fds = f"/proc/{con.process.pid}/fd"
    ram = [f"{fds}/{n}" for n in os.listdir(fds) if "guest-ram" in os.readlink(f"{fds}/{n}")]
    return os.stat(ram[0]).st_blocks * 512 / 2**20


def wait_for(con, what, seconds, text):
    deadline = time.monotonic() + seconds
    while not what():
        check(con, time.monotonic() < deadline, text)
        time.sleep(0.5)


def check_patterns(sh):
    """Memory that has been away holds what is written to it."""
    sh.run("seq 1 12000 >/tmp/0; for i in 0 1 2 3; do "
           "cat /tmp/$i /tmp/$i /tmp/$i /tmp/$i >/tmp/$((i + 1)); rm /tmp/$i; done")
    text = "".join(f"{i}\n" for i in range(1, 12001)) * 256  # 16 MiB
    for name in "abcdefgh":
        sh.run(f"(echo {name}; cat /tmp/4) >/tmp/{name}")
    for name in "abcdefgh":
        sh.equals(f"sha256sum </tmp/{name}",
                  hashlib.sha256(f"{name}\n{text}".encode()).hexdigest() + "  -")
    sh.run("rm /tmp/?")


def balloon(setup):
    """virtio-balloon-pci: RAM given back by balloon and by reports of free pages, and taken again"""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "qmp")
        argv = setup.command("-nographic", "-no-reboot", "-qmp", f"unix:{path},server=on,wait=off",
                             "-device", "virtio-balloon-pci,free-page-reporting=on",
                             *setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz"))
        with Console(argv) as con:
            sh = Shell(con)
            qmp = Qmp(path)
            sh.run("dd if=/dev/zero of=/tmp/f bs=1M count=180 && rm /tmp/f")
            full = 0 if sh.qemu else ram_taken(con)
            sh.run("modprobe virtio_pci && modprobe virtio_balloon")
            if not sh.qemu:
                wait_for(con, lambda: ram_taken(con) < full - 150, ANSWER,
                         f"reporting gave nothing back: {full:.0f} MiB, now {ram_taken(con):.0f}")
            check_patterns(sh)
            actual = lambda: qmp.ask("query-balloon")["return"]["actual"] >> 20
            total = int(sh.matches("cat /proc/meminfo", r"^MemTotal: +(\d+) kB")[1])
            qmp.ask("balloon", value=128 << 20)
            wait_for(con, lambda: actual() == 128, ANSWER, "the balloon does not grow")
            if not sh.qemu:
                check(con, ram_taken(con) < 140, f"{ram_taken(con):.0f} MiB with a large balloon")
            qmp.ask("balloon", value=512 << 20)
            wait_for(con, lambda: actual() == 512, ANSWER, "the balloon does not shrink")
            again = int(sh.matches("cat /proc/meminfo", r"^MemTotal: +(\d+) kB")[1])
            check(con, again == total, f"{again} kB of memory, were {total}")
            check_patterns(sh)
            sh.run("rmmod virtio_balloon")
            check_log(sh)
            sh.power_off()


class Stream:
    """The other end of a character device: a client of a unix socket."""

    def __init__(self, con, path):
        self.con = con
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(0.2)
        self.log = b""

    def expect(self, text, seconds=ANSWER):
        """Read on until text has come; what came before it."""
        deadline = time.monotonic() + seconds
        while text not in self.log:
            check(self.con, time.monotonic() < deadline,
                  f"no {text!r} on the socket; it ends {self.log[-200:]!r}")
            self.con.read_for(0)
            try:
                self.log += self.socket.recv(65536)
            except TimeoutError:
                pass
        before, _, self.log = self.log.partition(text)
        return before

    def send(self, data):
        """All of it; the console is read meanwhile."""
        while data:
            self.con.read_for(0)
            try:
                data = data[self.socket.send(data[:65536]):]
            except TimeoutError:
                pass


def console(setup):
    """virtio-serial-pci: a shell on hvc0, a named port, a megabyte in each direction"""
    with tempfile.TemporaryDirectory() as scratch:
        hvc, port = (os.path.join(scratch, name) for name in ("hvc", "port"))
        argv = setup.command("-nographic", "-no-reboot", "-device", "virtio-serial-pci,id=vs",
                             "-chardev", f"socket,id=c0,path={hvc},server=on,wait=off",
                             "-device", "virtconsole,chardev=c0",
                             "-chardev", f"socket,id=c1,path={port},server=on,wait=off",
                             "-device", "virtserialport,bus=vs.0,chardev=c1,name=org.test.0",
                             *setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz"))
        with Console(argv) as con:
            sh = Shell(con)
            terminal, stream = Stream(con, hvc), Stream(con, port)
            sh.run("modprobe virtio_pci && modprobe virtio_console")
            sh.equals("cat /sys/class/virtio-ports/vport*p1/name", "org.test.0")
            sh.run("(setsid sh -i </dev/hvc0 >/dev/hvc0 2>&1 &)")
            terminal.expect(b"# ")
            terminal.send(b"echo on $((6 * 7)) hvc\n")
            terminal.expect(b"on 42 hvc")
            # From the guest to us, and back.
            sh.run("p=$(echo /dev/vport*p1); seq 1 150000 >/tmp/f; cat /tmp/f >$p; echo END >$p")
            text = "".join(f"{i}\n" for i in range(1, 150001)).encode()
            check(con, stream.expect(b"END\n") == text, "what came is not what was sent")
            text = text[:len(text) // 4096 * 4096]
            sh.type(f"dd if=$p bs=4096 iflag=fullblock count={len(text) // 4096} 2>/dev/null | sha256sum")
            stream.send(text)
            con.expect(hashlib.sha256(text).hexdigest().encode(), BOOT)
            con.expect(rb"# (\x1b\[6n)?\Z", ANSWER)
            # Somebody else may come.
            stream.socket.close()
            con.read_for(1)
            stream = Stream(con, port)
            sh.run("echo again >$p")
            stream.expect(b"again")
            check_log(sh)
            sh.power_off()


def user_shell(setup, scratch, memory="1G", append="", stats=()):
    """A console of a kernel whose initial RAM disk has tests/user's programs as well."""
    if not setup.args.programs or not os.path.exists(os.path.join(setup.args.programs, "user")):
        raise Missing("tests/user's program")
    initrd = os.path.join(scratch, "initrd")
    programs.add_programs(setup.guest("initramfs.gz"), setup.args.programs, initrd)
    options = setup.linux("vmlinuz-cloud", append, memory, initrd=None)
    return Console(setup.command("-nographic", "-no-reboot", *stats, *options, "-initrd", initrd))


def user(setup):
    """tests/user: a program that checks, in the guest, what user code may rely on"""
    arguments = "--oracle" if setup.args.qemu else ""
    with tempfile.TemporaryDirectory() as scratch, \
            user_shell(setup, scratch, append="vsyscall=xonly", stats=("--stats=json",)) as con:
        sh = Shell(con)
        programs.run_checks(sh, "user", arguments, check, 50, BOOT)
        if os.path.exists(os.path.join(setup.args.programs, "user32")):
            programs.run_checks(sh, "user32", arguments, check, 45, BOOT)
        check_log(sh)
        sh.power_off()
        if not setup.args.qemu and setup.args.accel == "bt":
            stats = json.loads(con.stderr())
            check(con, stats["space_runs"] > 10**5, "user code did not run natively")
            check(con, stats["user_copies_evicted"] > 20, "no patched system call was taken back")
            check(con, stats["user_stepped_runs"] < 10**5, "32-bit code was stepped")


def killed(setup):
    """programs whose spaces are killed from outside end; the others, and the guest, go on as before"""
    with tempfile.TemporaryDirectory() as scratch, \
            user_shell(setup, scratch, stats=("--stats=json",)) as con:
        sh = Shell(con)
        # None in which a process would rightly complain that another has gone, but for the wait.
        tests = "vector_handlers general_registers segment_bases threads_mutex"
        wanted = hashlib.sha256("".join(f"{i}\n" for i in range(1, 2001)).encode()).hexdigest()
        spare, sums = set(programs.family(con.process.pid)), []
        sh.run(f"{{ while [ ! -e /stop ]; do /user/user {tests}; done >/log 2>&1 & }}")
        with programs.Killer(con.process.pid, spare) as killer:
            while killer.kills < 50 or wanted not in sums:
                check(con, killer.is_alive(), "nobody to kill")
                sums += re.findall(r"^[0-9a-f]{64}", sh.run("seq 1 2000 | sha256sum; true"), re.MULTILINE)
        sh.run(": >/stop; while pidof user >/dev/null; do usleep 100000; done", BOOT)
        wrong = [line for line in re.findall(r"^ +\w+\.c:\d+: .*", sh.run("cat /log"), re.MULTILINE)
                 if not re.search(r": status is 0x(b|9|100)\b", line)]
        check(con, not wrong, f"a program went on with something wrong: {wrong}")
        programs.run_checks(sh, "user", tests, check, len(tests.split()), BOOT)
        sh.equals("seq 1 2000 | sha256sum", wanted + "  -")
        check_log(sh)
        sh.power_off()
        stats = json.loads(con.stderr())
        print(f"{killer.kills} kills, {stats['user_lost']} programs ended, "
              f"{stats['space_killed']} spaces dead, {sums.count(wanted)} of {len(sums)} sums whole")
        check(con, stats["space_killed"] > 1, "no space was hit")


def storms(setup):
    """many processes, mappings, little memory, in a short form: nothing breaks, nothing is left"""
    with tempfile.TemporaryDirectory() as scratch, user_shell(setup, scratch, "512M") as con:
        storm = programs.Storm(Shell(con), check)
        for what in ("fork 500", "robin 64 3", "map 20000", "twins 2000", "pressure 1024", "state 5"):
            storm.run(what)
        storm.sh.power_off()


def storms_full(setup):
    """the same, in earnest"""
    with tempfile.TemporaryDirectory() as scratch, user_shell(setup, scratch, "1G") as con:
        storm = programs.Storm(Shell(con), check)
        for what in ("fork 10000", "robin 64 60", "map 200000", "twins 100000", "pressure 2048",
                     "pressure 2048", "state 60"):
            storm.run(what)
        storm.sh.power_off()


def userland(setup):
    """Debian: bash, python, perl, gcc, strace, gdb, openssl (scripts/mkdebian makes it)"""
    with Console(setup.command("-nographic", "-no-reboot",
                               *setup.linux("vmlinuz-cloud", memory="3G",
                                            initrd="debian.gz"))) as con:
        sh = Shell(con)
        programs.debian(sh, check, BOOT)
        check_log(sh)
        sh.power_off()


def panic(setup):
    """no root, panic=-1, -no-reboot: ends with 0; stdin at end of file, one log to stdout, one to a
    file"""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "serial")
        argv = setup.command("-display", "none", "-no-reboot", "-serial", "stdio",
                             "-serial", f"file:{path}",
                             *setup.linux("vmlinuz-cloud", "earlyprintk=ttyS1,115200,keep panic=-1",
                                          initrd=None))
        with open(os.devnull, "rb") as nothing, Console(argv, tty=False, stdin=nothing) as con:
            status = con.wait(BOOT)
            check(con, status == 0, f"ended with status {status}")
            with open(path, "rb") as f:
                for where, log in (("stdout", con.log), ("the file", f.read())):
                    check(con, b"Kernel panic - not syncing: VFS: Unable to mount root" in log,
                          f"no panic in {where}: it ends {log[-300:]!r}")


def restart(setup):
    """panic=-1 without -no-reboot: the machine starts again, as good as new, though the kernel's file
    has gone; Ctrl-a x"""
    with tempfile.TemporaryDirectory() as scratch:
        copy = os.path.join(scratch, "vmlinuz")
        shutil.copy(setup.guest("vmlinuz-cloud"), copy)
        argv = setup.command("-nographic", *(["-sandbox", "off"] if not setup.args.qemu else []),
                             *setup.linux("vmlinuz-cloud", "panic=-1", initrd=None))
        argv[argv.index(setup.guest("vmlinuz-cloud"))] = copy
        with Console(argv) as con:
            for _ in range(2):
                con.expect(rb"Linux version \d", BOOT)
                if os.path.exists(copy):
                    os.unlink(copy)
                con.expect(rb"Memory: \d+K/52\d\d\d\dK available", BOOT)
                con.expect(rb"Kernel panic - not syncing: VFS", BOOT)
            con.expect(rb"Linux version \d", BOOT)
            if not setup.args.qemu:
                check_sandbox(con, "0")
            quit_by_key(con)


def triplefault(setup):
    """reboot=t: a triple fault has a status of its own, and a report"""
    with Console(setup.command("-nographic", "-no-reboot",
                               *setup.linux("vmlinuz-cloud", "panic=-1 reboot=t",
                                            initrd=None))) as con:
        status = con.wait(BOOT)
        check(con, b"Kernel panic - not syncing: VFS" in con.log, "no panic")
        wanted = 0 if setup.args.qemu else TRIPLE_FAULT
        check(con, status == wanted, f"ended with status {status}, not {wanted}")
        check(con, con.terminal_is_as_found(), "the terminal has not been restored")
        if not setup.args.qemu:
            check(con, "ringshift: triple fault" in con.stderr(), "no report on stderr")


def run_syscalls(setup, disk, *options):
    """Boot into the program; ringshift's counters, or None."""
    with Console(setup.command("-nographic", "-no-reboot", "--stats=json", *options,
                               *setup.linux("vmlinuz-cloud", "quiet panic=-1 rdinit=/syscalls",
                                            initrd=None), "-initrd", disk), tty=False) as con:
        con.expect(rb"SYSCALLS OK", BOOT, TROUBLE + rb"|SYSCALLS FAILED[^\n]*")
        status = con.wait(END)
        check(con, status == 0, f"ended with status {status}")
        return None if setup.args.qemu else json.loads(con.stderr())


def syscalls(setup):
    """cloud kernel, a program (syscalls.c) that makes and rewrites system calls; with and without
    patching"""
    with tempfile.TemporaryDirectory() as scratch:
        disk = os.path.join(scratch, "initrd")
        try:
            subprocess.run(["cc", "-O2", "-static", "-o", os.path.join(scratch, "syscalls"),
                            os.path.join(HERE, "syscalls.c")], check=True)
            archive = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
                                     input=b"syscalls\n", cwd=scratch, check=True,
                                     stdout=subprocess.PIPE).stdout
        except FileNotFoundError as missing:
            raise Missing(missing.filename) from missing
        with open(disk, "wb") as out, open(setup.guest("initramfs.gz"), "rb") as first:
            out.write(first.read() + gzip.compress(archive))
        stats = run_syscalls(setup, disk)
        if not stats:
            return
        fast = stats["space_fast_syscalls"]
        print(f"{fast} of {stats['space_syscalls']} system calls without a signal, "
              f"{stats['user_sites_patched']} patched, {stats['user_copies_dropped']} dropped")
        if setup.args.accel == "bt":
            assert fast > stats["space_syscalls"] / 2, stats
            assert stats["user_copies_dropped"] > 10, stats
            assert stats["space_killed"] == 0, stats
            assert stats["user_stub_moves"] == 0, stats
            stats = run_syscalls(setup, disk, "-fast-syscalls", "off")
            assert stats["space_fast_syscalls"] == 0, stats


def memtest_options(setup):
    return ["-m", "64M", "-kernel", setup.guest("memtest64.bin"),
            "-append", "console=ttyS0,115200 nopause nobench nosm nosmp"]


MEMTEST_BANNER = rb"Memtest86\+ v6\.\d+"
MEMTEST_LINE = rb"(CLK/Temp|Tests? +\d|Time: +0:)"


def memtest(setup):
    """memtest86+ x64: its banner and its clock, on a terminal; then the same to a file"""
    with Console(setup.command("-nographic", *memtest_options(setup))) as con:
        con.expect(MEMTEST_BANNER, ANSWER)
        con.expect(MEMTEST_LINE, ANSWER)
        con.expect(rb"0:00:0[1-9]", ANSWER)
        quit_by_key(con)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "serial")
        with Console(setup.command("-display", "none", "-serial", f"file:{path}",
                                   *memtest_options(setup)), tty=False) as con:
            deadline = time.monotonic() + ANSWER
            log = b""
            while not (re.search(MEMTEST_BANNER, log) and re.search(MEMTEST_LINE, log)):
                check(con, time.monotonic() < deadline and con.process.poll() is None,
                      f"no banner in {path}: it ends {log[-300:]!r}")
                time.sleep(0.2)
                if os.path.exists(path):
                    with open(path, "rb") as f:
                        log = f.read()
            con.process.terminate()
            status = con.wait(END)
            wanted = (0,) if setup.args.qemu else (-15,)
            check(con, status in wanted, f"SIGTERM ended it with {status}")
            check(con, not con.log, f"output on stdout: {con.log[:100]!r}")


def qmp(setup):
    control.qmp(setup, Shell)


def qmp_ends(setup):
    control.qmp_ends(setup, Shell)


def daemon(setup):
    control.daemon(setup, Shell)


def serials(setup):
    control.serials(setup, Shell)


for name in ("qmp", "qmp_ends", "daemon", "serials"):
    globals()[name].__doc__ = getattr(control, name).__doc__

SCENARIOS = {f.__name__: f for f in (cloud, noacpi, rng, rng_noacpi, console, cloud5g, syscalls, memtest,
                                     stub, generic, patching, patching_generic, panic, restart,
                                     triplefault, user, storms, storms_full, userland, killed, qmp,
                                     qmp_ends, daemon, serials, balloon)}

SCENARIOS.update(network.scenarios(sys.modules[__name__]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringshift")
    parser.add_argument("--qemu")
    parser.add_argument("--accel", default="step", help="ringshift's engine")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--oracle", default=shutil.which("qemu-system-x86_64"),
                        help="QEMU, for scenarios in which it is the other end")
    parser.add_argument("--programs", help="directory with what tests/user builds")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    parser.add_argument("--extra", action="append", default=[],
                        help="one more argument for ringshift")
    parser.add_argument("scenario", nargs="*")
    args = parser.parse_intermixed_args()
    for name in args.scenario:
        if name not in SCENARIOS:
            parser.error(f"no scenario is called {name}")
    if args.list:
        for name, function in SCENARIOS.items():
            print(f"{name:12} {' '.join(function.__doc__.split())}")
        return 0
    if bool(args.ringshift) == bool(args.qemu) or not args.scenario:
        parser.error("one of --ringshift and --qemu, and scenarios (--list)")

    status = 0
    for name in args.scenario:
        begin = time.monotonic()
        try:
            SCENARIOS[name](Setup(args))
            print(f"ok {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Failure as failure:
            print(f"FAILED {name}: {failure}", flush=True)
            status = 1
        except Missing as missing:
            print(f"skipped {name}: {missing} is missing; scripts/fetch-guests gets it", flush=True)
            status = status or SKIPPED
    return status


if __name__ == "__main__":
    sys.exit(main())
