/*
 * The machine: a small PC, wired here and nowhere else.
 *
 *	ISA IRQ n ---+-- 8259 pair -- INT --+-- LINT0 of the local APIC --+-- CPU
 *	             +-- I/O APIC pin n ----+-- interrupt messages -------+
 *
 * PCI's four interrupt wires lead to pins 16 to 19, and to inputs 10 and 11 of the 8259 pair.
 * IRQ 0 is I/O APIC pin 2 (the MADT says so). The local APIC starts in virtual-wire mode, as
 * firmware would leave it. Time is the TSC's: the VM's clock counts nanoseconds since vm_init by
 * it, so that all clocks the guest can read agree; one POSIX timer, aimed at the vCPU thread, wakes
 * for the first deadline of the timer queue.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "acpi_tables.h"
#include "bt_run.h"
#include "drive.h"
#include "loader.h"
#include "lowland.h"
#include "machine_impl.h"
#include "monitor.h"
#include "netdevs.h"
#include "plug.h"
#include "step.h"
#include "symbols.h"
#include "thunk.h"

#define ACPI_TABLES_BASE 0xe0000ull
#define ACPI_TABLES_SIZE 0x20000u

/* --- time --- */

u64 vm_tsc(void *opaque)
{
	(void)opaque;
	return __rdtsc(); /* as user code that runs natively will read it */
}

u64 vm_now(void *opaque)
{
	const struct vm *vm = opaque;
	u64 tsc = vm->state == VM_RUNNING ? __rdtsc() : vm->tsc_stopped;

	return muldiv64(tsc - vm->tsc_start, 1000000, vm->tsc_khz);
}

/* In a handler on the vCPU thread; a sleeping one is woken by the signal itself. */
static void on_kick(struct cpu *c)
{
	struct vm *vm = c->vm;

	atomic_store_explicit(&vm->armed, 0, memory_order_relaxed);
	atomic_store_explicit(&c->attention, 1, memory_order_release);
	user_kick(vm->user);
}

/*
 * Later deadlines than the one armed, and none, are left to the signal that comes too early. It may
 * come too early for its own deadline as well, since the host's clock and the TSC's scale differ by
 * some parts in a million: `armed` says whether it is still to come, not when.
 */
static void rearm(void *opaque, u64 deadline)
{
	struct vm *vm = opaque;
	struct itimerspec ts = {0};
	u64 now, wait, armed;

	if (deadline == TIMER_NEVER || !vm->host_timer_made)
		return;
	now = vm_now(vm);
	armed = atomic_load_explicit(&vm->armed, memory_order_relaxed);
	if (armed && armed <= deadline)
		return;
	wait = deadline > now ? deadline - now : 1;
	ts.it_value.tv_sec = wait / NS_PER_SEC;
	ts.it_value.tv_nsec = wait % NS_PER_SEC;
	/* Before the timer is set, lest its signal's 0 be overwritten. */
	atomic_store_explicit(&vm->armed, MAX(deadline, 1), memory_order_relaxed);
	timer_settime(vm->host_timer, 0, &ts, NULL);
}

static int make_host_timer(struct vm *vm)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
	int rc = engine_catch_kick(vm->cpu, on_kick);

	vm->vcpu_tid = ev._sigev_un._tid = syscall(SYS_gettid);
	if (rc)
		return rc;
	if (timer_create(CLOCK_MONOTONIC, &ev, &vm->host_timer))
		return -errno;
	vm->host_timer_made = true;
	return 0;
}

/* --- interrupts --- */

static void update_intr(void *opaque)
{
	struct vm *vm = opaque;

	cpu_set_intr(vm->cpu, lapic_pending(&vm->lapic) ||
				  (lapic_extint_enabled(&vm->lapic) && i8259_pending(&vm->pic)));
}

static void pic_output(void *opaque, unsigned n, int level)
{
	struct vm *vm = opaque;

	(void)n;
	lapic_set_lint(&vm->lapic, 0, level);
	update_intr(vm);
}

int machine_intr_ack(void *opaque)
{
	struct vm *vm = opaque;
	int vector = -1;

	if (lapic_pending(&vm->lapic))
		vector = lapic_ack(&vm->lapic);
	else if (lapic_extint_enabled(&vm->lapic) && i8259_pending(&vm->pic))
		vector = i8259_ack(&vm->pic);
	update_intr(vm);
	return vector;
}

