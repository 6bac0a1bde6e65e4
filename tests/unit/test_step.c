/*
 * The run loop: what happens between instructions. Interrupts and their shadows, NMI, traps and
 * breakpoints, HLT, double and triple faults, budgets. Fetching is in test_fetch.c.
 */
#include "engine_rig.h"

#define NOP   0x90
#define HLT   0xf4
#define CLI   0xfa
#define STI   0xfb
#define UD2   0x0f, 0x0b
#define OUT   0xe6, 0x80 /* raises an interrupt */
#define AT(n) (RIG_CODE + (n))

/* --- interrupts --- */

Test(step, an_interrupt_comes_between_instructions)
{
	static const enum insn_mode modes[] = {INSN_MODE_16, INSN_MODE_32, INSN_MODE_64};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		struct erig *e = erig_new_mode(modes[i]);

		cpu_set_rflags(e->c, FL_IF | FL_CF);
		cpu_update_mode(e->c);
		cr_expect_eq(ERIG_RUN(e, 10, NOP, OUT, NOP, NOP), ERIG_INTR);
		cr_expect_eq(erig_frame(e, 0), AT(3));
		cr_expect_eq(erig_frame(e, 2), FL_IF | FL_CF | FL_FIXED1);
		cr_expect_eq(e->c->sflags & FL_IF, 0);
		cr_expect_eq(e->acks, 1);
		cr_expect_eq(e->r->stats.n[STAT_interrupts], 1);
		erig_free(e);
	}
}

Test(step, no_interrupt_while_if_is_clear)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 4, OUT, NOP, NOP, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(5));
	cr_expect_eq(e->acks, 0);
	erig_free(e);
}

Test(step, sti_holds_interrupts_for_one_instruction)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 10, OUT, STI, NOP, NOP), ERIG_INTR);
	cr_expect_eq(erig_frame(e, 0), AT(4));
	/* An STI with IF set holds nothing. */
	e->c->rip = RIG_CODE;
	e->c->sflags |= FL_IF;
	cpu_update_mode(e->c);
	cr_expect_eq(ERIG_RUN(e, 1, STI, NOP, NOP), RIG_OK);
	cpu_set_intr(e->c, true);
	cr_expect_eq(erig_run(e, 10), ERIG_INTR);
	cr_expect_eq(erig_frame(e, 0), AT(1));
	erig_free(e);
}

Test(step, sti_cli_lets_nothing_through)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 5, OUT, STI, CLI, NOP, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(6));
	erig_free(e);
}

Test(step, sti_hlt_wakes_behind_the_hlt)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 10, OUT, STI, HLT, NOP), ERIG_INTR);
	cr_expect_eq(erig_frame(e, 0), AT(4));
	erig_free(e);
}

/* MOV SS and POP SS: the next instruction comes before any interrupt or NMI. */
Test(step, mov_ss_holds_interrupts_and_nmi)
{
	for (unsigned nmi = 0; nmi < 2; nmi++) {
		struct erig *e = erig_new_protected(0);

		cpu_set_rflags(e->c, FL_IF);
		cpu_update_mode(e->c);
		e->c->gpr[GPR_RAX] = S_DATA;
		cr_expect_eq(ERIG_RUN(e, 1, 0x8e, 0xd0, NOP, NOP), RIG_OK);
		if (nmi)
			e->c->nmi_pending = true;
		else
			e->c->intr = true;
		cpu_update_slow(e->c);
		cr_expect_eq(erig_run(e, 10), nmi ? EXC_NMI : ERIG_INTR);
		cr_expect_eq(erig_frame(e, 0), AT(3));
		erig_free(e);
	}
}

static int gone(void *vm)
{
	struct erig *e = vm;

	cpu_set_intr(e->c, false);
	return -1;
}

