#!/usr/bin/env python3
"""Disks in a real guest: Debian's cloud kernel with ext4 on virtio disks.

    disk_test.py --ringshift build/ringshift --guests .cache/guests SCENARIO...

With --qemu QEMU runs the same scenarios where they are not about ringshift itself. --list prints the
scenarios. The images are judged by e2fsck, debugfs and qemu-img (packages e2fsprogs, qemu-utils).
Status 0: all passed; 1: one failed; 77: a guest or a tool is missing.
"""
import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "boot"))
from console import Console, Failure  # noqa: E402
import boot_test  # noqa: E402
from boot_test import Missing, Setup, Shell, check  # noqa: E402

TOOLS = ("mke2fs", "e2fsck", "debugfs", "qemu-img")
MIB = 1 << 20
ANSWER = boot_test.ANSWER
TROUBLE = boot_test.TROUBLE


class Scratch:
    """A directory for images, and the tools that make and judge them."""

    def __init__(self, setup):
        self.setup = setup
        self.dir = tempfile.mkdtemp(prefix="ringshift-disk.")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def run(self, *argv, wanted=(0,)):
        done = subprocess.run(argv, cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"},
                              check=False)
        text = done.stdout.decode(errors="replace")
        if done.returncode not in wanted:
            raise Failure(f"{' '.join(argv)}: status {done.returncode}\n{text}")
        return text

    def ext4(self, name, files, size=64 * MIB):
        """A raw image with an ext4 file system that holds files: {name: bytes}."""
        root = self.path("root")
        os.mkdir(root)
        for file, data in files.items():
            with open(os.path.join(root, file), "wb") as f:
                f.write(data)
        with open(self.path(name), "wb") as f:
            f.truncate(size)
        self.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, name)
        shutil.rmtree(root)
        return self.path(name)

    def overlay(self, name, base, fmt="raw"):
        """A qcow2 image on top of another, made by ringshift if it is under test."""
        if self.setup.args.qemu:
            self.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", fmt, name)
        else:
            self.img("create", "-f", "qcow2", "-b", base, "-F", fmt, name)
        return self.path(name)

    def img(self, *args, wanted=(0,)):
        return self.run(os.path.abspath(self.setup.args.ringshift), "img", *args, wanted=wanted)

    def check_qcow2(self, name, leaks_are_fine=False):
        """By qemu-img and by us: both say the same."""
        wanted = (0, 3) if leaks_are_fine else (0,)
        text = self.run("qemu-img", "check", name, wanted=wanted)
        if not self.setup.args.qemu:
            ours = self.img("check", name, wanted=wanted)
            if ("leaked" in text) != ("leaked" in ours):
                raise Failure(f"qemu-img check: {text}\nringshift img check: {ours}")
        return text

    def to_raw(self, name):
        self.run("qemu-img", "convert", "-O", "raw", name, name + ".raw")
        return name + ".raw"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def drive(path, fmt, *more):
    return ["-drive", ",".join([f"file={path}", f"format={fmt}", "if=virtio", *more])]


def start(setup, *options):
    """A guest with drives; modules come from the initial RAM disk."""
    return Console(setup.command("-nographic", "-no-reboot", *options,
                                 *setup.linux("vmlinuz-cloud", initrd="initramfs-cloud.gz")))


def shell(con):
    sh = Shell(con)
    sh.run("modprobe virtio_pci && modprobe virtio_blk")
    return sh


# --- scenarios ---


def ext4(setup):
    """raw, and qcow2 on it: read what is there, write, fsync, discard, poweroff; all clean after"""
    data = random.Random(5).randbytes(5 * MIB)
    with Scratch(setup) as s:
        s.ext4("raw", {"here": data})
        s.overlay("over", "raw")
        work_on(setup, s, data, drive(s.path("over"), "qcow2", "discard=unmap", "cache=none"))
        s.check_qcow2("over")
        judge(s, s.to_raw("over"), data)
        s.run("e2fsck", "-fn", "raw")
        if "/new" in s.run("debugfs", "-R", "ls -p /", "raw"):
            raise Failure("the backing image has been written")
        work_on(setup, s, data, drive(s.path("raw"), "raw", "discard=unmap", "serial=SN1"))
        judge(s, "raw", data)