void machine_isa_irq(void *opaque, unsigned n, int level)
{
	struct vm *vm = opaque;

	i8259_set_irq(&vm->pic, n, level);
	ioapic_set_irq(&vm->ioapic, n == 0 ? 2 : n, level);
}

static struct irq_line isa_line(struct vm *vm, unsigned n)
{
	return (struct irq_line){.set = machine_isa_irq, .opaque = vm, .n = n};
}

/* To a system that uses the 8259s two wires look like one. */
static void pci_irq(void *opaque, unsigned pirq, int level)
{
	struct vm *vm = opaque;
	bool shared = false;

	for (unsigned n = 0; n < PCI_PIRQS; n++)
		shared |= (vm->pci.pirq_level >> n & 1) && PCI_IRQ(n) == PCI_IRQ(pirq);
	ioapic_set_irq(&vm->ioapic, PCI_GSI(pirq), level);
	i8259_set_irq(&vm->pic, PCI_IRQ(pirq), shared);
}

static void lapic_eoi(void *opaque, u8 vector)
{
	struct vm *vm = opaque;

	ioapic_eoi(&vm->ioapic, vector);
}

static void lapic_nmi(void *opaque)
{
	struct vm *vm = opaque;

	if (mc146818_nmi_masked(&vm->rtc))
		return;
	vm->cpu->nmi_pending = true;
	cpu_update_slow(vm->cpu);
}

/* --- ends --- */

static void request_power_off(void *vm)
{
	vm_request(vm, VM_POWER_OFF, true);
}

static void request_reset(void *vm)
{
	vm_request(vm, VM_RESET, true);
}

static void request_exit(void *opaque, int status)
{
	struct vm *vm = opaque;

	vm->stop_status = status;
	vm_request(vm, VM_EXIT_STATUS, true);
}

/* --- what parts ask --- */

static int apic_msr_read(void *opaque, u32 index, u64 *val)
{
	struct vm *vm = opaque;

	return lapic_msr_read(&vm->lapic, index, val);
}

static int apic_msr_write(void *opaque, u32 index, u64 val)
{
	struct vm *vm = opaque;

	return lapic_msr_write(&vm->lapic, index, val);
}

/* Host's UTC when the VM's clock was 0. */
static u64 wall_at_zero(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec - vm_now(opaque);
}

static u8 reset_port_read(void *opaque)
{
	struct vm *vm = opaque;

	return acpi_pm_read_reset(&vm->pm);
}

static void reset_port_write(void *opaque, u8 val)
{
	struct vm *vm = opaque;

	acpi_pm_write_reset(&vm->pm, val);
}

static void *dma_ram(void *opaque, gpa_t gpa, u64 len)
{
	struct vm *vm = opaque;

	return ram_ptr(&vm->ram, gpa, len);
}

static void dma_wrote(void *opaque, gpa_t gpa, u64 len)
{
	struct vm *vm = opaque;

	ram_note_write(&vm->ram, gpa, len);
}

static void dma_discard_pages(void *opaque, gpa_t gpa, u64 len)
{
	struct vm *vm = opaque;
	gpa_t start = ALIGN_UP(gpa, PAGE_SIZE), end = ALIGN_DOWN(gpa + len, PAGE_SIZE);

	if (end > start && start >= gpa && !ram_discard(&vm->ram, start, end - start))
		vm->stats.n[STAT_ram_discarded] += (end - start) / PAGE_SIZE;
}

static void *aio_spawn(void *(*fn)(void *), void *arg)
{
	struct lowland_thread *t = malloc(sizeof(*t));

	if (t && lowland_thread_create(t, fn, arg)) {
		free(t);
		return NULL;
	}
	return t;
}

static void aio_join(void *thread)
{
	lowland_thread_join(thread);
	free(thread);
}

/* --- building --- */

#define LAPIC_BUS_KHZ 1000000u /* lapic.c counts nanoseconds */

