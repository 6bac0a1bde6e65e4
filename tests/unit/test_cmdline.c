/* The command line: what is accepted and what it means, what is refused and in which words. */
#include <criterion/criterion.h>
#include <string.h>

#include "cmdline.h"
#include "step.h"

#define MAX_ARGS 32

/* Parse a line whose words are separated by single spaces; "''" is an empty word. */
struct parsed {
	struct config cfg;
	int ret;
	char err[256];
	char words[512];
	char *argv[MAX_ARGS + 1];
	int argc;
};

static void parse(struct parsed *p, const char *line)
{
	memset(p, 0, sizeof(*p));
	cr_assert_lt(strlen(line), sizeof(p->words) - 1);
	strcpy(p->words, line);
	p->argv[p->argc++] = (char *)"ringshift";
	for (char *w = strtok(p->words, " "); w; w = strtok(NULL, " ")) {
		cr_assert_lt(p->argc, MAX_ARGS);
		if (!strcmp(w, "''"))
			*w = 0;
		p->argv[p->argc++] = w;
	}
	p->ret = cmdline_parse(&p->cfg, p->argc, p->argv, p->err, sizeof(p->err));
}

static struct config good(const char *line)
{
	static struct parsed p; /* the strings outlive the call */

	parse(&p, line);
	cr_assert_eq(p.ret, 0, "'%s' was refused: %s", line, p.err);
	return p.cfg;
}

/* The first serial port shares the terminal with a monitor. */
static bool is_mon_stdio(const struct config *c)
{
	return c->chardev_count == 1 && c->chardev[0].kind == CHAR_STDIO && c->chardev[0].mux &&
	       !c->chardev[0].signal && !strcmp(c->serial[0], c->chardev[0].id) &&
	       c->mon_count == 1 && !strcmp(c->mon[0].chardev, c->serial[0]) && !c->mon[0].control;
}

Test(cmdline, defaults)
{
	struct config c = good("-kernel k");

	cr_assert_eq(c.action, ACTION_RUN);
	cr_assert_str_eq(c.kernel, "k");
	cr_assert_null(c.initrd);
	cr_assert_null(c.append);
	cr_assert_null(c.name);
	cr_assert_null(c.log_file);
	cr_assert_null(c.symbols);
	cr_assert_eq(c.accel, ACCEL_BEST);
	cr_assert_eq(c.ram_size, 512 * MIB);
	cr_assert_eq(c.cpu, CPU_HOST);
	cr_assert_eq(c.boot, BOOT_DIRECT);
	cr_assert(c.acpi);
	cr_assert_not(c.no_reboot);
	cr_assert_eq(c.serial_count, 1);
	cr_assert_eq(c.chardev[0].kind, CHAR_STDIO);
	cr_assert_eq(c.mon_count, 0);
	cr_assert_not(c.debugcon_present);
	cr_assert_not(c.debug_exit.present);
	cr_assert_eq(c.log_items, 0);
	cr_assert_eq(c.max_insns, ~0ull);
	cr_assert_eq(c.stats, STATS_NONE);
}

Test(cmdline, a_whole_qemu_command)
{
	struct config c =
	    good("-M q35 -accel step -cpu max -m 1G -smp 1 -nographic -nodefaults "
		 "-no-user-config -no-reboot -vga none -display none -monitor none "
		 "-kernel vmlinuz -initrd rd.gz -append console=ttyS0 -serial mon:stdio "
		 "-name guest");

	cr_assert_str_eq(c.kernel, "vmlinuz");
	cr_assert_str_eq(c.initrd, "rd.gz");
	cr_assert_str_eq(c.append, "console=ttyS0");
	cr_assert_str_eq(c.name, "guest");
	cr_assert_eq(c.ram_size, GIB);
	cr_assert_eq(c.cpu, CPU_MAX);
	cr_assert(c.no_reboot);
	cr_assert_eq(c.serial_count, 1);
	cr_assert(is_mon_stdio(&c));
}

