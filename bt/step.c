/*
 * The single-step engine's run loop.
 *
 * Two loops. The fast one looks only at `attention` and `slow` between instructions; whoever makes
 * something pending sets one of them (cpu_update_slow). The careful one does what the manual asks
 * at an instruction boundary: NMI and interrupt windows, interrupt shadow, instruction breakpoints,
 * RF, the single-step trap, data-breakpoint traps, HLT.
 *
 * Guest exceptions arrive here by longjmp (cpu_raise). Delivery may itself raise; the table of SDM
 * vol. 3, 6-5 makes #DF or a triple fault of that.
 *
 * Invariant: between instructions cpu->rip is the next instruction, and registers, flags and memory
 * are what the manual says after the previous one.
 */
#include "step.h"

#include <string.h>

#include "bt_log.h"
#include "bt_run.h"
#include "callouts.h"
#include "mem.h"
#include "op.h"

static ALWAYS_INLINE struct op *next_op(struct cpu *c)
{
	gva_t la = c->rip;
	u32 slot;

	if (unlikely(c->mode != INSN_MODE_64)) {
		la = (u32)(la + c->seg[SEG_CS].base);
		/* Instructions whose end lies beyond the limit are rare: op_fetch checks the start.
		 */
		if (unlikely(c->rip > c->seg[SEG_CS].limit))
			return op_fetch(c);
	}
	if (likely((la & PAGE_MASK) == c->code_page)) {
		slot = c->code_slots[la & ~PAGE_MASK];
		if (likely(slot))
			return op_at(c->engine, slot);
	}
	return op_fetch(c);
}

static ALWAYS_INLINE struct op *checked_op(struct cpu *c)
{
	struct op *o = next_op(c);

	if (unlikely(c->mode != INSN_MODE_64) &&
	    unlikely(c->rip + o->in.len - 1 > c->seg[SEG_CS].limit))
		cpu_raise_error(c, EXC_GP, 0);
	return o;
}

static ALWAYS_INLINE void run_one(struct cpu *c)
{
	struct op *o = checked_op(c);

	o->exec(c, &o->in);
	c->insns++;
}

/* --- delivery --- */

