/*
 * struct cpu: the architectural state of one guest processor and the few hooks through which it
 * reaches the machine. Owned by one thread; only `attention` is written by others.
 *
 * Flags stand in two words: aflags holds what host flags the last thunk left (only the FL_ARITH
 * bits count), sflags everything else (IF, DF, IOPL, TF, NT, RF, VM, AC, VIF, VIP, ID). cpu_rflags
 * joins them.
 *
 * Guest faults are raised by cpu_raise and its kin, which do not return: they longjmp to the run
 * loop (cpu->unwind), which delivers the exception at the instruction that RIP still points to. So
 * every handler makes all accesses that can fault before it changes registers, or undoes the
 * changes.
 */
#ifndef RINGSHIFT_CPU_H
#define RINGSHIFT_CPU_H

#include <stdatomic.h>

#include "base.h"
#include "host_cpu.h"
#include "insn.h"
#include "mmu.h"

/* Exception vectors. */
enum {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_MC = 18,
	EXC_XM = 19,
	EXC_NONE = 0x1ff, /* no vector: the run loop is to return cpu->exit */
};

/* Segment attributes: bytes 5 and 6 of the descriptor, as in VMX access rights. */
#define SEG_A         0x0001u /* accessed (code, data) */
#define SEG_W         0x0002u /* data: writable; code: readable */
#define SEG_E         0x0004u /* data: expand down; code: conforming */
#define SEG_CODE      0x0008u /* code, not data */
#define SEG_TYPE      0x000fu
#define SEG_S         0x0010u /* code or data, not system */
#define SEG_DPL(attr) (((attr) >> 5) & 3u)
#define SEG_P         0x0080u
#define SEG_AVL       0x1000u
#define SEG_L         0x2000u
#define SEG_DB        0x4000u
#define SEG_G         0x8000u
#define SEG_NULL      0x10000u /* loaded with a null selector: unusable outside 64-bit mode */

#define DR6_BD 0x2000u
#define DR6_BS 0x4000u
#define DR7_GD 0x2000u

struct seg_reg {
	u64 base;
	u32 limit; /* in bytes, granularity applied */
	u16 sel;
	u32 attr;
};

struct table_reg {
	u64 base;
	u16 limit;
};

/* Vector, x87 and extended state. x87 and MMX live in the FXSAVE64 image, everything else flat. */
struct vec_state {
	u8 zmm[32][64] __attribute__((aligned(64)));
	u8 fx[512] __attribute__((aligned(64))); /* only the x87 part (first 160 bytes) counts */
	u64 k[8];
	u32 mxcsr;
};

/* An MSR that is a word in memory, and what may be written to it. */
enum msr_rule { MSR_WRITE_ANY, MSR_WRITE_32, MSR_WRITE_CANONICAL, MSR_WRITE_OTHER };
struct msr_word {
	u64 *place;
	enum msr_rule writes; /* OTHER: ask msr_write */
};

/* What the processor asks of the machine around it. */
struct cpu_ops {
	u32 (*port_read)(void *vm, u16 port, unsigned size);
	void (*port_write)(void *vm, u16 port, unsigned size, u32 val);
	u64 (*mmio_read)(void *vm, gpa_t gpa, unsigned size);
	void (*mmio_write)(void *vm, gpa_t gpa, unsigned size, u64 val);
	/* Acknowledge the interrupt that raised `intr`: its vector, or -1 if it has gone. */
	int (*intr_ack)(void *vm);
	u64 (*cr8_read)(void *vm);
	void (*cr8_write)(void *vm, u64 val);                       /* 0..15 */
	void (*cpuid)(void *vm, u32 leaf, u32 subleaf, u32 out[4]); /* eax ebx ecx edx */
	/* 0, or -1: #GP. Called for every RDMSR and WRMSR. */
	int (*msr_read)(void *vm, u32 index, u64 *val);
	int (*msr_write)(void *vm, u32 index, u64 val);
	/* Is the MSR a word that can be read, and written by its rule, without asking? NULL: none.
	 */
	bool (*msr_word)(void *vm, u32 index, struct msr_word *w);
	/* VMCALL/VMMCALL: result for RAX. */
	u64 (*hypercall)(void *vm, u64 nr, const u64 args[4]);
	u64 (*tsc)(void *vm);        /* guest TSC */
	bool host_tsc;               /* which is the host's */
	void (*fpu_error)(void *vm); /* FERR# when CR0.NE is 0: IRQ 13 */
	/* Run ring 3 natively until it leaves for ring 0 or attention is set; false: this code has
	 * to be stepped. May raise. NULL: there is no such thing. */
	bool (*run_user)(void *vm);
	/* cpu->vec_away: bring the vector state back into cpu->vec. */
	void (*fetch_vec)(void *vm);
};