Test(cmdline, one_dash_two_dashes_or_equals)
{
	cr_assert_eq(good("--kernel k --m 64").ram_size, 64 * MIB);
	cr_assert_eq(good("-kernel=k -m=64").ram_size, 64 * MIB);
	cr_assert_str_eq(good("-kernel k -append -append").append, "-append");
	cr_assert_str_eq(good("-kernel k -append=a=b").append, "a=b");
	cr_assert_str_eq(good("-kernel k -append ''").append, "");
	cr_assert_str_eq(good("-kernel k -kernel l").kernel, "l", "the last one counts");
}

Test(cmdline, sizes)
{
	static const struct {
		const char *arg;
		u64 size;
	} ok[] = {
	    {"1", MIB},
	    {"128", 128 * MIB},
	    {"1024K", MIB},
	    {"1025k", MIB + 4 * KIB}, /* whole pages */
	    {"1048577B", MIB + 4 * KIB},
	    {"64m", 64 * MIB},
	    {"5G", 5 * GIB},
	    {"6T", 6ull << 40},
	    {"0x40", 64 * MIB},
	    {"size=96", 96 * MIB},
	    {"size=2g", 2 * GIB},
	};
	char line[64];

	for (size_t i = 0; i < ARRAY_LEN(ok); i++) {
		snprintf(line, sizeof(line), "-kernel k -m %s", ok[i].arg);
		cr_assert_eq(good(line).ram_size, ok[i].size, "%s", ok[i].arg);
	}
}

Test(cmdline, machine)
{
	cr_assert(good("-kernel k -machine pc").acpi);
	cr_assert(good("-kernel k -machine type=microvm,acpi=on").acpi);
	cr_assert_not(good("-kernel k -M q35,accel=step,acpi=off,usb=off,hpet=off").acpi);
	cr_assert_not(good("-kernel k -M acpi=off").acpi);
	cr_assert_not(good("-kernel k -no-acpi").acpi);
	cr_assert_eq(good("-kernel k -cpu qemu64").cpu, CPU_QEMU64);
	cr_assert_eq(good("-kernel k -boot stub").boot, BOOT_STUB);
	cr_assert_eq(good("-kernel k -accel bt").accel, ACCEL_BT);
	cr_assert_eq(good("-kernel k -M q35,accel=bt").accel, ACCEL_BT);
	cr_assert_eq(good("-kernel k -accel bt -accel step").accel, ACCEL_STEP);
	good("-kernel k -smp cpus=1");
	good("-kernel k -smp 1,sockets=1,cores=1,threads=1,maxcpus=1");
	good("-kernel k -net none -nic none -parallel none");
}

Test(cmdline, options_of_one_engine)
{
	static const char *const bt_aids[] = {
	    "-check-lockstep", "-check-lockstep=5", "-check-recovery",  "-bt-cache 64K",
	    "-bt-one-insn",    "-bt-no-chain",      "-bt-flush-every 7"};
	char line[200];

	cr_assert_eq(good("-kernel k --max-insns 5").accel, ACCEL_STEP);
	cr_assert_eq(good("-kernel k --max-insns 5 -accel step").accel, ACCEL_STEP);
	for (size_t i = 0; i < ARRAY_LEN(bt_aids); i++) {
		snprintf(line, sizeof(line), "-kernel k %s", bt_aids[i]);
		cr_expect_eq(good(line).accel, ACCEL_BT, "%s", line);
		snprintf(line, sizeof(line), "-accel bt -kernel k %s", bt_aids[i]);
		cr_expect_eq(good(line).accel, ACCEL_BT, "%s", line);
	}
}

Test(cmdline, serial_ports)
{
	struct config c = good("-kernel k -nographic");

	cr_assert_eq(c.serial_count, 1);
	cr_assert(is_mon_stdio(&c));
	cr_assert_eq(good("-kernel k -nodefaults").serial_count, 0);
	cr_assert_eq(good("-kernel k -nodefaults -nographic").serial_count, 0);
	c = good("-kernel k -nographic -serial null");
	cr_assert_eq(c.serial_count, 1);
	cr_assert_eq(c.chardev[0].kind, CHAR_NULL);
	c = good("-kernel k -serial file:a,b -serial stdio -serial none");
	cr_assert_eq(c.serial_count, 3);
	cr_assert_eq(c.chardev[0].kind, CHAR_FILE);
	cr_assert_str_eq(c.chardev[0].path, "a,b");
	cr_assert_str_eq(c.serial[0], "serial0");
	cr_assert_eq(c.chardev[1].kind, CHAR_STDIO);
	cr_assert_str_eq(c.serial[1], "serial1");
	cr_assert_str_empty(c.serial[2]);
	c = good("-kernel k -debugcon file:log");
	cr_assert(c.debugcon_present);
	cr_assert_str_eq(c.debugcon, "debugcon");
	cr_assert_str_eq(c.chardev[0].path, "log");
	/* It only writes, and shares. */
	c = good("-kernel k -serial mon:stdio -debugcon stdio");
	cr_assert_str_eq(c.debugcon, "serial0");
}

