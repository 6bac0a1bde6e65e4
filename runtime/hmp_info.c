/*
 * info ...
 */
#include <string.h>

#include "hmp.h"
#include "plug.h"
#include "runstate.h"
#include "step.h"

static void version(struct vm *vm, FILE *out, const char *args)
{
	(void)vm, (void)args;
	fprintf(out, "ringshift %s\n", RINGSHIFT_VERSION);
}

static void status(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	if (vm->state == VM_RUNNING || vm->state == VM_PAUSED)
		fprintf(out, "VM status: %s\n", vm_state_name(vm));
	else
		fprintf(out, "VM status: paused (%s)\n", vm_state_name(vm));
}

static void name(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	if (vm->cfg->name)
		fprintf(out, "%s\n", vm->cfg->name);
}

static void uuid(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	fprintf(out, "%s\n",
		vm->cfg->uuid ? vm->cfg->uuid : "00000000-0000-0000-0000-000000000000");
}

static void cpus(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	fprintf(out, "* CPU #0: thread_id=%d rip=0x%016llx%s\n", (int)vm->vcpu_tid,
		(unsigned long long)vm->cpu->rip, vm->cpu->halted ? " (halted)" : "");
}

static void registers(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	cpu_dump(vm->cpu, out);
}

static void stats(struct vm *vm, FILE *out, const char *args)
{
	vm_print_stats(vm, out, !strcmp(args, "json"));
}

static void show_words(FILE *out, const char *name, const u32 *words)
{
	fprintf(out, "%s=", name);
	for (int i = 7; i >= 0; i--)
		fprintf(out, "%08x%s", words[i], i ? "_" : "");
}

static void irq(struct vm *vm, FILE *out, const char *args)
{
	const struct lapic *l = &vm->lapic;

	(void)args;
	for (unsigned i = 0; i < 2; i++) {
		const struct i8259_chip *c = &vm->pic.chip[i];

		fprintf(out,
			"pic%u: pin=%02x requested=%02x isr=%02x imr=%02x base=%02x elcr=%02x\n", i,
			c->pin, c->edge, c->isr, c->imr, c->base, c->elcr);
	}
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		u64 e = vm->ioapic.entry[i];

		fprintf(out, "ioapic pin %2u: level=%u vector=%02x mode=%u %s%s%s dest=%02x%s%s\n",
			i, vm->ioapic.pin >> i & 1, (unsigned)(e & 0xff), (unsigned)(e >> 8 & 7),
			e & BIT(15) ? "level" : "edge", e & BIT(13) ? " low" : "",
			e & BIT(16) ? " masked" : "", (unsigned)(e >> 56),
			e & BIT(11) ? " logical" : "", e & BIT(14) ? " remote-irr" : "");
	}
	fprintf(out, "lapic: base=%llx svr=%x tpr=%x timer lvt=%x initial=%x deadline=%llx\n",
		(unsigned long long)l->base, l->svr, l->tpr, l->lvt[LVT_TIMER], l->initial,
		(unsigned long long)l->tsc_deadline);
	show_words(out, "lapic: irr", l->irr);
	show_words(out, "\nlapic: isr", l->isr);
	fprintf(out, "\ncpu: interrupt %s, nmi %s\n", vm->cpu->intr ? "pending" : "none",
		vm->cpu->nmi_pending ? "pending" : "none");
}

static void mtree_space(const struct bus *bus, FILE *out, enum bus_space space, const char *title)
{
	u64 from = 0;
	bool first = true;

	fprintf(out, "%s\n", title);
	/* In order of addresses: ranges do not overlap. */
	for (;;) {
		const struct bus_range *next = NULL;

		for (unsigned i = 0; i < BUS_MAX_RANGES; i++) {
			const struct bus_range *r = &bus->range[i].r;

			if (r->len && r->space == space && (first || r->base > from) &&
			    (!next || r->base < next->base))
				next = r;
		}
		if (!next)
			return;
		fprintf(out, "  %016llx-%016llx %s\n", (unsigned long long)next->base,
			(unsigned long long)(next->base + next->len - 1), next->name);
		from = next->base;
		first = false;
	}
}

static void mtree(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	fprintf(out, "RAM\n  %016x-%016llx low\n", 0, (unsigned long long)vm->ram.low_end - 1);
	if (vm->ram.high_end > RAM_HIGH_START)
		fprintf(out, "  %016llx-%016llx high\n", (unsigned long long)RAM_HIGH_START,
			(unsigned long long)vm->ram.high_end - 1);
	mtree_space(&vm->bus, out, BUS_MMIO, "MMIO");
	mtree_space(&vm->bus, out, BUS_PORT, "ports");
}

static void show_chardev(void *out, const char *id, const char *filename, bool used)
{
	fprintf(out, "%s: filename=%s%s\n", id, filename, used ? "" : " (not used)");
}

static void chardev(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	chardevs_list(vm->chardevs, show_chardev, out);
}

static void spaces(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	if (vm->user)
		user_print(vm->user, out);
	else
		fprintf(out, "user code is stepped: there are no user spaces\n");
}

const struct hmp_entry hmp_info[] = {
    {"balloon", "", "how much memory the balloon leaves the guest", hmp_info_balloon},
    {"block", "", "drives", hmp_info_block},
    {"chardev", "", "character devices", chardev},
    {"cpus", "", "the processor", cpus},
    {"irq", "", "interrupt controllers", irq},
    {"lapic", "", "the same", irq},
    {"mem", "", "linear memory that is mapped", hmp_info_mem},
    {"mtree", "", "what answers at which address and port", mtree},
    {"name", "", "the VM's name", name},
    {"network", "", "network back ends", hmp_info_network},
    {"pic", "", "the same as irq", irq},
    {"pci", "", "PCI functions", hmp_info_pci},
    {"qtree", "", "devices of the command line", hmp_info_qtree},
    {"registers", "", "the processor's registers", registers},
    {"spaces", "", "user spaces", spaces},
    {"stats", "[json]", "ringshift's counters", stats},
    {"status", "", "whether the guest runs", status},
    {"uuid", "", "the VM's UUID", uuid},
    {"version", "", "ringshift's version", version},
    {NULL},
};