/* Why step_run came back. */
enum cpu_exit {
	EXIT_ATTENTION, /* cpu->attention was set: look at events, call again */
	EXIT_BUDGET,    /* asked-for number of instructions done */
	EXIT_HLT,       /* halted: wait for an interrupt, call again */
	EXIT_TRIPLE_FAULT,
	EXIT_UNSUPPORTED, /* cpu->unsupported says what */
};

#define CODE_PAGE_NONE (~0ull)

/* What is held back at the boundary after an instruction. SDM vol. 3, 6.8.3; vol. 2, STI. */
enum intr_shadow {
	SHADOW_NONE,
	SHADOW_SS,  /* MOV SS, POP SS: interrupts, NMI, debug exceptions */
	SHADOW_STI, /* interrupts, NMI */
};

#define VEC_CLASSES     3 /* SSE, AVX, AVX-512 */
#define VEC_ALL_MISSING 0x01010101u

#define CPUID_ANSWERS 8u
struct cpuid_answer {
	u64 asked; /* leaf, subleaf << 32 */
	u32 out[4];
};

struct bt;
struct engine; /* the single-step engine's caches: decode, thunks (step.h) */

struct cpu {
	u64 gpr[16];
	u64 rip; /* of the instruction being executed; 16- and 32-bit code: IP/EIP, zero-extended */
	u64 aflags;
	u64 sflags;
	u8 cpl;
	u8 mode;   /* enum insn_mode: of CS */
	bool user; /* cpl == 3: which half of the TLB */
	bool halted;

	/* Set by anyone, any thread: leave the loop at the next instruction boundary. */
	_Atomic u32 attention;
	/* The rest is the CPU thread's. */
	bool intr; /* the interrupt controllers have a vector for us */
	bool nmi_pending;
	bool nmi_blocked;  /* until IRET */
	u8 shadow;         /* enum intr_shadow: what the last instruction holds back */
	bool trace;        /* registers are logged before each instruction: careful loop only */
	bool slow;         /* TF, debug registers or a shadow is active: take the careful loop */
	bool flush_wanted; /* the engine's caches are full: drop them at the next boundary */
	bool align_check;  /* CPL 3 with CR0.AM and RFLAGS.AC */
	u8 debug_hits;     /* DR6 bits of breakpoints the current instruction has hit */
	u8 debug_held;     /* the same of MOV SS and POP SS, until the shadow has passed */
	bool in_delivery;  /* an exception is being delivered (for #DF) */

	/* The code page the fetch path is in: linear address (CODE_PAGE_NONE: look it up), its
	 * slots. */
	gva_t code_page;
	u32 *code_slots;

	struct mmu mmu;
	struct seg_reg seg[SEG_COUNT];
	struct seg_reg ldtr, tr;
	struct table_reg gdtr, idtr;

	u64 cr0, cr2, cr3, cr4, efer, xcr0;
	u64 dr[8];
	unsigned maxphyaddr;
	struct host_cpu host;

	/* MSRs the engine itself uses; the table in runtime/msr.c reads and writes them. */
	u64 star, lstar, cstar, fmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_aux, misc_enable, pat;
	u64 cr4_allowed;  /* bits MOV to CR4 may set */
	u64 xcr0_allowed; /* bits XSETBV may set */

	struct vec_state vec; /* unless vec_away */
	bool vec_away;        /* a user space has the current vector state: cpu_fetch_vec */

	const struct cpu_ops *ops;
	void *vm;
	struct stats *stats;
	struct engine *engine;
	struct bt *translator;   /* NULL: everything is stepped */
	struct {                 /* what translated code reads and writes by absolute address */
		u64 spill[3];    /* RAX, RCX, RDX */
		u64 flags;       /* to enter with: AH as SAHF takes it, AL 1 for OF */
		u64 jump;        /* host address being jumped to */
		u64 fs_base;     /* guest GS base, biased */
		u64 no_swap;     /* 0: SWAPGS leads to a base that can be in FS */
		u64 unfit;       /* 0: the GS base is one that can */
		u64 host_fs;     /* the monitor's thread pointer */
		u64 step;        /* enum bt_step: why rip must be stepped, 0: it need not */
		u64 op;          /* of a callout: its op's index, 0: to be fetched */
		u64 site_flags;  /* kept by a checked site: AH as by LAHF, AL 1 for OF */
		u64 distance[2]; /* a string's RDI, RSI: from the address to the host's */
		u64 link;        /* direct exit that was taken, 0: none */
		u64 target;      /* of the last indirect jump or call */
		u64 via;         /* enum via: what has led to rip without a block to go to */
		u64 from;        /* the last return, indirect jump or call: FROM_* */
		/* Which vector instructions must not be executed on the host's registers, because
		 * the guest's state is not in them or as CR0, CR4 and XCR0 stand (denied: for the
		 * second reason alone). tr_vector.c */
		u8 vec_missing[VEC_CLASSES + 1], vec_denied[VEC_CLASSES + 1];
		struct cpuid_answer cpuid[CPUID_ANSWERS]; /* by the sum of leaf and subleaf */
	} bt;

