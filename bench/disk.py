#!/usr/bin/env python3
"""What a virtio disk gives past the guest's page cache: ringshift and QEMU TCG in turn, same images.

    bench/disk.py [--build build] [--guests .cache/guests] [--runs N] [--format raw,qcow2]
                  [--cache writeback] [--size 256M] [--seconds 1] [--engines bt,tcg]

bench/disk_rows.c in a guest with Debian's cloud kernel: MB/s and operations a second, for each engine
and format the median of N runs; then ringshift's share of TCG's. qcow2 is an overlay on the raw image,
filled before anything is measured. On a host with little to do: the figures are wall time.
"""
import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from console import Console, Failure  # noqa: E402
from boot_test import Shell  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROW = re.compile(r"ROW (.+)\t(\d+)\t([\d.]+)")


def pack(args, work):
    """A RAM disk with the program at /disk_rows."""
    disk = os.path.join(work, "initrd")
    subprocess.run([args.cc, "-O2", "-Wall", "-static", "-o", os.path.join(work, "disk_rows"),
                    os.path.join(HERE, "disk_rows.c")], check=True)
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
                             input=b"disk_rows\n", cwd=work, check=True,
                             stdout=subprocess.PIPE).stdout
    with open(disk, "wb") as out, \
            open(os.path.join(args.guests, "initramfs-cloud.gz"), "rb") as first:
        out.write(first.read() + gzip.compress(archive))
    return disk


def make_images(args, work):
    """Format -> a new image."""
    raw, over = os.path.join(work, "raw"), os.path.join(work, "qcow2")
    for path in (raw, over):
        if os.path.exists(path):
            os.unlink(path)
    img = [os.path.join(args.build, "ringshift"), "img", "create"]
    subprocess.run([*img, "-f", "raw", raw, args.size], check=True)
    subprocess.run([*img, "-f", "qcow2", "-b", raw, "-F", "raw", over], check=True)
    return {"raw": raw, "qcow2": over}


def command(args, engine, initrd, image, fmt):
    guest = ["-kernel", os.path.join(args.guests, "vmlinuz-cloud"), "-initrd", initrd, "-m", "512M",
             "-append", "console=ttyS0 panic=-1", "-nodefaults", "-nographic", "-serial", "stdio",
             "-no-reboot", "-drive",
             f"file={image},format={fmt},if=none,id=d,cache={args.cache}",
             "-device", "virtio-blk-pci,drive=d"]
    if engine == "tcg":
        return [args.qemu, "-accel", "tcg", "-cpu", "max,la57=off", "-machine", "pc"] + guest
    return [os.path.join(args.build, "ringshift"), "-accel", "bt"] + guest


def run(args, argv):
    """One run: row -> (bytes a second, operations a second)."""
    with Console(argv) as con:
        sh = Shell(con)
        sh.run("modprobe virtio_pci && modprobe virtio_blk")
        text = sh.run(f"/disk_rows /dev/vda {args.seconds}", 600)
        sh.power_off()
    return {name: (float(rate), float(ops)) for name, rate, ops in ROW.findall(text)}


def measure(args):
    results = {}
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        initrd = pack(args, work)
        for i in range(args.runs):
            for fmt in args.format.split(","):
                for engine in args.engines.split(","):
                    print(f"\rrun {i + 1} of {args.runs}: {fmt}, {engine}   ", end="",
                          file=sys.stderr, flush=True)
                    image = make_images(args, work)[fmt]
                    got = run(args, command(args, engine, initrd, image, fmt))
                    results.setdefault(fmt, {}).setdefault(engine, []).append(got)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return results


def table(results):
    for fmt, engines in results.items():
        both = {"bt", "tcg"} <= set(engines)
        print(f"{fmt:32}" + "".join(f"{name + ' MB/s':>12}{name + ' op/s':>12}" for name in engines) +
              ("    bt/tcg" if both else ""))
        for row in next(iter(engines.values()))[0]:
            mid = {name: [statistics.median(run[row][k] for run in runs) for k in (0, 1)]
                   for name, runs in engines.items()}
            ratio = f"{mid['bt'][1] / mid['tcg'][1]:10.2f}" if both else ""
            print(f"{row:32}" + "".join(f"{m[0] / 1e6:12.1f}{m[1]:12.0f}" for m in mid.values()) +
                  ratio)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--guests", default=".cache/guests",
                        help="from scripts/fetch-guests (default: %(default)s)")
    parser.add_argument("--cc", default="cc", help="C compiler with a static libc")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--engines", default="bt,tcg", help="default: %(default)s")
    parser.add_argument("--format", default="raw,qcow2", help="default: %(default)s")
    parser.add_argument("--cache", default="writeback", help="cache mode (default: %(default)s)")
    parser.add_argument("--size", default="256M", help="of the disk (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="for each row (default: 1)")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--work", help="directory for the images (default: that of temporary files)")
    parser.add_argument("--json", metavar="FILE", help="write all runs there")
    args = parser.parse_args()
    try:
        results = measure(args)
        table(results)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as out:
                json.dump(results, out, indent=1)
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
