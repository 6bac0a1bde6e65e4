/*
 * The translator against the single-step engine: random ring-0 instruction sequences run on two
 * machines of the same state, one with a translator; registers, flags, RIP, CR2 and memory must
 * agree when both have halted.
 *
 * A sequence is made of items: random ALU encodings with operands in every addressing form a kernel
 * uses (registers, RSP, RIP, GS, absolute), pushes and pops, arithmetic on RSP, frames, forward
 * branches, calls direct and indirect, returns, flag stores and loads, IRET to the same ring,
 * runs of operands at one base, SWAPGS, MSRs, segment bases, CPUID, strings, vector and x87
 * instructions, and writes to the sequence's own code, through the address it runs at or an alias,
 * and excursions to the other half of the address space. It may be a loop. It runs in either half
 * (struct half); data and stack lie there, or elsewhere; their addresses come near a read-only and
 * an absent page, so some sequences end in a fault; the handlers halt. Page tables count as memory
 * but for A bits, which are set also by accesses that come to nothing; now and then A and D bits
 * are cleared. A timer kicks the translator meanwhile, which must not show.
 *
 * Linked like ringshift itself: the guest's kernel half takes the process's address space.
 *
 * bt_step [--count INSTRUCTIONS] [--seed N] [--first N] [--sequences N] [--one-insn] [--no-chain]
 *         [--flush-every N] [--lockstep] [--half N] [--no-kicks] [--verbose]
 *
 * A difference names its sequence. --first begins with that one (--sequences 1: and ends with it).
 * What earlier sequences have left behind (blocks, promotions, buffers) may count: if it does not
 * show, begin earlier, twice as far each time.
 */
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bt_machine.h"
#include "bt_run.h"
#include "bt_sequence.h"
#include "bt_system.h"
#include "bt_user.h"
#include "bt_vector.h"
#include "lowland.h"
#include "op.h"
#include "step.h"
#include "thunk_fault.h"
#include "translate.h"

#define MAX_STEPS 1000000u

struct soak {
	struct machine bt, step;
	struct sequence seq;
	u64 seed, n;   /* the sequence is the n-th of this seed */
	unsigned only; /* the half all run in; 0: each in its turn */
	bool verbose, kicks;
	struct bt_options options;
};

static u64 rnd(struct soak *s)
{
	return soak_rnd(&s->seq.rng);
}

/* --- running --- */

static void set_state(struct machine *m, const u64 gpr[16], const u64 gs[2], u64 rflags, u64 rip)
{
	struct cpu *c = m->c;

	c->seg[SEG_GS].base = gs[0];
	c->kernel_gs_base = gs[1];
	memcpy(c->gpr, gpr, sizeof(c->gpr));
	c->rip = rip;
	c->cr2 = 0;
	c->halted = false;
	c->shadow = SHADOW_NONE;
	cpu_set_rflags(c, rflags);
	cpu_update_mode(c);
}

static void random_state(struct soak *s, u64 start, bool same_code)
{
	const struct half *h = s->seq.at;
	const u64 others[] = {h->percpu + 0x40, 0, 0x3ffff000, 0x7f0000000000, h->other};
	u64 gpr[16], flags = (rnd(s) & (FL_ARITH | FL_IF));
	u64 gs[2] = {h->percpu, others[rnd(s) % ARRAY_LEN(others)]};
	unsigned i, k;

	for (i = 0; i < 16; i++) {
		u64 r = rnd(s);

		gpr[i] = r & 0x700 ? r : r & 0xff;
	}
	gpr[GPR_RBX] = h->data + 0x100 + (rnd(s) & 0x1fff) % 0x1700;
	gpr[GPR_R13] = h->data + (rnd(s) & 7 ? 0x900 + rnd(s) % 0x400 : 0x1f00 + rnd(s) % 0x1100);
	if (rnd(s) % 3 == 0) /* the same instructions then meet both halves */
		gpr[GPR_RBX] = rnd(s) & 1 ? h->other + PAGE_SIZE - (rnd(s) & 0x7f)
					  : gpr[GPR_RBX] + h->other - h->data;
	if (rnd(s) % 3 == 0)
		gpr[GPR_R13] += h->other - h->data;
	gpr[GPR_R9] = rnd(s) % 64;
	gpr[GPR_RSP] = (rnd(s) % 16 ? h->stack : h->far_stack) + (rnd(s) % 16 ? 0x1000 : 0x100) +
		       (rnd(s) & 0x3f8);
	gpr[GPR_R15] = 1 + rnd(s) % (rnd(s) % 8 ? 4 : 40);
	for (i = 0; i < PAGES; i++)
		for (k = 0; i != CODE && i != CODE2 && i < SYSTEM && k < PAGE_SIZE; k += 8) {
			u64 r = rnd(s);

			memcpy(page(&s->bt, i) + k, &r, 8);
		}
	memset(page(&s->bt, KSTACK), 0, PAGE_SIZE);
	memcpy(page(&s->step, DATA), page(&s->bt, DATA), (SYSTEM - DATA) * PAGE_SIZE);
	memset(page(&s->step, KSTACK), 0, PAGE_SIZE);
	if (!same_code) {
		gpa_t at = AREA_GPA + (start - h->code);

		/* What was promoted in other code at these addresses shall be translated again. */
		bt_forget_sites(s->bt.c->translator);
		BUG_ON(ram_write(&s->bt.ram, at, s->seq.code, s->seq.len));
		BUG_ON(ram_write(&s->step.ram, at, s->seq.code, s->seq.len));
	}
	if (rnd(s) % 8 == 0) {
		reset_guest(&s->bt);
		reset_guest(&s->step);
	}
	if (rnd(s) % 8 == 0) {
		tables_clean(s->bt.c, PT_GPA, tables_end(&s->bt));
		tables_clean(s->step.c, PT_GPA, tables_end(&s->step));
	}
	vector_state(&s->seq.rng, s->bt.c);
	s->step.c->vec = s->bt.c->vec;
	s->step.c->cr0 = s->bt.c->cr0;
	s->step.c->cr4 = s->bt.c->cr4;
	s->step.c->xcr0 = s->bt.c->xcr0;
	system_state(&s->seq.rng, s->bt.c, s->step.c);
	set_state(&s->bt, gpr, gs, flags, start);
	set_state(&s->step, gpr, gs, flags, start);
}

