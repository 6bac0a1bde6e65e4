/*
 * Transfers of control between privilege levels: what far calls, returns, IRET and exception
 * delivery have in common. Nothing here changes a register before all that can fault is done,
 * except the functions named ..._commit.
 */
#ifndef RINGSHIFT_TRANSFER_H
#define RINGSHIFT_TRANSFER_H

#include "exec.h"
#include "mem.h"

#define SEG_BUSY 0x2u /* TSS types: 1 and 9 available, 3 and b busy */

/* System descriptor types (SEG_S clear). Long mode knows only LDT and those with bit 3 set. */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS32 = 9,
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
	SYS_INT32 = 14,
	SYS_TRAP32 = 15,
};

/* Faults whose error code is a selector; ext: the EXT bit, for faults in the delivery of events
 * other than INT n, INT3 and INTO (SDM vol. 3, 6.13). */
static inline NORETURN void raise_sel(struct cpu *c, unsigned vector, u16 sel, u32 ext)
{
	cpu_raise_error(c, vector, (sel & ~3u) | ext);
}
static inline bool sel_is_null(u16 sel)
{
	return !(sel & ~3u);
}
static inline bool desc_is_code(const struct desc *d)
{
	return (d->attr & (SEG_S | SEG_CODE)) == (SEG_S | SEG_CODE);
}
static inline bool desc_is_conforming(const struct desc *d)
{
	return d->attr & SEG_E;
}
static inline bool desc_is_writable_data(const struct desc *d)
{
	return (d->attr & (SEG_S | SEG_CODE | SEG_W)) == (SEG_S | SEG_W);
}
/* Code to run in 64-bit mode. */
static inline bool desc_is_code64(const struct cpu *c, const struct desc *d)
{
	return cpu_long_mode(c) && (d->attr & SEG_L);
}

/* segment.c: set the accessed bit of a code or data descriptor in memory, if it is not set. */
void desc_set_accessed(struct cpu *c, struct desc *d);
/* Neither CPL nor RPL is above DPL, or it is conforming code. */
bool desc_is_within_reach(const struct cpu *c, u16 sel, const struct desc *d);
/* Read m16:16, m16:32 or m16:64, the memory operand of far jumps, far calls and LDS. */
void far_ptr_read(struct cpu *c, const struct insn *in, u16 *sel, u64 *off);

/*
 * Read the descriptor of a code selector for a transfer: #GP(0) if null, #GP(sel) if it is beyond
 * its table, no code, or has both L and D set in long mode. Presence and privileges are the
 * caller's, since each transfer has rules of its own.
 */
void code_desc_read(struct cpu *c, u16 sel, u32 ext, struct desc *d);
/* A RIP for that segment, as it will be loaded; #GP(ext) if not canonical or beyond the limit. */
u64 code_check_rip(struct cpu *c, const struct desc *d, u64 rip, u32 ext);

/* A stack that is being filled before it is switched to (or moved, if it is the current one). */
struct new_stack {
	struct seg_reg ss;
	u64 rsp, mask;
	u32 error;   /* of the #SS of a push that does not fit */
	bool flat64; /* 64-bit mode at the target: no segmentation */
	bool user;   /* pushes are made at CPL 3 */
};

/* The current stack. flat64: see above. */
void stack_current(struct cpu *c, struct new_stack *s, bool flat64, u32 ext);
/* The stack of an inner level from a 16- or 32-bit TSS: #TS, #SS. */
void stack_inner(struct cpu *c, struct new_stack *s, unsigned cpl, u32 ext);
/* In long mode: RSPn, or ISTn if ist is not 0. SS will be null if the level changes. */
void stack_inner64(struct cpu *c, struct new_stack *s, unsigned cpl, unsigned ist, u32 ext);
void stack_put(struct cpu *c, struct new_stack *s, unsigned size, u64 val);
/* Load SS and RSP. */
void stack_commit(struct cpu *c, const struct new_stack *s);

/* A far return (RETF, IRET) in protected or long mode. */
struct far_return {
	u64 rip, rsp;
	u16 cs, ss;
	bool has_stack; /* SS:RSP are returned to as well */
	struct desc cs_desc, ss_desc;
};
/* Is cs:rip a place to return to? Fills cs_desc, truncates rip. */
void return_check_code(struct cpu *c, struct far_return *r);
/* Is ss a stack for it? Fills ss_desc. After return_check_code. */
void return_check_stack(struct cpu *c, struct far_return *r);
/* The accessed bits, then the registers. The caller calls cpu_update_mode when flags are set. */
void return_commit(struct cpu *c, struct far_return *r);

/* Count and report a hardware task switch; what: e.g. "far jump to TSS". */
NORETURN void task_switch(struct cpu *c, const char *what, u16 sel);

#endif
