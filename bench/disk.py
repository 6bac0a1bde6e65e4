#!/usr/bin/env python3
"""What a virtio disk gives past the guest's page cache: ringshift and QEMU TCG in turn, same images.

    bench/disk.py [--build build] [--guests .cache/guests] [--runs N] [--format raw,qcow2]
                  [--cache writeback] [--size 256M] [--seconds 1] [--rows 012345678] [--engines bt,tcg]

bench/disk_rows.c in a guest with Debian's cloud kernel: MB/s and operations a second, for each engine
and format the median of N runs; then ringshift's share of TCG's. qcow2 is an overlay on the raw image,
filled before anything is measured. On a host with little to do: the figures are wall time.
"""
import os
import re
import subprocess
import sys
import tempfile

import harness
from figures import Suite
from harness import Console, Failure
from boot_test import Shell

LARGE = 65536  # bytes: how fast larger transfers are is said in MB/s
ROW = re.compile(r"ROW (.+)\t(\d+)\t([\d.]+)")


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
    guest = harness.linux(args, initrd, "") + harness.SERIAL + [
        "-m", "512M", "-drive", f"file={image},format={fmt},if=none,id=d,cache={args.cache}",
        "-device", "virtio-blk-pci,drive=d"]
    front = {"bt": harness.ringshift(args), "tcg": harness.qemu(args, cpu="max,la57=off")}
    return harness.chosen(args, front)[engine] + guest


def run(args, argv):
    """One run: row -> (bytes a second, operations a second)."""
    with Console(argv) as con:
        sh = Shell(con)
        sh.run("modprobe virtio_pci && modprobe virtio_blk")
        text = sh.run(f"/disk_rows /dev/vda {args.seconds} {args.rows}", args.timeout)
        sh.power_off()
    return {name: (float(rate), float(ops)) for name, rate, ops in ROW.findall(text)}


def measure(args):
    suite = Suite("A virtio disk past the guest's page cache", "tcg")
    formats, engines = args.format.split(","), args.engines.split(",")
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        _, initrd = harness.pack(args, work, "disk_rows.c", "disk_rows", "initramfs-cloud.gz")
        for _, fmt, engine in harness.turns("disk", args.runs, formats, engines):
            image = make_images(args, work)[fmt]
            got = run(args, command(args, engine, initrd, image, fmt))
            for name, (rate, ops) in got.items():
                large = rate > LARGE * ops
                suite.add(engine, f"{fmt}: {name}", rate / 1e6 if large else ops,
                          "MB/s" if large else "op/s")
    return suite


def main():
    parser = harness.parser(__doc__, "bt,tcg", timeout=600)
    parser.add_argument("--format", default="raw,qcow2", help="default: %(default)s")
    parser.add_argument("--cache", default="writeback", help="cache mode (default: %(default)s)")
    parser.add_argument("--size", default="256M", help="of the disk (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="for each row (default: 1)")
    parser.add_argument("--rows", default="012345678", help="digits; 0 is the first row (default: all)")
    parser.add_argument("--work", help="directory for the images (default: that of temporary files)")
    args = parser.parse_args()
    try:
        harness.finish(args, measure(args))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
