/*
 * Guest memory as instructions see it: segment checks, accesses across pages (all or nothing), MMIO
 * and how it is split, data breakpoints, alignment checks, the stack.
 */
#include "cpu_rig.h"

struct mem_rig {
	struct rig *r;
	struct cpu *c;
	unsigned n;
	struct {
		gpa_t gpa;
		unsigned size;
		u64 val;
		bool write;
	} io[16];
};

static u64 mmio_read(void *vm, gpa_t gpa, unsigned size)
{
	struct mem_rig *m = vm;
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= ((gpa + i) & 0xff) << 8 * i;
	m->io[m->n].gpa = gpa;
	m->io[m->n++].size = size;
	return v;
}

static void mmio_write(void *vm, gpa_t gpa, unsigned size, u64 val)
{
	struct mem_rig *m = vm;

	m->io[m->n].gpa = gpa;
	m->io[m->n].size = size;
	m->io[m->n].write = true;
	m->io[m->n++].val = val;
}

static struct mem_rig *mem_new(void)
{
	static const struct cpu_ops ops = {.mmio_read = mmio_read, .mmio_write = mmio_write};
	struct mem_rig *m = calloc(1, sizeof(*m));

	m->r = rig_new();
	m->c = &m->r->c;
	m->c->ops = &ops;
	m->c->vm = m;
	return m;
}

static void mem_free(struct mem_rig *m)
{
	rig_free(m->r);
	free(m);
}

#define PT      0x13000u
#define PT_NEXT 0x14000u
#define FREE    0x30000u
#define NEXT    0x200000u
#define RWU     (PTE_P | PTE_W | PTE_U)

/* Long mode, the first 2 MiB in 4 KiB pages, the next 2 MiB unmapped. */
static struct mem_rig *mem_new_paged(unsigned cpl)
{
	struct mem_rig *m = mem_new();

	rig_long(m->r, cpl == 3 ? S_CODE64_3 : S_CODE64, cpl);
	for (unsigned i = 0; i < 512; i++)
		rig_put(m->r, PT + 8 * i, 8, i * PAGE_SIZE | RWU);
	rig_put(m->r, RIG_PD, 8, PT | RWU);
	rig_put(m->r, RIG_PD + 8, 8, PT_NEXT | RWU);
	mmu_flush_all(&m->c->mmu);
	return m;
}

static void map(struct mem_rig *m, gva_t va, u64 pte)
{
	rig_put(m->r, PT + 8 * (va >> 12), 8, pte);
	mmu_invlpg(&m->c->mmu, va);
}

/* Calls that may raise: RIG_OK or the vector. */
static NOINLINE unsigned try_segment(struct mem_rig *m, unsigned seg, u64 off, unsigned size,
				     enum mmu_access access, gva_t *la)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	*la = seg_linear(m->c, seg, off, size, access);
	return RIG_OK;
}

static NOINLINE unsigned try_read(struct mem_rig *m, gva_t la, unsigned size, u64 *v)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	*v = mem_read(m->c, la, size);
	return RIG_OK;
}

static NOINLINE unsigned try_write(struct mem_rig *m, gva_t la, unsigned size, u64 v)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	mem_write(m->c, la, size, v);
	return RIG_OK;
}

static NOINLINE unsigned try_write_buf(struct mem_rig *m, gva_t la, const void *buf, unsigned len)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	mem_write_buf(m->c, la, buf, len);
	return RIG_OK;
}

static NOINLINE unsigned try_read_buf(struct mem_rig *m, gva_t la, void *buf, unsigned len)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	mem_read_buf(m->c, la, buf, len);
	return RIG_OK;
}

static NOINLINE unsigned try_probe(struct mem_rig *m, gva_t la, unsigned len, bool write)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	(write ? mem_probe_write : mem_probe_read)(m->c, la, len);
	return RIG_OK;
}

static NOINLINE unsigned try_push(struct mem_rig *m, unsigned size, u64 v)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	stack_push(m->c, size, v);
	return RIG_OK;
}

static NOINLINE unsigned try_pop(struct mem_rig *m, unsigned size, u64 *v)
{
	if (__builtin_setjmp(m->c->unwind))
		return rig_caught(m->r);
	*v = stack_pop(m->c, size);
	return RIG_OK;
}