Test(step, a_vanished_interrupt_is_none)
{
	struct cpu_ops ops;
	struct erig *e = erig_new_long(0);

	ops = *e->c->ops;
	ops.intr_ack = gone;
	e->c->ops = &ops;
	cpu_set_rflags(e->c, FL_IF);
	cpu_set_intr(e->c, true);
	cr_expect_eq(ERIG_RUN(e, 2, NOP, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(2));
	erig_free(e);
}

/* --- NMI --- */

Test(step, nmi_ignores_if_and_blocks_itself_until_iret)
{
	struct erig *e = erig_new_long(0);

	/* The handler returns. */
	ERIG_CODE_AT(e, ERIG_HANDLERS + EXC_NMI * 16, NOP, 0x48, 0xcf);
	e->c->nmi_pending = true;
	cpu_update_slow(e->c);
	cr_expect_eq(ERIG_RUN(e, 1, NOP, NOP, NOP), RIG_OK); /* the handler's NOP */
	cr_expect_eq(e->c->rip, ERIG_HANDLERS + EXC_NMI * 16 + 1);
	cr_expect(e->c->nmi_blocked);
	e->c->nmi_pending = true; /* the next one waits for the IRET */
	cpu_update_slow(e->c);
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	cr_expect_eq(e->c->rip, RIG_CODE);
	cr_expect_not(e->c->nmi_blocked);
	cr_expect_eq(erig_run(e, 2), RIG_OK);
	cr_expect_eq(e->c->rip, RIG_CODE, "the second NMI came and went");
	cr_expect_eq(e->r->stats.n[STAT_nmis], 2);
	erig_free(e);
}

/* An IRET that faults has unblocked NMI all the same. */
Test(step, a_faulting_iret_unblocks_nmi)
{
	struct erig *e = erig_new_long(0);

	e->c->nmi_blocked = e->c->nmi_pending = true;
	cpu_update_slow(e->c);
	rig_put(e->r, RIG_STACK - 40, 8, AT(0));
	rig_put(e->r, RIG_STACK - 32, 8, S_GDT_END);
	e->c->gpr[GPR_RSP] = RIG_STACK - 40;
	cr_expect_eq(ERIG_RUN(e, 10, 0x48, 0xcf), EXC_NMI);
	cr_expect_eq(erig_frame(e, 0), ERIG_HANDLERS + EXC_GP * 16, "before the #GP handler");
	erig_free(e);
}

/* --- HLT --- */

Test(step, hlt_waits)
{
	struct erig *e = erig_new_long(0);

	ERIG_CODE(e, HLT, NOP);
	cr_expect_eq(step_run(e->c, 10), EXIT_HLT);
	cr_expect_eq(e->c->rip, AT(1));
	cr_expect_eq(step_run(e->c, 10), EXIT_HLT, "still");
	cpu_set_intr(e->c, true); /* IF is clear */
	cr_expect_eq(step_run(e->c, 10), EXIT_HLT);
	cr_expect_eq(e->c->rip, AT(1));
	e->c->nmi_pending = true;
	cpu_update_slow(e->c);
	cr_expect_eq(erig_run(e, 10), EXC_NMI);
	cr_expect_eq(erig_frame(e, 0), AT(1));
	erig_free(e);
}

Test(step, a_step_ends_a_hlt)
{
	struct erig *e = erig_new_long(0);

	e->c->sflags |= FL_TF;
	cpu_update_mode(e->c);
	cr_expect_eq(ERIG_RUN(e, 10, HLT, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(1));
	erig_free(e);
}

/* --- the trap flag --- */

static void set_tf(struct erig *e)
{
	e->c->sflags |= FL_TF;
	cpu_update_mode(e->c);
}

Test(step, tf_traps_after_each_instruction)
{
	static const enum insn_mode modes[] = {INSN_MODE_16, INSN_MODE_32, INSN_MODE_64};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		struct erig *e = erig_new_mode(modes[i]);

		set_tf(e);
		cr_expect_eq(ERIG_RUN(e, 10, NOP, NOP), EXC_DB);
		cr_expect_eq(erig_frame(e, 0), AT(1));
		cr_expect_eq(erig_frame(e, 2), FL_TF | FL_FIXED1, "TF, no RF");
		cr_expect_eq(e->c->sflags & FL_TF, 0);
		cr_expect_eq(e->c->dr[6], 0xffff0ff0 | DR6_BS);
		erig_free(e);
	}
}

Test(step, popf_and_iret_that_set_tf_do_not_trap_themselves)
{
	struct erig *e = erig_new_long(0);

	rig_put(e->r, RIG_STACK - 8, 8, FL_TF);
	e->c->gpr[GPR_RSP] = RIG_STACK - 8;
	cr_expect_eq(ERIG_RUN(e, 10, 0x9d, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(2));
	e->c->rip = RIG_CODE;
	e->c->gpr[GPR_RSP] = RIG_STACK - 40;
	rig_put(e->r, RIG_STACK - 40, 8, AT(2));
	rig_put(e->r, RIG_STACK - 32, 8, S_CODE64);
	rig_put(e->r, RIG_STACK - 24, 8, FL_TF);
	rig_put(e->r, RIG_STACK - 16, 8, RIG_STACK);
	rig_put(e->r, RIG_STACK - 8, 8, S_DATA);
	cr_expect_eq(ERIG_RUN(e, 10, 0x48, 0xcf, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(3));
	erig_free(e);
}

/* The instruction that clears TF began with it set. */
Test(step, popf_that_clears_tf_traps)
{
	struct erig *e = erig_new_long(0);

	rig_put(e->r, RIG_STACK - 8, 8, 0);
	e->c->gpr[GPR_RSP] = RIG_STACK - 8;
	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, 0x9d, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(1));
	cr_expect_eq(erig_frame(e, 2), FL_FIXED1);
	erig_free(e);
}

Test(step, sti_does_not_hold_back_a_step)
{
	struct erig *e = erig_new_long(0);

	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, STI, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(1));
	erig_free(e);
}

Test(step, mov_ss_swallows_a_step)
{
	struct erig *e = erig_new_long(0);

	e->c->gpr[GPR_RAX] = S_DATA;
	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, 0x8e, 0xd0, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(3));
	erig_free(e);
}

