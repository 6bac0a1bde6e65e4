"""Scenarios of boot_test.py that drive a guest from outside: QMP, the monitor, serial ports on
pseudo-terminals and sockets."""
import hashlib
import json
import os
import random
import re
import select
import socket
import subprocess
import tempfile
import time

from console import Console, Failure
from qmp import Error, Qmp, refused, wait_for

END = 60
PROMPT = rb"\((ringshift|qemu)\) "


def check(condition, text):
    if not condition:
        raise Failure(text)


# --- the protocol ---


def handshake(path):
    """Before the handshake nothing is answered; what is wrong is said in QMP's words."""
    with Qmp(path, negotiate=False) as q:
        refused(q, "CommandNotFound", "Expecting capabilities negotiation", "query-status")
        q.execute("qmp_capabilities")
        refused(q, "CommandNotFound", "Capabilities negotiation is already complete",
                "qmp_capabilities")
        refused(q, "CommandNotFound", "The command frobnicate has not been found", "frobnicate")
        refused(q, "GenericError", "Parameter 'command-line' is missing", "human-monitor-command")
        refused(q, "GenericError", "expected: string", "human-monitor-command", command_line=5)
        refused(q, "GenericError", "is unexpected", "stop", now=True)
        for text, wanted in (('{"execute": }\n', "JSON parse error"),
                             ("[]\n", "must be a JSON object"),
                             ('{"arguments": {}}\n', "lacks member 'execute'"),
                             ('{"execute": 1}\n', "'execute' must be a string"),
                             ('{"execute": "stop", "oops": 1}\n', "'oops' is unexpected")):
            q.send(text)
            try:
                answer = q.answer()
            except Error as error:
                check(wanted in error.text, f"{text!r}: {error}")
            else:
                raise Failure(f"{text!r} was answered {answer!r}")
        q.send('{"execute": "query-name", "id": 1}{"execute":\n"query-name"}')
        check(q.answer(1) == q.answer() == {"name": "tested"}, "two requests in three lines")


def queries(q, qemu):
    commands = {c["name"] for c in q.execute("query-commands")}
    check({"stop", "cont", "quit", "query-status"} <= commands, f"query-commands: {commands}")
    check(q.execute("query-kvm")["enabled"] is False, "query-kvm")
    cpu, = q.execute("query-cpus-fast")
    check(cpu["cpu-index"] == 0 and os.path.exists(f"/proc/{cpu['thread-id']}"), f"{cpu}")
    check(q.execute("query-memory-size-summary")["base-memory"] == 512 << 20, "memory")
    check(q.execute("query-uuid")["UUID"] == "12345678-9abc-def0-1234-56789abcdef0", "query-uuid")
    chardevs = {c["label"]: c["filename"] for c in q.execute("query-chardev")}
    check({"serial0", "qmp"} <= set(chardevs), f"query-chardev: {chardevs}")
    check(any(m.get("is-default") for m in q.execute("query-machines")), "query-machines")
    check(isinstance(q.execute("query-block"), list), "query-block")
    bus = q.execute("query-pci")[0]
    check(bus["devices"][0]["class_info"]["class"] == 0x0600, f"host bridge: {bus}")
    check("running" in q.human("info status"), "info status")
    check("RIP=" in q.human("info registers"), "info registers")
    for line in ("info mtree", "info mem", "info chardev", "info pci"):
        check(q.human(line).count("\n") > 1, line)
    # The 8254 answers at port 0x40; the real-mode interrupt vectors are at 0.
    check(re.match(r"0+: 0x", q.human("xp /4xw 0")), "xp")
    code = q.human("x /2i $pc" if qemu else "x/2i $rip")
    check(len(code.splitlines()) >= 2, f"x: {code!r}")


def schema(q):
    """query-qmp-schema describes just what query-commands lists."""
    entries = q.execute("query-qmp-schema")
    names = {e["name"] for e in entries}
    commands = {e["name"] for e in entries if e["meta-type"] == "command"}
    check(commands == {c["name"] for c in q.execute("query-commands")}, "commands of the schema")
    for entry in entries:
        for key in ("arg-type", "ret-type"):
            check(entry.get(key, entry["name"]) in names, f"{entry}: no such type")
        for member in entry.get("members", []):
            check(member["type"] in names, f"{entry}: no such type")