/* --- segments --- */

Test(mem, segment_limits_and_types)
{
	static const struct {
		const char *what;
		u16 sel;
		u64 off;
		unsigned size;
		bool write, ok;
	} cases[] = {
	    {"limit, last byte", S_DATA16, 0xffff, 1, true, true},
	    {"limit, one beyond", S_DATA16, 0x10000, 1, false, false},
	    {"limit, straddled", S_DATA16, 0xfffe, 4, false, false},
	    {"limit, last word", S_DATA16, 0xfffc, 4, true, true},
	    {"flat, last byte", S_DATA, 0xffffffff, 1, true, true},
	    {"flat, wrapping", S_DATA, 0xfffffffe, 4, true, false},
	    {"expand-down, below", S_DOWN, 0xfff, 1, false, false},
	    {"expand-down, straddled", S_DOWN, 0xffe, 4, false, false},
	    {"expand-down, first", S_DOWN, 0x1000, 1, true, true},
	    {"expand-down, top", S_DOWN, 0xfffc, 4, true, true},
	    {"expand-down, above the top", S_DOWN, 0xfffd, 4, true, false},
	    {"read-only, read", S_READONLY, 0, 4, false, true},
	    {"read-only, write", S_READONLY, 0, 4, true, false},
	    {"code, read", S_CODE32, 0, 4, false, true},
	    {"code, write", S_CODE32, 0, 4, true, false},
	    {"conforming code, read", S_CONFORM, 0x100, 4, false, true},
	    {"execute-only, read", S_EXECONLY, 0, 4, false, false},
	    {"execute-only, write", S_EXECONLY, 0, 4, true, false},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		enum mmu_access access = cases[i].write ? MMU_WRITE : MMU_READ;
		struct mem_rig *m = mem_new();
		unsigned v;
		gva_t la;

		rig_protected(m->r, 0);
		rig_segment(m->r, SEG_ES, cases[i].sel);
		v = try_segment(m, SEG_ES, cases[i].off, cases[i].size, access, &la);
		rig_expect(m->r, v, cases[i].ok ? RIG_OK : EXC_GP, 0, cases[i].what);
		if (v == RIG_OK)
			cr_expect_eq(la, m->c->seg[SEG_ES].base + cases[i].off, "%s",
				     cases[i].what);
		rig_segment(m->r, SEG_SS, cases[i].sel);
		v = try_segment(m, SEG_SS, cases[i].off, cases[i].size, access, &la);
		rig_expect(m->r, v, cases[i].ok ? RIG_OK : EXC_SS, 0, cases[i].what);
		mem_free(m);
	}
}

Test(mem, null_segments)
{
	struct mem_rig *m = mem_new();
	gva_t la;

	rig_protected(m->r, 0);
	m->c->seg[SEG_FS] = (struct seg_reg){.attr = SEG_NULL};
	rig_expect(m->r, try_segment(m, SEG_FS, 0, 1, MMU_READ, &la), EXC_GP, 0, "32-bit");
	rig_long(m->r, S_CODE64, 0);
	for (unsigned s = 0; s < SEG_COUNT; s++)
		if (s != SEG_CS)
			m->c->seg[s] = (struct seg_reg){.attr = SEG_NULL};
	for (unsigned s = 0; s < SEG_COUNT; s++)
		rig_expect(m->r, try_segment(m, s, 5, 8, MMU_WRITE, &la), RIG_OK, 0, "64-bit");
	mem_free(m);
}

Test(mem, linear_addresses_wrap_at_4g)
{
	struct mem_rig *m = mem_new();
	gva_t la;

	rig_protected(m->r, 0);
	m->c->seg[SEG_ES].base = 0xfffff000;
	cr_assert_eq(try_segment(m, SEG_ES, 0x5000, 4, MMU_READ, &la), RIG_OK);
	cr_expect_eq(la, 0x4000);
	mem_free(m);
}

