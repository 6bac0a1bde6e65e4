/*
 * cpu_rig.h with the single-step engine running in it. Every vector below 64 leads to a HLT of its
 * own, so a run ends by itself and says which handler it ended in.
 *
 * Port 0x80 raises an interrupt (vector 0x30); MMIO is the legacy VGA range, 0xa0000 upwards.
 */
#ifndef RINGSHIFT_TESTS_ENGINE_RIG_H
#define RINGSHIFT_TESTS_ENGINE_RIG_H

#include "cpu_rig.h"
#include "step.h"

#define ERIG_PT       0x13000u /* of the first 2 MiB, if paging is in 4 KiB pages */
#define ERIG_PT_NEXT  0x14000u /* of the next 2 MiB: nothing is mapped there at first */
#define ERIG_FREE     0x30000u /* to be used by tests; linear 2 MiB and up is unmapped */
#define ERIG_NEXT     0x200000u
#define ERIG_HANDLERS 0x20000u
#define ERIG_VECTORS  64u
#define ERIG_INTR     0x30u
#define ERIG_MMIO     0xa0000u

struct erig {
	struct rig *r;
	struct cpu *c;
	unsigned acks, fpu_errors;
	unsigned n_io; /* MMIO accesses seen, the first of them in io */
	struct {
		gpa_t gpa;
		unsigned size;
		u64 val;
		bool write;
	} io[32];
};

static inline void erig_note(struct erig *e, gpa_t gpa, unsigned size, u64 val, bool write)
{
	if (e->n_io < ARRAY_LEN(e->io)) {
		e->io[e->n_io].gpa = gpa;
		e->io[e->n_io].size = size;
		e->io[e->n_io].val = val;
		e->io[e->n_io].write = write;
	}
	e->n_io++;
}

static inline u64 erig_mmio_read(void *vm, gpa_t gpa, unsigned size)
{
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= ((gpa + i) & 0xff) << 8 * i; /* each byte of MMIO reads as its address */
	erig_note(vm, gpa, size, v, false);
	return v;
}
static inline void erig_mmio_write(void *vm, gpa_t gpa, unsigned size, u64 val)
{
	erig_note(vm, gpa, size, val, true);
}
static inline u32 erig_port_read(void *vm, u16 port, unsigned size)
{
	(void)vm;
	(void)size;
	return port;
}
static inline void erig_port_write(void *vm, u16 port, unsigned size, u32 val)
{
	struct erig *e = vm;

	(void)size;
	(void)val;
	if (port == 0x80)
		cpu_set_intr(e->c, true);
}
static inline int erig_intr_ack(void *vm)
{
	struct erig *e = vm;

	e->acks++;
	cpu_set_intr(e->c, false);
	return ERIG_INTR;
}
static inline void erig_fpu_error(void *vm)
{
	struct erig *e = vm;

	e->fpu_errors++;
}

/* Real mode to begin with; rig_protected and rig_long as usual, then erig_handlers. */
static inline struct erig *erig_new(void)
{
	static const struct cpu_ops ops = {.port_read = erig_port_read,
					   .port_write = erig_port_write,
					   .mmio_read = erig_mmio_read,
					   .mmio_write = erig_mmio_write,
					   .intr_ack = erig_intr_ack,
					   .fpu_error = erig_fpu_error};
	struct erig *e = calloc(1, sizeof(*e));

	e->r = rig_new();
	e->c = &e->r->c;
	e->c->ops = &ops;
	e->c->vm = e;
	e->c->cr4_allowed = ~0ull;
	e->c->xcr0_allowed = 0xe7;
	cr_assert_eq(engine_init(e->c, NULL), 0);
	for (unsigned v = 0; v < ERIG_VECTORS; v++)
		rig_put(e->r, ERIG_HANDLERS + v * 16, 1, 0xf4);
	return e;
}

static inline void erig_free(struct erig *e)
{
	engine_free(e->c);
	rig_free(e->r);
	free(e);
}

/* Gates (or the IVT) of all vectors, for the mode the processor is in. DPL 3. */
static inline void erig_handlers(struct erig *e)
{
	u16 cs = cpu_long_mode(e->c) ? S_CODE64 : S_CODE32;

	for (unsigned v = 0; v < ERIG_VECTORS; v++) {
		if (!cpu_protected(e->c))
			rig_put(e->r, v * 4, 4, (ERIG_HANDLERS >> 4) << 16 | v * 16);
		else
			rig_set_idt(e->r, v, rig_gate(cs, ERIG_HANDLERS + v * 16, 14, 3, 0));
	}
}