enum fault_kind { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_kind kind_of(unsigned vector)
{
	switch (vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP: return CONTRIBUTORY;
	case EXC_PF: return PAGE_FAULT;
	case EXC_DF: return DOUBLE_FAULT;
	default: return BENIGN;
	}
}

static void log_event(struct cpu *c, const char *what, unsigned vector)
{
	struct engine *e = c->engine;
	char name[LOG_NAME_LEN];

	if (!(e->log_items & LOG_INT))
		return;
	fprintf(e->log, "%s v=%02x e=%04x cpl=%u ip=%04x:%016llx%s sp=%04x:%016llx cr2=%016llx\n",
		what, vector, c->exc.error, c->cpl, c->seg[SEG_CS].sel, (unsigned long long)c->rip,
		log_name(c, c->seg[SEG_CS].base + c->rip, name), c->seg[SEG_SS].sel,
		(unsigned long long)c->gpr[GPR_RSP], (unsigned long long)c->cr2);
}

/*
 * Deliver c->exc. Returns false if the VM is to stop. A fault while delivering comes back here
 * through step_run's setjmp with in_delivery still set.
 */
static bool deliver_raised(struct cpu *c)
{
	unsigned v = c->exc.vector, first = c->exc.first;

	c->x87_live = false;
	c->debug_hits = 0; /* the access came to nothing */
	c->insns++;
	if (v == EXC_NONE) { /* nothing for the guest: stop, or FERR# raised */
		c->in_delivery = false;
		return c->exit != EXIT_UNSUPPORTED;
	}
	if (c->in_delivery && !c->exc.soft) {
		enum fault_kind a = kind_of(first), b = kind_of(v);

		if (a == DOUBLE_FAULT && b != BENIGN) {
			c->exit = EXIT_TRIPLE_FAULT;
			return false;
		}
		if ((a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN)) {
			c->exc.vector = v = EXC_DF;
			c->exc.has_error = true;
			c->exc.error = 0;
		}
	}
	c->in_delivery = true;
	c->exc.first = c->exc.soft ? EXC_NONE : v;
	c->stats->n[c->exc.soft ? STAT_soft_interrupts : STAT_exceptions]++;
	if (v == EXC_PF && !c->exc.soft)
		c->stats->n[STAT_page_faults]++;
	if (v == EXC_DB && !c->exc.soft)
		c->dr[7] &= ~(u64)DR7_GD;
	log_event(c, c->exc.soft ? "soft" : "exception", v);
	exc_enter(c, v, c->exc.has_error, c->exc.error, c->exc.soft,
		  c->exc.soft ? c->exc.next_rip : c->rip);
	c->in_delivery = false;
	c->halted = false;
	cpu_update_slow(c);
	return true;
}

/* Deliver an interrupt or NMI at an instruction boundary. */
static void deliver_external(struct cpu *c, unsigned vector)
{
	c->exc.first = EXC_NONE;
	c->in_delivery = true;
	c->exc.soft = false;
	c->exc.error = 0;
	c->halted = false;
	log_event(c, vector == EXC_NMI ? "nmi" : "interrupt", vector);
	exc_enter(c, vector, false, 0, false, c->rip);
	c->in_delivery = false;
	cpu_update_slow(c);
}

/* True if something was delivered. */
static bool deliver_pending(struct cpu *c)
{
	int vector;

	if (c->nmi_pending && !c->nmi_blocked) {
		c->nmi_pending = false;
		c->nmi_blocked = true;
		c->stats->n[STAT_nmis]++;
		deliver_external(c, EXC_NMI);
		return true;
	}
	if (c->intr && (c->sflags & FL_IF)) {
		vector = c->ops->intr_ack(c->vm);
		if (vector >= 0) {
			c->stats->n[STAT_interrupts]++;
			deliver_external(c, vector);
			return true;
		}
		cpu_update_slow(c);
	}
	return false;
}

/* --- the careful loop --- */

/* DR6 bits of the breakpoints on the instruction at RIP. */
static u64 instruction_breakpoints(const struct cpu *c)
{
	gva_t la = c->mode == INSN_MODE_64 ? c->rip : (u32)(c->rip + c->seg[SEG_CS].base);
	u64 hits = 0;
	unsigned i;

	for (i = 0; i < 4; i++)
		if ((c->dr[7] >> (2 * i) & 3) && !(c->dr[7] >> (16 + 4 * i) & 3) && c->dr[i] == la)
			hits |= 1u << i;
	return hits;
}

static NORETURN void raise_debug(struct cpu *c, u64 dr6)
{
	c->dr[6] |= dr6;
	c->debug_held = 0;
	cpu_raise(c, EXC_DB);
}

/* Has the instruction that was at rip stopped between two iterations? */
static bool repeats(const struct cpu *c, const struct op *o, u64 rip)
{
	return c->rip == rip && o->exec == exec_string && (o->in.prefixes & (PFX_REP | PFX_REPNE));
}

/* One instruction with everything the fast loop leaves out. */
static void step_carefully(struct cpu *c)
{
	u64 rip = c->rip, hits = 0, traps;
	struct op *o;
	bool tf;

	if (c->shadow != SHADOW_SS && !(c->sflags & FL_RF))
		hits = instruction_breakpoints(c);
	if (hits)
		raise_debug(c, hits);
	if (c->trace)
		cpu_dump(c, c->engine->log);
	o = checked_op(c);
	tf = c->sflags & FL_TF;
	c->sflags &= ~(u64)FL_RF;
	c->shadow = SHADOW_NONE;
	c->debug_hits = 0;
	cpu_update_slow(c); /* for strings, which pause after each element if this stays so */
	o->exec(c, &o->in);
	c->insns++;
	if (repeats(c, o, rip)) /* its breakpoint has been hit already: SDM vol. 3, 17.3.1.1 */
		c->sflags |= FL_RF;
	if (o->exec == exec_syscall || o->exec == exec_sysret) /* TF as it is now counts */
		tf = c->sflags & FL_TF;
	traps = (tf ? DR6_BS : 0) | c->debug_hits | c->debug_held;
	if (c->shadow == SHADOW_SS) /* holds back data breakpoints and swallows the step */
		c->debug_held |= c->debug_hits;
	else if (traps)
		raise_debug(c, traps);
	c->debug_hits = 0;
	cpu_update_slow(c);
}

static bool run_careful(struct cpu *c)
{
	if (!c->shadow) {
		if (c->debug_held)
			raise_debug(c, c->debug_held);
		if (deliver_pending(c))
			return true;
	}
	if (c->halted) {
		c->exit = EXIT_HLT;
		return false;
	}
	step_carefully(c);
	return true;
}

void op_step(struct cpu *c)
{
	run_one(c);
}

u64 op_step_callout(struct cpu *c)
{
	struct op *o = likely(c->bt.op) ? op_at(c->engine, c->bt.op) : checked_op(c);
	u64 next = c->rip + o->in.len;

	callout_count(c->engine, o);
	o->exec(c, &o->in);
	c->insns++;
	return next;
}

/* With a translator: stepping ring 3 ends where ring 0 begins, stepping ring 0 as soon as possible.
 */
static void run_between(struct cpu *c)
{
	u64 end = MIN(c->budget_end, c->insns + (c->user ? 1u << 20 : 16));
	bool user = c->user;

	while (likely(!atomic_load_explicit(&c->attention, memory_order_relaxed) && !c->slow &&
		      c->insns != end && c->user == user))
		run_one(c);
}

static void run_fast(struct cpu *c, u64 end)
{
	while (likely(!atomic_load_explicit(&c->attention, memory_order_relaxed) && !c->slow &&
		      c->insns != end))
		run_one(c);
}

/* Ring 3 on the host itself. RF only says that a breakpoint has been seen: with none armed it must
 * not send the instruction behind every fault to the careful loop. */
static bool run_user(struct cpu *c)
{
	if (!c->user || !c->ops->run_user)
		return false;
	if ((c->sflags & FL_RF) && !(c->dr[7] & 0xff)) {
		c->sflags &= ~(u64)FL_RF;
		cpu_update_slow(c);
	}
	return !c->slow && c->ops->run_user(c->vm);
}

static NOINLINE enum cpu_exit run(struct cpu *c)
{
	for (;;) {
		if (c->flush_wanted)
			op_flush_all(c);
		if (atomic_load_explicit(&c->attention, memory_order_acquire)) {
			c->stats->n[STAT_attention]++;
			return EXIT_ATTENTION;
		}
		if (c->insns >= c->budget_end)
			return EXIT_BUDGET;
		if (run_user(c))
			continue;
		if (c->translator)
			bt_attribute(c);
		if (c->slow) {
			if (!run_careful(c))
				return c->exit;
		} else if (bt_eligible(c)) {
			bt_run(c);
		} else if (c->translator) {
			run_between(c);
		} else {
			run_fast(c, MIN(c->budget_end, c->insns + (1u << 20)));
		}
	}
}

enum cpu_exit step_run(struct cpu *c, u64 budget)
{
	enum cpu_exit exit;