Test(cmdline, who_has_the_terminal)
{
	struct config c = good("-kernel k -nographic -monitor none");

	cr_assert_eq(c.chardev[0].kind, CHAR_STDIO);
	cr_assert_not(c.chardev[0].mux);
	cr_assert(c.chardev[0].signal);
	cr_assert_eq(c.mon_count, 0);
	c = good("-kernel k -monitor stdio");
	cr_assert_eq(c.serial_count, 1);
	cr_assert_str_empty(c.serial[0], "the monitor has it");
	cr_assert_str_eq(c.mon[0].chardev, "compat_monitor0");
	c = good("-kernel k -chardev stdio,id=con,mux=on -serial chardev:con -mon con");
	cr_assert_str_eq(c.serial[0], "con");
	cr_assert_str_eq(c.mon[0].chardev, "con");
}

Test(cmdline, chardevs)
{
	struct config c = good("-kernel k -chardev socket,id=q,path=/a,,b,server=on,wait=off "
			       "-mon chardev=q,mode=control,pretty=on");

	cr_assert_eq(c.chardev[0].kind, CHAR_SOCKET);
	cr_assert_str_eq(c.chardev[0].path, "/a,b");
	cr_assert(c.chardev[0].server);
	cr_assert_not(c.chardev[0].wait);
	cr_assert(c.mon[0].control && c.mon[0].pretty);
	c = good("-kernel k -qmp unix:/q,server,nowait -serial tcp:[::1]:99 -serial tcp:1.2.3.4:5");
	cr_assert(c.chardev[0].server);
	cr_assert_not(c.chardev[0].wait);
	cr_assert(c.mon[0].control);
	cr_assert_str_eq(c.chardev[1].host, "::1");
	cr_assert_eq(c.chardev[1].port, 99);
	cr_assert_not(c.chardev[1].server);
	cr_assert_str_eq(c.chardev[2].host, "1.2.3.4");
	cr_assert(good("-kernel k -qmp unix:/q,server").chardev[0].wait, "as in QEMU");
	c = good("-kernel k -chardev ringbuf,id=r,size=4096 -chardev pty,id=p -chardev null,id=n "
		 "-chardev pipe,id=f,path=/p -chardev file,id=g,path=/g,append=on "
		 "-chardev socket,id=s,host=localhost,port=1,reconnect=2");
	cr_assert_eq(c.chardev[0].size, 4096);
	cr_assert(c.chardev[4].append);
	cr_assert_eq(c.chardev[5].reconnect, 2);
}

Test(cmdline, how_it_runs_and_ends)
{
	struct config c = good("-kernel k -S -pidfile p -no-shutdown "
			       "-uuid 12345678-9abc-def0-1234-56789abcdef0");

	cr_assert(c.stopped && c.no_shutdown);
	cr_assert_not(c.daemonize);
	cr_assert_eq(c.ready_fd, -1);
	c = good("-kernel k -daemonize -nographic -pidfile p "
		 "-uuid 12345678-9abc-def0-1234-56789abcdef0");
	cr_assert(c.daemonize);
	cr_assert_str_empty(c.serial[0]);
	cr_assert_str_eq(c.pidfile, "p");
	cr_assert_str_eq(c.uuid, "12345678-9abc-def0-1234-56789abcdef0");
	c = good("-kernel k -action reboot=shutdown,shutdown=pause");
	cr_assert(c.no_reboot && c.no_shutdown);
	c = good("-kernel k -no-reboot -no-shutdown -action reboot=reset,shutdown=poweroff");
	cr_assert_not(c.no_reboot || c.no_shutdown);
}

