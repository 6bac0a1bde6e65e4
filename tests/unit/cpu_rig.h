/*
 * A processor over 2 MiB of RAM with descriptor tables made by hand, for the tests of segmentation,
 * far transfers and exception delivery. There is no engine: a test decodes one instruction and
 * calls its function, or calls exc_enter, and looks at what changed or was raised.
 */
#ifndef RINGSHIFT_TESTS_CPU_RIG_H
#define RINGSHIFT_TESTS_CPU_RIG_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "mem.h"

#define RIG_GDT    0x1000u
#define RIG_IDT    0x2000u
#define RIG_TSS    0x3000u
#define RIG_LDT    0x4000u
#define RIG_DATA   0x5000u /* operands of instructions */
#define RIG_CODE   0x6000u
#define RIG_STACK  0x8000u /* of whatever runs first; grows down */
#define RIG_STACK0 0x9000u /* ESP0, RSP0 */
#define RIG_STACK1 0xa000u
#define RIG_IST1   0xb008u /* to be aligned down to 0xb000 */
#define RIG_PML4   0x10000u
#define RIG_PDPT   0x11000u
#define RIG_PD     0x12000u

/* Selectors of the GDT that rig_tables makes (RPL 0). */
enum {
	S_CODE32 = 0x08,
	S_DATA = 0x10,
	S_CODE32_3 = 0x18,
	S_DATA3 = 0x20,
	S_CODE64 = 0x28,
	S_CODE64_3 = 0x30,
	S_CONFORM = 0x38, /* DPL 0 */
	S_CODE16 = 0x40,
	S_DATA16 = 0x48, /* SS.B clear */
	S_ABSENT = 0x50, /* data, DPL 0 */
	S_READONLY = 0x58,
	S_EXECONLY = 0x60,
	S_DOWN = 0x68, /* expand-down, 0x1000 and up, 64 KiB */
	S_TSS = 0x70,  /* 16 bytes */
	S_LDT = 0x80,  /* 16 bytes */
	S_GATE = 0x90, /* 16 bytes, for the test to fill */
	S_CODE_ABSENT = 0xa0,
	S_CODE1 = 0xa8,
	S_DATA1 = 0xb0,
	S_CONFORM3 = 0xb8,
	S_CODE_LD = 0xc0, /* L and D set */
	S_SMALL = 0xc8,   /* code, limit 0xff */
	S_DATA3_16 = 0xd0,
	S_GDT_END = 0xd8,
};

#define A_CODE   (SEG_P | SEG_S | SEG_CODE | SEG_W)
#define A_DATA   (SEG_P | SEG_S | SEG_W)
#define A_DPL(n) ((n) << 5)

struct rig {
	struct cpu c;
	struct ram ram;
	struct stats stats;
	struct decoder *decoder;
	/* What rig_exec and rig_enter saw raised. */
	unsigned vector;
	bool has_error;
	u32 error;
};

#define RIG_OK 0x100 /* returned instead of a vector */

static inline u64 rig_desc(u32 base, u32 limit, u32 attr)
{
	if (attr & SEG_G)
		limit >>= 12;
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)attr << 40 |
	       (u64)(limit & 0xf0000) << 32 | (u64)(base >> 24) << 56;
}

static inline void rig_put(struct rig *r, gpa_t at, unsigned size, u64 v)
{
	memcpy(r->ram.window + at, &v, size);
}
static inline u64 rig_get(const struct rig *r, gpa_t at, unsigned size)
{
	u64 v = 0;

	memcpy(&v, r->ram.window + at, size);
	return v;
}
static inline void rig_set_desc(struct rig *r, u16 sel, u64 raw)
{
	rig_put(r, RIG_GDT + (sel & ~7u), 8, raw);
}

/* A gate: call, interrupt, trap, task. extra: parameter count or IST. */
static inline u64 rig_gate(u16 sel, u32 off, unsigned type, unsigned dpl, unsigned extra)
{
	return (off & 0xffff) | (u64)sel << 16 | (u64)extra << 32 |
	       (u64)(type | dpl << 5 | SEG_P) << 40 | (u64)(off >> 16) << 48;
}
static inline void rig_set_idt(struct rig *r, unsigned vector, u64 gate)
{
	bool lma = cpu_long_mode(&r->c);

	rig_put(r, RIG_IDT + vector * (lma ? 16 : 8), 8, gate);
	if (lma)
		rig_put(r, RIG_IDT + vector * 16 + 8, 8, 0);
}