Test(step, int_n_clears_tf_without_a_trap)
{
	struct erig *e = erig_new_long(0);

	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, 0xcd, 0x22), 0x22);
	cr_expect_eq(erig_frame(e, 0), AT(2));
	cr_expect_eq(erig_frame(e, 2), FL_TF | FL_FIXED1);
	erig_free(e);
}

Test(step, a_fault_is_not_followed_by_its_step)
{
	struct erig *e = erig_new_long(0);

	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, UD2), EXC_UD);
	cr_expect_eq(erig_frame(e, 0), AT(0));
	cr_expect_eq(erig_frame(e, 2), FL_TF | FL_RF | FL_FIXED1);
	cr_expect_eq(e->c->dr[6] & DR6_BS, 0);
	erig_free(e);
}

/* Each iteration of a repeated instruction; RF in the flags says that it goes on. */
Test(step, tf_traps_after_each_iteration)
{
	struct erig *e = erig_new_long(0);

	e->c->gpr[GPR_RCX] = 2;
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	e->c->gpr[GPR_RAX] = 0x5a;
	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 10, 0xf3, 0xaa, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(0));
	cr_expect_eq(erig_frame(e, 2), FL_TF | FL_RF | FL_FIXED1);
	cr_expect_eq(e->c->gpr[GPR_RCX], 1);
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 2), 0x5a);
	e->c->rip = RIG_CODE;
	set_tf(e);
	cr_expect_eq(erig_run(e, 10), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(2));
	cr_expect_eq(erig_frame(e, 2), FL_TF | FL_FIXED1);
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 2), 0x5a5a);
	erig_free(e);
}

/* SYSCALL: the trap is the kernel's business, if SFMASK leaves TF set. SYSRET: the step over the
 * call ends with it. */
