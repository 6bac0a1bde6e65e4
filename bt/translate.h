/*
 * Binary translation of guest ring-0 code in 64-bit mode. See translate.c (what becomes of each
 * instruction), block.c (the code cache), bt_run.c (running it), regime.c (in which half of the
 * address space), recover.c (leaving it by a fault or signal).
 */
#ifndef RINGSHIFT_TRANSLATE_H
#define RINGSHIFT_TRANSLATE_H

#include "block_table.h"
#include "bt_run.h"
#include "emit_x64.h"
#include "op.h"
#include "records.h"
#include "shadow.h"

#include <uthash.h>

#define BT_AREA_SIZE   (64 * MIB)
#define BT_MAX_INSNS   48u
#define BT_MAX_EXITS   4u
#define BT_FRONT_BITS  16
#define BT_FRONT_SIZE  (1u << BT_FRONT_BITS)
#define BT_BLOCK_ROOM  16384u /* host bytes a block can take at most */
#define BT_TAIL_ROOM   48u    /* those that it takes once dropped */
#define BT_MAX_BLOCKS  400000u
#define BT_MAX_RECORDS (12 * BT_MAX_INSNS + 16) /* of a block */

/*
 * How a block reaches guest memory, by the half of the address space that it runs in: the bias in
 * the host's GS base and, with that of the guest's GS, in FS, and in RSP. See regime.c.
 */
enum regime {
	R64H, /* the upper half: SHADOW_BIAS */
	R64L, /* the low window: SHADOW_LOW_BIAS */
	REGIMES
};

static inline enum regime regime_of(u64 pc)
{
	return (s64)pc < 0 ? R64H : R64L;
}

static inline u64 regime_bias(enum regime r)
{
	return r == R64H ? SHADOW_BIAS : SHADOW_LOW_BIAS;
}

/* Is code at this address translated, whatever else is the case? */
static inline bool regime_has(u64 pc)
{
	return pc >= SHADOW_FIRST || pc < SHADOW_LOW_SIZE;
}

/* Which spilled registers hold the guest's value (cpu->bt.spill) at a host offset. RECOVER_STI: the
 * instruction about to be executed follows STI, so no interrupt comes before it. */
enum {
	SPILL_RAX = 1,
	SPILL_RCX = 2,
	SPILL_RDX = 4,
	RECOVER_RSI_BIAS = 8, /* RSI, RDI hold the guest's value + the regime's bias */
	RECOVER_RDI_BIAS = 16,
	RECOVER_FLAGS = 32, /* the arithmetic flags are in cpu->bt.site_flags */
	RECOVER_STI = 64,
	RECOVER_NEVER = 128,
	RECOVER_RDI_HOST = 256, /* RDI, RSI: the guest's value + cpu->bt.distance[0], [1] */
	RECOVER_RSI_HOST = 512,
	RECOVER_SWAPPED = 1024 /* the two GS bases stand in struct cpu the wrong way round */
};

/* What has led somewhere: a return, or a jump or call by a register or memory. landing.c */
enum via { VIA_OTHER, VIA_RETURN, VIA_JUMP, VIAS };

/* In bt.from: where in the area such an instruction is, and what it does to RSP. */
#define FROM_PLACE  (BT_AREA_SIZE - 1)
#define FROM_CALL   (BT_AREA_SIZE)
#define FROM_RETURN (2 * BT_AREA_SIZE)

/* There are a hundred thousand of these: half a cache line each. */
struct block {
	u64 pc;      /* guest linear address */
	u32 host;    /* offset in the area */
	u32 next;    /* in its page: a number + 1, 0: none. May be dropped. */
	u32 records; /* offset of its recovery records in bt->records */
	u16 records_len;
	u16 host_len;
	u16 len;     /* guest bytes covered */
	u16 stop;    /* guest offset of the callout that ends it; len: none does */
	bool vector; /* has instructions on vector state */
	bool dropped;
	u8 pad; /* enum via: the landing pad right before it, 0: there is none */
};

/* A block whose last instruction ends in the page behind its own. */
struct ending {
	struct block *block; /* may be dropped */
	struct ending *next;
};