static inline struct rig *rig_new(void)
{
	struct rig *r = aligned_alloc(64, ALIGN_UP(sizeof(*r), 64));

	memset(r, 0, sizeof(*r));
	cr_assert_eq(ram_init(&r->ram, 2 * MIB, NULL), 0);
	r->decoder = decoder_new();
	cr_assert_not_null(r->decoder);
	r->c.maxphyaddr = 40;
	r->c.stats = &r->stats;
	mmu_init(&r->c.mmu, &r->ram, &r->stats, 40);
	cpu_reset(&r->c);
	r->c.exc.first = EXC_NONE;
	/* Real mode at a tidy place. */
	r->c.seg[SEG_CS].base = 0;
	r->c.seg[SEG_CS].sel = 0;
	r->c.rip = RIG_CODE;
	r->c.gpr[GPR_RSP] = RIG_STACK;
	r->c.idtr = (struct table_reg){.limit = 0x3ff};
	return r;
}

static inline void rig_free(struct rig *r)
{
	ram_destroy(&r->ram);
	decoder_free(r->decoder);
	free(r);
}

static inline void rig_segment(struct rig *r, unsigned seg, u16 sel)
{
	u64 raw = rig_get(r, RIG_GDT + (sel & ~7u), 8);
	u32 attr = raw >> 40 & 0xf0ff, limit = (raw & 0xffff) | (raw >> 32 & 0xf0000);

	if (attr & SEG_G)
		limit = limit << 12 | 0xfff;
	r->c.seg[seg] = (struct seg_reg){.base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000),
					 .limit = limit,
					 .sel = sel,
					 .attr = attr | SEG_A};
}

static inline void rig_tables(struct rig *r)
{
	const u32 flat = 0xffffffff, g = SEG_G, b = SEG_DB;

	rig_set_desc(r, S_CODE32, rig_desc(0, flat, A_CODE | g | b));
	rig_set_desc(r, S_DATA, rig_desc(0, flat, A_DATA | g | b));
	rig_set_desc(r, S_CODE32_3, rig_desc(0, flat, A_CODE | A_DPL(3) | g | b));
	rig_set_desc(r, S_DATA3, rig_desc(0, flat, A_DATA | A_DPL(3) | g | b));
	rig_set_desc(r, S_CODE64, rig_desc(0, flat, A_CODE | g | SEG_L));
	rig_set_desc(r, S_CODE64_3, rig_desc(0, flat, A_CODE | A_DPL(3) | g | SEG_L));
	rig_set_desc(r, S_CONFORM, rig_desc(0, flat, A_CODE | SEG_E | g | b));
	rig_set_desc(r, S_CODE16, rig_desc(0, 0xffff, A_CODE));
	rig_set_desc(r, S_DATA16, rig_desc(0, 0xffff, A_DATA));
	rig_set_desc(r, S_ABSENT, rig_desc(0, flat, (A_DATA | g | b) & ~SEG_P));
	rig_set_desc(r, S_READONLY, rig_desc(0x1000, flat, (A_DATA | g | b) & ~SEG_W));
	rig_set_desc(r, S_EXECONLY, rig_desc(0, flat, (A_CODE | g | b) & ~SEG_W));
	rig_set_desc(r, S_DOWN, rig_desc(0, 0xfff, A_DATA | SEG_E));
	rig_set_desc(r, S_TSS, rig_desc(RIG_TSS, 0x67, SEG_P | 9));
	rig_set_desc(r, S_LDT, rig_desc(RIG_LDT, 0x1f, SEG_P | 2));
	rig_set_desc(r, S_CODE_ABSENT, rig_desc(0, flat, (A_CODE | g | b) & ~SEG_P));
	rig_set_desc(r, S_CODE1, rig_desc(0, flat, A_CODE | A_DPL(1) | g | b));
	rig_set_desc(r, S_DATA1, rig_desc(0, flat, A_DATA | A_DPL(1) | g | b));
	rig_set_desc(r, S_CONFORM3, rig_desc(0, flat, A_CODE | SEG_E | A_DPL(3) | g | b));
	rig_set_desc(r, S_CODE_LD, rig_desc(0, flat, A_CODE | g | b | SEG_L));
	rig_set_desc(r, S_SMALL, rig_desc(0, 0xff, A_CODE | b));
	rig_set_desc(r, S_DATA3_16, rig_desc(0, 0xffff, A_DATA | A_DPL(3)));
	r->c.gdtr = (struct table_reg){.base = RIG_GDT, .limit = S_GDT_END - 1};
	r->c.idtr = (struct table_reg){.base = RIG_IDT, .limit = 0x7ff};
	r->c.tr =
	    (struct seg_reg){.base = RIG_TSS, .limit = 0x67, .sel = S_TSS, .attr = SEG_P | 11};
	r->c.ldtr = (struct seg_reg){.attr = SEG_NULL};
}

/* Level 0, 1 or 3 of the mode CS has: flat segments. */
static inline void rig_level(struct rig *r, u16 cs, unsigned cpl)
{
	u16 data = (cpl == 3 ? S_DATA3 : cpl == 1 ? S_DATA1 : S_DATA) | cpl;

	rig_segment(r, SEG_CS, cs | cpl);
	rig_segment(r, SEG_SS, data);
	rig_segment(r, SEG_DS, data);
	rig_segment(r, SEG_ES, data);
	rig_segment(r, SEG_FS, data);
	rig_segment(r, SEG_GS, data);
	r->c.cpl = cpl;
	cpu_update_mode(&r->c);
}