Test(step, tf_across_syscall_and_sysret)
{
	struct erig *e = erig_new_long(3);
	struct cpu *c = e->c;

	c->star = (u64)S_CODE64 << 32 | (u64)S_DATA3 << 48;
	c->lstar = ERIG_FREE;
	c->fmask = FL_TF;
	ERIG_CODE_AT(e, ERIG_FREE, NOP, NOP, 0x48, 0x0f, 0x07);
	set_tf(e);
	cr_expect_eq(ERIG_RUN(e, 3, 0x0f, 0x05, NOP), RIG_OK);
	cr_expect_eq(c->rip, ERIG_FREE + 2);
	cr_expect_eq(c->gpr[GPR_R11] & FL_TF, FL_TF);
	c->star = (u64)S_CODE64 << 32 | (u64)(S_DATA3 - 8) << 48;
	cr_expect_eq(erig_run(e, 10), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(2));
	cr_expect_eq(erig_frame(e, 2) & FL_TF, FL_TF);
	cr_expect_eq(c->dr[6] & DR6_BS, DR6_BS);

	c->fmask = 0;
	c->dr[6] = 0xffff0ff0;
	rig_level(e->r, S_CODE64_3, 3);
	c->rip = RIG_CODE;
	set_tf(e);
	cr_expect_eq(erig_run(e, 10), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), ERIG_FREE, "SFMASK lets TF through");
	erig_free(e);
}

/* --- breakpoints --- */

enum { BP_EXEC, BP_WRITE, BP_IO, BP_RW };

static void set_breakpoint(struct erig *e, unsigned n, gva_t at, unsigned rw, unsigned len)
{
	static const u8 code[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

	e->c->dr[n] = at;
	e->c->dr[7] |= 1u << 2 * n | rw << (16 + 4 * n) | (u32)code[len] << (18 + 4 * n);
	cpu_update_mode(e->c);
}

Test(step, instruction_breakpoints_come_before_the_instruction)
{
	static const enum insn_mode modes[] = {INSN_MODE_16, INSN_MODE_32, INSN_MODE_64};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		struct erig *e = erig_new_mode(modes[i]);

		set_breakpoint(e, 0, AT(1), BP_EXEC, 1);
		set_breakpoint(e, 2, AT(1), BP_EXEC, 1);
		set_breakpoint(e, 3, AT(2), BP_EXEC, 1);
		/* inc ax: not executed yet. */
		cr_expect_eq(ERIG_RUN(e, 10, NOP, 0xff, 0xc0, NOP), EXC_DB);
		cr_expect_eq(erig_frame(e, 0), AT(1));
		cr_expect_eq(erig_frame(e, 2), FL_FIXED1, "no RF: the handler sets it");
		cr_expect_eq(e->c->gpr[GPR_RAX], 0);
		cr_expect_eq(e->c->dr[6], 0xffff0ff0 | 5);
		erig_free(e);
	}
}

Test(step, rf_passes_one_breakpoint)
{
	struct erig *e = erig_new_long(0);

	set_breakpoint(e, 0, AT(0), BP_EXEC, 1);
	e->c->sflags |= FL_RF;
	cpu_update_mode(e->c);
	/* nop; jmp back */
	cr_expect_eq(ERIG_RUN(e, 10, NOP, 0xeb, 0xfd), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(0));
	cr_expect_eq(e->c->insns, 4, "nop, jmp, the event, hlt");
	erig_free(e);
}