static inline struct erig *erig_new_long(unsigned cpl)
{
	struct erig *e = erig_new();

	rig_long(e->r, cpl == 3 ? S_CODE64_3 : S_CODE64, cpl);
	erig_handlers(e);
	return e;
}

static inline struct erig *erig_new_protected(unsigned cpl)
{
	struct erig *e = erig_new();

	rig_protected(e->r, cpl);
	erig_handlers(e);
	return e;
}

static inline struct erig *erig_new_real(void)
{
	struct erig *e = erig_new();

	erig_handlers(e);
	return e;
}

/* 16-bit, 32-bit and 64-bit code at CPL 0. */
static inline struct erig *erig_new_mode(enum insn_mode mode)
{
	return mode == INSN_MODE_64   ? erig_new_long(0)
	       : mode == INSN_MODE_32 ? erig_new_protected(0)
				      : erig_new_real();
}

/* Enable what SSE, AVX and AVX-512 need; false if the host lacks the feature. */
static inline void erig_vectors(struct erig *e)
{
	e->c->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	e->c->xcr0 = 0xe7;
	e->c->vec.mxcsr = 0x1f80;
	cpu_update_paging(e->c);
}

/* The first 2 MiB in 4 KiB pages, and a page table for the 2 MiB after them. */
static inline void erig_small_pages(struct erig *e)
{
	const u64 rwu = PTE_P | PTE_W | PTE_U;

	for (unsigned i = 0; i < 512; i++)
		rig_put(e->r, ERIG_PT + 8 * i, 8, i * PAGE_SIZE | rwu);
	rig_put(e->r, RIG_PD, 8, ERIG_PT | rwu);
	rig_put(e->r, RIG_PD + 8, 8, ERIG_PT_NEXT | rwu);
	mmu_flush_all(&e->c->mmu);
	e->c->code_page = CODE_PAGE_NONE;
}

/* Map one page of the first 4 MiB; 0: nothing. */
static inline void erig_map(struct erig *e, gva_t va, u64 pte)
{
	rig_put(e->r, ERIG_PT + 8 * (va >> 12), 8, pte); /* the two tables are adjacent */
	mmu_invlpg(&e->c->mmu, va);
	e->c->code_page = CODE_PAGE_NONE;
}

static inline void erig_put_code(struct erig *e, gpa_t at, const u8 *bytes, size_t n)
{
	cr_assert_eq(ram_write(&e->r->ram, at, bytes, n), 0);
}
#define ERIG_CODE_AT(e, at, ...)                                                                   \
	erig_put_code(e, at, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))
/* Code where RIP is. */
#define ERIG_CODE(e, ...) ERIG_CODE_AT(e, (e)->c->seg[SEG_CS].base + (e)->c->rip, __VA_ARGS__)

/* Run; the vector in whose handler it ended, or RIG_OK if the budget did. */
static inline unsigned erig_run(struct erig *e, u64 budget)
{
	enum cpu_exit x = step_run(e->c, budget);
	u64 at = e->c->seg[SEG_CS].base + e->c->rip - 1 - ERIG_HANDLERS;

	if (x == EXIT_BUDGET)
		return RIG_OK;
	cr_assert_eq(x, EXIT_HLT, "ended with %d at %#llx", x, (unsigned long long)e->c->rip);
	cr_assert(at % 16 == 0 && at / 16 < ERIG_VECTORS, "HLT at %#llx",
		  (unsigned long long)e->c->rip);
	e->c->halted = false;
	cpu_update_slow(e->c);
	return at / 16;
}
#define ERIG_RUN(e, budget, ...)                                                                   \
	({                                                                                         \
		ERIG_CODE(e, __VA_ARGS__);                                                         \
		erig_run(e, budget);                                                               \
	})

/* Words of the frame a handler was entered with; with an error code it is word 0. */
static inline u64 erig_frame(struct erig *e, unsigned word)
{
	unsigned size = cpu_long_mode(e->c) ? 8 : cpu_protected(e->c) ? 4 : 2;

	return rig_get(e->r, e->c->seg[SEG_SS].base + e->c->gpr[GPR_RSP] + word * size, size);
}

#endif