def timer_fires(q):
    return json.loads(q.human("info stats json"))["timer_fires"]


def stop_and_cont(setup, sh, q):
    """Nothing moves while the guest is stopped, and nothing rushes afterwards."""
    con = sh.con
    sh.type("while :; do echo tick; sleep 0.2; done &")
    con.expect(rb"(?s)tick\r+\n.*tick\r+\n", END)
    q.execute("stop")
    q.event("STOP")
    status = q.execute("query-status")
    check(status["status"] == "paused" and status["running"] is False, f"{status}")
    con.read_for(0.3)
    seen = len(con.log)
    fires = None if setup.args.qemu else timer_fires(q)
    pc = re.search(r"RIP=(\w+)", q.human("info registers"))[1]
    con.read_for(3)
    check(len(con.log) == seen, "the guest goes on while it is stopped")
    check(pc in q.human("info registers"), "RIP has moved")
    check(fires is None or timer_fires(q) == fires, "timers fire while the guest is stopped")
    q.execute("stop")  # once more does no harm
    q.execute("cont")
    q.event("RESUME")
    check(q.execute("query-status")["status"] == "running", "cont")
    con.expect(rb"(?s)tick\r+\n.*tick\r+\n", END)
    if fires is not None:
        time.sleep(0.5)
        check(timer_fires(q) - fires < 2000, f"{timer_fires(q) - fires} timers at once")
    sh.type("kill %1")
    con.expect(rb"(?s)kill %1.*# (\x1b\[6n)?\Z", END)
    log = sh.run("dmesg | grep -i -E 'lockup|stall|unstable|backwards' || true")
    check(not log, f"the guest has noticed: {log!r}")


def clock_stops(sh, q, source):
    """A clock of the VM's own does not count while it is stopped."""
    here = "/sys/devices/system/clocksource/clocksource0"
    sh.run(f"echo {source} >{here}/current_clocksource")
    begin = float(sh.run("cat /proc/uptime").split()[0])
    asked = sh.asked
    q.execute("stop")
    time.sleep(2)  # a longer gap of the ACPI timer's 24 bits Linux takes for none
    q.execute("cont")
    passed = float(sh.run("cat /proc/uptime").split()[0]) - begin
    host = sh.answered - asked
    sh.equals(f"cat {here}/current_clocksource", source)
    check(0 <= passed < host - 1.5, f"{source}: {passed} s in the guest, {host} s here, 2 of them stopped")


def crowds(path, sh):
    """A client that asks and does not read; one that leaves in the middle."""
    with Qmp(path) as stuck:
        stuck.socket.setblocking(False)
        asked = 0
        try:
            while asked < 1 << 22:
                asked += stuck.socket.send(b'{"execute": "query-commands"}\n' * 100)
                time.sleep(0.001)
        except BlockingIOError:
            pass
        begin = time.monotonic()
        sh.equals("echo still $((20 + 3))", "still 23")
        check(time.monotonic() - begin < 20, "a client that does not read holds the guest up")
    with Qmp(path) as q:
        q.send('{"execute": "query-na')
    with Qmp(path) as q:
        check(q.execute("query-name") == {"name": "tested"}, "the next client")


def monitor_on_the_terminal(sh):
    con = sh.con
    con.send(b"\x01c")
    con.expect(PROMPT, END)
    con.send(b"info stat\x7f\x7f\x7f\x7fversion\r")
    con.expect(rb"(ringshift )?\d+\.\d+", END)
    con.expect(PROMPT, END)
    con.send(b"info status\r")
    con.expect(rb"VM status: running", END)
    con.expect(PROMPT, END)
    con.send(b"stop\r")
    con.expect(PROMPT, END)
    con.send(b"c\r")
    con.expect(PROMPT, END)
    con.send(b"\x01c")
    sh.equals("echo back", "back")


def press_keys(sh, q):
    """The kernel's own magic key, by QMP and by the monitor: two lists of what it can do."""
    q.execute("send-key", keys=[{"type": "qcode", "data": name} for name in ("alt", "sysrq", "h")])
    sh.run("until dmesg | grep -q 'sysrq: HELP'; do usleep 100000; done; dmesg -c >/dev/null")
    check(q.human("sendkey alt-sysrq-h 50") == "", "sendkey")
    sh.run("until dmesg | grep -q 'sysrq: HELP'; do usleep 100000; done")
    for line in ("sendkey", "sendkey alt-nosuchkey", "sendkey a-b-", "sendkey a soon"):
        check(q.human(line), f"{line}: taken")
    refused(q, "GenericError", "", "send-key", keys=[{"type": "qcode", "data": "nosuchkey"}])