/* In real mode there are limits, but no types. */
Test(mem, real_mode_segments)
{
	struct mem_rig *m = mem_new();
	gva_t la;

	m->c->seg[SEG_DS].base = 0xffff0;
	cr_expect_eq(try_segment(m, SEG_DS, 0xffff, 1, MMU_WRITE, &la), RIG_OK);
	cr_expect_eq(la, 0x10ffef, "A20 is on");
	rig_expect(m->r, try_segment(m, SEG_DS, 0xffff, 2, MMU_WRITE, &la), EXC_GP, 0, "limit");
	rig_expect(m->r, try_segment(m, SEG_SS, 0xffff, 2, MMU_WRITE, &la), EXC_SS, 0, "stack");
	m->c->seg[SEG_DS].attr &= ~SEG_W; /* left over from protected mode */
	cr_expect_eq(try_segment(m, SEG_DS, 0, 1, MMU_WRITE, &la), RIG_OK);
	cr_expect_eq(try_segment(m, SEG_CS, 0, 1, MMU_WRITE, &la), RIG_OK);
	mem_free(m);
}

Test(mem, canonical_addresses)
{
	static const struct {
		u64 off, base;
		unsigned size;
		bool ok;
	} cases[] = {
	    {0x7fffffffffff, 0, 1, true},
	    {0x7fffffffffff, 0, 2, false},
	    {0x800000000000, 0, 1, false},
	    {0xffff7fffffffffff, 0, 1, false},
	    {0xffff7fffffffffff, 0, 2, false},
	    {0xffff800000000000, 0, 8, true},
	    {0xffffffffffffffff, 0, 1, true},
	    {0xffffffffffffffff, 0, 2, true}, /* wraps to 0 */
	    {0x10, 0xffff800000000000, 8, true},
	    {0x800000000000, 0xffff800000000000, 8, true}, /* the sum counts */
	    {0x10, 0x7fffffffffff, 8, false},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct mem_rig *m = mem_new();
		gva_t la;

		rig_long(m->r, S_CODE64, 0);
		m->c->seg[SEG_GS].base = cases[i].base;
		rig_expect(m->r, try_segment(m, SEG_GS, cases[i].off, cases[i].size, MMU_READ, &la),
			   cases[i].ok ? RIG_OK : EXC_GP, 0, "GS");
		if (cases[i].ok)
			cr_expect_eq(la, cases[i].off + cases[i].base);
		if (!cases[i].base)
			rig_expect(
			    m->r,
			    try_segment(m, SEG_SS, cases[i].off, cases[i].size, MMU_READ, &la),
			    cases[i].ok ? RIG_OK : EXC_SS, 0, "SS");
		m->c->seg[SEG_DS].base = 0x123456; /* no base but those of FS and GS */
		if (!cases[i].base && cases[i].ok) {
			cr_expect_eq(
			    try_segment(m, SEG_DS, cases[i].off, cases[i].size, MMU_READ, &la),
			    RIG_OK);
			cr_expect_eq(la, cases[i].off);
		}
		mem_free(m);
	}
}

/* --- pages --- */

Test(mem, accesses_across_pages)
{
	static const unsigned sizes[] = {2, 4, 8};
	struct mem_rig *m = mem_new_paged(3);
	u64 v;

	/* The pages are neighbours in linear space only. */
	map(m, NEXT, 0x50000 | RWU);
	map(m, NEXT + 0x1000, 0x40000 | RWU);
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		unsigned size = sizes[i];
		u64 pattern = 0x8877665544332211 & (~0ull >> (64 - 8 * size));

		for (unsigned first = 1; first < size; first++) {
			gva_t la = NEXT + 0x1000 - first;

			cr_assert_eq(try_write(m, la, size, pattern), RIG_OK);
			cr_expect_eq(rig_get(m->r, 0x51000 - first, first),
				     pattern & (~0ull >> (64 - 8 * first)));
			cr_expect_eq(rig_get(m->r, 0x40000, size - first), pattern >> 8 * first);
			cr_assert_eq(try_read(m, la, size, &v), RIG_OK);
			cr_expect_eq(v, pattern);
		}
	}
	cr_expect_gt(m->r->stats.n[STAT_slow_mem], 0);
	mem_free(m);
}

