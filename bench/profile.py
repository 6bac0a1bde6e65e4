#!/usr/bin/env python3
"""Where ringshift's time goes in one row of the comparison.

    bench/profile.py ROW [--build build] [--guests .cache/guests] [--runs N] [--functions N]

ROW is the name of a row of bench/user.py, bench/macro.py or bench/nano.py, or the beginning of one that
is no other's ("mprotect"), or "boot". The row runs N times under `perf record` (one of nano.py's for N
seconds); a sample belongs to what the guest was
about: its user code, its kernel's translated code, a hand-over between them, a fault, a callout, ... The
first column is time in our code or the guest's, the second time in the host's kernel on behalf of it, both
in per cent of the time of one processor that the guest's only CPU would have: while user code runs, the
monitor spins and waits for it, and the other way round, so spinning is no work. What one side
spins beyond what the other did meanwhile is the way between two processors, and part of the hand-over.

Faults are one kind of sample; how many of them are hidden from the guest and how many it sees is told
by the counters, of which those that moved follow.
"""
import collections
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import boot_split
import harness
import macro
import nano
import user
from harness import Console, Failure

FREQUENCY = 4000  # samples a second and processor

PARTS = {"native": "native user code",
         "run": "translated kernel code",
         "handover": "hand-over between them",
         "hidden": "hidden faults: the guest does not see them",
         "true": "true faults: the guest's own",
         "callouts": "callouts",
         "mapping": "mapping pages: shadows and spaces",
         "translate": "decoding, making and finding blocks",
         "idle": "waiting: halted, timers, the console",
         "other": "the rest"}
BOOT_PARTS = {"decode": "translate", "emit": "translate", "find": "translate", "shadow": "mapping",
              "spaces": "handover", "start": "other"}
SPINNING = ("do_run", "space_ticks", "__sched_yield", "sched_yield")
MAPPING = re.compile(r"sys_(mmap|munmap|mprotect|mremap)$")
IDLE = re.compile(r"(pause|ppoll|epoll_wait|nanosleep|waitid)$|sys_(epoll_wait|ppoll|pause)")
GUEST_CODE = ("memfd:guest-ram", "memfd:ringshift-code")
STUB = "memfd:ringshift-spaces"


# --- whose is a sample ---


def of_space(frames):
    """Part, and whether a processor only spun, for a process that runs user code."""
    user_frame = next(((s, b) for s, b in frames if "kernel" not in b and "unknown" not in b), None)
    in_kernel = "kernel" in frames[0][1]
    if in_kernel and any(MAPPING.search(symbol) for symbol, _ in frames):
        return "mapping", False
    if user_frame and any(name in user_frame[1] for name in GUEST_CODE):
        # The host's kernel interrupts user code for a fault or for its own tick.
        faulted = in_kernel and any("exc_" in s or "signal" in s for s, _ in frames)
        return ("fault" if faulted else "native"), False
    if in_kernel and any("sigreturn" in symbol for symbol, _ in frames):
        return "handover", False
    return "handover", not in_kernel


def of_monitor(frames, owner):
    user_frame = next((s for s, b in frames if "kernel" not in b and not b.startswith("[")), "")
    if any(IDLE.search(symbol) for symbol, _ in frames):
        return "idle", False
    if user_frame.split(".")[0] in SPINNING:
        return "handover", True
    part = boot_split.part_of(frames, owner)
    part = {"faults": "fault"}.get(part, BOOT_PARTS.get(part, part))
    symbol = user_frame.split(".")[0]
    if part == "other" and symbol in ("syscall", "__kill", "kill", "tgkill"):
        return "handover", False  # futexes and kicks
    return part, False


class Profile:
    def __init__(self, owner):
        self.owner = owner
        self.ours, self.host = collections.Counter(), collections.Counter()
        self.kinds = collections.Counter()  # of callouts, by the file that has the function
        self.functions = {}
        self.spun, self.worked = collections.Counter(), collections.Counter()

    def add(self, comm, frames):
        space = comm.startswith("ringshift-space")
        if not space and not comm.startswith("ringshift"):
            return  # workers and the network helper work beside the CPU
        part, spins = of_space(frames) if space else of_monitor(frames, self.owner)
        side = "space" if space else "monitor"
        if spins:
            self.spun[side] += 1
            return
        if part != "idle":
            self.worked[side] += 1
        in_kernel = "kernel" in frames[0][1]
        (self.host if in_kernel else self.ours)[part] += 1
        self.functions.setdefault(part, collections.Counter())[frames[0][0]] += 1
        if part == "callouts":
            named = next((self.owner[s.split(".")[0]][1] for s, _ in frames
                          if s.split(".")[0] in self.owner), "thunks")
            self.kinds[named] += 1

    def finish(self, counters):
        """The way between processors; and faults by the counters."""
        for side, other in (("monitor", "space"), ("space", "monitor")):
            self.ours["handover"] += max(0, self.spun[side] - self.worked[other])
        hidden = counters["bt_hidden_faults"] + counters["user_hidden_faults"]
        true = counters["page_faults"]
        share = hidden / (hidden + true) if hidden + true else 0
        for count in (self.ours, self.host):
            faults = count.pop("fault", 0)
            count["hidden"] += faults * share
            count["true"] += faults * (1 - share)
        for name in ("hidden", "true"):
            self.functions[name] = self.functions.get("fault", collections.Counter())

    def print(self, functions):
        total = sum(self.ours.values()) + sum(self.host.values())
        if not total:
            sys.exit("no samples: does perf work here?")
        print(f"{'per cent':44}{'ours':>8}{'host':>8}{'both':>8}")
        for part, what in PARTS.items():
            ours, host = (100 * count[part] / total for count in (self.ours, self.host))
            print(f"{what:44}{ours:8.1f}{host:8.1f}{ours + host:8.1f}")
            if part == "callouts":
                for kind, n in self.kinds.most_common(6):
                    print(f"    {kind:40}{'':16}{100 * n / total:8.1f}")
            for name, n in self.functions.get(part, collections.Counter()).most_common(functions):
                print(f"        {name:52}{100 * n / total:8.1f}")
        ours, host = (100 * sum(count.values()) / total for count in (self.ours, self.host))
        print(f"{'all':44}{ours:8.1f}{host:8.1f}{ours + host:8.1f}   {total:.0f} samples")