def press_power_button(sh, q):
    """The kernel's button driver makes a key of it, which a program waits for."""
    sh.run("modprobe button && modprobe evdev && sleep 1")
    # Several devices have events; only the button's come without anybody typing.
    sh.type("for e in /dev/input/event*; do "
            "(head -c 24 $e >/dev/null; echo PRESSED; poweroff -f) & done")
    time.sleep(1)
    sh.run("grep -q 'Power Button' /proc/bus/input/devices")
    q.execute("system_powerdown")
    q.event("POWERDOWN")
    sh.con.expect(rb"PRESSED", END)


def qmp(setup, shell):
    """-qmp: handshake, errors, queries, stop and cont, clients in turn, Ctrl-a c, reset, power
    button, -S, -pidfile"""
    with tempfile.TemporaryDirectory() as scratch:
        path, pidfile = os.path.join(scratch, "qmp"), os.path.join(scratch, "pid")
        argv = setup.command(
            "-display", "none", "-serial", "mon:stdio", "-S", "-name", "tested",
            "-uuid", "12345678-9abc-def0-1234-56789abcdef0", "-pidfile", pidfile,
            "-chardev", f"socket,id=qmp,path={path},server=on,wait=off",
            "-mon", "chardev=qmp,mode=control",
            *setup.linux("vmlinuz-cloud", "panic=-1", initrd="initramfs-cloud.gz"))
        with Console(argv) as con:
            wait_for(path)
            handshake(path)
            with open(pidfile, encoding="ascii") as f:
                check(int(f.read()) == con.process.pid, "-pidfile")
            with Qmp(path) as q:
                check(q.execute("query-status")["status"] == "prelaunch", "-S")
                check(not con.log, f"-S: the guest has said {con.log!r}")
                q.execute("cont")
                q.event("RESUME")
                sh = shell(con)
                queries(q, setup.args.qemu)
                if not setup.args.qemu:
                    schema(q)
                stop_and_cont(setup, sh, q)
                clock_stops(sh, q, "acpi_pm")
                if not setup.args.qemu:  # its TCG has none
                    clock_stops(sh, q, "kvm-clock")
            if not setup.args.qemu:  # it keeps all answers until somebody reads them
                crowds(path, sh)
            monitor_on_the_terminal(sh)
            with Qmp(path) as q:
                press_keys(sh, q)
                q.execute("system_reset")
                data = q.event("RESET")
                check(data == {"guest": False, "reason": "host-qmp-system-reset"}, f"RESET: {data}")
                sh = shell(con)
                press_power_button(sh, q)
                data = q.event("SHUTDOWN")
                check(data == {"guest": True, "reason": "guest-shutdown"}, f"SHUTDOWN: {data}")
                check(q.read() is None, "the connection goes on after SHUTDOWN")
            check(con.wait(END) == 0, "status after power off")
            check(con.terminal_is_as_found(), "the terminal has not been restored")
        check(not os.path.exists(path) and not os.path.exists(pidfile), "files are left behind")


def qmp_ends(setup, shell):
    """-no-shutdown: a guest that powers off waits for a reset; quit; a guest that has crashed"""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "qmp")
        argv = setup.command("-display", "none", "-serial", "mon:stdio", "-no-shutdown",
                             "-qmp", f"unix:{path},server=on,wait=off",
                             *setup.linux("vmlinuz-cloud", "panic=-1"))
        with Console(argv) as con, Qmp(path) as q:
            sh = shell(con)
            sh.type("poweroff -f")
            check(q.event("SHUTDOWN")["guest"] is True, "SHUTDOWN")
            q.event("STOP")
            check(q.execute("query-status")["status"] == "shutdown", "-no-shutdown")
            refused(q, "GenericError", "Resetting the Virtual Machine is required", "cont")
            q.execute("system_reset")
            q.event("RESET")
            check(q.execute("query-status")["status"] in ("prelaunch", "paused"), "after a reset")
            q.execute("cont")
            shell(con)
            q.execute("stop")
            q.execute("quit")
            data = q.event("SHUTDOWN")
            check(data == {"guest": False, "reason": "host-qmp-quit"}, f"SHUTDOWN: {data}")
            check(con.wait(END) == 0, "status after quit")