/* A write that faults on either page has written nothing; CR2 is the byte that faulted. */
Test(mem, a_faulting_write_writes_nothing)
{
	static const struct {
		u64 low, high; /* PTEs */
		u64 cr2;
		u32 error;
	} cases[] = {
	    {RWU, 0, NEXT + 0x1000, PF_W | PF_U},
	    {RWU, PTE_P | PTE_U, NEXT + 0x1000, PF_P | PF_W | PF_U},
	    {RWU, PTE_P | PTE_W, NEXT + 0x1000, PF_P | PF_W | PF_U},
	    {0, RWU, NEXT + 0xffd, PF_W | PF_U},
	    {PTE_P | PTE_U, 0, NEXT + 0xffd, PF_P | PF_W | PF_U},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct mem_rig *m = mem_new_paged(3);
		u8 buf[64];

		memset(buf, 0xff, sizeof(buf));
		map(m, NEXT, cases[i].low ? 0x50000 | cases[i].low : 0);
		map(m, NEXT + 0x1000, cases[i].high ? 0x60000 | cases[i].high : 0);
		rig_expect(m->r, try_write(m, NEXT + 0xffd, 8, ~0ull), EXC_PF, cases[i].error,
			   "8 bytes");
		cr_expect_eq(m->c->cr2, cases[i].cr2);
		rig_expect(m->r, try_write_buf(m, NEXT + 0xffd, buf, sizeof(buf)), EXC_PF,
			   cases[i].error, "64 bytes");
		cr_expect_eq(m->c->cr2, cases[i].cr2);
		rig_expect(m->r, try_probe(m, NEXT + 0xffd, 8, true), EXC_PF, cases[i].error,
			   "probe");
		cr_expect_eq(m->c->cr2, cases[i].cr2);
		cr_expect_eq(rig_get(m->r, 0x50ff8, 8), 0);
		cr_expect_eq(rig_get(m->r, 0x60000, 8), 0);
		mem_free(m);
	}
}

Test(mem, faulting_reads)
{
	struct mem_rig *m = mem_new_paged(3);
	u8 buf[16] = {0};
	u64 v = 7;

	map(m, NEXT, 0x50000 | RWU);
	rig_expect(m->r, try_read(m, NEXT + 0xffe, 4, &v), EXC_PF, PF_U, "second page");
	cr_expect_eq(m->c->cr2, NEXT + 0x1000);
	rig_expect(m->r, try_read_buf(m, NEXT + 0xff8, buf, 16), EXC_PF, PF_U, "buffer");
	cr_expect_eq(m->c->cr2, NEXT + 0x1000);
	rig_expect(m->r, try_probe(m, NEXT + 0xfff, 2, false), EXC_PF, PF_U, "probe");
	cr_expect_eq(try_probe(m, NEXT + 0xffe, 2, false), RIG_OK);
	map(m, NEXT, 0x50000 | PTE_P);
	rig_expect(m->r, try_read(m, NEXT, 4, &v), EXC_PF, PF_U | PF_P, "supervisor page");
	cr_expect_eq(v, 7);
	mem_free(m);
}

/* A and D: both pages of a write, none of a write that faults before it gets there. */
Test(mem, accessed_and_dirty)
{
	struct mem_rig *m = mem_new_paged(0);

	map(m, NEXT, 0x50000 | RWU);
	map(m, NEXT + 0x1000, 0x60000 | RWU);
	cr_assert_eq(try_write(m, NEXT + 0xffe, 4, 0), RIG_OK);
	cr_expect_eq(rig_get(m->r, PT_NEXT, 8), (0x50000 | RWU | PTE_A | PTE_D));
	cr_expect_eq(rig_get(m->r, PT_NEXT + 8, 8), (0x60000 | RWU | PTE_A | PTE_D));
	map(m, NEXT, 0);
	map(m, NEXT + 0x1000, 0x60000 | RWU);
	cr_assert_eq(try_write(m, NEXT + 0xffe, 4, 0), EXC_PF);
	cr_expect_eq(rig_get(m->r, PT_NEXT + 8, 8), (0x60000 | RWU));
	mem_free(m);
}