# --- running a row ---


class Monitor:
    """The counters of a running ringshift, by QMP."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()  # the greeting
        self.ask("qmp_capabilities", {})

    def ask(self, command, arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]

    def counters(self):
        return json.loads(self.ask("human-monitor-command", {"command-line": "info stats json"}))

    def close(self):
        self.file.close()
        self.socket.close()


def record(data, pid):
    """perf, attached to a monitor and its processes; returns when it records."""
    pids = ",".join(map(str, harness.family(pid)))
    perf = subprocess.Popen(["perf", "record", "-q", "-g", "-F", str(FREQUENCY), "-o", data,
                             "-p", pids], stderr=subprocess.PIPE)
    time.sleep(0.5)  # perf says nothing when it has begun
    if perf.poll() is not None:
        sys.exit(f"perf: {perf.stderr.read().decode(errors='replace')}")
    return perf


def measure(args, command, ready, run, work):
    """Start a guest, run the row under perf: the counters' differences, and the profile."""
    path, data = os.path.join(work, "qmp"), os.path.join(work, "perf.data")
    command = [command[0], "-qmp", f"unix:{path},server=on,wait=off", *command[1:]]
    with Console(command, tty=False) as con:
        if ready:
            con.expect(ready, args.timeout, harness.TROUBLE)
        while not os.path.exists(path):
            time.sleep(0.01)
        monitor = Monitor(path)
        before = monitor.counters()
        perf = record(data, con.process.pid)
        for _ in range(args.runs if ready else 1):
            run(con)
        perf.send_signal(signal.SIGINT)
        after = monitor.counters()
        perf.communicate()
        monitor.close()
    profile = Profile(boot_split.owners(args.build))
    counters = {name: after[name] - before[name] for name in after}
    for comm, frames in boot_split.samples(data):
        profile.add(comm, frames)
    profile.finish(counters)
    return profile, counters


def ask(args, text, answer):
    def run(con):
        con.send(text.encode() + b"\n")
        con.expect(answer, args.timeout, macro.TROUBLE)
    return run


def for_a_second(row):
    def run(con):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            con.expect(row.encode() + rb" [0-9.]+\n", 10)
    return run


def nano_rows():
    with open(os.path.join(harness.HERE, "nano/nano.c"), encoding="utf-8") as file:
        return re.findall(r'^    \{"(\w+)", ', file.read(), re.M)


def find_row(args, work):
    """What the row is called, how ringshift is started for it, until when, and how it is run."""
    program, disk = harness.pack(args, work, "user_rows.c", "rows", "initramfs.gz")
    rows = {"boot": "boot", **user.names_of(program), **macro.ROWS, **{row: row for row in nano_rows()}}
    fit = [key for key, name in rows.items() if args.row in (key, name)]
    fit = fit or [key for key, name in rows.items() if name.startswith(args.row)]
    if len(fit) != 1:
        sys.exit("one of these, or how only one of them begins:\n  " + "\n  ".join(rows.values()))
    key = fit[0]
    if key == "boot":
        command = [*harness.ringshift(args), *harness.linux(args, disk, ""), *harness.SERIAL]
        return rows[key], command, None, lambda con: con.expect(rb"RINGSHIFT-INIT", args.timeout)
    if key in macro.ROWS:
        command = macro.commands(args, macro.prepare(args, work), work)[1]["bt"]
        return rows[key], command, rb"READY", ask(args, key, rb"^END")
    if key in nano_rows():
        return key, nano.engines(args)["bt"] + ["-append", f"row={key}"], rb"nano\n", for_a_second(key)
    command = [*harness.ringshift(args), *harness.linux(args, disk, "quiet rdinit=/rows"),
               *harness.SERIAL, "-m", "512M"]
    return rows[key], command, rb"ROWS READY", ask(args, key, rb"ROW .+\n")


def main():
    parser = harness.parser(__doc__, "bt")
    parser.set_defaults(low=False)
    parser.add_argument("row", metavar="ROW")
    parser.add_argument("--functions", type=int, default=0, metavar="N",
                        help="name the N functions with most samples of each part")
    parser.add_argument("--memory", default="1024M", help="of a Debian (default: %(default)s)")
    args = parser.parse_args()
    if not shutil.which("perf"):
        sys.exit("perf is missing: Debian has it in linux-perf")
    with tempfile.TemporaryDirectory(prefix="ringshift-profile-") as work:
        try:
            name, *how = find_row(args, work)
            profile, counters = measure(args, *how, work)
        except Failure as failure:
            sys.exit(str(failure))
    print(f"{name}, {args.runs if how[1] else 1} runs")
    profile.print(args.functions)
    print("counters: " + ", ".join(f"{k} {v}" for k, v in counters.items() if v))


if __name__ == "__main__":
    main()
