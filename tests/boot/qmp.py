"""A QMP client, small and strict: the handshake, commands with ids, events.

    with Qmp(path) as q:
        q.execute("stop")
        q.event("STOP")

Whatever is not as the protocol says raises Failure.
"""
import json
import os
import socket
import time

from console import Failure


class Error(Exception):
    """An error the other side has answered with: its class and description."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.kind = error["class"]
        self.text = error["desc"]


class Qmp:
    def __init__(self, path, negotiate=True, patience=60):
        self.patience = patience
        self.events = []
        self.count = 0
        self.rest = b""
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + patience
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Failure(f"{path}: {error}") from error
                time.sleep(0.05)
        self.socket.settimeout(patience)
        greeting = self.read()
        try:
            self.version = greeting["QMP"]["version"]
            assert isinstance(greeting["QMP"]["capabilities"], list)
            assert isinstance(self.version["qemu"]["major"], int)
        except (KeyError, TypeError, AssertionError) as error:
            raise Failure(f"no greeting: {greeting}") from error
        if negotiate:
            self.execute("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def read(self):
        """The next message; None at the end."""
        while b"\n" not in self.rest:
            try:
                data = self.socket.recv(65536)
            except TimeoutError as error:
                raise Failure(f"no message within {self.patience} s") from error
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def send(self, text):
        self.socket.sendall(text.encode())

    def answer(self, wanted_id=None):
        """The answer to what was sent; events before it are kept."""
        while True:
            message = self.read()
            if message is None:
                raise Failure("the connection ended before an answer")
            if "event" in message:
                self.events.append(message)
                continue
            if message.get("id") != wanted_id:
                raise Failure(f"not the answer to {wanted_id!r}: {message}")
            if "error" in message:
                raise Error(message["error"])
            return message["return"]

    def execute(self, command, **arguments):
        """Run a command, '-' in argument names written as '_'; what it returns."""
        self.count += 1
        request = {"execute": command, "id": {"n": self.count}}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.send(json.dumps(request) + "\n")
        return self.answer(request["id"])

    def human(self, line):
        return self.execute("human-monitor-command", command_line=line)

    def event(self, name):
        """Wait for an event; others before it are dropped. Its data."""
        while True:
            message = self.events.pop(0) if self.events else self.read()
            if message is None:
                raise Failure(f"the connection ended before {name}")
            if message.get("event") != name:
                continue
            stamp = message["timestamp"]["seconds"]
            if abs(stamp - time.time()) > 60:
                raise Failure(f"{name} at {stamp}")
            return message.get("data")


def refused(q, kind, text, command, **arguments):
    """The command must be refused so."""
    try:
        answer = q.execute(command, **arguments)
    except Error as error:
        if error.kind != kind or text not in error.text:
            raise Failure(f"{command}: refused with {error}") from error
    else:
        raise Failure(f"{command}: not refused but answered {answer!r}")


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise Failure(f"{path} has not appeared")
        time.sleep(0.05)
