"""What programs see: tests/user in the guest (the program checks, we look at its report), storms with
a look at what they leave in the monitor, and a whole Debian (scripts/mkdebian).
"""
import gzip
import hashlib
import math
import os
import random
import re
import signal
import threading
import time

TROUBLE = r"WARNING:|BUG:|Oops|soft lockup|rcu: INFO|fault in kernel"
REPORT = re.compile(r"^USER OK (\d+)$", re.MULTILINE)


def cpio_newc(files):
    """An archive of (path, mode, bytes), as the kernel unpacks it over an earlier one."""
    out = b""
    for number, (path, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")]):
        name = path.encode() + b"\0"
        fields = (number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def add_programs(initrd, programs, destination):
    """Write an initial RAM disk: `initrd` and, in /user, every file of the directory `programs`."""
    files = [("user", 0o40755, b"")]
    for name in sorted(os.listdir(programs)):
        path = os.path.join(programs, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            with open(path, "rb") as f:
                files.append((f"user/{name}", 0o100755, f.read()))
    with open(initrd, "rb") as f, open(destination, "wb") as out:
        out.write(f.read() + gzip.compress(cpio_newc(files), 1))


def run_checks(sh, program, arguments, check, wanted, timeout):
    """One run of tests/user's program."""
    text = sh.run(f"/user/{program} {arguments}; true", timeout)
    print(text.strip())
    found = REPORT.search(text)
    check(sh.con, found, f"{program}: {re.findall('^FAILED.*', text, re.MULTILINE)}")
    check(sh.con, int(found[1]) >= wanted, f"{program}: {found[1]} checks, not {wanted}")


# --- what the monitor has ---


def family(pid):
    """The process and all that descend from it."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                parent = int(f.read().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


class Killer(threading.Thread):
    """Kills a task of the monitor's spaces now and then, none of `spare`, until the block ends."""

    def __init__(self, monitor, spare):
        super().__init__(daemon=True)
        self.monitor, self.spare = monitor, spare
        self.kills = 0
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.2):
            victims = [pid for pid in family(self.monitor) if pid not in self.spare]
            try:
                if victims:
                    os.kill(random.choice(victims), signal.SIGKILL)
                    self.kills += 1
            except ProcessLookupError:
                pass

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def footprint(pid):
    """(processes, mappings of all of them, KiB of anonymous memory)"""
    maps = anonymous = count = 0
    for one in family(pid):
        try:
            with open(f"/proc/{one}/maps", encoding="ascii", errors="replace") as f:
                maps += sum(1 for _ in f)
            with open(f"/proc/{one}/status", encoding="ascii", errors="replace") as f:
                anonymous += sum(int(n) for n in re.findall(r"^RssAnon:\s+(\d+)", f.read(), re.M))
        except OSError:
            continue
        count += 1
    return count, maps, anonymous


class Storm:
    """Run storms in a guest; after each, see that the guest works and the monitor has not grown."""

    # Spaces are a cache: so many processes may remain, with some mappings each.
    PROCESSES = 2 * 64 + 8
    MAPPINGS = 60000
    ANONYMOUS = 400 << 10

    def __init__(self, sh, check):
        self.sh = sh
        self.check = check

    def run(self, what, timeout=900):
        begin = time.monotonic()
        text = self.sh.run(f"/user/user --storm {what}", timeout)
        self.check(self.sh.con, "STORM OK" in text, f"{what}: {text!r}")
        took = time.monotonic() - begin
        self.sh.equals("seq 1 2000 | sha256sum", hashlib.sha256(
            "".join(f"{i}\n" for i in range(1, 2001)).encode()).hexdigest() + "  -")
        found = self.sh.run(f"dmesg | grep -E '{TROUBLE}' || true").strip()
        self.check(self.sh.con, not found, f"after {what}: {found}")
        self.look(what, took)

    def look(self, what, took):
        processes, mappings, anonymous = footprint(self.sh.con.process.pid)
        print(f"{what}: {took:.1f} s; then {processes} processes, {mappings} mappings, "
              f"{anonymous >> 10} MiB anonymous")
        if self.sh.qemu:
            return
        self.check(self.sh.con, processes <= self.PROCESSES, f"{processes} processes after {what}")
        self.check(self.sh.con, mappings <= self.MAPPINGS, f"{mappings} mappings after {what}")
        self.check(self.sh.con, anonymous <= self.ANONYMOUS, f"{anonymous} KiB after {what}")


# --- Debian ---

# 64 rounds of every length around a block's: AVX, SHA-NI, AES-NI and PCLMUL paths of OpenSSL.
DIGESTS = ("sha1", "sha256", "sha512", "sha3-256", "blake2b512", "md5")

PYTHON = r"""
import hashlib, math, threading
data = bytes(range(256)) * 4000
found = []
def work(n):
    h = hashlib.sha256()
    for i in range(50):
        h.update(data[n:])
    found.append((n, h.hexdigest()))
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
for n, digest in sorted(found): print(n, digest)
print(repr(sum(math.sin(i) for i in range(100000))), 3 ** 500 % 1000000007)
"""

THREADED_C = r"""
#include <pthread.h>
#include <stdio.h>
static void *f(void *p) {
    volatile double x = 1;
    for (int i = 0; i < 1000000; i++) x = x * 1.0000001;
    *(double *)p = x;
    return 0;
}
int main(void) {
    pthread_t t[4]; double r[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, f, &r[i]);
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    printf("%.12f %.12f\n", r[0], r[3]);
    return 0;
}
"""

DEBUGGED_C = r"""
#include <stdio.h>
int counter, other;
void step(int i) { other += i; counter = i * 2; }
int main(void) {
    for (int i = 1; i <= 3; i++) step(i);
    printf("end %d %d\n", counter, other);
    return 0;
}
"""


def put(sh, path, text):
    """Make a file in the guest. A terminal in canonical mode takes lines of 4095 bytes at most."""
    sh.run(f"rm -f {path}")
    for line in text.strip("\n").split("\n"):
        quoted = line.replace("'", "'\\''")
        sh.run(f"printf '%s\\n' '{quoted}' >>{path}")


def python(sh, check, timeout):
    put(sh, "/tmp/t.py", PYTHON)
    data = bytes(range(256)) * 4000
    text = sh.run("python3 /tmp/t.py", timeout)
    for n in range(8):
        digest = hashlib.sha256(data[n:] * 50).hexdigest()
        check(sh.con, f"{n} {digest}" in text, f"python: thread {n}: {text!r}")
    total = repr(sum(math.sin(i) for i in range(100000)))
    check(sh.con, f"{total} {3 ** 500 % 1000000007}" in text, f"python: {text!r}, not {total}")


def compiler(sh, check, timeout):
    put(sh, "/tmp/t.c", THREADED_C)
    sh.run("gcc -O2 -o /tmp/t /tmp/t.c -lpthread", timeout)
    x = 1.0
    for _ in range(1000000):
        x *= 1.0000001
    sh.equals("/tmp/t", f"{x:.12f} {x:.12f}")
    text = sh.run("strace -f -c -o /tmp/log /tmp/t; cat /tmp/log", timeout)
    check(sh.con, re.search(r" 4 +(\d+ +)?clone3?$", text, re.MULTILINE), f"strace: {text}")
    text = sh.run("strace -o /tmp/log -e trace=write /tmp/t; cat /tmp/log", timeout)
    check(sh.con, re.search(r'^write\(1, "[^"]*\\n", \d+\) += \d+$', text, re.MULTILINE),
          f"strace: {text}")


def debugger(sh, check, timeout):
    put(sh, "/tmp/d.c", DEBUGGED_C)
    sh.run("gcc -g -O0 -o /tmp/d /tmp/d.c", timeout)
    commands = ["break step", "run", "bt", "p i", "watch counter", "continue", "continue",
                "p counter", "delete 1", "continue", "p counter", "stepi", "stepi", "p $eflags",
                "delete", "continue"]
    text = sh.run("gdb -nx -batch " + " ".join(f"-ex '{c}'" for c in commands) + " /tmp/d 2>&1",
                  timeout)
    for wanted in (r"^Breakpoint 1(\.\d)?, step \(i=1\)", r"^#1 .* main \(\)", r"^\$1 = 1$",
                   r"^Hardware watchpoint 2: counter\s+Old value = 0\s+New value = 2$",
                   r"^Breakpoint 1(\.\d)?, step \(i=2\)", r"^\$2 = 2$",
                   r"^Hardware watchpoint 2: counter\s+Old value = 2\s+New value = 4$",
                   r"^\$3 = 4$", r"^end 6 6$", r"exited normally"):
        check(sh.con, re.search(wanted, text, re.MULTILINE), f"gdb: no {wanted!r} in {text}")


def openssl(sh, check, timeout):
    text = bytes(i * 7 % 256 for i in range(1 << 20))
    sh.run("python3 -c 'open(\"/tmp/data\", \"wb\").write("
           "bytes(i * 7 % 256 for i in range(1 << 20)))'", timeout)
    for name in DIGESTS:
        python_name = {"sha3-256": "sha3_256", "blake2b512": "blake2b"}.get(name, name)
        wanted = hashlib.new(python_name, text).hexdigest()
        got = sh.run(f"openssl dgst -{name} -r /tmp/data", timeout).split()[0]
        check(sh.con, got == wanted, f"openssl {name}: {got}, not {wanted}")
    for cipher in ("aes-128-ctr", "aes-256-cbc", "chacha20"):
        sh.equals(f"openssl enc -{cipher} -K {'0f' * (16 if '128' in cipher else 32)} -iv {'01' * 16}"
                  f" -in /tmp/data | openssl enc -d -{cipher} -K "
                  f"{'0f' * (16 if '128' in cipher else 32)} -iv {'01' * 16} | sha256sum",
                  hashlib.sha256(text).hexdigest() + "  -")
    # NIST SP 800-38A, F.5.1: AES-128 in counter mode.
    sh.equals("printf 6bc1bee22e409f96e93d7e117393172a | python3 -c 'import sys; "
              "sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))' | openssl enc -aes-128-ctr "
              "-K 2b7e151628aed2a6abf7158809cf4f3c -iv f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff | "
              "od -An -tx1 | tr -d ' \\n'", "874d6191b620e3261bef6864990db6ce")
    sh.run("openssl genrsa -out /tmp/key 2048 2>&1 && openssl rsa -in /tmp/key -pubout -out /tmp/pub"
           " 2>&1 && openssl dgst -sha256 -sign /tmp/key -out /tmp/sig /tmp/data", timeout)
    sh.matches("openssl dgst -sha256 -verify /tmp/pub -signature /tmp/sig /tmp/data",
               r"^Verified OK$")


def debian(sh, check, timeout):
    """All of them."""
    sh.equals("bash -c 'x=0; for i in {1..100000}; do x=$((x + i)); done; echo $x'", "5000050000")
    sh.equals("perl -e 'my %h; $h{$_ % 1000} += $_ for 1..300000; print scalar(keys %h), "
              "\" $h{7}\", `echo sub`'", f"1000 {sum(range(7, 300001, 1000))}sub")
    for part in (python, compiler, debugger, openssl):
        begin = time.monotonic()
        part(sh, check, timeout)
        print(f"{part.__name__}: {time.monotonic() - begin:.1f} s")