Test(cmdline, devices)
{
	struct config c = good("-kernel k -device virtio-rng-pci,addr=3 -device virtio-rng");

	cr_expect_eq(c.device_count, 2);
	cr_expect_str_eq(c.device[0], "virtio-rng-pci,addr=3");
	cr_expect_str_eq(c.device[1], "virtio-rng");
	c = good("-device driver=virtio-rng-pci-non-transitional -kernel k");
	cr_expect_eq(c.device_count, 1);
	c = good("-device help");
	cr_expect_eq(c.action, ACTION_DEVICE_HELP);
	cr_expect_null(c.device_help);
	c = good("-device virtio-rng,help");
	cr_expect_eq(c.action, ACTION_DEVICE_HELP);
	cr_expect_not_null(c.device_help);
}

Test(cmdline, debug_exit)
{
	struct config c = good("-kernel k -device isa-debug-exit");

	cr_assert(c.debug_exit.present);
	cr_assert_eq(c.debug_exit.iobase, 0x501);
	cr_assert_eq(c.debug_exit.iosize, 2);
	c = good("-kernel k -device isa-debug-exit,iobase=0xf4,iosize=0x04");
	cr_assert_eq(c.debug_exit.iobase, 0xf4);
	cr_assert_eq(c.debug_exit.iosize, 4);
	c = good("-kernel k -device isa-debug-exit,iosize=1,iobase=65535");
	cr_assert_eq(c.debug_exit.iobase, 65535);
}

Test(cmdline, logging_and_limits)
{
	struct config c = good("-kernel k -d in_asm,int -d cpu,unimp,guest_errors -D log");

	cr_assert_eq(c.log_items,
		     LOG_IN_ASM | LOG_INT | LOG_CPU | LOG_UNIMP | (unsigned)LOG_GUEST_ERRORS);
	cr_assert_str_eq(c.log_file, "log");
	cr_assert_eq(good("-kernel k -d int").log_items, (unsigned)LOG_INT);
	cr_assert_eq(good("-kernel k -d out_asm,mmu,smc").log_items,
		     (unsigned)(LOG_OUT_ASM | LOG_MMU | LOG_SMC));
	cr_assert_str_eq(good("-kernel k --symbols System.map").symbols, "System.map");
	cr_assert_eq(good("-kernel k --max-insns 1000000000000").max_insns, 1000000000000ull);
	cr_assert_eq(good("-kernel k --max-insns=0").max_insns, 0);
	cr_assert_eq(good("-kernel k --stats").stats, STATS_TEXT);
	cr_assert_eq(good("-kernel k --stats=json").stats, STATS_JSON);
	cr_assert_str_eq(good("--stats -kernel k").kernel, "k", "--stats takes no next argument");
}

Test(cmdline, actions)
{
	cr_assert_eq(good("-version").action, ACTION_VERSION);
	cr_assert_eq(good("--help").action, ACTION_HELP);
	cr_assert_eq(good("-h").action, ACTION_HELP);
	cr_assert_eq(good("-help -nonsense").action, ACTION_HELP);
	cr_assert_eq(good("--check-lowland").action, ACTION_CHECK_LOWLAND);
}