def daemon(setup, _):
    """-daemonize: the command returns when QMP answers; a start that fails is told by its status"""
    with tempfile.TemporaryDirectory() as scratch:
        path, pidfile = os.path.join(scratch, "qmp"), os.path.join(scratch, "pid")
        argv = setup.command("-daemonize", "-display", "none", "-serial", "null", "-monitor",
                             "none", "-pidfile", pidfile, "-qmp",
                             f"unix:{path},server=on,wait=off",
                             *setup.linux("vmlinuz-cloud", "panic=-1"))
        began = subprocess.run(argv, timeout=END, stdin=subprocess.DEVNULL, check=False,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(began.returncode == 0 and not began.stdout, f"{began}")
        with open(pidfile, encoding="ascii") as f:
            pid = int(f.read())
        with Qmp(path) as q:
            check(q.execute("query-status")["running"] is True, "query-status")
            check(os.getsid(pid) != os.getsid(0), "not in a session of its own")
            argv[argv.index("-pidfile") + 1] = os.path.join(scratch, "no/where")
            failed = subprocess.run([*argv, "-qmp", "none"], timeout=END, check=False,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            check(failed.returncode == 1 and failed.stdout, f"{failed}")
            check(q.execute("query-status")["running"] is True, "the first one goes on")
            q.execute("quit")
            q.event("SHUTDOWN")
        deadline = time.monotonic() + END
        while os.path.exists(pidfile):
            check(time.monotonic() < deadline, "quit does not end it")
            time.sleep(0.1)


# --- serial ports ---


def exchange(peer, data):
    """Send data and take as much; what came."""
    got = bytearray()
    sent = 0
    deadline = time.monotonic() + 100
    peer.setblocking(False)
    while sent < len(data) or len(got) < len(data):
        check(time.monotonic() < deadline, f"{sent} bytes out, {len(got)} in, of {len(data)}")
        writable = [peer] if sent < len(data) else []
        readable, writable, _ = select.select([peer], writable, [], 1)
        if readable:
            got += peer.recv(65536)
        if writable:
            sent += peer.send(data[sent:sent + 65536])
    return bytes(got)


def serials(setup, shell):
    """-serial pty as the console, a second port on a socket: 1 MiB both ways at once"""
    size = 1 << 17 if setup.args.qemu else 1 << 20  # QEMU keeps to the baud rate
    there = random.Random(1).randbytes(size)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "serial")
        argv = setup.command("-display", "none", "-serial", "pty", "-monitor", "none", "-serial",
                             f"unix:{path},server=on,wait=off",
                             *setup.linux("vmlinuz-cloud", "panic=-1"))
        with Console(argv, tty=False) as con:
            name = con.expect(rb"char device redirected to (/dev/pts/\d+) \(label serial0\)", END)[1]
            con.reader = con.writer = os.open(name, os.O_RDWR | os.O_NOCTTY)
            sh = shell(con)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                # Held open: what comes to a closed port is lost, as it would be.
                sh.run("exec 3<>/dev/ttyS1; stty raw -echo crtscts 115200 <&3")
                sh.run(f"head -c {size} /dev/urandom >/tmp/out; cat /dev/null >/tmp/in")
                here = sh.run("md5sum </tmp/out").split()[0]
                sh.type(f"head -c {size} <&3 >/tmp/in & cat /tmp/out >&3; wait; "
                        "echo ALL-'DONE'")
                came = exchange(peer, there)
                con.expect(rb"ALL-DONE", 60)
                check(hashlib.md5(came).hexdigest() == here, "from the guest: another checksum")
                sh.run("true")
                sh.equals("md5sum </tmp/in | cut -d' ' -f1", hashlib.md5(there).hexdigest())
                # A peer that has gone is no peer: nothing waits.
            sh.run("for i in 1 2 3 4; do cat /tmp/out; done >&3")
            sh.type("poweroff -f")
            check(con.wait(END) == 0, "status after power off")
            os.close(con.reader)