def work_on(setup, s, data, options):
    with start(setup, *options) as con:
        sh = shell(con)
        sh.run("mkdir /mnt; mount -t ext4 /dev/vda /mnt")
        sh.equals("sha256sum </mnt/here", f"{sha(data)}  -")
        sh.run("dd if=/mnt/here of=/mnt/new bs=64k conv=fsync 2>/dev/null && mkdir /mnt/dir && cp /mnt/here /mnt/dir/gone")
        sh.run("rm /mnt/dir/gone; sync; fstrim /mnt")
        # Past the guest's cache, in several sizes.
        sh.run("for bs in 512 4096 65536 1048576; do dd if=/mnt/new of=/mnt/direct bs=$bs "
               "iflag=direct oflag=direct conv=fsync 2>/dev/null && "
               "cmp /mnt/new /mnt/direct || exit 1; done", 300)
        if any("serial=" in o for o in options):
            sh.equals("cat /sys/block/vda/serial", "SN1")
        sh.run("umount /mnt")
        boot_test.check_log(sh)
        sh.power_off()


def judge(s, raw, data):
    s.run("e2fsck", "-fn", raw)
    for name in ("new", "direct"):
        s.run("debugfs", "-R", f"dump /{name} out", raw)
        with open(s.path("out"), "rb") as f:
            if f.read() != data:
                raise Failure(f"{raw}: {name} is not what was written")


def modes(setup):
    """every cache mode, read-only, snapshot=on: each does what it says"""
    names = ("writeback", "none", "writethrough", "directsync", "unsafe")
    with Scratch(setup) as s:
        options = []
        for i, name in enumerate(names):
            s.run("qemu-img", "create", "-q", "-f", "qcow2" if i & 1 else "raw", name, "8M")
            options += drive(s.path(name), "qcow2" if i & 1 else "raw", f"cache={name}")
        for name in ("ro", "snap"):
            with open(s.path(name), "wb") as f:
                f.write(name.encode().ljust(MIB, b"."))
        before = {name: sha(open(s.path(name), "rb").read()) for name in ("ro", "snap")}
        options += drive(s.path("ro"), "raw", "readonly=on") + drive(s.path("snap"), "raw", "snapshot=on")
        pattern = random.Random(6).randbytes(3 * MIB)
        with open(s.path("pattern"), "wb") as f:
            f.write(pattern)
        options += drive(s.path("pattern"), "raw", "readonly=on")
        with start(setup, *options) as con:
            sh = shell(con)
            sh.equals("echo /dev/vd?", " ".join(f"/dev/vd{c}" for c in "abcdefgh"))
            for i, name in enumerate(names):
                cached = "write through" if name in ("writethrough", "directsync") else "write back"
                sh.equals(f"cat /sys/block/vd{'abcdefgh'[i]}/queue/write_cache", cached)
                sh.run(f"dd if=/dev/vdh of=/dev/vd{'abcdefgh'[i]} bs=24k oflag=direct conv=fsync 2>/dev/null")
                sh.equals(f"head -c {3 * MIB} /dev/vd{'abcdefgh'[i]} | sha256sum", f"{sha(pattern)}  -")
            sh.equals("cat /sys/block/vdf/ro /sys/block/vdg/ro", "1\n0")
            sh.equals("dd if=/dev/zero of=/dev/vdf bs=512 count=1 2>/dev/null || echo refused", "refused")
            sh.run("dd if=/dev/vdh of=/dev/vdg bs=64k count=4 oflag=direct 2>/dev/null")
            sh.equals("dd if=/dev/vdg bs=64k count=4 iflag=direct 2>/dev/null | sha256sum",
                      f"{sha(pattern[:256 << 10])}  -")
            boot_test.check_log(sh)
            sh.power_off()
        for i, name in enumerate(names):
            raw = name
            if i & 1:
                s.check_qcow2(name)
                raw = s.to_raw(name)
            with open(s.path(raw), "rb") as f:
                if f.read(len(pattern)) != pattern:
                    raise Failure(f"{name}: the image does not hold what was written")
        for name, digest in before.items():
            if sha(open(s.path(name), "rb").read()) != digest:
                raise Failure(f"{name} has been written")


RECORD = "yes $i | head -n $((i * 7919 % 9000 + 1))"


def record(i):
    return f"{i}\n".encode() * (i * 7919 % 9000 + 1)