/* 32-bit linear space ends at 4 GiB: the rest of an access is at 0. */
Test(mem, accesses_wrap_at_4g)
{
	struct mem_rig *m = mem_new();
	u64 v;

	rig_protected(m->r, 0);
	cr_assert_eq(try_write(m, 0xfffffffe, 4, 0x44332211), RIG_OK);
	cr_expect_eq(rig_get(m->r, 0, 2), 0x4433);
	cr_assert_eq(m->n, 1);
	cr_expect_eq(m->io[0].gpa, 0xfffffffe);
	cr_expect_eq(m->io[0].val, 0x2211);
	cr_assert_eq(try_read(m, 0xffffffff, 2, &v), RIG_OK);
	cr_expect_eq(v, 0x33ff);
	mem_free(m);
}

/* --- MMIO --- */

Test(mem, mmio_is_passed_on_whole)
{
	static const unsigned sizes[] = {1, 2, 4, 8};
	struct mem_rig *m = mem_new();
	u64 v;

	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		m->n = 0;
		cr_assert_eq(try_write(m, 0xa0010, sizes[i], 0x8877665544332211), RIG_OK);
		cr_assert_eq(try_read(m, 0xa0020, sizes[i], &v), RIG_OK);
		cr_assert_eq(m->n, 2);
		cr_expect(m->io[0].write);
		cr_expect_eq(m->io[0].gpa, 0xa0010);
		cr_expect_eq(m->io[0].size, sizes[i]);
		cr_expect_eq(m->io[0].val, 0x8877665544332211 & (~0ull >> (64 - 8 * sizes[i])));
		cr_expect_eq(m->io[1].gpa, 0xa0020);
		cr_expect_eq(m->io[1].size, sizes[i]);
		cr_expect_eq(v, 0x2726252423222120 & (~0ull >> (64 - 8 * sizes[i])));
	}
	cr_expect_eq(m->r->stats.n[STAT_mmio_reads], 4);
	cr_expect_eq(m->r->stats.n[STAT_mmio_writes], 4);
	mem_free(m);
}

/* The border between RAM and MMIO, and buffers of odd lengths. */
Test(mem, mmio_is_split)
{
	struct mem_rig *m = mem_new();
	u8 buf[15], want[15];
	unsigned got = 0;
	u64 v;

	cr_assert_eq(try_write(m, 0x9fffd, 8, 0x8877665544332211), RIG_OK);
	cr_expect_eq(rig_get(m->r, 0x9fffd, 3), 0x332211);
	cr_assert_eq(m->n, 2);
	cr_expect_eq(m->io[0].gpa, 0xa0000);
	cr_expect_eq(m->io[0].size, 4);
	cr_expect_eq(m->io[0].val, 0x77665544);
	cr_expect_eq(m->io[1].gpa, 0xa0004);
	cr_expect_eq(m->io[1].size, 1);
	cr_expect_eq(m->io[1].val, 0x88);
	m->n = 0;
	cr_assert_eq(try_read(m, 0x9fffe, 4, &v), RIG_OK);
	cr_expect_eq(v, 0x01003322);
	m->n = 0;
	for (unsigned i = 0; i < 15; i++)
		want[i] = 0x40 + i;
	cr_assert_eq(try_read_buf(m, 0xa0040, buf, 15), RIG_OK);
	cr_expect_eq(memcmp(buf, want, 15), 0);
	cr_expect_eq(m->n, 4, "8, 4, 2, 1");
	for (unsigned i = 0; i < m->n; i++)
		got += m->io[i].size;
	cr_expect_eq(got, 15);
	mem_free(m);
}

/* The second page faults: the device has not heard of the first. */
Test(mem, a_faulting_write_does_not_reach_a_device)
{
	struct mem_rig *m = mem_new_paged(0);

	map(m, NEXT, 0xa0000 | RWU);
	rig_expect(m->r, try_write(m, NEXT + 0xffe, 4, ~0ull), EXC_PF, PF_W, "write");
	cr_expect_eq(m->n, 0);
	mem_free(m);
}

