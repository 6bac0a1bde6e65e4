"""Drive a program's terminal: spawn, send, expect.

    with Console(["build/ringshift", ...]) as con:
        con.expect(rb"# $", timeout=300)
        con.send(b"poweroff -f\\r")
        assert con.wait(60) == 0

The program runs in a session of its own, its standard input and output on a new pseudo-terminal
(or, with tty=False, on pipes), its standard error in a file. Whatever goes wrong raises Failure,
which carries the end of the transcript. Leaving the `with` block ends the program that was started,
and so does the death of this process, whatever its cause.
"""
import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import termios
import time

TRANSCRIPT = 6000  # bytes of it that a failure shows
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """A check that did not hold, or an answer that did not come."""


def printable(data):
    """Bytes from a terminal as text that does nothing to another terminal."""
    text = re.sub(r"\r+\n", "\n", data.decode(errors="backslashreplace"))
    return re.sub(r"[^\n\t -~]", lambda m: repr(m[0])[1:-1], text)


class Console:
    def __init__(self, argv, tty=True, stdin=None):
        """stdin, for tty=False: a descriptor for the program's input; else send() has a pipe."""
        self.argv = argv
        self.log = b""  # all the program has written
        self.seen = 0  # how much of it expect() has consumed
        self.ended = False  # its output has reached end of file
        self.started = time.monotonic()
        self.errors = tempfile.TemporaryFile()
        if tty:
            self._spawn_on_terminal()
        else:
            self._spawn_on_pipes(stdin)

    def _spawn_on_terminal(self):
        self.master, self.slave = pty.openpty()
        self.found = termios.tcgetattr(self.slave)

        def child():
            self._die_with_parent()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(self.argv, stdin=self.slave, stdout=self.slave,
                                        stderr=self.errors, start_new_session=True,
                                        preexec_fn=child)
        self.reader = self.writer = self.master

    def _spawn_on_pipes(self, stdin):
        self.slave = None
        self.process = subprocess.Popen(self.argv,
                                        stdin=subprocess.PIPE if stdin is None else stdin,
                                        stdout=subprocess.PIPE, stderr=self.errors,
                                        start_new_session=True, preexec_fn=self._die_with_parent)
        self.reader = self.process.stdout.fileno()
        self.writer = self.process.stdin.fileno() if stdin is None else None

    @staticmethod
    def _die_with_parent():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the program if it has not ended by itself."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.slave is None:
            for stream in (self.process.stdin, self.process.stdout):
                if stream:
                    stream.close()
        else:
            os.close(self.master)
            os.close(self.slave)
        self.errors.close()

    # --- what the program says ---

    def _read(self, seconds):
        """Take what has come, waiting for it at most so long. False if nothing did."""
        if self.ended or not select.select([self.reader], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self.reader, 65536)
        except OSError:  # EIO: a terminal that nobody has open any more
            data = b""
        self.ended = not data
        self.log += data
        return bool(data)

    def expect(self, pattern, timeout, never=None):
        """Wait for a regular expression in what has not been consumed; consume through its end.

        never: an expression that must not come first. Returns the match, whose string is all that
        had not been consumed.
        """
        deadline = time.monotonic() + timeout
        pattern = re.compile(pattern, re.MULTILINE)
        while True:
            rest = self.log[self.seen:]
            found = pattern.search(rest)
            bad = re.search(never, rest[:found.start()] if found else rest) if never else None
            if bad:
                self._read(2)  # the lines that explain it
                raise self.failure(f"{printable(bad[0])!r} while waiting for {pattern.pattern!r}")
            if found:
                self.seen += found.end()
                return found
            # A terminal has no end of file while we hold its other side open ourselves.
            over = self.process.poll() is not None
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.failure(f"no {pattern.pattern!r} in {timeout} s")
            if not self._read(0 if over else min(left, 0.5)) and (over or self.ended):
                raise self.failure(f"no {pattern.pattern!r}: the program has ended, status "
                                   f"{self.process.wait(10)}")

    def read_for(self, seconds):
        """Take what comes in so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended:
            self._read(deadline - time.monotonic())

    def stderr(self):
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode(errors="replace")

    # --- what we say ---

    def send(self, data):
        """Write all of data, taking output meanwhile, so that neither side waits for the other."""
        while data:
            if self.process.poll() is not None:
                raise self.failure("the program ended while it was being typed to")
            _, writable, _ = select.select([], [self.writer], [], 0.1)
            try:
                data = data[os.write(self.writer, data[:256]):] if writable else data
            except BrokenPipeError:
                raise self.failure("the program takes no more input") from None
            self._read(0)

    # --- how it ends, and how it is ---

    def wait(self, timeout):
        """Wait for the end; the exit status, negative for a signal."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise self.failure(f"has not ended within {timeout} s")
            if not self._read(0.1) and self.ended:
                time.sleep(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def cpu_seconds(self):
        """CPU time the program has used so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminal_is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def terminal_is_as_found(self):
        return termios.tcgetattr(self.slave) == self.found

    def failure(self, text):
        """A Failure with the transcript's end."""
        tail = printable(self.log[-TRANSCRIPT:])
        return Failure(f"{text}\n--- {' '.join(self.argv)}\n--- after "
                       f"{time.monotonic() - self.started:.1f} s, {len(self.log)} bytes of output, "
                       f"ending:\n{tail}\n--- standard error:\n{self.stderr()[-TRANSCRIPT:]}---")