/* IRET loads RF, and it survives the IRET even if RF was set before. */
Test(step, iret_sets_rf)
{
	struct erig *e = erig_new_long(0);

	set_breakpoint(e, 0, AT(2), BP_EXEC, 1);
	set_breakpoint(e, 1, AT(3), BP_EXEC, 1);
	rig_put(e->r, RIG_STACK - 40, 8, AT(2));
	rig_put(e->r, RIG_STACK - 32, 8, S_CODE64);
	rig_put(e->r, RIG_STACK - 24, 8, FL_RF);
	rig_put(e->r, RIG_STACK - 16, 8, RIG_STACK);
	rig_put(e->r, RIG_STACK - 8, 8, S_DATA);
	e->c->gpr[GPR_RSP] = RIG_STACK - 40;
	e->c->sflags |= FL_RF;
	cpu_update_mode(e->c);
	cr_expect_eq(ERIG_RUN(e, 10, 0x48, 0xcf, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(3));
	cr_expect_eq(e->c->dr[6] & 15, 2);
	erig_free(e);
}

Test(step, int_n_with_rf_pushes_none)
{
	struct erig *e = erig_new_long(0);

	e->c->sflags |= FL_RF;
	cpu_update_mode(e->c);
	cr_expect_eq(ERIG_RUN(e, 10, 0xcd, 0x22), 0x22);
	cr_expect_eq(erig_frame(e, 2), FL_FIXED1);
	erig_free(e);
}

/* A repeated instruction hits its breakpoint once, not at each iteration. */
Test(step, a_breakpoint_on_rep_is_hit_once)
{
	struct erig *e = erig_new_long(0);

	e->c->gpr[GPR_RCX] = 5;
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	set_breakpoint(e, 0, AT(0), BP_EXEC, 1);
	e->c->sflags |= FL_RF;
	cpu_update_mode(e->c);
	cr_expect_eq(ERIG_RUN(e, 6, 0xf3, 0xaa, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(3));
	cr_expect_eq(e->c->gpr[GPR_RCX], 0);
	erig_free(e);
}

Test(step, mov_ss_passes_the_next_breakpoint)
{
	struct erig *e = erig_new_long(0);

	e->c->gpr[GPR_RAX] = S_DATA;
	set_breakpoint(e, 0, AT(2), BP_EXEC, 1);
	cr_expect_eq(ERIG_RUN(e, 2, 0x8e, 0xd0, NOP, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(3));
	/* STI does not. */
	set_breakpoint(e, 0, AT(4), BP_EXEC, 1);
	cr_expect_eq(ERIG_RUN(e, 10, STI, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(4));
	erig_free(e);
}

/* mov [rdi],eax and mov eax,[rdi]: trap after the instruction. */
Test(step, data_breakpoints_come_after_the_access)
{
	static const struct {
		unsigned rw, len;
		u64 at, access;
		bool write, hit;
	} cases[] = {
	    {BP_WRITE, 4, 0, 0, true, true},
	    {BP_WRITE, 4, 0, 0, false, false},
	    {BP_RW, 4, 0, 0, true, true},
	    {BP_RW, 4, 0, 0, false, true},
	    {BP_WRITE, 1, 3, 0, true, true},
	    {BP_WRITE, 1, 4, 0, true, false},
	    {BP_WRITE, 1, 4, 5, true, false},
	    {BP_WRITE, 8, 8, 5, true, true},
	    {BP_WRITE, 8, 15, 12, true, true}, /* the low bits of the address do not count */
	    {BP_WRITE, 8, 8, 16, true, false},
	    {BP_RW, 2, 0x1000, 0xffe, false, true},
	    {BP_RW, 2, 0x1002, 0xffe, false, false},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);
		unsigned v;

		rig_put(e->r, ERIG_FREE + cases[i].access, 4, 0x1234);
		e->c->gpr[GPR_RAX] = 0x5678;
		e->c->gpr[GPR_RDI] = ERIG_FREE + cases[i].access;
		/* The TLB has entries from before the breakpoint. */
		cr_assert_eq(ERIG_RUN(e, 2, 0x8b, 0x0f, 0x89, 0x0f), RIG_OK);
		set_breakpoint(e, 1, ERIG_FREE + cases[i].at, cases[i].rw, cases[i].len);
		v = ERIG_RUN(e, 2, cases[i].write ? 0x89 : 0x8b, 0x07, NOP);
		cr_expect_eq(v == EXC_DB || e->c->rip == ERIG_HANDLERS + 16, cases[i].hit,
			     "case %u", i);
		if (cases[i].hit) {
			cr_expect_eq(erig_frame(e, 0), AT(6));
			cr_expect_eq(e->c->dr[6] & 15, 2);
		} else {
			cr_expect_eq(e->c->dr[6], 0xffff0ff0);
		}
		if (cases[i].write)
			cr_expect_eq(rig_get(e->r, ERIG_FREE + cases[i].access, 4), 0x5678);
		else
			cr_expect_eq(e->c->gpr[GPR_RAX], 0x1234);
		erig_free(e);
	}
}

Test(step, stack_and_string_accesses_hit_breakpoints)
{
	struct erig *e = erig_new_long(0);

	set_breakpoint(e, 0, RIG_STACK - 8, BP_WRITE, 8);
	cr_expect_eq(ERIG_RUN(e, 10, 0x50), EXC_DB); /* push rax */
	cr_expect_eq(e->c->dr[6] & 15, 1);
	e->c->dr[7] = 0x400;
	e->c->dr[6] = 0xffff0ff0;
	set_breakpoint(e, 3, ERIG_FREE + 2, BP_RW, 1);
	e->c->rip = RIG_CODE;
	e->c->gpr[GPR_RCX] = 8;
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	cr_expect_eq(ERIG_RUN(e, 20, 0xf3, 0xaa), EXC_DB);
	cr_expect_eq(e->c->gpr[GPR_RCX], 5, "after the iteration that hit");
	cr_expect_eq(erig_frame(e, 0), AT(0));
	cr_expect_eq(erig_frame(e, 2), FL_RF | FL_FIXED1);
	cr_expect_eq(e->c->dr[6] & 15, 8);
	erig_free(e);
}

/* A faulting instruction has accessed nothing. */
Test(step, a_fault_forgets_the_breakpoints_hit)
{
	struct erig *e = erig_new_long(0);

	erig_small_pages(e);
	set_breakpoint(e, 0, ERIG_FREE, BP_RW, 1);
	e->c->gpr[GPR_RSI] = ERIG_FREE;
	e->c->gpr[GPR_RDI] = ERIG_NEXT;
	cr_expect_eq(ERIG_RUN(e, 10, 0xa4), EXC_PF); /* movsb */
	cr_expect_eq(e->c->cr2, ERIG_NEXT);
	cr_expect_eq(e->c->dr[6], 0xffff0ff0);
	erig_free(e);
}

/* MOV SS, [mem] with a data breakpoint: #DB after the next instruction... */
Test(step, mov_ss_holds_back_its_data_breakpoint)
{
	struct erig *e = erig_new_long(0);

	rig_put(e->r, ERIG_FREE, 2, S_DATA);
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	set_breakpoint(e, 0, ERIG_FREE, BP_RW, 2);
	cr_expect_eq(ERIG_RUN(e, 10, 0x8e, 0x17, NOP, NOP), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), AT(3));
	cr_expect_eq(e->c->dr[6] & 15, 1);
	/* ...and if that is INT n, at the handler's first instruction. */
	e->c->dr[6] = 0xffff0ff0;
	e->c->rip = RIG_CODE;
	cr_expect_eq(ERIG_RUN(e, 10, 0x8e, 0x17, 0xcd, 0x22), EXC_DB);
	cr_expect_eq(erig_frame(e, 0), ERIG_HANDLERS + 0x22 * 16);
	cr_expect_eq(e->c->dr[6] & 15, 1);
	erig_free(e);
}

Test(step, io_breakpoints_need_de)
{
	for (unsigned de = 0; de < 2; de++) {
		struct erig *e = erig_new_long(0);

		e->c->cr4 |= de ? CR4_DE : 0;
		set_breakpoint(e, 0, 0x60, BP_IO, 4);
		cr_expect_eq(ERIG_RUN(e, 2, 0xe4, 0x63, NOP), RIG_OK); /* in al, 0x63 */
		cr_expect_eq(e->c->rip == AT(3), !de);
		cr_expect_eq(e->c->dr[6] & 15, de);
		erig_free(e);
	}
}

/* DR7.GD: MOV DR is refused with BD; delivery of #DB clears it, for whatever reason it came. */
Test(step, general_detect)
{
	struct erig *e = erig_new_long(0);

	e->c->dr[7] |= DR7_GD;
	cr_expect_eq(ERIG_RUN(e, 10, 0x0f, 0x21, 0xf8), EXC_DB); /* mov rax, dr7 */
	cr_expect_eq(erig_frame(e, 0), AT(0));
	cr_expect_eq(e->c->dr[6], 0xffff0ff0 | DR6_BD);
	cr_expect_eq(e->c->dr[7], 0x400);
	cr_expect_eq(e->c->gpr[GPR_RAX], 0);
	e->c->dr[7] |= DR7_GD;
	e->c->rip = RIG_CODE;
	cr_expect_eq(ERIG_RUN(e, 10, 0xf1), EXC_DB); /* int1 */
	cr_expect_eq(e->c->dr[7], 0x400);
	e->c->dr[7] |= DR7_GD;
	e->c->rip = RIG_CODE;
	cr_expect_eq(ERIG_RUN(e, 10, 0xcd, 0x01), EXC_DB); /* int 1 is no debug exception */
	cr_expect_eq(e->c->dr[7], 0x400 | DR7_GD);
	erig_free(e);
}

/* --- double and triple faults --- */

static void remove_gate(struct erig *e, unsigned vector)
{
	rig_put(e->r, RIG_IDT + vector * 16, 8, 0);
}

Test(step, contributory_faults_make_a_double_fault)
{
	static const struct {
		u8 code[3];
		unsigned vector; /* its gate is missing: #GP */
		unsigned ends;
		u64 error;
	} cases[] = {
	    {{0x0f, 0x0b, NOP}, EXC_UD, EXC_GP, EXC_UD * 8 + 3}, /* benign, then #GP: serial */
	    {{0x0f, 0x30, NOP}, EXC_GP, EXC_DF, 0},              /* #GP of WRMSR at CPL 3 */
	    {{0x8a, 0x07, NOP}, EXC_PF, EXC_DF, 0},              /* #PF, then #GP */
	    {{0xf6, 0xf1, NOP}, EXC_DE, EXC_DF, 0},              /* div cl */
	    {{0xcd, 0x33, NOP}, 0x33, EXC_GP, 0x33 * 8 + 2},     /* INT n: no exception */
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(3);

		erig_small_pages(e);
		e->c->gpr[GPR_RDI] = ERIG_NEXT;
		remove_gate(e, cases[i].vector);
		erig_put_code(e, RIG_CODE, cases[i].code, 3);
		cr_expect_eq(erig_run(e, 10), cases[i].ends, "case %u", i);
		cr_expect_eq(erig_frame(e, 0), cases[i].error, "case %u", i);
		cr_expect_eq(erig_frame(e, 1), AT(0), "case %u", i);
		erig_free(e);
	}
}

/* A #PF while #PF is delivered (the IDT's page is absent), but not while #GP is. */
Test(step, page_faults_in_delivery)
{
	struct erig *e = erig_new_long(3);

	erig_small_pages(e);
	e->c->gpr[GPR_RDI] = ERIG_NEXT;
	rig_put(e->r, RIG_TSS + 36 + 8, 8, ERIG_NEXT + 0x800); /* IST2 is unmapped */
	rig_put(e->r, RIG_IDT + EXC_PF * 16 + 4, 1, 2);
	rig_put(e->r, RIG_IDT + EXC_DF * 16 + 4, 1, 1);
	cr_expect_eq(ERIG_RUN(e, 10, 0x8a, 0x07), EXC_DF);
	cr_expect_eq(e->c->cr2, ERIG_NEXT + 0x7f8);
	cr_expect_eq(erig_frame(e, 0), 0);
	erig_free(e);

	e = erig_new_long(3);
	erig_small_pages(e);
	rig_put(e->r, RIG_TSS + 36 + 8, 8, ERIG_NEXT + 0x800);
	rig_put(e->r, RIG_IDT + EXC_GP * 16 + 4, 1, 2);
	cr_expect_eq(ERIG_RUN(e, 10, 0x0f, 0x30), EXC_PF, "contributory, then #PF: serial");
	cr_expect_eq(e->c->cr2, ERIG_NEXT + 0x7f8);
	erig_free(e);
}

Test(step, triple_fault)
{
	struct erig *e = erig_new_long(0);

	e->c->idtr.limit = 0;
	ERIG_CODE(e, UD2);
	cr_expect_eq(step_run(e->c, 10), EXIT_TRIPLE_FAULT);
	cr_expect_eq(e->c->rip, AT(0));
	cpu_reset(e->c); /* and nothing of it is left */
	rig_long(e->r, S_CODE64, 0);
	e->c->rip = RIG_CODE;
	e->c->gpr[GPR_RSP] = RIG_STACK;
	cr_expect_eq(ERIG_RUN(e, 10, UD2), EXC_UD);
	erig_free(e);
}

Test(step, an_external_interrupt_is_no_first_fault)
{
	struct erig *e = erig_new_long(0);

	remove_gate(e, ERIG_INTR);
	e->c->sflags |= FL_IF;
	cpu_set_intr(e->c, true);
	cr_expect_eq(ERIG_RUN(e, 10, NOP), EXC_GP);
	cr_expect_eq(erig_frame(e, 0), ERIG_INTR * 8 + 3);
	cr_expect_eq(erig_frame(e, 1), AT(0));
	erig_free(e);
}

/* --- budget and attention --- */

Test(step, budget_is_exact)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 0, NOP, NOP, NOP, NOP), RIG_OK);
	cr_expect_eq(e->c->rip, AT(0));
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	cr_expect_eq(e->c->rip, AT(1));
	cr_expect_eq(erig_run(e, 3), RIG_OK);
	cr_expect_eq(e->c->rip, AT(4));
	cr_expect_eq(e->c->insns, 4);
	cr_expect_eq(e->r->stats.n[STAT_guest_insns], 4);
	erig_free(e);
}