static int init_ports(struct vm *vm, char *err, size_t errlen)
{
	static const u16 base[SERIAL_MAX] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
	const struct config *cfg = vm->cfg;
	unsigned i;
	int rc = 0;

	for (i = 0; i < cfg->serial_count && !rc; i++) {
		struct ns16550_config uc = {.base = base[i],
					    .irq = isa_line(vm, i & 1 ? 3 : 4),
					    .q = &vm->timers,
					    .stats = &vm->stats};

		if (*cfg->serial[i]) {
			uc.chr = chardevs_attach(vm->chardevs, cfg->serial[i], true, err, errlen);
			if (!uc.chr)
				return -EINVAL;
		}
		ns16550_init(&vm->uart[i], &uc);
		rc = ns16550_register(&vm->uart[i], &vm->bus);
	}
	if (!rc && cfg->debugcon_present) {
		struct chardev *chr = NULL;

		if (*cfg->debugcon)
			chr = chardevs_attach(vm->chardevs, cfg->debugcon, false, err, errlen);
		if (*cfg->debugcon && !chr)
			return -EINVAL;
		debugcon_init(&vm->debugcon, chr);
		rc = debugcon_register(&vm->debugcon, &vm->bus);
	}
	if (!rc && cfg->debug_exit.present) {
		debug_exit_init(&vm->debug_exit, cfg->debug_exit.iobase, cfg->debug_exit.iosize,
				request_exit, vm);
		rc = debug_exit_register(&vm->debug_exit, &vm->bus);
		if (rc)
			snprintf(err, errlen, "-device isa-debug-exit: ports %#x+%u are taken",
				 cfg->debug_exit.iobase, cfg->debug_exit.iosize);
	}
	return rc;
}

static void init_chips(struct vm *vm)
{
	const struct irq_line pic_out = {.set = pic_output, .opaque = vm};
	const struct lapic_ops lapic_ops = {.changed = update_intr,
					    .eoi = lapic_eoi,
					    .nmi = lapic_nmi,
					    .tsc = vm_tsc,
					    .opaque = vm,
					    .tsc_khz = vm->tsc_khz,
					    .phys_bits = vm->cpuid.maxphyaddr};
	const struct mc146818_config rtc = {.q = &vm->timers,
					    .irq = isa_line(vm, 8),
					    .ram_low = vm->ram.low_end,
					    .ram_high = vm->ram.high_end - RAM_HIGH_START,
					    .cpus = 1};
	const struct i8042_config kbd = {
	    .irq = isa_line(vm, 1), .reset = request_reset, .opaque = vm};
	const struct acpi_pm_config pm = {.q = &vm->timers,
					  .sci = isa_line(vm, 9),
					  .power_off = request_power_off,
					  .reset = request_reset,
					  .opaque = vm,
					  .pci_has_cf9 = true};
	const struct irq_line irq0 = isa_line(vm, 0);

	lapic_init(&vm->lapic, &vm->timers, &lapic_ops);
	ioapic_init(&vm->ioapic, lapic_message, &vm->lapic);
	i8259_init(&vm->pic, &pic_out);
	i8254_init(&vm->pit, &vm->timers, &irq0);
	mc146818_init(&vm->rtc, &rtc);
	i8042_init(&vm->kbd, &kbd);
	sendkey_init(&vm->keys, &vm->kbd, &vm->timers);
	acpi_pm_init(&vm->pm, &pm);
}

static void init_pci(struct vm *vm)
{
	struct pci_config cfg = {.bus = &vm->bus,
				 .intx = pci_irq,
				 .reset_read = reset_port_read,
				 .reset_write = reset_port_write,
				 .opaque = vm,
				 .msi = lapic_message,
				 .msi_opaque = &vm->lapic,
				 .stats = &vm->stats};

	cfg.high_size = pci_high_window(vm->ram.high_end, vm->cpuid.maxphyaddr, &cfg.high_base);
	pci_init(&vm->pci, &cfg);
}