Test(cmdline, refusals_name_what_they_refuse)
{
	static const struct {
		const char *line, *err;
	} bad[] = {
	    {"", "nothing to boot: give -kernel FILE (-help lists the options)"},
	    {"-m 64", "nothing to boot"},
	    {"k", "unexpected argument 'k'"},
	    {"-kernel k disk.img", "unexpected argument 'disk.img'"},
	    {"-", "unexpected argument '-'"},
	    {"''", "unexpected argument ''"},
	    {"--", "--: unknown option"},
	    {"-kernel", "-kernel: needs a value: FILE"},
	    {"-kernel k -m", "-m: needs a value"},
	    {"-cdrom disk", "-cdrom: unknown option"},
	    {"--frobnicate=3", "--frobnicate: unknown option"},
	    {"-enable-kvm -kernel k", "-enable-kvm: unknown option"},
	    {"-Kernel k", "-Kernel: unknown option"},
	    {"-kern k", "-kern: unknown option"},
	    {"-nographic=yes -kernel k", "-nographic: takes no value"},
	    {"-m 12Q -kernel k", "-m: '12Q' is not a size"},
	    {"-m '' -kernel k", "-m: '' is not a size"},
	    {"-m -5", "-m: '-5' is not a size"},
	    {"-m +5", "-m: '+5' is not a size"},
	    {"-m M", "-m: 'M' is not a size"},
	    {"-m 5MM", "-m: '5MM' is not a size"},
	    {"-m 0x", "-m: '0x' is not a size"},
	    {"-m 1.5G", "-m: '1.5G' is not a size"},
	    {"-m 99999999999999999999", "-m: '99999999999999999999' is not a size"},
	    {"-m 99999999999999999T", "-m: '99999999999999999T' is not a size"},
	    {"-m 16777216T", "-m: '16777216T' is not a size"},
	    {"-m 0", "-m: '0' is too little"},
	    {"-m 1023K", "-m: '1023K' is too little"},
	    {"-m 7T", "-m: '7T' is too much"},
	    {"-m 1G,slots=2", "-m: 'slots=2' is not in this version"},
	    {"-m maxmem=2G", "-m: 'maxmem=2G' is not in this version"},
	    {"-m size=", "-m: '"},
	    {"-smp 2", "-smp: 2 processors: this version has one"},
	    {"-smp 1,maxcpus=4", "-smp: 4 processors"},
	    {"-smp 0", "-smp: '0' is not a number of processors"},
	    {"-smp one", "-smp: 'one' is not a number of processors"},
	    {"-smp 1,wings=1", "-smp: 'wings=1' is not known"},
	    {"-accel kvm", "-accel: 'kvm' is not in this version"},
	    {"-accel tcg", "-accel: 'tcg' is not in this version"},
	    {"-accel tcg,thread=multi", "-accel: 'tcg' is not in this version"},
	    {"-accel step,thread=multi", "-accel: 'thread=multi' is not in this version"},
	    {"-accel warp", "-accel: no engine is called 'warp'"},
	    {"-M q35,accel=kvm", "-M: 'kvm' is not in this version"},
	    {"-M q35,hpet=on", "-M: 'hpet=on' is not in this version"},
	    {"-M isapc", "-M: no machine is called 'isapc'"},
	    {"-M pc,acpi=maybe", "-M: 'acpi=maybe' is not in this version"},
	    {"-sandbox maybe", "-sandbox: 'maybe' is neither 'on' nor 'off'"},
	    {"-sandbox on,spawn=allow", "-sandbox: 'spawn=allow' is not in this version"},
	    {"-sandbox on,other=deny", "-sandbox: 'other=deny' is not in this version"},
	    {"-cpu Skylake", "-cpu: 'Skylake' is not in this version"},
	    {"-cpu max,+avx", "-cpu: '+avx': features cannot be chosen"},
	    {"-boot order=c", "-boot: 'order=c' is not in this version"},
	    {"-display gtk", "-display: 'gtk' is not in this version"},
	    {"-vga std", "-vga: 'std' is not in this version"},
	    {"-serial tcp:host.example:4444", "-serial: host=host.example: names are not looked"},
	    {"-serial telnet::4444,server",
	     "-serial: 'telnet::4444,server' is not in this version"},
	    {"-serial tcp::4444,telnet=on", "-serial: telnet=on is not in this version"},
	    {"-serial smoke", "-serial: 'smoke' is none of stdio, pty"},
	    {"-kernel k -serial chardev:x", "-serial: there is no character device 'x'"},
	    {"-chardev null", "-chardev: id= is missing"},
	    {"-chardev null,id=a -chardev null,id=a", "-chardev: 'a' is there already"},
	    {"-chardev null,id=4", "-chardev: '4' is no id"},
	    {"-chardev vc,id=a", "-chardev: 'vc' is none of null, stdio"},
	    {"-chardev file,id=a", "-chardev: path= is missing"},
	    {"-chardev null,id=a,path=b", "-chardev: 'path' is not known here"},
	    {"-chardev ringbuf,id=a,size=5", "-chardev: size=5: a power of two"},
	    {"-chardev socket,id=a,path=b,wait=on", "-chardev: wait= is for server=on"},
	    {"-chardev socket,id=a,path=b,server=on,reconnect=1", "-chardev: reconnect= is for cl"},
	    {"-kernel k -chardev null,id=a -serial chardev:a -mon a", "-mon: 'a' has another user"},
	    {"-kernel k -daemonize -serial stdio", "-daemonize: 'serial0' is stdio"},
	    {"-mon mode=control", "-mon: chardev= is missing"},
	    {"-mon a,mode=telepathy", "-mon: mode=telepathy: it is one of readline, control"},
	    {"-netdev user", "-netdev: id= is missing"},
	    {"-netdev id=a", "-netdev: a type is missing"},
	    {"-netdev bridge,id=a", "-netdev: 'bridge' is not in this version; user, stream"},
	    {"-netdev user,id=4", "-netdev: id=4 is no identifier"},
	    {"-netdev user,id=a,tftp=/srv", "-netdev: 'tftp' is not known here"},
	    {"-netdev user,id=a,hostfwd=tcp:22", "-netdev: hostfwd=tcp:22: not of the form"},
	    {"-netdev stream,id=a", "-netdev: addr.type= is missing"},
	    {"-netdev stream,id=a,addr.type=unix", "-netdev: addr.path= is missing"},
	    {"-netdev stream,id=a,addr.type=inet,addr.host=x.example,addr.port=1",
	     "-netdev: addr.host= and addr.port= are to be a numeric address"},
	    {"-netdev stream,id=a,addr.type=fd,addr.str=1", "-netdev: addr.str=1: no open desc"},
	    {"-netdev stream,id=a,addr.type=unix,addr.path=b,server=on,reconnect=1",
	     "-netdev: reconnect= is for clients"},
	    {"-netdev socket,id=a", "-netdev: socket needs one of"},
	    {"-netdev socket,id=a,listen=5", "-netdev: 5: a numeric address"},
	    {"-netdev socket,id=a,mcast=230.0.0.1:1234", "-netdev: socket needs one of"},
	    {"-netdev tap,id=a,script=/etc/up", "-netdev: script=/etc/up: no scripts are run"},
	    {"-netdev tap,id=a,ifname=abcdefghijklmnopq", "-netdev: ifname=abcdefghijklmnopq is"},
	    {"-netdev tap,id=a,vhost=on", "-netdev: vhost=on is not in this version"},
	    {"-nic user,model=e1000", "-nic: model=e1000 is not in this version"},
	    {"-nic user,mac=1:2:3", "-nic: mac=1:2:3 is no Ethernet address"},
	    {"-nic user,mac=01:00:00:00:00:01", "-nic: mac=01:00:00:00:00:01 is a group's"},
	    {"-nic bridge", "-nic: 'bridge' is not in this version"},
	    {"-net user", "-net: 'user' is not in this version"},
	    {"-uuid 1234", "-uuid: '1234' is no UUID"},
	    {"-action panic=pause", "-action: 'panic=pause' is not in this version"},
	    {"-action reboot=later", "-action: 'reboot=later': it is reset or shutdown"},
	    {"-serial file:", "-serial: 'file:' is none of stdio"},
	    {"-serial stdio -serial mon:stdio", "-serial: 'serial0' has stdio already"},
	    {"-serial null -serial null -serial null -serial null -serial null",
	     "-serial: 'null': there are 4 serial ports"},
	    {"-device virtio-gpu-pci", "-device: 'virtio-gpu-pci' is not in this version"},
	    {"-device driver=e1000,id=x", "-device: 'e1000' is not in this version"},
	    {"-device ,addr=3", "-device: '' is not in this version"},
	    {"-device isa-debug-exit,irq=3", "-device: isa-debug-exit has no 'irq=3'"},
	    {"-device isa-debug-exit,iobase=f4", "-device: 'f4' is not a number"},
	    {"-device isa-debug-exit,iobase=0x10000", "-device: isa-debug-exit: iobase 0x10000"},
	    {"-device isa-debug-exit,iobase=0xffff", "-device: isa-debug-exit: iobase 0xffff"},
	    {"-device isa-debug-exit,iosize=0", "-device: isa-debug-exit: iobase 0x501"},
	    {"-device isa-debug-exit,iosize=0xffffffffffffffff", "-device: isa-debug-exit: "},
	    {"-d everything", "-d: 'everything' is none of in_asm, out_asm, int, mmu, smc"},
	    {"-d out_asm,smcc", "-d: 'smcc' is none of in_asm"},
	    {"-kernel k --symbols", "--symbols: needs a value: FILE"},
	    {"-d int,,cpu", "-d: '' is none of in_asm"},
	    {"--max-insns many", "--max-insns: 'many' is not a number"},
	    {"-kernel k --max-insns 9 -accel bt", "--max-insns: needs -accel step: "},
	    {"-kernel k -accel bt --max-insns=9", "--max-insns: needs -accel step: "},
	    {"-kernel k -bt-one-insn --max-insns 9", "--max-insns: needs -accel step: "},
	    {"-kernel k -accel step -check-lockstep=3", "-check-lockstep: needs -accel bt"},
	    {"-kernel k -accel step -check-recovery", "-check-recovery: needs -accel bt"},
	    {"-kernel k -bt-cache 64K -accel step", "-bt-cache: needs -accel bt"},
	    {"-kernel k -accel step -bt-one-insn", "-bt-one-insn: needs -accel bt"},
	    {"-kernel k -accel step -bt-no-chain", "-bt-no-chain: needs -accel bt"},
	    {"-kernel k -accel step -bt-flush-every 5", "-bt-flush-every: needs -accel bt"},
	    {"--stats=xml", "--stats: 'xml' is not a format"},
	    {"-Z", "-Z: unknown option"},
	};
	struct parsed p;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		parse(&p, bad[i].line);
		cr_expect_lt(p.ret, 0, "'%s' was accepted", bad[i].line);
		cr_expect_eq(strncmp(p.err, bad[i].err, strlen(bad[i].err)), 0,
			     "'%s' gave \"%s\", not \"%s\"", bad[i].line, p.err, bad[i].err);
		cr_expect_null(strchr(p.err, '\n'), "'%s': one line", bad[i].line);
	}
}

