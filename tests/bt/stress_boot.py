#!/usr/bin/env python3
"""Boot a kernel under the translator with its checks and stress switches on.

    stress_boot.py --ringshift build/ringshift --guests .cache/guests --extra=-bt-cache --extra=64K

Status 0: it came up, computed what it should, complained of nothing and powered off; 1: it did not;
77: a guest is missing (scripts/fetch-guests).
"""
import argparse
import hashlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "boot"))
from boot_test import SKIPPED, Missing, Setup, Shell, check_log  # noqa: E402
from console import Console, Failure  # noqa: E402


def boot(setup, kernel):
    with Console(setup.command("-nographic", "-no-reboot", "--stats=json",
                               *setup.linux(kernel, "panic=-1 nowatchdog"))) as con:
        sh = Shell(con)
        print(f"prompt after {sh.boot_seconds:.1f} s")
        text = "".join(f"{i}\n" for i in range(1, 301)).encode()
        sh.equals("seq 1 300 | gzip | gunzip | sha256sum",
                  hashlib.sha256(text).hexdigest() + "  -")
        sh.equals("for i in 1 2 3 4 5; do (exit $i) || echo -n $?; done", "12345")
        sh.run("sleep 1")
        check_log(sh)
        sh.power_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringshift", required=True)
    parser.add_argument("--guests", default=".cache/guests")
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="in the guests' directory")
    parser.add_argument("--extra", action="append", default=[], help="one more option for ringshift")
    args = parser.parse_args()
    args.qemu, args.accel = None, "bt"
    try:
        boot(Setup(args), args.kernel)
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    except Missing as missing:
        print(f"skipped: {missing} is missing; scripts/fetch-guests gets it")
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
