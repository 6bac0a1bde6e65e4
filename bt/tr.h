/*
 * What the files that translate share: the block being made, its recovery records, and the bytes
 * they all need. translate.c drives; relocate.c copies instructions with another memory operand;
 * tr_stack.c, tr_sensitive.c and tr_control.c know their kinds of instruction.
 */
#ifndef RINGSHIFT_TR_H
#define RINGSHIFT_TR_H

#include "translate.h"

#define CTX(bt, field) ((u32)(uintptr_t) & (bt)->c->field)

struct tr {
	struct bt *bt;
	struct emit e;
	u8 *start;
	enum regime regime;
	u64 bias;          /* its */
	u64 pc;            /* of the block */
	u64 at;            /* of the instruction being translated */
	u64 behind_sti;    /* address of the instruction after the last STI, 0: none */
	bool vector;       /* has instructions on vector state */
	u8 vec_checked;    /* classes of vector instructions that may be executed from here on */
	bool swapped;      /* SWAPGS has been executed, but struct cpu does not show it (tr_gs.c) */
	bool base_written; /* the GS base is not what it was when the host's FS was last right */
	enum {
		FS_GUEST,
		FS_UNKNOWN,
		FS_HOST
	} fs;                  /* what that holds: the GS base with the bias, or C's */
	bool promoted;         /* the instruction being translated is (site.c) */
	const struct insn *in; /* being translated, NULL: none */
	bool ecx_known;        /* RCX holds ecx */
	u32 ecx;
	u32 stop; /* guest offset of the callout at the end, ~0: none */
	unsigned n_rec, n_exits, n_misses;

	/* Not cleared for each block: only what is counted is there. */
	struct recovery rec[BT_MAX_RECORDS];
	struct {
		u8 *rel32; /* to be pointed at the stub, later at the block */
		u64 target;
	} exit[BT_MAX_EXITS];
	struct {
		u8 *rel32[4]; /* of jumps that are taken when the software TLB does not know */
		unsigned n;
		u64 at;
		u32 op;
		u8 *resume; /* behind the instruction */
	} miss[BT_MAX_INSNS];
};

/* To write at bt->rw + at, no more than room. */
void tr_begin(struct tr *t, struct bt *bt, u32 at, u32 room);

/* The instruction at a guest offset; if the first page does not tell, the second is asked. Length,
 * or a negative errno. */
int tr_decode_at(struct bt *bt, struct code_bytes *code, unsigned at, struct insn *in);
/* From here on: the state before the instruction at guest address pc, with these spills. */
void tr_record(struct tr *t, u64 pc, u16 spills);
/* jmp rel32 to an area offset */
void tr_jmp_to(struct tr *t, u32 area_off);
/* The rel32 of a jump that leaves the block for target; the whole jump. */
void tr_exit_direct(struct tr *t, u64 target);
void tr_jump_direct(struct tr *t, u64 target);
/* The op of the instruction being translated, for bt.op. */
u32 tr_op(const struct tr *t);
/* Leave, and have the instruction stepped. Ends the block. */
void tr_callout(struct tr *t);
/* Have the instruction stepped from within the block, which goes on behind it if nothing speaks
 * against that (bt_light_callout). */
void tr_light_callout(struct tr *t, const struct insn *in);

/* relocate.c */
/* Can the memory operand be relocated? */
bool tr_relocatable(const struct tr *t, const struct insn *in);
/* The instruction without segment prefixes, with another prefix in front (0: none). */
void tr_copy_plain(struct tr *t, const struct insn *in, u8 prefix);
void tr_copy_rip_relative(struct tr *t, const struct insn *in, u8 prefix, u64 addr);
void tr_copy_memory(struct tr *t, const struct insn *in);
/* The instruction with [base + disp] as its memory operand, base below RSP; returns its length. */
unsigned tr_with_base(const struct insn *in, unsigned base, s32 disp, u8 out[INSN_MAX_LEN]);
/* Does it use RSP other than as the base of its memory operand? */
bool tr_rsp_is_data(const struct insn *in);

