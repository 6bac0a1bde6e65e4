#!/usr/bin/env python3
"""What ringshift takes of the host's memory beyond the guest's RAM.

    bench/memory.py [--wait TEXT] [--send TEXT] [--settle SECONDS] -- RINGSHIFT ARGUMENT...
    bench/memory.py --pid PID

The first form starts a command, waits until TEXT (a regular expression, default: the test initramfs's
prompt) is in its output, optionally sends a line and waits again, lets it settle, and measures; the
second measures a monitor that runs. The table has a row for the monitor and one for each kind of
process it has made, with

  private   pages of its own and its share of those it has in common with others, except guest RAM
  tables    page tables: the shadow of the guest's own page tables is made of the host's
  ram       guest RAM that has been touched, whoever mapped it: the size of the memory file

in MiB. Processes that share an address space are counted once; pages that two of them, or two mappings of
one, share are divided among them, so that the sum has each once, the executable's own included while no
other ringshift runs. Not counted: what the host's kernel keeps for tasks and descriptors, and the host's
page cache of disk images. With --limit MIB the status is 1 if
private and tables together are more.
"""
import argparse
import ctypes
import os
import re
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from console import Console  # noqa: E402

SYS_KCMP, KCMP_VM = 312, 1
RAM = "/memfd:guest-ram"
MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def parents():
    """Pid -> parent, for all processes."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(pid)] = int(read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[1])
        except OSError:
            pass  # it has ended
    return found


def family(root):
    of = parents()
    pids = [root]
    for pid in pids:
        pids += [child for child, parent in of.items() if parent == pid]
    return pids


def same_memory(a, b):
    return LIBC.syscall(SYS_KCMP, a, b, KCMP_VM, 0, 0) == 0


def usage(pid):
    """Bytes (private, tables) of one address space, guest RAM left out."""
    private, is_ram = 0, False
    for line in read(f"/proc/{pid}/smaps").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ram = RAM in line
        elif line.startswith("Pss:") and not is_ram:
            private += int(line.split()[1]) << 10
    tables = re.search(r"VmPTE:\s+(\d+) kB", read(f"/proc/{pid}/status"))
    return private, int(tables[1]) << 10


def ram_touched(pid):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith(RAM):
            return os.stat(path).st_blocks * 512
    sys.exit(f"process {pid} has no guest RAM: is it ringshift?")


def measure(root):
    """Rows (name, processes, private, tables), and the guest's RAM."""
    spaces = []
    for pid in family(root)[1:]:
        if not any(same_memory(pid, other) for other in spaces):
            spaces.append(pid)
    rows = {"monitor": [1, *usage(root)]}
    for pid in spaces:
        try:
            name = read(f"/proc/{pid}/comm").strip()
            private, tables = usage(pid)
        except (OSError, TypeError):
            continue  # it has ended
        row = rows.setdefault(name, [0, 0, 0])
        row[0] += 1
        row[1] += private
        row[2] += tables
    return rows, ram_touched(root)


def report(rows, ram):
    print(f"{'MiB':20}{'spaces':>8}{'private':>10}{'tables':>10}")
    for name, (count, private, tables) in rows.items():
        print(f"{name:20}{count:8}{private / MIB:10.1f}{tables / MIB:10.1f}")
    private, tables = (sum(row[i] for row in rows.values()) for i in (1, 2))
    print(f"{'all':20}{'':8}{private / MIB:10.1f}{tables / MIB:10.1f}"
          f"   together {(private + tables) / MIB:.1f}; guest RAM touched {ram / MIB:.1f}")
    return (private + tables) / MIB


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pid", type=int)
    parser.add_argument("--wait", default=r"/root # ")
    parser.add_argument("--send", help="a line for the guest; --wait is awaited again after it")
    parser.add_argument("--settle", type=float, default=2)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--limit", type=float, help="MiB; more is an error")
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    if bool(args.pid) == bool(args.command):
        parser.error("either --pid or a command")
    if args.pid:
        total = report(*measure(args.pid))
    else:
        with Console(args.command) as con:
            con.expect(args.wait.encode(), args.timeout)
            if args.send:
                con.send(args.send.encode() + b"\r")
                con.expect(args.wait.encode(), args.timeout)
            time.sleep(args.settle)
            total = report(*measure(con.process.pid))
    return 1 if args.limit and total > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