Test(mem, host_pointers)
{
	struct mem_rig *m = mem_new_paged(0);

	map(m, NEXT, 0x50000 | RWU);
	map(m, NEXT + 0x1000, 0xa0000 | RWU);
	cr_expect_eq(mem_host(m->c, NEXT + 0x123, 8, MMU_WRITE), m->r->ram.window + 0x50123);
	cr_expect_eq(mem_host(m->c, NEXT + 0x123, 8, MMU_READ), m->r->ram.window + 0x50123);
	cr_expect_null(mem_host(m->c, NEXT + 0xffc, 8, MMU_READ), "across the page");
	cr_expect_null(mem_host(m->c, NEXT + 0x1000, 8, MMU_READ), "MMIO");
	cr_expect_eq(mem_host(m->c, NEXT, PAGE_SIZE, MMU_READ), m->r->ram.window + 0x50000);
	mem_free(m);
}

/* --- code pages --- */

static void written(void *opaque, gpa_t gpa, u64 len)
{
	struct mem_rig *m = opaque;

	m->io[m->n].gpa = gpa;
	m->io[m->n++].size = len;
}

Test(mem, writes_to_code_pages_are_told)
{
	struct mem_rig *m = mem_new_paged(0);
	struct ram *ram = &m->r->ram;
	u8 buf[24] = {0};
	void *p;

	ram->code_written = written;
	ram->code_opaque = m;
	ram->code[0x50] = 1;
	map(m, NEXT, 0x51000 | RWU);
	map(m, NEXT + 0x1000, 0x50000 | RWU);
	cr_assert_eq(try_write(m, NEXT + 0x1010, 4, 0), RIG_OK);
	cr_assert_eq(try_write(m, NEXT + 0x1010, 4, 0), RIG_OK);
	cr_assert_eq(m->n, 2, "each of them");
	cr_expect_eq(m->io[0].gpa, 0x50010);
	cr_expect_eq(m->io[0].size, 4);
	m->n = 0;
	cr_assert_eq(try_write(m, NEXT + 0xffe, 8, 0), RIG_OK);
	cr_assert_eq(m->n, 1);
	cr_expect_eq(m->io[0].gpa, 0x50000);
	cr_expect_eq(m->io[0].size, 6);
	m->n = 0;
	cr_assert_eq(try_write_buf(m, NEXT + 0x1ff0, buf, 16), RIG_OK);
	sys_write(m->c, NEXT + 0x1100, 2, 0);
	p = mem_host(m->c, NEXT + 0x1200, 8, MMU_WRITE);
	mem_wrote(m->c, p, 8);
	cr_assert_eq(m->n, 3);
	cr_expect_eq(m->io[0].gpa, 0x50ff0);
	cr_expect_eq(m->io[0].size, 16);
	cr_expect_eq(m->io[1].gpa, 0x50100);
	cr_expect_eq(m->io[2].gpa, 0x50200);
	m->n = 0;
	cr_assert_eq(try_write(m, NEXT + 0x10, 4, 0), RIG_OK);
	cr_expect_eq(m->n, 0, "not a code page");
	ram->code_written = NULL;
	mem_free(m);
}

/* --- breakpoints --- */

static void arm(struct mem_rig *m, unsigned n, gva_t at, unsigned rw, unsigned len_code)
{
	m->c->dr[n] = at;
	m->c->dr[7] |= 2u << 2 * n | rw << (16 + 4 * n) | len_code << (18 + 4 * n);
	cpu_update_mode(m->c);
}

