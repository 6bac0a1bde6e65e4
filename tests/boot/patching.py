"""Linux changing its own code while it runs: modules come and go, functions are traced and probed,
static keys and static calls are flipped. patch_everything(sh) does all of that in the guest of a Shell
whose initramfs has modules, and checks that each change had its effect.
"""
import hashlib

MODULES = ("crc32c-intel", "loop", "zram", "dm-mod", "overlay", "squashfs", "xfs", "btrfs", "nf_tables",
           "netconsole", "dummy")
TRACING = "/sys/kernel/tracing"
ROUNDS = 20
# Files that are opened and read by the shell itself: no fork in between.
READ_A_FILE = "read x </proc/uptime"


def require(sh, condition, text):
    if not condition:
        raise sh.con.failure(text)


def count(sh, command):
    return int(sh.matches(command, r"\A *(\d+)\s*\Z")[1])


# --- modules ---


def loaded(sh):
    return {line.split()[0] for line in sh.run("cat /proc/modules").splitlines()}


def unload(sh):
    """All of them: those that nothing needs, then those that nothing needs any more, and so on."""
    for _ in range(5):
        sh.run("rmmod $(awk '$3 == 0 { print $1 }' /proc/modules)")
        if not loaded(sh):
            return
    raise sh.con.failure(f"still loaded: {loaded(sh)}")


def check_modules(sh):
    """Each is loaded, with what it needs, and removed; several times over the same addresses."""
    require(sh, not loaded(sh), "modules are loaded before we begin")
    for _ in range(3):
        for name in MODULES:
            sh.run(f"modprobe {name}")
        missing = {name.replace("-", "_") for name in MODULES} - loaded(sh)
        require(sh, not missing, f"not loaded: {missing}")
        unload(sh)


def load_unless_built_in(sh, *names):
    """Kernels differ in what is a module. The kernel itself could not ask for it: no /sbin/modprobe."""
    for name in names:
        sh.run(f"modprobe {name} 2>/dev/null || true")


def check_file_system(sh, device):
    """ext2 on a device: what is written is there after mounting it again."""
    text = "".join(f"{i}\n" for i in range(1, 3001)).encode()
    digest = hashlib.sha256(text).hexdigest() + "  /mnt/f"
    sh.run(f"mke2fs -F -b 4096 {device} >/dev/null && mkdir -p /mnt && mount -t ext2 {device} /mnt")
    sh.run("seq 1 3000 >/mnt/f && umount /mnt")
    sh.run(f"mount -t ext2 {device} /mnt")
    sh.equals("sha256sum /mnt/f; umount /mnt", digest)


def check_zram(sh):
    load_unless_built_in(sh, "crc32c-intel", "lzo-rle", "ext4")
    sh.run("modprobe zram && echo 16M >/sys/block/zram0/disksize")
    sh.run("mkswap /dev/zram0 >/dev/null && swapon /dev/zram0")
    sh.matches("cat /proc/swaps", r"^/dev/zram0 ")
    sh.run("swapoff /dev/zram0")
    check_file_system(sh, "/dev/zram0")
    require(sh, count(sh, "awk '{ print $1 }' /sys/block/zram0/mm_stat") > 0, "nothing in zram0")
    sh.run("echo 1 >/sys/block/zram0/reset; rmmod zram zsmalloc")


def check_loop(sh):
    sh.run("modprobe loop && dd if=/dev/zero of=/tmp/image bs=1M count=4 2>/dev/null")
    sh.run("losetup /dev/loop0 /tmp/image")
    check_file_system(sh, "/dev/loop0")
    sh.run("losetup -d /dev/loop0 && rmmod loop && rm /tmp/image")


def check_overlay(sh):
    sh.run("modprobe overlay && mkdir -p /tmp/l /tmp/o /mnt && mount -t tmpfs t /tmp/o && "
           "mkdir /tmp/o/u /tmp/o/w && echo lower >/tmp/l/f")
    sh.run("mount -t overlay -o lowerdir=/tmp/l,upperdir=/tmp/o/u,workdir=/tmp/o/w o /mnt")
    sh.equals("cat /mnt/f; echo upper >/mnt/f; cat /mnt/f /tmp/l/f", "lower\nupper\nlower")
    sh.run("umount /mnt && umount /tmp/o && rm -r /tmp/l /tmp/o && rmmod overlay")


def check_dummy(sh):
    sh.run("modprobe dummy numdummies=1 && ifconfig lo up && ifconfig dummy0 10.9.8.7 up")
    sh.matches("ping -c 3 -i 0.1 10.9.8.7 2>&1", r"3 packets transmitted, 3 packets received")
    sh.run("ifconfig dummy0 down && rmmod dummy")


# --- ftrace ---


def trace_on(sh, functions, tracer="function"):
    sh.run(f"echo '{functions}' >{TRACING}/set_ftrace_filter && echo {tracer} >{TRACING}/current_tracer")


def trace_off(sh):
    sh.run(f"echo nop >{TRACING}/current_tracer && echo >{TRACING}/trace")


def check_function_tracer(sh):
    sh.run(f"mount -t tracefs tracefs {TRACING} && echo 256 >{TRACING}/buffer_size_kb")
    sh.run(f"echo 0 >{TRACING}/tracing_on")
    for i in range(ROUNDS):
        functions, wanted = (("vfs_*", "vfs_read"), ("*lock*", "mutex_lock"),
                             ("do_sys*", "do_sys_openat2"))[i % 3]
        trace_on(sh, functions)
        require(sh, count(sh, f"wc -l <{TRACING}/enabled_functions") > 5, "nothing is traced")
        sh.run(f"echo 1 >{TRACING}/tracing_on; {READ_A_FILE}; echo 0 >{TRACING}/tracing_on")
        sh.run(f"grep -q ' {wanted} <-' {TRACING}/trace")
        trace_off(sh)
        sh.equals(f"wc -l <{TRACING}/enabled_functions", "0")