def kill_once(setup, s, image, fmt, rng):
    """Write and fsync files until the monitor is killed; the number of the last acknowledged one."""
    with start(setup, *drive(image, fmt, "discard=unmap")) as con:
        sh = shell(con)
        sh.run("mkdir /mnt; mount -t ext4 -o discard /dev/vda /mnt")
        sh.type("cd /mnt; i=0; while :; do i=$((i+1)); " + RECORD + " | dd of=r$i conv=fsync 2>/dev/null "
                "&& rm -f r$((i-40)) && echo \"A\"CK=$i; done")
        wanted = rng.randrange(5, 60)
        con.expect(b"ACK=%d\r" % wanted, ANSWER, TROUBLE)
        con.read_for(rng.random() * 0.3)
        os.kill(con.process.pid, signal.SIGKILL)
        con.process.wait()
        con.read_for(0.1)
        return int(re.findall(rb"ACK=(\d+)\r", con.log)[-1])


def judge_kill(s, raw, last):
    """Replay the journal as a mount would; then all is clean, and what was acknowledged is there."""
    s.run("e2fsck", "-fp", raw, wanted=(0, 1))
    s.run("e2fsck", "-fn", raw)
    out = s.path("dump")
    os.mkdir(out)
    s.run("debugfs", "-R", f"rdump / {out}", raw)
    for i in range(max(1, last - 38), last + 1):
        with open(os.path.join(out, f"r{i}"), "rb") as f:
            if f.read() != record(i):
                raise Failure(f"record {i} of {last} that were acknowledged is damaged")
    shutil.rmtree(out)


def kill_times(setup, times):
    rng = random.Random()
    for i in range(times):
        with Scratch(setup) as s:
            raw = s.ext4("raw", {"here": b"x"})
            qcow2 = i & 1 == 0
            image = s.overlay("over", "raw") if qcow2 else raw
            last = kill_once(setup, s, image, "qcow2" if qcow2 else "raw", rng)
            print(f"killed after {last} acknowledged files", flush=True)
            if qcow2:
                print(s.check_qcow2("over", leaks_are_fine=True).strip().splitlines()[-2], flush=True)
                raw = s.path(s.to_raw("over"))
            judge_kill(s, raw, last)


def kill(setup):
    """SIGKILL to the monitor among fsync'ed writes, 3 times: nothing acknowledged is lost"""
    kill_times(setup, 3)


def kill_long(setup):
    """the same, 20 times"""
    kill_times(setup, 20)


def refused(setup, *options):
    """What ringshift says when it does not start."""
    con = Console(setup.command("-nographic", "-no-reboot", *options, *setup.linux("vmlinuz-cloud")))
    with con:
        status = con.wait(boot_test.END)
        check(con, status == 1, f"status {status}, not 1")
        return con.stderr().strip()


def second(setup):
    """two VMs on one disk: the second is refused, unless both only read it"""
    with Scratch(setup) as s:
        s.run("qemu-img", "create", "-q", "-f", "raw", "raw", "8M")
        s.overlay("over", "raw")
        for name, fmt in (("raw", "raw"), ("over", "qcow2")):
            path = s.path(name)
            with start(setup, *drive(path, fmt)) as con:
                con.expect(rb"Linux version \d", boot_test.BOOT, TROUBLE)
                for more in ((), ("readonly=on",), ("snapshot=on",)):
                    text = refused(setup, *drive(path, fmt, *more))
                    check(con, path in text and "lock" in text and len(text.splitlines()) == 1,
                          f"the second VM says {text!r}")
        # The base of a VM's overlay is read: others may, too, but not write it.
        for first, then in (("readonly=on", "snapshot=on"), ("snapshot=on", "snapshot=on")):
            with start(setup, *drive(s.path("over"), "qcow2", first)) as con:
                con.expect(rb"Linux version \d", boot_test.BOOT, TROUBLE)
                text = refused(setup, *drive(s.path("raw"), "raw"))
                check(con, "lock" in text, text)
                with start(setup, *drive(s.path("over"), "qcow2", then)) as other:
                    other.expect(rb"Linux version \d", boot_test.BOOT, TROUBLE)


