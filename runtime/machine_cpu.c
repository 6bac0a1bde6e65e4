/*
 * What the CPU asks of the machine around it: ports and MMIO, MSRs, CPUID, CR8, FERR#.
 */
#include "machine_impl.h"

/* -d guest_errors: what a guest tries that nothing answers. */
static void log_guest_error(struct vm *vm, const char *what, u64 where)
{
	if (vm->cfg->log_items & LOG_GUEST_ERRORS)
		fprintf(vm->log, "guest error: %s %#llx at rip %#llx\n", what,
			(unsigned long long)where, (unsigned long long)vm->cpu->rip);
}

static u64 unassigned(const struct vm *vm)
{
	return vm->stats.n[STAT_unassigned_pio] + vm->stats.n[STAT_unassigned_mmio];
}

static void log_unassigned(struct vm *vm, enum bus_space space, u64 addr, u64 before)
{
	if (unassigned(vm) != before)
		log_guest_error(
		    vm, space == BUS_PORT ? "no device at port" : "no device at address", addr);
}

static u64 machine_read(struct vm *vm, enum bus_space space, u64 addr, unsigned size)
{
	u64 before = unassigned(vm), val = bus_read(&vm->bus, space, addr, size);

	log_unassigned(vm, space, addr, before);
	return val;
}

static void machine_write(struct vm *vm, enum bus_space space, u64 addr, unsigned size, u64 val)
{
	u64 before = unassigned(vm);

	bus_write(&vm->bus, space, addr, size, val);
	log_unassigned(vm, space, addr, before);
}

static u32 port_read(void *opaque, u16 port, unsigned size)
{
	return machine_read(opaque, BUS_PORT, port, size);
}

static void port_write(void *opaque, u16 port, unsigned size, u32 val)
{
	machine_write(opaque, BUS_PORT, port, size, val);
}

static u64 mmio_read(void *opaque, gpa_t gpa, unsigned size)
{
	return machine_read(opaque, BUS_MMIO, gpa, size);
}

static void mmio_write(void *opaque, gpa_t gpa, unsigned size, u64 val)
{
	machine_write(opaque, BUS_MMIO, gpa, size, val);
}

static u64 cr8_read(void *opaque)
{
	struct vm *vm = opaque;

	return lapic_cr8_get(&vm->lapic);
}

static void cr8_write(void *opaque, u64 val)
{
	struct vm *vm = opaque;

	lapic_cr8_set(&vm->lapic, val);
}

/* FERR# drives IRQ 13 until somebody writes to port 0xf0. */
static void fpu_error(void *opaque)
{
	machine_isa_irq(opaque, 13, 1);
}

static u64 fpu_error_read(void *opaque, u64 offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return ~0ull;
}

static void fpu_error_clear(void *opaque, u64 offset, unsigned size, u64 val)
{
	(void)offset;
	(void)size;
	(void)val;
	machine_isa_irq(opaque, 13, 0);
}

const struct bus_range machine_fpu_error_range = {.space = BUS_PORT,
						  .base = 0xf0,
						  .len = 2,
						  .read = fpu_error_read,
						  .write = fpu_error_clear,
						  .name = "fpu-error"};

static void cpuid(void *opaque, u32 leaf, u32 subleaf, u32 out[4])
{
	struct vm *vm = opaque;
	struct cpuid_dynamic dyn = {.cr4 = vm->cpu->cr4,
				    .xcr0 = vm->cpu->xcr0,
				    .apic_enabled = vm->lapic.base & APIC_BASE_ENABLE};

	cpuid_query(&vm->cpuid, &dyn, leaf, subleaf, out);
}

static int rdmsr(void *opaque, u32 index, u64 *val)
{
	struct vm *vm = opaque;
	int rc = msr_read(&vm->msrs, index, val);

	if (rc)
		log_guest_error(vm, "RDMSR", index);
	return rc;
}

static int wrmsr(void *opaque, u32 index, u64 val)
{
	struct vm *vm = opaque;
	int rc = msr_write(&vm->msrs, index, val);

	if (rc)
		log_guest_error(vm, "WRMSR", index);
	return rc;
}

static bool plain_msr(void *opaque, u32 index, struct msr_word *w)
{
	struct vm *vm = opaque;

	return msr_word(&vm->msrs, index, w);
}

/* KVM's interface. Nothing that would need a call is advertised, so nearly all are unknown. */
static u64 hypercall(void *opaque, u64 nr, const u64 args[4])
{
	const u64 vapic_poll_irq = 1, enosys = 1000;

	(void)opaque;
	(void)args;
	return nr == vapic_poll_irq ? 0 : -enosys;
}

static bool run_user(void *opaque)
{
	struct vm *vm = opaque;

	return vm->user && user_run(vm->user);
}

static void fetch_vec(void *opaque)
{
	struct vm *vm = opaque;

	user_fetch_vec(vm->user);
}

const struct cpu_ops machine_cpu_ops = {
    .port_read = port_read,
    .port_write = port_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .intr_ack = machine_intr_ack,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .cpuid = cpuid,
    .msr_read = rdmsr,
    .msr_write = wrmsr,
    .msr_word = plain_msr,
    .hypercall = hypercall,
    .tsc = vm_tsc,
    .host_tsc = true,
    .fpu_error = fpu_error,
    .run_user = run_user,
    .fetch_vec = fetch_vec,
};