	c->budget_end = budget > ~0ull - c->insns ? ~0ull : c->insns + budget;
	c->run_start = c->insns;
	c->exit = EXIT_ATTENTION;
	if (__builtin_setjmp(c->unwind) && !deliver_raised(c))
		exit = c->exit;
	else
		exit = run(c);
	c->stats->n[STAT_guest_insns] += c->insns - c->run_start;
	if (c->translator)
		bt_attribute(c);
	return exit;
}

/* --- reports --- */

static void dump_segment(FILE *out, const char *name, const struct seg_reg *s)
{
	fprintf(out, "%-3s=%04x %016llx %08x %05x\n", name, s->sel, (unsigned long long)s->base,
		s->limit, s->attr);
}

static void dump_code(struct cpu *c, FILE *out)
{
	gva_t la = c->mode == INSN_MODE_64 ? c->rip : (u32)(c->rip + c->seg[SEG_CS].base);
	char name[LOG_NAME_LEN];
	struct walk w;
	unsigned i;
	u8 b;

	fprintf(out, "Code at %016llx%s:", (unsigned long long)la, log_name(c, la, name));
	for (i = 0; i < INSN_MAX_LEN; i++) {
		if (mmu_probe(c->mmu.ram, &c->mmu.pg, la + i, MMU_EXEC, false, &w) ||
		    ram_read(c->mmu.ram, w.gpa, &b, 1))
			break;
		fprintf(out, " %02x", b);
	}
	fprintf(out, "\n");
}

void engine_print_callouts(const struct cpu *c, FILE *out)
{
	callouts_print(c->engine, out);
}

void cpu_dump(struct cpu *c, FILE *out)
{
	static const char *const gpr[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
					    "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
	static const char *const seg[SEG_COUNT] = {"ES", "CS", "SS", "DS", "FS", "GS"};
	static const char *const mode[] = {"16", "32", "64"};
	unsigned i;

	for (i = 0; i < 16; i++)
		fprintf(out, "%-3s=%016llx%c", gpr[i], (unsigned long long)c->gpr[i],
			i % 4 == 3 ? '\n' : ' ');
	fprintf(out, "RIP=%016llx RFL=%08llx CPL=%u %s-bit%s HLT=%d insns=%llu\n",
		(unsigned long long)c->rip, (unsigned long long)cpu_rflags(c), c->cpl,
		mode[c->mode],
		cpu_v86(c)          ? " v86"
		: !cpu_protected(c) ? " real"
		: cpu_long_mode(c)  ? " long"
				    : "",
		c->halted, (unsigned long long)c->insns);
	for (i = 0; i < SEG_COUNT; i++)
		dump_segment(out, seg[i], &c->seg[i]);
	dump_segment(out, "LDT", &c->ldtr);
	dump_segment(out, "TR", &c->tr);
	fprintf(out, "GDT=     %016llx %08x\nIDT=     %016llx %08x\n",
		(unsigned long long)c->gdtr.base, c->gdtr.limit, (unsigned long long)c->idtr.base,
		c->idtr.limit);
	fprintf(out, "CR0=%08llx CR2=%016llx CR3=%016llx CR4=%08llx EFER=%04llx\n",
		(unsigned long long)c->cr0, (unsigned long long)c->cr2, (unsigned long long)c->cr3,
		(unsigned long long)c->cr4, (unsigned long long)c->efer);
	dump_code(c, out);
}