static enum cpu_exit run(struct machine *m, u64 budget)
{
	enum cpu_exit e;

	BUG_ON(thunk_thread_enter(m->c->engine->thunks, m->c)); /* signals find this CPU now */
	do {
		atomic_store_explicit(&m->c->attention, 0, memory_order_relaxed);
		e = step_run(m->c, budget);
	} while (e == EXIT_ATTENTION);
	return e;
}

/* --- comparing --- */

static unsigned differ(const char *what, unsigned n, u64 bt, u64 step)
{
	printf("  %s%u: translated %016llx stepped %016llx\n", what, n, (unsigned long long)bt,
	       (unsigned long long)step);
	return 1;
}

static unsigned compare(struct soak *s)
{
	struct cpu *a = s->bt.c, *b = s->step.c;
	unsigned bad = 0, i, k;

	for (i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			bad += differ("register ", i, a->gpr[i], b->gpr[i]);
	if (a->rip != b->rip)
		bad += differ("rip", 0, a->rip, b->rip);
	if (cpu_rflags(a) != cpu_rflags(b))
		bad += differ("rflags", 0, cpu_rflags(a), cpu_rflags(b));
	if (a->seg[SEG_GS].base != b->seg[SEG_GS].base || a->kernel_gs_base != b->kernel_gs_base)
		bad += differ("gs base ", 0, a->seg[SEG_GS].base, b->seg[SEG_GS].base);
	if (a->cr2 != b->cr2)
		bad += differ("cr2 ", 0, a->cr2, b->cr2);
	bad += system_compare(a, b);
	bad += vector_compare(a, b);
	bad += tables_compare(a, b, PT_GPA, tables_end(&s->step));
	for (i = 0; i < PAGES; i++)
		for (k = 0; memcmp(page(&s->bt, i), page(&s->step, i), PAGE_SIZE) && k < PAGE_SIZE;
		     k += 8)
			if (memcmp(page(&s->bt, i) + k, page(&s->step, i) + k, 8))
				bad += differ("memory ", i * PAGE_SIZE + k,
					      *(u64 *)(void *)(page(&s->bt, i) + k),
					      *(u64 *)(void *)(page(&s->step, i) + k));
	return bad;
}

struct tally {
	u64 tests, bad, faults;
};

/* Give one machine the memory of the other. */
static void align_machines(struct soak *s, struct machine *to, struct machine *from)
{
	memcpy(page(to, 0), page(from, 0), PAGES * PAGE_SIZE);
	tables_clean(s->bt.c, PT_GPA, tables_end(&s->bt));
	tables_clean(s->step.c, PT_GPA, tables_end(&s->step));
	op_flush_all(to->c);
}

static void one_test(struct soak *s, struct tally *t)
{
	unsigned again;
	u64 start;

	sequence_seed(&s->seq, s->seed, s->n, s->only);
	/* Now and then across the two pages of code. */
	start = s->seq.at->code + (rnd(s) % 4 ? rnd(s) % 0xb00 : 0xf00 + rnd(s) % 0x100);
	sequence_make(&s->seq, start);
	if (s->verbose)
		sequence_print(&s->seq, start);
	fflush(stdout);
	for (again = 0; again < 3; again++) {
		enum cpu_exit a, b;

		random_state(s, start, again);
		b = run(&s->step, MAX_STEPS);
		if (b == EXIT_BUDGET) { /* return addresses got mixed up: it may never end */
			align_machines(s, &s->step, &s->bt);
			break;
		}
		a = run(&s->bt, ~0ull);
		t->tests++;
		t->faults += s->step.c->rip != s->seq.end;
		if (a == b && !compare(s))
			continue;
		t->bad++;
		printf("  ^ sequence %llu of seed %llu, run %u of it: exits %d %d\n",
		       (unsigned long long)s->n, (unsigned long long)s->seed, again, a, b);
		sequence_print(&s->seq, start);
		align_machines(s, &s->bt, &s->step);
		break;
	}
}

static void kicked(struct cpu *c)
{
	if (c->translator)
		atomic_store_explicit(&c->attention, 1, memory_order_relaxed);
}

static void start_kicks(bool lockstep)
{
	/* A checked block must get to run between two kicks. */
	long period = lockstep ? 1000000 : 40000;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = KICK_SIGNAL};
	struct itimerspec it = {.it_value.tv_nsec = 1, .it_interval.tv_nsec = period};
	timer_t timer;

	BUG_ON(timer_create(CLOCK_MONOTONIC, &ev, &timer) || timer_settime(timer, 0, &it, NULL));
}