static int register_chips(struct vm *vm)
{
	int rc = i8259_register(&vm->pic, &vm->bus);

	rc = rc ? rc : i8254_register(&vm->pit, &vm->bus);
	rc = rc ? rc : ioapic_register(&vm->ioapic, &vm->bus);
	rc = rc ? rc : lapic_register(&vm->lapic, &vm->bus);
	rc = rc ? rc : mc146818_register(&vm->rtc, &vm->bus);
	rc = rc ? rc : i8042_register(&vm->kbd, &vm->bus);
	rc = rc ? rc : acpi_pm_register(&vm->pm, &vm->bus);
	rc = rc ? rc : pci_register(&vm->pci);
	return rc ? rc : bus_add(&vm->bus, &machine_fpu_error_range, 1, vm);
}

/* What keeps this process from translating, or NULL. */
static const char *no_translator(void)
{
	if (!lowland_active())
		return "this build of ringshift does not live in lowland";
	if (!bt_host_can())
		return "the host lets no program write FS and GS bases (FSGSBASE)";
	return NULL;
}

static int init_translator(struct vm *vm, char *err, size_t errlen)
{
	const char *why = no_translator();
	int rc;

	if (why && vm->cfg->accel == ACCEL_BEST) {
		fprintf(stderr, "ringshift: note: -accel step, which is slow: %s\n", why);
		return 0;
	}
	rc = why ? -ENOTSUP : bt_init(vm->cpu, (void *)LOWLAND_TRANSLATIONS);
	if (!rc)
		rc = bt_configure(vm->cpu, &vm->cfg->bt);
	if (rc)
		snprintf(err, errlen, "-accel bt: %s", why ? why : strerror(-rc));
	return rc;
}

/* User code finds the host's CPUID: a guest kernel that has been shown less would not save all the
 * vector state its programs use. */
static int init_spaces(struct vm *vm, char *err, size_t errlen)
{
	if (vm->cfg->cpu != CPU_QEMU64)
		return user_init(&vm->user, vm->cpu, vm->cfg->fast_syscalls, err, errlen);
	snprintf(err, errlen, "-cpu qemu64 has less than the programs on it would find");
	return -ENOTSUP;
}

static int init_ring3(struct vm *vm, char *err, size_t errlen)
{
	char why[256];
	int rc;

	if (!vm->cpu->translator || vm->cfg->ring3 == RING3_STEP)
		return 0;
	rc = init_spaces(vm, why, sizeof(why));
	if (!rc)
		return 0;
	if (vm->cfg->ring3 == RING3_BEST) {
		fprintf(stderr, "ringshift: note: -ring3 step, which is slow: %s\n", why);
		return 0;
	}
	snprintf(err, errlen, "-ring3 native: %s", why);
	return rc;
}

static int init_cpu(struct vm *vm, char *err, size_t errlen)
{
	const struct cpuid_host host = cpuid_host_real();
	const struct msr_ops msr_ops = {
	    .apic_read = apic_msr_read, .apic_write = apic_msr_write, .opaque = vm};
	struct cpu *c = vm->cpu;
	int rc;

	vm->tsc_khz = tsc_calibrate_khz();
	vm->tsc_start = vm->tsc_stopped = __rdtsc();
	vm->state = vm->cfg->stopped ? VM_PRELAUNCH : VM_RUNNING;
	cpuid_model_init(&vm->cpuid, vm->cfg->cpu == CPU_QEMU64 ? CPU_MODEL_QEMU64 : CPU_MODEL_HOST,
			 &host, vm->tsc_khz, LAPIC_BUS_KHZ);
	mmu_init(&c->mmu, &vm->ram, &vm->stats, vm->cpuid.maxphyaddr);
	c->stats = &vm->stats;
	c->ops = &machine_cpu_ops;
	c->vm = vm;
	c->maxphyaddr = vm->cpuid.maxphyaddr;
	c->cr4_allowed = cpuid_cr4_allowed(&vm->cpuid);
	c->xcr0_allowed = vm->cpuid.xcr0;
	pvclock_init(&vm->clock, &vm->ram, vm->tsc_khz, vm_tsc, vm_now, wall_at_zero, vm);
	msr_init(&vm->msrs, c, &vm->cpuid, &vm->clock, &msr_ops);
	rc = engine_init(c, lowland_at(LOWLAND_CODE));
	if (rc)
		snprintf(err, errlen, "cannot start the engine: %s", strerror(-rc));
	if (rc || vm->cfg->accel == ACCEL_STEP)
		return rc;
	rc = init_translator(vm, err, errlen);
	return rc ? rc : init_ring3(vm, err, errlen);
}