/* One instruction each. False: it needs a callout. */
bool tr_lea(struct tr *t, const struct insn *in);
bool tr_stack(struct tr *t, const struct insn *in, exec_fn *f);
bool tr_sensitive(struct tr *t, const struct insn *in);
bool tr_string(struct tr *t, const struct insn *in);
bool tr_vector(struct tr *t, const struct insn *in, exec_fn *f);
/* A promoted site. */
bool tr_checked(struct tr *t, const struct insn *in, exec_fn *f);
/* tr_run.c: several of them, from first on, no more than most: how many, their guest bytes; or 0.
 */
unsigned tr_run(struct tr *t, struct code_bytes *code, const struct insn *first, unsigned most,
		unsigned *bytes);
/* Ends the block. */
bool tr_ends_block(exec_fn *f);
bool tr_control(struct tr *t, const struct insn *in, exec_fn *f);

/* tr_gs.c: SWAPGS; the instructions that read and write a base. */
void tr_swapgs(struct tr *t);
bool tr_fsgsbase(struct tr *t, const struct insn *in);
/* What the next instruction needs of the bases and of the host's FS; the bases alone, for C code;
 * FS as well (at_end: the block ends here). */
void tr_settle_for(struct tr *t, const struct insn *in, exec_fn *f);
void tr_settle_bases(struct tr *t);
void tr_settle_fs(struct tr *t, bool at_end);
/* With RAX, RCX, RDX spilled and the flags saved: RDX is canonical (has 32 bits), or a callout;
 * write it to a base; undo the spills, behind the instruction. */
enum base { BASE_NONE, BASE_FS, BASE_GS, BASE_OTHER };
void tr_check_canonical(struct tr *t);
void tr_check_32(struct tr *t);
void tr_write_base(struct tr *t, enum base which);
void tr_end_write(struct tr *t, u64 next);

/* tr_msr.c */
void tr_track_ecx(struct tr *t, const struct insn *in);
bool tr_rdmsr(struct tr *t);
bool tr_wrmsr(struct tr *t, const struct insn *in);
bool tr_cpuid(struct tr *t, const struct insn *in);

/* tr_vector.c, for common_code.c: where blocks go to have the guest's vector state loaded; and,
 * with RCX and the flags free, what saves it if it has been. */
void tr_emit_vector_load(struct tr *t);
void tr_emit_vector_save(struct tr *t);

/* tr_checked.c: where the block's misses go; the common code behind it. */
void tr_emit_misses(struct tr *t);
void tr_emit_checked_miss(struct tr *t);
/* For what looks in the software TLB: RAX, RCX, RDX to their spills and back, but one; the flags to
 * site_flags and back, by way of RAX. */
#define SPILL_ALL (SPILL_RAX | SPILL_RCX | SPILL_RDX)
void tr_spill(struct tr *t, bool store, unsigned except);
void tr_save_flags(struct tr *t);
void tr_restore_flags(struct tr *t);
/* Spill all, save the flags, look up: RDX is where the host has the operand, the flags are the
 * guest's; returns the rel32 of the jump taken, with the flags saved, if the TLB does not know. */
u8 *tr_look_up(struct tr *t, const struct insn *in);
/* The registers that an instruction uses beside its memory operand, a bit each. One of RAX, RCX,
 * RDX that is free, or REG_NONE. */
bool tr_operands(struct tr *t, const struct insn *in, u16 *mask);
unsigned tr_scratch(u16 free);
/* An instruction that may miss; jumps (condition code cc) to where it does; behind it. */
void tr_may_miss(struct tr *t);
void tr_miss_if(struct tr *t, u8 cc);
void tr_after_miss(struct tr *t);
/* EAX = number of the slot of the page of the 32 bits in reg, times 5; op reg, [that slot + off].
 */
void tr_tlb_slot(struct tr *t, unsigned reg);
void tr_tlb_op(struct tr *t, u8 op, unsigned reg, unsigned off);

static inline bool fits_s32(u64 v)
{
	return (u64)(s64)(s32)v == v;
}

/* Can emitted code name this address: as 32 bits sign-extended or, by a 0x67 prefix, not? */
static inline bool is_nameable(u64 addr)
{
	return fits_s32(addr) || addr <= ~0u;
}

#endif