def bad(setup):
    """drives that cannot be: one line that says why, status 1"""
    with Scratch(setup) as s:
        s.run("qemu-img", "create", "-q", "-f", "raw", "raw", "8M")
        s.run("qemu-img", "create", "-q", "-f", "vmdk", "vmdk", "8M")
        raw = s.path("raw")
        cases = (
            (["-drive", "file=/nonexistent/x"], "/nonexistent/x"),
            (["-drive", f"file={s.dir}"], "irectory"),
            (["-drive", "file=/dev/null"], "neither a file nor a block device"),
            (["-drive", f"file={s.path('vmdk')}"], "vmdk"),
            (["-drive", f"file={raw},format=qcow2"], "not a qcow2 image"),
            (["-drive", f"file={raw},if=ide"], "if=ide"),
            (["-drive", f"file={raw},foo=bar"], "foo"),
            (["-drive", f"file={raw},cache=bar"], "cache=bar"),
            (["-drive", f"file={raw},format=raw", "-hda", raw], "lock"),
            (["-drive", "if=virtio"], "file="),
            (["-drive", f"file={raw},if=none,id=a", "-device", "virtio-blk-pci,drive=b"], "drive=b"),
            (["-device", "virtio-blk-pci"], "drive=ID"),
            (["-drive", f"file={raw},if=none,id=a", "-device", "virtio-blk-pci,drive=a",
              "-device", "virtio-blk-pci,drive=a"], "another device"),
        )
        for options, wanted in cases:
            text = refused(setup, *options)
            lines = [line for line in text.splitlines() if "note:" not in line]
            if len(lines) != 1 or wanted not in lines[0]:
                raise Failure(f"{options}: {text!r} does not say {wanted!r} in one line")


def qmp(path, *commands):
    """What a monitor on a socket returns."""
    with socket.socket(socket.AF_UNIX) as sock:
        deadline = time.monotonic() + ANSWER
        while sock.connect_ex(path) and time.monotonic() < deadline:
            time.sleep(0.05)
        stream = sock.makefile("rw", encoding="utf-8")
        answers = [json.loads(stream.readline())]
        for command in ("qmp_capabilities", *commands):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            answers.append(json.loads(stream.readline()))
        return [a.get("return") for a in answers[2:]]


def monitor(setup):
    """query-block says what QEMU's would"""
    with Scratch(setup) as s:
        s.run("qemu-img", "create", "-q", "-f", "raw", "raw", "8M")
        s.overlay("over", s.path("raw"))
        options = ["-drive", f"file={s.path('over')},format=qcow2,cache=none,id=one,if=none",
                   *drive(s.path("raw"), "raw", "readonly=on", "cache=unsafe"),
                   "-S", "-qmp", f"unix:{s.path('sock')},server=on,wait=off"]
        with start(setup, *options) as con:
            found = qmp(s.path("sock"), "query-block")[0]
            check(con, [b["device"] for b in found][:2] == ["one", "virtio0"], str(found))
            one, two = (b["inserted"] for b in found[:2])
            wanted = {"drv": "qcow2", "ro": False, "file": s.path("over"), "backing_file_depth": 1,
                      "backing_file": s.path("raw"),
                      "cache": {"writeback": True, "direct": True, "no-flush": False}}
            check(con, {k: one[k] for k in wanted} == wanted, str(one))
            check(con, one["image"]["virtual-size"] == 8 * MIB, str(one))
            wanted = {"drv": "raw", "ro": True, "backing_file_depth": 0,
                      "cache": {"writeback": True, "direct": False, "no-flush": True}}
            check(con, {k: two[k] for k in wanted} == wanted, str(two))
            con.process.terminate()
            con.wait(boot_test.END)


SCENARIOS = {f.__name__: f for f in (ext4, modes, kill, kill_long, second, bad, monitor)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringshift")
    parser.add_argument("--qemu")
    parser.add_argument("--accel", default="bt", help="ringshift's engine")
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    parser.add_argument("--extra", action="append", default=[], help="one more argument for ringshift")
    parser.add_argument("scenario", nargs="*")
    args = parser.parse_intermixed_args()
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
            for tool in TOOLS:
                if not shutil.which(tool, path=os.environ["PATH"] + ":/sbin:/usr/sbin"):
                    raise Missing(tool)
            SCENARIOS[name](Setup(args))
            print(f"ok {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Failure as failure:
            print(f"FAILED {name}: {failure}", flush=True)
            status = 1
        except Missing as missing:
            print(f"skipped {name}: {missing} is missing", flush=True)
            status = status or boot_test.SKIPPED
    return status


if __name__ == "__main__":
    sys.exit(main())