static int init_log(struct vm *vm, char *err, size_t errlen)
{
	const char *path = vm->cfg->log_file;

	vm->log = path ? fopen(path, "w") : stderr;
	if (!vm->log) {
		snprintf(err, errlen, "-D: %s: %s", path, strerror(errno));
		return -EINVAL;
	}
	engine_set_log(vm->cpu, vm->log, vm->cfg->log_items);
	return 0;
}

static int init_symbols(struct vm *vm, char *err, size_t errlen)
{
	char what[400];

	if (!vm->cfg->symbols)
		return 0;
	vm->symbols = symbols_load(vm->cfg->symbols, what, sizeof(what));
	if (!vm->symbols) {
		snprintf(err, errlen, "--symbols: %s", what);
		return -EINVAL;
	}
	engine_set_symbols(vm->cpu, symbols_find, vm->symbols);
	return 0;
}

static int init_chardevs(struct vm *vm, char *err, size_t errlen)
{
	const struct chardevs_host host = {
	    .aio = vm->aio, .con = vm->console, .stats = &vm->stats, .in = 0, .out = 1};
	int rc = chardevs_create(&vm->chardevs, &host);

	if (rc)
		snprintf(err, errlen, "out of memory");
	for (unsigned i = 0; !rc && i < vm->cfg->chardev_count; i++)
		rc = chardevs_add(vm->chardevs, &vm->cfg->chardev[i], err, errlen);
	return rc;
}

static void kick(void *vm)
{
	vm_kick(vm);
}

int vm_init(struct vm *vm, const struct config *cfg, char *err, size_t errlen)
{
	const struct console_host host = {.kick = kick, .opaque = vm};
	const struct aio_host aio_host = {
	    .spawn = aio_spawn, .join = aio_join, .kick = kick, .opaque = vm};
	int rc;

	vm->cfg = cfg;
	vm->ram.fd = -1;
	vm->cpu = aligned_alloc(64, ALIGN_UP(sizeof(*vm->cpu), 64));
	if (!vm->cpu) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	memset(vm->cpu, 0, sizeof(*vm->cpu));
	rc = ram_init(&vm->ram, cfg->ram_size, lowland_at(LOWLAND_RAM));
	if (rc) {
		snprintf(err, errlen, "-m: cannot make %llu MiB of guest RAM: %s",
			 (unsigned long long)(cfg->ram_size / MIB), strerror(-rc));
		return rc;
	}
	vm->ram_made = true;
	bus_init(&vm->bus, &vm->stats);
	timerq_init(&vm->timers, vm_now, vm, &vm->stats);
	vm->dma = (struct dma){
	    .ptr = dma_ram, .written = dma_wrote, .discard = dma_discard_pages, .opaque = vm};
	rc = init_cpu(vm, err, errlen);
	if (rc)
		return rc;
	rc = init_log(vm, err, errlen);
	if (rc == 0)
		rc = init_symbols(vm, err, errlen);
	if (rc)
		return rc;
	init_chips(vm);
	init_pci(vm);
	rc = register_chips(vm);
	if (!rc)
		rc = console_create(&vm->console, &host);
	if (!rc)
		rc = aio_create(&vm->aio, &aio_host, &vm->stats);
	if (!rc)
		rc = make_host_timer(vm);
	if (rc) {
		snprintf(err, errlen, "cannot build the machine: %s", strerror(-rc));
		return rc;
	}
	vm->timers.rearm = rearm;
	rc = init_chardevs(vm, err, errlen);
	rc = rc ? rc : init_ports(vm, err, errlen);
	rc = rc ? rc : drive_open_all(vm, err, errlen);
	rc = rc ? rc : netdevs_create(vm, err, errlen);
	rc = rc ? rc : plug_devices(vm, err, errlen);
	rc = rc ? rc : drive_plug_all(vm, err, errlen);
	rc = rc ? rc : nics_create(vm, err, errlen);
	return rc ? rc : monitors_create(&vm->monitors, vm, err, errlen);
}