	/* A pending raise, filled in before the longjmp. */
	struct {
		u16 vector;
		u16 first; /* exception whose delivery a nested one interrupts, or EXC_NONE */
		bool has_error, soft; /* soft: INT n, INT3, INTO, ICEBP is not */
		u32 error;
		u64 next_rip; /* soft: return address */
	} exc;
	bool x87_live;   /* a thunk has the guest's x87 state in the host's registers */
	u64 host_rsp;    /* while a thunk uses RSP for the guest's */
	u32 host_mxcsr;  /* the monitor's own */
	void *unwind[5]; /* __builtin_setjmp buffer of the run loop */
	enum cpu_exit exit;
	char unsupported[160];
	u64 insns;      /* instructions retired, and events raised by instructions, so that a budget
			   ends a guest that does nothing but fault */
	u64 budget_end; /* insns at which step_run returns */
	u64 run_start;  /* insns at which it began */
	/* With a translator: insns up to which they have been counted by reason, and the reason
	 * (enum stat_id) why those since then are stepped. */
	u64 attributed;
	unsigned stepped_why;
};

static inline u64 cpu_rflags(const struct cpu *c)
{
	return (c->aflags & FL_ARITH) | c->sflags | FL_FIXED1;
}
static inline void cpu_set_rflags(struct cpu *c, u64 v)
{
	c->aflags = v & FL_ARITH;
	c->sflags = v & (FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_VIF |
			 FL_VIP | FL_ID);
}
static inline unsigned cpu_iopl(const struct cpu *c)
{
	return (c->sflags >> 12) & 3;
}
static inline bool cpu_long_mode(const struct cpu *c) /* EFER.LMA */
{
	return c->efer & EFER_LMA;
}
static inline bool cpu_protected(const struct cpu *c)
{
	return c->cr0 & CR0_PE;
}
static inline bool cpu_v86(const struct cpu *c)
{
	return c->sflags & FL_VM;
}
static inline bool cpu_real_or_v86(const struct cpu *c)
{
	return !cpu_protected(c) || cpu_v86(c);
}
/* Before cpu->vec is looked at or changed. */
static inline void cpu_fetch_vec(struct cpu *c)
{
	if (unlikely(c->vec_away))
		c->ops->fetch_vec(c->vm);
}
static inline bool cpu_canonical(u64 a)
{
	return (u64)((s64)(a << 16) >> 16) == a;
}

/* Power-on/INIT state, SDM vol. 3 table 10-1; keeps hooks, RAM and caches. */
void cpu_reset(struct cpu *c);

/* Raise a fault of the current instruction. */
NORETURN void cpu_raise(struct cpu *c, unsigned vector);
NORETURN void cpu_raise_error(struct cpu *c, unsigned vector, u32 error);
NORETURN void cpu_raise_pf(struct cpu *c, gva_t va, u32 error); /* sets CR2 */
/* INT n, INT3, INTO: a software interrupt that returns to next_rip. */
NORETURN void cpu_raise_soft(struct cpu *c, unsigned vector, u64 next_rip);
/* Stop the VM with a named reason (printf format). */
NORETURN void cpu_unsupported(struct cpu *c, const char *fmt, ...) PRINTF(2, 3);

/* What CPUID answers may have changed. */
void cpu_forget_cpuid(struct cpu *c);
/* Recompute what depends on others: mode, user (from CS, CPL), slow (TF, DR7, shadow). Call after
 * changes of CS, CPL, EFER, CR0, VM, TF, DR7. */
void cpu_update_mode(struct cpu *c);
/* The part of it that says whether the careful loop is needed. */
void cpu_update_slow(struct cpu *c);
/* SYSCALL, from next_rip - 2: raises #UD if it is not enabled. SDM vol. 2. */
void cpu_syscall(struct cpu *c, u64 next_rip);
/* The interrupt controllers have (no longer) a vector for us. CPU thread only. */
void cpu_set_intr(struct cpu *c, bool level);
/* After CR0, CR3, CR4, EFER changed: hands the paging registers to the MMU (flushes as required).
 */
void cpu_update_paging(struct cpu *c);

#endif