/* 32-bit protected mode without paging. */
static inline void rig_protected(struct rig *r, unsigned cpl)
{
	rig_tables(r);
	rig_put(r, RIG_TSS + 4, 4, RIG_STACK0);
	rig_put(r, RIG_TSS + 8, 2, S_DATA);
	rig_put(r, RIG_TSS + 12, 4, RIG_STACK1);
	rig_put(r, RIG_TSS + 16, 2, S_DATA1 | 1);
	r->c.cr0 |= CR0_PE;
	cpu_update_paging(&r->c);
	rig_level(r, cpl == 3 ? S_CODE32_3 : cpl == 1 ? S_CODE1 : S_CODE32, cpl);
}

/* Long mode, everything identity-mapped and open to user mode. cs says 64-bit or compatibility. */
static inline void rig_long(struct rig *r, u16 cs, unsigned cpl)
{
	rig_tables(r);
	rig_put(r, RIG_PML4, 8, RIG_PDPT | PTE_P | PTE_W | PTE_U);
	rig_put(r, RIG_PDPT, 8, RIG_PD | PTE_P | PTE_W | PTE_U);
	rig_put(r, RIG_PD, 8, PTE_PS | PTE_P | PTE_W | PTE_U);
	rig_put(r, RIG_TSS + 4, 8, RIG_STACK0);
	rig_put(r, RIG_TSS + 12, 8, RIG_STACK1);
	rig_put(r, RIG_TSS + 36, 8, RIG_IST1);
	r->c.cr3 = RIG_PML4;
	r->c.cr4 |= CR4_PAE;
	r->c.cr0 |= CR0_PE | CR0_PG | CR0_WP;
	r->c.efer |= EFER_LME | EFER_LMA | EFER_SCE;
	r->c.idtr.limit = 0xfff;
	cpu_update_paging(&r->c);
	rig_level(r, cs, cpl);
}

/* v86 mode with CS 0x600 (base 0x6000), SS 0x700 and IOPL. */
static inline void rig_v86(struct rig *r, unsigned iopl)
{
	unsigned i;

	rig_protected(r, 3);
	r->c.sflags |= FL_VM | iopl << 12;
	for (i = 0; i < SEG_COUNT; i++)
		seg_load_real(&r->c, i, 0x500 + 0x10 * i);
	seg_load_real(&r->c, SEG_CS, RIG_CODE >> 4);
	seg_load_real(&r->c, SEG_SS, 0x700);
	r->c.gpr[GPR_RSP] = 0x1000;
	r->c.rip = 0x10;
	cpu_update_mode(&r->c);
}

static inline unsigned rig_caught(struct rig *r)
{
	r->vector = r->c.exc.vector;
	r->has_error = r->c.exc.has_error;
	r->error = r->c.exc.error;
	return r->vector;
}

/* Execute one instruction: RIG_OK, or the vector it raised. */
static NOINLINE __attribute__((unused)) unsigned rig_exec(struct rig *r, exec_fn *f,
							  const u8 *bytes, size_t n)
{
	struct insn in;
	int len = decoder_decode(r->decoder, bytes, n, r->c.mode, &in);

	cr_assert_eq(len, (int)n, "decoded to %d instead of %zu bytes", len, n);
	if (__builtin_setjmp(r->c.unwind))
		return rig_caught(r);
	f(&r->c, &in);
	return RIG_OK;
}
#define RIG_EXEC(r, f, ...)                                                                        \
	rig_exec(r, f, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* Deliver an event as the run loop does. exception: it is one, not INT n or external. */
static NOINLINE __attribute__((unused)) unsigned rig_enter(struct rig *r, unsigned vector,
							   int error, bool soft, bool exception)
{
	struct cpu *c = &r->c;

	c->in_delivery = true;
	c->exc.soft = soft;
	c->exc.first = exception ? vector : EXC_NONE;
	if (__builtin_setjmp(c->unwind))
		return rig_caught(r);
	exc_enter(c, vector, error >= 0, error, soft, c->rip + (soft ? 2 : 0));
	c->in_delivery = false;
	return RIG_OK;
}

/* A fault with an error code, and nothing of the state has moved. */
static inline void rig_expect(struct rig *r, unsigned got, unsigned vector, u32 error,
			      const char *what)
{
	cr_expect_eq(got, vector, "%s: vector %#x instead of %#x", what, got, vector);
	if (got == vector && got != RIG_OK && got != EXC_UD)
		cr_expect_eq(r->error, error, "%s: error code %#x instead of %#x", what, r->error,
			     error);
}

#endif