void vm_destroy(struct vm *vm)
{
	if (vm->host_timer_made)
		timer_delete(vm->host_timer);
	plug_destroy(vm);
	drive_close_all(vm);
	netdevs_destroy(vm);
	monitors_destroy(vm->monitors);
	chardevs_destroy(vm->chardevs);
	if (vm->console)
		console_destroy(vm->console);
	aio_destroy(vm->aio);
	user_free(vm->user);
	if (vm->cpu)
		bt_free(vm->cpu), engine_free(vm->cpu);
	symbols_free(vm->symbols);
	load_keep_free(&vm->boot_files);
	if (vm->log && vm->log != stderr)
		fclose(vm->log);
	if (vm->ram_made)
		ram_destroy(&vm->ram);
	free(vm->cpu);
}

/* --- booting --- */

/* What firmware leaves behind: 8259 at 0x08 and 0x70 with everything masked, SCI and PCI level
 * triggered.
 */
static void init_like_firmware(struct vm *vm)
{
	static const struct {
		u16 port;
		u8 val;
	} pic[] = {{0x20, 0x11}, {0x21, 0x08}, {0x21, 0x04}, {0x21, 0x01},
		   {0x21, 0xff}, {0xa0, 0x11}, {0xa1, 0x70}, {0xa1, 0x02},
		   {0xa1, 0x01}, {0xa1, 0xff}, {0x4d1, 0x0e}};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(pic); i++)
		bus_write(&vm->bus, BUS_PORT, pic[i].port, 1, pic[i].val);
	lapic_set_virtual_wire(&vm->lapic);
}

static int put_acpi_tables(struct vm *vm, char *err, size_t errlen)
{
	const struct acpi_config cfg = {.cpus = 1,
					.com1 = vm->cfg->serial_count > 0,
					.com2 = vm->cfg->serial_count > 1,
					.pci_high_base = vm->pci.cfg.high_base,
					.pci_high_size = vm->pci.cfg.high_size};
	u8 *buf;
	int n;

	vm->rsdp = 0;
	if (!vm->cfg->acpi || !ram_contains(&vm->ram, ACPI_TABLES_BASE))
		return 0;
	buf = ram_ptr(&vm->ram, ACPI_TABLES_BASE, ACPI_TABLES_SIZE);
	n = buf ? acpi_tables_build(buf, ACPI_TABLES_SIZE, ACPI_TABLES_BASE, &cfg, &vm->rsdp) : 0;
	if (n < 0)
		snprintf(err, errlen, "cannot build ACPI tables: %s", strerror(-n));
	return MIN(n, 0);
}

static void reset_chips(struct vm *vm)
{
	unsigned i;

	ioapic_reset(&vm->ioapic);
	i8259_reset(&vm->pic);
	lapic_reset(&vm->lapic);
	i8254_reset(&vm->pit);
	mc146818_reset(&vm->rtc);
	i8042_reset(&vm->kbd);
	sendkey_reset(&vm->keys);
	acpi_pm_reset(&vm->pm);
	plug_reset(vm);
	pci_reset(&vm->pci);
	machine_isa_irq(vm, 13, 0);
	for (i = 0; i < vm->cfg->serial_count; i++)
		ns16550_reset(&vm->uart[i]);
	init_like_firmware(vm);
}

int vm_boot(struct vm *vm, char *err, size_t errlen)
{
	const struct config *cfg = vm->cfg;
	struct boot_config boot = {.kernel = cfg->kernel,
				   .initrd = cfg->initrd,
				   .cmdline = cfg->append,
				   .stub = cfg->boot == BOOT_STUB,
				   .files = &vm->boot_files};
	struct boot_state state;
	int rc;

	engine_reset(vm->cpu);
	cpu_reset(vm->cpu);
	msr_reset(&vm->msrs);
	msr_set_boot_mtrrs(&vm->msrs, RAM_HOLE_START);
	pvclock_reset(&vm->clock);
	reset_chips(vm);
	rc = put_acpi_tables(vm, err, errlen);
	if (rc)
		return rc;
	boot.rsdp = vm->rsdp;
	rc = loader_load(&vm->ram, &boot, &state, err, errlen);
	if (rc == 0)
		boot_apply(vm->cpu, &state);
	return rc;
}
