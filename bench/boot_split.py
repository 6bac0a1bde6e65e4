#!/usr/bin/env python3
"""Where the time of a boot goes: from the start of ringshift to the first instruction of ring 3.

    bench/boot_split.py [--build build] [--guests .cache/guests] [--runs N] [--kernel FILE]

Boots the Debian cloud kernel under `perf record` with an init that does not exist, so that the
guest gives up just where ring 3 would begin. A sample belongs to the part whose code was running,
or had entered the host's kernel; which function is whose is taken from the objects of the build. The
host's own page faults and signals in translated code count as faults. The last lines are the counters
of the same runs.
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

import harness

PARTS = {"decode": "decoding guest instructions (Capstone, decoder/)",
         "emit": "making blocks",
         "find": "finding, chaining and dropping blocks",
         "run": "translated code",
         "callouts": "callouts and stepping: the engine, the TLB, chips",
         "faults": "host faults in translated code: signal and its handler",
         "shadow": "mapping pages: tables, mmap",
         "spaces": "user spaces",
         "start": "before the guest runs: loading, set-up",
         "other": "libc and what else there is"}
SETUP = ("start", "spaces", "other")

# Object files, as they are in the build; the first that matches.
OBJECTS = [(r"libdecoder|capstone", "decode"),
           (r"libbt\.a.*(/|:)(translate|tr_\w+|relocate|common_code|check_recovery|bind)\.c", "emit"),
           (r"libbt\.a.*(/|:)(block|block_table|site|bt_run|regime)\.c", "find"),
           (r"libbt\.a.*(/|:)(recover|thunk_fault)\.c|signal_entry", "faults"),
           (r"libmmu\.a.*(/|:)shadow", "shadow"),
           (r"libruntime\.a.*(/|:)(space|user)", "spaces"),
           (r"libruntime\.a.*(/|:)(load|unpack|lowland|cmdline|main|symbols)", "start"),
           (r"libbt\.a|libmmu\.a|libdevices\.a|libruntime\.a", "callouts")]
FUNCTIONS = [(r"^(__)?(mmap|mprotect|munmap|mremap)(64)?$", "shadow"),
             (r"^__restore_rt$", "faults"), (r"^signal_entry", "faults"),
             (r"^(LZ4|ZSTD|HUF|FSE|inflate|BZ2|lzma|XXH)", "start"),
             (r"^(syscall|clone|fork)", "spaces"),
             (r"^(timer_settime|clock_gettime|__clock_gettime|write|read|poll)", "callouts")]
COUNTERS = ["bt_blocks", "bt_guest_bytes", "bt_callouts", "bt_fault_steps", "bt_hidden_faults",
            "shadow_fills", "guest_insns"]


def owners(build):
    """Function -> (part, object), for everything that is linked in from a library of ours or Capstone."""
    libraries = [os.path.join(build, f"lib{x}.a")
                 for x in ("decoder", "bt", "mmu", "devices", "runtime")]
    capstone = subprocess.run(["gcc", "-print-file-name=libcapstone.a"], capture_output=True,
                              text=True).stdout.strip()
    owner = {}
    for library in libraries + [capstone]:
        listing = subprocess.run(["nm", "-A", library], capture_output=True, text=True).stdout
        for line in listing.splitlines():
            where, _, rest = line.rpartition(":")
            fields = rest.split()
            if len(fields) < 2 or fields[-2] not in "tTwW":
                continue
            part = next((p for pattern, p in OBJECTS if re.search(pattern, where)), "other")
            name = re.split(r"[/:]", where)[-1].removesuffix(".o")
            owner.setdefault(fields[-1], (part, name))
    return owner


def part_of(frames, owner):
    """frames: (symbol, binary) from the innermost out."""
    user = next(((s, b) for s, b in frames if "kernel" not in b and not b.startswith("[")), None)
    if not user:
        return "other"
    symbol, binary = user[0].split(".")[0], user[1]
    if "ringshift-translations" in binary:
        return "run" if frames[0] == user else "faults"
    if "ringshift-spaces" in binary:
        return "spaces"
    if "memfd:" in binary:
        return "callouts"  # thunks
    return next((p for pattern, p in FUNCTIONS if re.search(pattern, symbol)),
                owner.get(symbol, ("other", ""))[0])


def samples(data):
    """(comm, list of (symbol, binary) from the innermost out), one per sample."""
    text = subprocess.run(["perf", "script", "-i", data, "-F", "comm,ip,sym,dso"],
                          capture_output=True, text=True).stdout
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        frames = [re.match(r"\s*[0-9a-f]+ (.+?) \((.*)\)$", line) for line in lines[1:]]
        frames = [(m[1], m[2]) for m in frames if m]
        if frames:
            yield lines[0].strip(), frames


def boot(args, data):
    """Record one boot; its counters."""
    initrd = os.path.join(args.guests, "initramfs.gz")
    guest = [*harness.ringshift(args, "--stats=json"),
             *harness.linux(args, initrd, "rdinit=/none", args.kernel),
             "-m", "512", "-nographic", "-no-reboot"]
    done = subprocess.run(["perf", "record", "-q", "-g", "-F", "5000", "-o", data] + guest,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=args.timeout)
    found = re.search(rb"\{\"guest_insns\".*?\}", done.stderr)
    if not found or b"Kernel panic" not in done.stdout:
        sys.exit(f"no boot: status {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return json.loads(found[0])


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--kernel", default="vmlinuz-cloud", help="default: %(default)s")
    parser.add_argument("--functions", type=int, default=0, metavar="N",
                        help="name the N functions with most samples of each part")
    args = parser.parse_args()
    owner, count, named = owners(args.build), collections.Counter(), {}
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as scratch:
            data = os.path.join(scratch, "perf.data")
            counters = boot(args, data)
            for comm, frames in samples(data):
                if not comm.startswith("ringshift") or comm.startswith("ringshift-space"):
                    continue
                part = part_of(frames, owner)
                count[part] += 1
                named.setdefault(part, collections.Counter())[frames[0][0]] += 1
    guest = sum(n for part, n in count.items() if part not in SETUP)
    print(f"{args.runs} boots, {sum(count.values())} samples; per cent of the guest's time")
    for part, what in PARTS.items():
        share = "" if part in SETUP else f"{100 * count[part] / guest:6.1f}"
        print(f"{part:10}{count[part]:8}{share:>8}  {what}")
        for symbol, n in named.get(part, collections.Counter()).most_common(args.functions):
            print(f"{'':10}{n:8}          {symbol}")
    share = 100 * (count["callouts"] + count["faults"] + count["shadow"]) / guest
    print(f"callouts, faults and shadow together: {share:.1f} %")
    print("counters of the last boot: " + ", ".join(f"{c} {counters[c]}" for c in COUNTERS))


if __name__ == "__main__":
    main()
