/*
 * Decoded instructions ready to run (ops), found by their bytes, and the code pages that lead from
 * a place in guest RAM to its op. See op.c.
 */
#ifndef RINGSHIFT_OP_H
#define RINGSHIFT_OP_H

#include "exec.h"
#include "step.h"
#include "thunk.h"

#include <uthash.h>

/* How often translated code left instructions of one kind to us: callouts.c. */
struct callout_key {
	char name[30];
	u8 class, why; /* enum insn_class, enum insn_why */
};

struct callout {
	struct callout_key key;
	u64 count;
	UT_hash_handle hh;
};

struct op {
	exec_fn *exec;
	thunk_fn *thunk;         /* for exec functions of ops that have one */
	struct callout *callout; /* its counter; NULL: has never been one */
	struct insn in;
	u32 index;
	u8 key[INSN_MAX_LEN + 1]; /* its bytes, zero-padded, and the mode */
	UT_hash_handle hh;        /* by key */
};

/* One guest-physical page decoded in one mode: op index per offset, 0: not decoded (yet). */
struct code_page {
	struct code_page *next; /* the same page in another mode */
	u8 mode;
	u32 slot[PAGE_SIZE];
};

#define OP_CHUNK       4096u
#define OP_MAX         (1u << 20)
#define CODE_PAGES_MAX 16384u /* 256 MiB of slots */

struct engine {
	struct decoder *decoder;
	struct thunks *thunks;
	struct op *table;
	struct op **chunk;       /* [OP_MAX / OP_CHUNK], each OP_CHUNK ops */
	u32 count;               /* ops made; index 0 is never used */
	struct code_page **page; /* by guest-physical page number */
	u64 pages;
	u8 *quiet_writes; /* by page: writes since something in it was last decoded */
	u32 code_pages;   /* allocated */
	struct callout *callouts;
	u8 bounce[192] __attribute__((aligned(64)));
	FILE *log;
	unsigned log_items;
	/* Name and offset of an address, for logs and reports; NULL: no symbols were given. */
	const char *(*symbol)(void *opaque, u64 addr, u64 *off);
	void *symbol_opaque;
};

static inline struct op *op_at(const struct engine *e, u32 index)
{
	return &e->chunk[index / OP_CHUNK][index % OP_CHUNK];
}

static inline struct op *op_of(const struct insn *in)
{
	return container_of(in, struct op, in);
}

/* The op for the instruction at c->rip. Raises what fetching and decoding raise (#PF, #GP, #UD). */
struct op *op_fetch(struct cpu *c);
/* Forget every op and thunk. Not while one is executing. */
void op_flush_all(struct cpu *c);

/* The index of a decoded instruction's op, for op_step_callout; valid until everything is
 * forgotten. 0: it has none yet and needs a thunk. */
u32 op_known(struct cpu *c, const struct insn *in);

/* Execute one instruction, whatever is pending; may raise. */
void op_step(struct cpu *c);
/* The same for an instruction that translated code has left to us, its op in c->bt.op if known;
 * counts it under its name. Returns the address of the instruction behind it (64-bit mode). */
u64 op_step_callout(struct cpu *c);
/* A guest-physical page is about to have its code decoded or translated: writes to it are to be
 * seen. */
void op_note_code(struct cpu *c, gpa_t page);

/* bind.c: which function executes an instruction, and whether it wants a thunk. */
exec_fn *op_bind(const struct insn *in, bool *wants_thunk);

/* ordinary.c: what op_bind hands out for instructions that run in thunks... */
exec_fn exec_reg, exec_mem, exec_vec_reg, exec_vec_mem, exec_masked, exec_x87, exec_bit_string;
/* ...and for those needing none. */
exec_fn exec_lea, exec_nop, exec_probe;
/* control.c: near control transfers and the stack. */
exec_fn exec_jcc, exec_jmp, exec_jmp_ind, exec_call, exec_call_ind, exec_ret, exec_loop, exec_push,
    exec_pop, exec_push_imm, exec_push_rm, exec_pop_rm;
/* #UD */
exec_fn exec_ud;

#endif