def check_all_functions(sh):
    """Each function the kernel has, tens of thousands, patched twice; and the graph tracer."""
    for _ in range(2):
        trace_on(sh, "")
        sh.run(f"echo 1 >{TRACING}/tracing_on; {READ_A_FILE}; echo 0 >{TRACING}/tracing_on")
        require(sh, count(sh, f"head -n 3000 {TRACING}/trace | wc -l") > 100, "next to no trace")
        trace_off(sh)
    trace_on(sh, "vfs_*", "function_graph")
    sh.run(f"echo 1 >{TRACING}/tracing_on; {READ_A_FILE}; echo 0 >{TRACING}/tracing_on")
    sh.matches(f"cat {TRACING}/trace", r"us +\| +vfs_open\(\);?")
    trace_off(sh)


# --- probes ---


def hits(sh, name):
    return count(sh, f"awk '$1 == \"{name}\" {{ print $2 }}' {TRACING}/kprobe_profile")


def probe(sh, definitions):
    """Names of the probes that the kernel takes, enabled: it refuses what is no instruction."""
    taken = [name for name, what in definitions
             if sh.run(f"echo '{what}' >>{TRACING}/kprobe_events 2>/dev/null && echo y || true").strip()]
    sh.run(f"echo 1 >{TRACING}/events/kprobes/enable")
    return taken


def probes_off(sh):
    sh.run(f"echo 0 >{TRACING}/events/kprobes/enable && echo >{TRACING}/kprobe_events")


def check_probes(sh):
    n = 50
    for _ in range(5):
        # At the entry a probe uses ftrace's call, behind it int3 or, later, a jump.
        inside = [(f"at{off}", f"p:at{off} vfs_open+{off}") for off in range(5, 24)]
        definitions = [("entry", "p:entry vfs_open"), ("leave", "r:leave vfs_open ret=$retval"),
                       *inside]
        taken = probe(sh, definitions)
        require(sh, {"entry", "leave"} < set(taken), f"only these probes were taken: {taken}")
        sh.run("usleep 300000")  # time for the kernel to make jumps of breakpoints
        sh.run(f"echo 1 >{TRACING}/tracing_on; i=0; while [ $i -lt {n} ]; do {READ_A_FILE}; "
               f"i=$((i + 1)); done; echo 0 >{TRACING}/tracing_on")
        for name in taken:
            require(sh, hits(sh, name) >= n, f"probe {name}: {hits(sh, name)} hits")
        sh.run(f"grep -q 'leave: (.* <- vfs_open) ret=0x0' {TRACING}/trace")
        probes_off(sh)
        sh.equals(f"cat {TRACING}/kprobe_profile", "")
        sh.run(f"echo >{TRACING}/trace")


# --- static keys, static calls ---


def flip(sh, on, off, work):
    sh.run(f"i=0; while [ $i -lt {ROUNDS} ]; do {on}; {work}; {off}; {work}; i=$((i + 1)); done")


def check_static_keys(sh):
    def write(value, path):
        return f"echo {value} >{path}"

    flip(sh, write(1, "/proc/sys/kernel/sched_schedstats"),
         write(0, "/proc/sys/kernel/sched_schedstats"), READ_A_FILE)
    sh.run(f"echo 1 >{TRACING}/tracing_on")
    switch = f"{TRACING}/events/sched/sched_switch/enable"
    flip(sh, write(1, switch), write(0, switch), "usleep 1000")
    switches = count(sh, f"grep -c sched_switch: {TRACING}/trace")
    require(sh, switches >= ROUNDS, f"{switches} task switches traced")
    sh.run(f"{write(1, switch)}; usleep 1000; {write(0, switch)}; echo >{TRACING}/trace; usleep 1000")
    sh.equals(f"grep -c sched_switch: {TRACING}/trace || true", "0")
    # All events there are: some thousand keys and calls.
    for _ in range(2):
        sh.run(f"{write(1, TRACING + '/events/enable')}; {READ_A_FILE}; "
               f"{write(0, TRACING + '/events/enable')}")
    sh.run(f"echo 0 >{TRACING}/tracing_on; grep -q sys_enter {TRACING}/trace; echo >{TRACING}/trace")


def check_static_calls(sh):
    """Which way the kernel preempts is a set of static calls."""
    sh.run("mount -t debugfs debugfs /sys/kernel/debug")
    path = "/sys/kernel/debug/sched/preempt"
    found = sh.matches(f"cat {path}", r"\((\w+)\)")[1]
    for i in range(ROUNDS):
        how = ("none", "voluntary", "full")[i % 3]
        sh.run(f"echo {how} >{path}; usleep 1000")
        sh.matches(f"cat {path}", rf"\({how}\)")
    sh.run(f"echo {found} >{path}")


def patch_everything(sh):
    for part in (check_modules, check_zram, check_loop, check_overlay, check_dummy,
                 check_function_tracer, check_all_functions, check_probes, check_static_keys,
                 check_static_calls):
        part(sh)
        print(f"{part.__name__} after {sh.answered - sh.con.started:.1f} s", flush=True)