Test(mem, breakpoints_see_every_access)
{
	struct mem_rig *m = mem_new_paged(0);
	u8 buf[32];
	u64 v;

	map(m, NEXT, 0x50000 | RWU);
	map(m, NEXT + 0x1000, 0x60000 | RWU);
	/* Fill the TLB first. */
	cr_assert_eq(try_write(m, NEXT + 8, 4, 0), RIG_OK);
	arm(m, 0, NEXT + 8, 1, 3);
	arm(m, 1, NEXT + 10, 3, 1);
	arm(m, 2, NEXT + 0x1000, 3, 0);
	for (unsigned round = 0; round < 2; round++) {
		m->c->debug_hits = 0;
		cr_assert_eq(try_read(m, NEXT + 8, 4, &v), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 2, "reads hit read-write breakpoints");
		m->c->debug_hits = 0;
		cr_assert_eq(try_write(m, NEXT + 9, 1, 0), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 1);
		m->c->debug_hits = 0;
		cr_assert_eq(try_write(m, NEXT + 8, 8, 0), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 3);
		m->c->debug_hits = 0;
		cr_assert_eq(try_read(m, NEXT + 0xffe, 4, &v), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 4, "the second page");
		m->c->debug_hits = 0;
		cr_assert_eq(try_read_buf(m, NEXT, buf, sizeof(buf)), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 2);
		m->c->debug_hits = 0;
		mem_host(m->c, NEXT + 8, 4, MMU_WRITE);
		cr_expect_eq(m->c->debug_hits, 3);
		m->c->debug_hits = 0;
		cr_assert_eq(try_write(m, NEXT + 12, 8, 0), RIG_OK);
		cr_expect_eq(m->c->debug_hits, 0);
		sys_read(m->c, NEXT + 8, 4);
		cr_expect_eq(m->c->debug_hits, 0, "system accesses hit none");
	}
	cr_expect(m->c->slow);
	/* Disarmed, and the fast path is back. */
	m->c->dr[7] = 0x400;
	cpu_update_mode(m->c);
	cr_assert_eq(try_write(m, NEXT + 8, 4, 0), RIG_OK);
	cr_expect_eq(m->c->debug_hits, 0);
	cr_expect_not_null(mmu_fast(&m->c->mmu, NEXT + 8, 4, MMU_WRITE, false));
	mem_free(m);
}

/* --- alignment --- */

Test(mem, alignment_checks)
{
	static const struct {
		unsigned off, size;
		bool misaligned;
	} cases[] = {{1, 1, false}, {1, 2, true}, {2, 2, false}, {2, 4, true},
		     {4, 4, false}, {4, 8, true}, {8, 8, false}, {7, 8, true}};
	struct mem_rig *m = mem_new_paged(3);
	u8 buf[10];
	u64 v;

	for (unsigned on = 0; on < 4; on++) {
		m->c->cr0 = (m->c->cr0 & ~CR0_AM) | (on & 1 ? CR0_AM : 0);
		m->c->sflags = on & 2 ? FL_AC : 0;
		cpu_update_paging(m->c);
		cpu_update_mode(m->c);
		for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
			unsigned want = on == 3 && cases[i].misaligned ? EXC_AC : RIG_OK;
			gva_t la = FREE + cases[i].off;

			rig_expect(m->r, try_read(m, la, cases[i].size, &v), want, 0, "read");
			rig_expect(m->r, try_write(m, la, cases[i].size, ~0ull), want, 0, "write");
			if (want == EXC_AC)
				cr_expect_eq(rig_get(m->r, la, cases[i].size), 0, "written");
			rig_put(m->r, la, cases[i].size, 0);
		}
		/* No power of two: SGDT's 10 bytes, a far pointer's 6. */
		rig_expect(m->r, try_read_buf(m, FREE + 4, buf, 6), RIG_OK, 0, "6 bytes");
		rig_expect(m->r, try_read_buf(m, FREE + 2, buf, 10), RIG_OK, 0, "10 bytes");
	}
	/* System accesses, and accesses of level 0, are not checked. */
	sys_read(m->c, FREE + 1, 8);
	m->c->cpl = 0;
	cpu_update_mode(m->c);
	cr_expect_eq(try_read(m, FREE + 1, 8, &v), RIG_OK);
	mem_free(m);
}

/* --- the stack --- */