static void soak_init(struct soak *s)
{
	machine_init(&s->bt, LOWLAND_RAM, LOWLAND_CODE);
	machine_init(&s->step, LOWLAND_RAM + (1ull << 40), LOWLAND_CODE + 0xc000000);
	s->seq.dec = decoder_new();
	BUG_ON(!s->seq.dec || bt_init(s->bt.c, (void *)LOWLAND_TRANSLATIONS) ||
	       bt_configure(s->bt.c, &s->options));
	BUG_ON(thunk_thread_enter(s->bt.c->engine->thunks, s->bt.c));
	BUG_ON(engine_catch_kick(s->step.c, kicked) || engine_catch_kick(s->bt.c, kicked));
	if (s->kicks)
		start_kicks(s->options.lockstep);
}

/* When to stop. */
struct limits {
	u64 insns, sequences;
};

static bool option(struct soak *s, struct limits *until, int argc, char **argv, int *i)
{
	const char *o = argv[*i];
	u64 n = *i + 1 < argc ? strtoull(argv[*i + 1], NULL, 0) : 0;

	if (!strcmp(o, "--one-insn"))
		s->options.one_insn = true;
	else if (!strcmp(o, "--no-chain"))
		s->options.no_chain = true;
	else if (!strcmp(o, "--lockstep"))
		s->options.lockstep = 100;
	else if (!strcmp(o, "--no-kicks"))
		s->kicks = false;
	else if (!strcmp(o, "--verbose"))
		s->verbose = true;
	else if (!n)
		return false;
	else if (!strcmp(o, "--count"))
		until->insns = n, ++*i;
	else if (!strcmp(o, "--seed"))
		s->seed = n, ++*i;
	else if (!strcmp(o, "--first"))
		s->n = n, ++*i;
	else if (!strcmp(o, "--sequences"))
		until->sequences = n, ++*i;
	else if (!strcmp(o, "--half") && n <= HALVES)
		s->only = n, ++*i;
	else if (!strcmp(o, "--flush-every"))
		s->options.flush_every = n, ++*i;
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct soak s = {.seed = 1,
				.n = 1,
				.kicks = true,
				.options = {.check_recovery = true, .switch_freely = true}};
	struct tally t = {0};
	struct limits until = {.insns = 100000, .sequences = ~0ull};
	char err[512];
	int i;

	if (lowland_enter(err, sizeof(err)))
		return fprintf(stderr, "bt_step: %s\n", err), 1;
	for (i = 1; i < argc; i++)
		if (!option(&s, &until, argc, argv, &i))
			return fprintf(stderr, "bt_step: %s? See the head of bt_step.c\n", argv[i]),
			       2;
	soak_init(&s);
	for (; until.sequences-- && s.step.c->insns < until.insns && t.bad < 5; s.n++)
		one_test(&s, &t);
	printf("%llu instructions in %llu runs of sequences, %llu ended by a fault\n",
	       (unsigned long long)s.step.c->insns, (unsigned long long)t.tests,
	       (unsigned long long)t.faults);
	printf("translated: %llu blocks, %llu callouts, %llu kicks, %llu dropped blocks\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_blocks],
	       (unsigned long long)s.bt.stats.n[STAT_bt_callouts],
	       (unsigned long long)s.bt.stats.n[STAT_bt_kicks],
	       (unsigned long long)s.bt.stats.n[STAT_bt_dropped]);
	printf("%llu promotions, %llu for writing code, %llu misses of checked sites, %llu runs of "
	       "them\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_promotions],
	       (unsigned long long)s.bt.stats.n[STAT_bt_promotions_code],
	       (unsigned long long)s.bt.stats.n[STAT_bt_checked_misses],
	       (unsigned long long)s.bt.stats.n[STAT_bt_runs]);
	printf("%llu times vector state was loaded, %llu changes of regime\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_vector_loads],
	       (unsigned long long)s.bt.stats.n[STAT_bt_regime_switches]);
	printf("%llu passed, %llu failed\n", (unsigned long long)(t.tests - t.bad),
	       (unsigned long long)t.bad);
	return t.bad != 0 || !s.bt.stats.n[STAT_bt_blocks];
}
