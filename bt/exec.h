/*
 * Hand-written instructions of the single-step engine, by file. Each function executes one decoded
 * instruction completely, RIP included (cpu->rip points to the instruction on entry, to the next
 * one or the target on return), or raises.
 */
#ifndef RINGSHIFT_EXEC_H
#define RINGSHIFT_EXEC_H

#include "cpu.h"

typedef void exec_fn(struct cpu *c, const struct insn *in);

/* string.c: movs cmps stos lods scas ins outs with rep prefixes (interruptible between iterations:
 * it returns with RIP unchanged when cpu->attention is set), xlat, maskmovq, maskmovdqu. */
exec_fn exec_string, exec_xlat, exec_maskmov;

/* legacy.c: what 64-bit mode lacks or what has implicit memory: daa das aaa aas aam aad salc bound
 * arpl enter leave pusha popa. */
exec_fn exec_bcd, exec_bound, exec_arpl, exec_enter, exec_leave, exec_pusha, exec_popa;

/* xstate.c: fxsave fxrstor xsave xsaveopt xsavec xrstor xgetbv xsetbv fsave frstor fstenv fldenv,
 * vzeroupper vzeroall, ldmxcsr stmxcsr; gather.c: AVX2 and AVX-512 gathers and scatters. */
exec_fn exec_xstate, exec_gather;

/* segment.c: mov to/from segment registers, push/pop of them, lds les lfs lgs lss, lar lsl verr
 * verw, sgdt sidt lgdt lidt sldt lldt str ltr. */
exec_fn exec_mov_from_sreg, exec_mov_to_sreg, exec_push_sreg, exec_pop_sreg, exec_load_far_ptr,
    exec_lar_lsl, exec_verr_verw, exec_descriptor_table, exec_sldt_str, exec_lldt_ltr;

/* far.c: far jmp, far call, retf, iret, syscall, sysret, sysenter, sysexit. */
exec_fn exec_jmp_far, exec_call_far, exec_ret_far, exec_iret, exec_syscall, exec_sysret,
    exec_sysenter, exec_sysexit;

/* system.c: in out, hlt, cli sti, pushf popf, lahf/sahf are thunks, mov cr/dr, clts lmsw smsw,
 * invlpg invpcid, wbinvd invd, rdmsr wrmsr, cpuid, rdtsc rdtscp rdpmc, swapgs, rdfsbase..., int n,
 * int3, into, icebp, monitor mwait, vmcall, ud. */
exec_fn exec_system;

/* segment.c, for far.c and exception.c. */
struct desc { /* an unpacked descriptor */
	u64 base;
	u32 limit;
	u32 attr;
	u64 raw, raw_high; /* raw_high: upper half of a 16-byte system descriptor in long mode */
	gva_t la;          /* where it was read */
};
/* Read the descriptor of sel (16 bytes if system in long mode and wide is set). False if the
 * selector is null or beyond its table's limit: the caller picks the fault. */
bool desc_read(struct cpu *c, u16 sel, bool wide, struct desc *d);
/* Load a data segment register or SS in the current mode with all checks (raises). */
void seg_load(struct cpu *c, unsigned seg, u16 sel);
/* Real or v86 load: base = sel << 4. */
void seg_load_real(struct cpu *c, unsigned seg, u16 sel);
/* Put a checked code descriptor into CS at a privilege level; sets A in memory. */
void cs_load(struct cpu *c, u16 sel, const struct desc *d, unsigned cpl);
void ss_load(struct cpu *c, u16 sel, const struct desc *d);

/*
 * exception.c: enter the handler of a vector through IVT, IDT gates (32-bit, 16-bit, long mode with
 * IST), stack switches and error codes. soft: INT n and INT3/INTO (DPL check, next_rip is pushed).
 * May itself raise (the run loop makes #DF or triple fault of that, SDM vol. 3 table 6-5).
 */
void exc_enter(struct cpu *c, unsigned vector, bool has_error, u32 error, bool soft, u64 rip);

#endif