Test(mem, push_and_pop_by_stack_size)
{
	static const struct {
		const char *what;
		u16 cs, ss;
		u64 rsp, after; /* a push of 4 */
		gpa_t at;
	} cases[] = {
	    {"B=1", S_CODE32, S_DATA, 0x8000, 0x7ffc, 0x7ffc},
	    {"B=0", S_CODE32, S_DATA16, 0xabcd8000, 0xabcd7ffc, 0x7ffc},
	    {"B=0, wrapping", S_CODE32, S_DATA16, 0xabcd0000, 0xabcdfffc, 0xfffc},
	    {"16-bit code, B=1", S_CODE16, S_DATA, 0x18000, 0x17ffc, 0x17ffc},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct mem_rig *m = mem_new();
		u64 v;

		rig_protected(m->r, 0);
		rig_segment(m->r, SEG_CS, cases[i].cs);
		rig_segment(m->r, SEG_SS, cases[i].ss);
		cpu_update_mode(m->c);
		m->c->gpr[GPR_RSP] = cases[i].rsp;
		cr_assert_eq(try_push(m, 4, 0x11223344), RIG_OK);
		cr_expect_eq(m->c->gpr[GPR_RSP], cases[i].after, "%s", cases[i].what);
		cr_expect_eq(rig_get(m->r, cases[i].at, 4), 0x11223344, "%s", cases[i].what);
		cr_assert_eq(try_pop(m, 4, &v), RIG_OK);
		cr_expect_eq(v, 0x11223344);
		cr_expect_eq(m->c->gpr[GPR_RSP], cases[i].rsp, "%s", cases[i].what);
		mem_free(m);
	}
}

/* RSP moves on success only. */
Test(mem, stack_faults)
{
	struct mem_rig *m = mem_new_paged(0);
	u64 v;

	m->c->gpr[GPR_RSP] = NEXT + 4;
	rig_expect(m->r, try_push(m, 8, 1), EXC_PF, PF_W, "push");
	cr_expect_eq(m->c->cr2, NEXT);
	cr_expect_eq(rig_get(m->r, 0x1ffffc, 4), 0);
	rig_expect(m->r, try_pop(m, 8, &v), EXC_PF, 0, "pop");
	cr_expect_eq(m->c->gpr[GPR_RSP], NEXT + 4);
	m->c->gpr[GPR_RSP] = 0x800000000000;
	rig_expect(m->r, try_pop(m, 8, &v), EXC_SS, 0, "not canonical");
	m->c->gpr[GPR_RSP] = 0xffff800000000000;
	rig_expect(m->r, try_push(m, 8, 0), EXC_SS, 0, "not canonical below");
	cr_expect_eq(m->c->gpr[GPR_RSP], 0xffff800000000000);
	mem_free(m);

	m = mem_new();
	m->c->gpr[GPR_RSP] = 1; /* real mode: a word that wraps */
	rig_expect(m->r, try_push(m, 2, 0), EXC_SS, 0, "SP 1");
	m->c->gpr[GPR_RSP] = 0;
	cr_expect_eq(try_push(m, 2, 0x1234), RIG_OK);
	cr_expect_eq(m->c->gpr[GPR_RSP], 0xfffe);
	cr_expect_eq(rig_get(m->r, 0xfffe, 2), 0x1234);
	mem_free(m);
}

/* --- registers --- */

Test(mem, registers_by_size)
{
	struct mem_rig *m = mem_new();
	u64 *g = m->c->gpr;

	for (unsigned i = 0; i < 16; i++)
		g[i] = 0x1111111111110000ull * (i % 8) + 0xa000 + i * 0x101;
	cr_expect_eq(reg_read(m->c, 4, 1, false), g[GPR_RAX] >> 8 & 0xff, "AH");
	cr_expect_eq(reg_read(m->c, 7, 1, false), g[GPR_RBX] >> 8 & 0xff, "BH");
	cr_expect_eq(reg_read(m->c, 4, 1, true), (u8)g[GPR_RSP], "SPL");
	cr_expect_eq(reg_read(m->c, 12, 1, false), (u8)g[GPR_R12]);
	for (unsigned r = 0; r < 16; r++) {
		u64 old = g[r];

		reg_write(m->c, r, 2, false, 0x12345);
		cr_expect_eq(g[r], (old & ~0xffffull) | 0x2345);
		reg_write(m->c, r, 1, true, 0x1ff);
		cr_expect_eq(g[r], (old & ~0xffffull) | 0x23ff);
		reg_write(m->c, r, 4, false, ~0ull);
		cr_expect_eq(g[r], 0xffffffff);
		reg_write(m->c, r, 8, false, old);
		cr_expect_eq(g[r], old);
	}
	g[GPR_RCX] = 0x1234;
	reg_write(m->c, 5, 1, false, 0x99);
	cr_expect_eq(g[GPR_RCX], 0x9934, "CH");
	mem_free(m);
}