Test(step, budget_ends_a_guest_that_only_faults)
{
	struct erig *e = erig_new_long(0);

	/* A #UD handler that is #UD itself, on a stack of its own. */
	ERIG_CODE_AT(e, ERIG_HANDLERS + EXC_UD * 16, UD2);
	rig_put(e->r, RIG_IDT + EXC_UD * 16 + 4, 1, 1);
	cr_expect_eq(ERIG_RUN(e, 1000, UD2), RIG_OK);
	erig_free(e);
}

Test(step, attention_comes_before_anything_else)
{
	struct erig *e = erig_new_long(0);

	ERIG_CODE(e, NOP, NOP, 0xe6, 0x81, NOP, NOP);
	e->c->attention = 1;
	cr_expect_eq(step_run(e->c, 10), EXIT_ATTENTION);
	cr_expect_eq(e->c->rip, AT(0));
	e->c->attention = 0;
	e->c->sflags |= FL_TF; /* in the careful loop, too */
	cpu_update_mode(e->c);
	e->c->attention = 1;
	cr_expect_eq(step_run(e->c, 10), EXIT_ATTENTION);
	cr_expect_eq(e->c->rip, AT(0));
	erig_free(e);
}

/* A repeated instruction stops in the middle, and goes on where it stopped. */
static u64 attentive_read(void *vm, gpa_t gpa, unsigned size)
{
	struct erig *e = vm;

	(void)gpa;
	(void)size;
	e->c->attention = 1;
	return 0x77;
}

Test(step, attention_stops_a_repetition)
{
	struct erig *e = erig_new_long(0);
	struct cpu_ops ops = *e->c->ops;

	ops.mmio_read = attentive_read;
	e->c->ops = &ops;
	e->c->gpr[GPR_RCX] = 3;
	e->c->gpr[GPR_RSI] = ERIG_MMIO;
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	ERIG_CODE(e, 0xf3, 0xa4, NOP);
	for (unsigned left = 3; left > 1; left--) {
		cr_expect_eq(step_run(e->c, 10), EXIT_ATTENTION);
		cr_expect_eq(e->c->gpr[GPR_RCX], left - 1);
		cr_expect_eq(e->c->rip, AT(0));
		e->c->attention = 0;
	}
	cr_expect_eq(step_run(e->c, 10), EXIT_ATTENTION);
	cr_expect_eq(e->c->rip, AT(2));
	cr_expect_eq(rig_get(e->r, ERIG_FREE, 4), 0x777777);
	erig_free(e);
}