Test(cmdline, no_arguments_at_all)
{
	char *argv[] = {NULL};
	struct config cfg;
	char err[64];

	cr_assert_lt(cmdline_parse(&cfg, 0, argv, err, sizeof(err)), 0);
}

Test(cmdline, a_message_longer_than_its_buffer_is_cut)
{
	char *argv[] = {(char *)"ringshift", (char *)"-machine",
			(char *)"a-machine-with-a-very-long-name-indeed", NULL};
	struct config cfg;
	char err[16];

	for (size_t n = 0; n <= sizeof(err); n++) {
		memset(err, '!', sizeof(err));
		cr_assert_lt(cmdline_parse(&cfg, 3, argv, err, n), 0);
		if (n)
			cr_assert_lt(strnlen(err, n), n);
		if (n < sizeof(err))
			cr_assert_eq(err[n], '!', "written past %zu bytes", n);
	}
}

Test(cmdline, drives_are_recorded)
{
	struct config c = good("-kernel k -hda a,b -drive file=c,if=none -hdd d -snapshot");

	cr_assert_eq(c.drive_count, 3);
	cr_assert_str_eq(c.drive[0].text, "a,b");
	cr_assert(c.drive[0].is_file);
	cr_assert_str_eq(c.drive[1].text, "file=c,if=none");
	cr_assert_not(c.drive[1].is_file);
	cr_assert_str_eq(c.drive[2].opt, "-hdd");
	cr_assert(c.snapshot);
}

Test(cmdline, help_lists_every_option)
{
	static const char *const names[] = {
#define OPTION(id, name, arg, help) name,
#include "options.def"
#undef OPTION
	};
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	cr_assert_not_null(f);
	cmdline_print_help(f);
	fclose(f);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char needle[64];

		snprintf(needle, sizeof(needle), "\n  -%s", names[i]);
		cr_expect_not_null(strstr(text, needle), "-help does not list -%s", names[i]);
	}
	for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
		cr_expect_leq(end - line, 110, "a line of -help is too long");
	free(text);
}