/* A guest-linear page that has blocks, and where it was mapped when they were made. */
struct code_va {
	gva_t page;
	gpa_t gpa;
	bool global;
	u8 shift;              /* log2 of the leaf that maps it */
	u32 blocks;            /* number + 1 */
	struct ending *ending; /* of the page before, with an instruction that ends in this one */
	struct code_va *alias; /* next with the same gpa */
	UT_hash_handle hh;     /* by page */
};

/* Kinds of light callouts, by what becomes of the host's FS: the guest's, and so again; the
 * guest's, C's afterwards; C's all the time. */
enum light { LIGHT_FS_BACK, LIGHT_FS_LEFT, LIGHT_FS_HOST, LIGHTS };

struct bt {
	struct cpu *c;
	enum regime regime; /* that translated code can be entered in as things stand: */
	u64 bias;
	struct shadow *shadow;           /* one of */
	struct shadow *shadows[REGIMES]; /* of which the other one is empty */
	u64 low_due;                     /* guest time from which R64L may be entered again */
	bool switch_freely;              /* nothing of that */
	u8 *rx, *rw;
	int fd;
	u32 used, fixed; /* fixed: end of what a flush keeps (entry, exit, lookup) */
	void (*enter)(u64 host_pc);
	u32 entered_at, entered_fs_at, enter_end, exit_at, exit_end, leave_at, light_at[LIGHTS],
	    light_end; /* area offsets of the common code */
	/* Who has not landed right: has another's pad, or none; the first of other transfers. */
	u32 lookup_at[REGIMES][VIAS];
	u32 stray_at[VIAS]; /* who finds no pad at all */
	u32 flags_byte_at;  /* two tables: of byte 1 of RFLAGS, what speaks against POPF inline; IF
			     */
	u32 drops;          /* counts blocks dropped */
	u32 vec_load_at[VEC_CLASSES];
	u32 miss_at; /* of checked sites; miss_leave_at: those that do not come back */
	u32 miss_leave_at;
	struct block_table blocks; /* by pc */
	struct block *block;       /* in order of host offset */
	u32 n_blocks, n_dropped;   /* of them */
	u8 *records;               /* of all of them, packed */
	u32 records_used;
	u32 n_of[REGIMES]; /* blocks made since the last flush */
	u32 n_non_global;  /* pages */
	u32 n_pages[REGIMES];
	u64 first_gib[REGIMES], last_gib[REGIMES]; /* where they lie */
	u32 generation;                            /* counts flushes */
	struct code_va *pages;
	struct code_va **by_gpa;
	/* A table for each regime, below 2 GiB; tag: minus the guest PC. */
	u64 *front_tag[REGIMES];
	u32 *front_host[REGIMES];
	u32 *landing[REGIMES][VIAS]; /* the same size: host addresses of pads. None of the first. */
	bool landings[REGIMES];      /* they have been filled */
	struct site *sites;          /* promoted ones, by pc */
	u64 site_filter[128];        /* a bit for each, by its pc; more may be set */
	u32 n_for_now;               /* of them: until it is quiet */
	u64 busy_at; /* STAT_bt_entries when code was last written, or one of them promoted */
	struct {
		u64 pc;
		u32 faults;
	} faulting[64]; /* places that have written to code, or met page faults */
	bool no_chain, one_insn, check_recovery;
	u32 limit;       /* bytes of the area that are used */
	u32 tails;       /* from here on they are the exits of dropped blocks */
	u64 flush_every; /* blocks; 0: flush when full */
	struct lockstep *lockstep;
};

/* The guest bytes that a block is made from. */
struct code_bytes {
	u8 bytes[(BT_MAX_INSNS + 1) * INSN_MAX_LEN];
	unsigned in_page, avail; /* of them in the first page; in all */
	gpa_t next_gpa;          /* of the second page, if some are from there */
};

/* Why translated code wants the instruction at cpu->rip stepped (cpu->bt.step); 0: it does not. */
enum bt_step {
	STEP_CALLOUT = 1,
	STEP_CODE,    /* it writes to a page with code */
	STEP_FAULT,   /* the guest's fault, most likely */
	STEP_PAGE,    /* the guest's page fault, as its tables were just now */
	STEP_DIVIDE,  /* the guest's #DE */
	STEP_ADDRESS, /* its address is none of the upper half */
	STEP_DEVICE,  /* it accesses a device */
	STEP_MOVING,  /* on a page that moves so often that it is not mapped */
	STEP_CHECKED, /* the software TLB does not know its address */
};

/* regime.c: make everything ready for code of this regime. */
void regime_enter(struct bt *bt, enum regime r);
/* May it be entered now, or has it been too often? */
bool regime_may_enter(const struct bt *bt, enum regime r);
/* The guest's GS bases that FS can carry: from first on, and those of no more than so many bits. */
struct fs_bases {
	u64 first;
	u8 bits;
};
struct fs_bases regime_fs_bases(enum regime r);
bool regime_fits_fs(enum regime r, u64 base);

/* site.c: is the instruction at pc one whose memory operand has not been in the kernel's half, or
 * on a device? It then looks its operand up in the software TLB, if it can. Forgotten after many
 * others. */
bool bt_is_promoted(const struct bt *bt, u64 pc);
/* Drops the blocks that hold it. */
void bt_promote(struct bt *bt, u64 pc, enum bt_step why);
void bt_forget_sites(struct bt *bt);
/* The instruction at the CPU's RIP has faulted for a reason that may pass: promote it, if it can
 * look its operand up, at once, or if that happens again and again. Both may raise. */
void bt_promote_for_now(struct bt *bt, enum bt_step why);
void bt_promote_if_often(struct bt *bt, enum bt_step why);
/* Those promoted for that are so no longer, if there has been no reason for a while. */
void bt_forget_if_quiet(struct bt *bt);

/* landing.c: the tables of a regime, which are filled when it is first entered. False: there is no
 * memory. */
bool bt_landing_init(struct bt *bt, enum regime r);
void bt_landing_free(struct bt *bt, enum regime r);
/* All places of a regime, or those of a PC, are nobody's. */
void bt_landing_clear(struct bt *bt, enum regime r);
void bt_landing_forget(struct bt *bt, u64 pc);
/* Can there be a pad for pc? */
bool bt_landing_can(u64 pc);
/* A pad at bt->used, for the block to come right behind. */
void bt_landing_pad(struct bt *bt, u64 pc, enum via via);
/* What has led to this block shall find it from now on. */
void bt_landing_set(struct bt *bt, const struct block *b, enum via via);

/* Host address of the block at c->rip, translating it if need be; 0 if it must be stepped. */
u64 bt_find(struct bt *bt);
struct block *bt_find_block(struct bt *bt);
/* bt_run.c: enter translated code; it has left when this returns. */
void bt_enter(struct bt *bt, u64 host);
/* The same for the common code of light callouts: step the instruction at c->rip. Can the block
 * that asked for it go on behind it? May raise. */
bool bt_light_callout(struct bt *bt);
/* Let a direct exit go straight to the block at host address `to`: a rel32 at area offset `at`,
 * cpu->bt.link, that has led to a stub so far. */
void bt_link(struct bt *bt, u32 at, u64 to);
void bt_flush(struct bt *bt);
/* The block whose code holds a host address, or NULL. */
struct block *bt_block_at(struct bt *bt, u64 host_pc);
/* The recovery records of a block. */
struct records bt_records(const struct bt *bt, const struct block *b);
/* Drop what was made from [gpa, gpa+len) (within a page). */
void bt_code_written(struct bt *bt, gpa_t gpa, u64 len);
/* Drop the blocks of pc's page that hold the instruction at pc. */
void bt_drop_at(struct bt *bt, u64 pc);

/* Take some bytes of the next page in. False: there are none that can be watched. */
bool bt_code_next_page(struct bt *bt, struct code_bytes *code);

/* translate.c: make the block at c->rip into the area at bt->used, the array at bt->n_blocks and
 * bt->records. */
struct block *bt_translate(struct bt *bt, struct code_bytes *code);
/* The exit of a dropped block, at area offset `at`. */
void bt_emit_tail(struct bt *bt, const struct block *b, u32 at);
/* check_recovery.c: --check-recovery of a block just made from code; BUG if it is wrong. */
void bt_check_recovery(struct bt *bt, const struct block *b, const u8 *code);
/* The common entry, exit and lookup code. */
void bt_emit_common(struct bt *bt);

#endif
