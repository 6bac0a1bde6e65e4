/*
 * See bt_machine.h.
 */
#include "bt_machine.h"

#include <string.h>

#include "bt_system.h"
#include "op.h"

#define RAM_SIZE  (16 * MIB)
#define SYSTEM_AT 0xffffffff83000000ull /* GDT, TSS, IDT; handlers; their stack */
#define GDT_OFF   0x800u
#define TSS_OFF   0x900u

const struct half halves[HALVES] = {
    /* A kernel. */
    {.code = 0xffffffff81000000,
     .alias = 0xffff888000200000,
     .data = 0xffffffff82000000,
     .other = 0x7f1200345000,
     .percpu = 0xffff888000300000,
     .stack = 0xffffc90000010000,
     .beyond = 0x800000,
     .far_stack = 0x7ffffe0000},
    /* The low window, and what lies above it in the lower half. */
    {.code = 0x800000,
     .alias = 0xffff888000200000,
     .data = 0x2000000,
     .other = 0x7f1200345000,
     .percpu = 0x4000300000,
     .stack = 0x7ffffe0000,
     .beyond = 0xffffffff81000000,
     .far_stack = 0xffffc90000010000},
    /* Code that no 32 bits can name. */
    {.code = 0x4512300000,
     .alias = 0x6543220000,
     .data = 0x4500000000,
     .other = 0x7f1200345000,
     .percpu = 0x300000,
     .stack = 0x7ffffe0000,
     .beyond = 0xffff9a9abc000000,
     .far_stack = 0xffffc90000010000},
    {.code = 0xffff9a9abc000000,
     .alias = 0xffff888000200000,
     .data = 0xffff9a9abd000000,
     .other = 0x7f1200345000,
     .percpu = 0xffff888000300000,
     .stack = 0xffffc90000010000,
     .beyond = 0x4512300000,
     .far_stack = 0x7ffffe0000},
    /* Code above 2 GiB; kernel data. */
    {.code = 0x81000000,
     .alias = 0x6543210000,
     .data = 0x42000000,
     .other = 0xffff8a8000345000,
     .percpu = 0x300000,
     .stack = 0x10000,
     .beyond = 0xffffffff81000000,
     .far_stack = 0xffffc90000010000},
};

u8 *page(struct machine *m, unsigned i)
{
	return m->ram.window + AREA_GPA + i * PAGE_SIZE;
}

static void put64(struct machine *m, gpa_t at, u64 v)
{
	memcpy(m->ram.window + at, &v, 8);
}

/* The next free page for page tables is kept in the word before them. */
static gpa_t table(struct machine *m, gpa_t entry)
{
	u64 e, next;

	memcpy(&e, m->ram.window + entry, 8);
	if (e)
		return e & PAGE_MASK;
	memcpy(&next, m->ram.window + PT_GPA - 8, 8);
	put64(m, PT_GPA - 8, next + PAGE_SIZE);
	put64(m, entry, next | PTE_P | PTE_W | PTE_A);
	return next;
}

static void map_page(struct machine *m, gva_t va, unsigned i, u64 flags)
{
	gpa_t t = PT_GPA;
	int shift;

	for (shift = 39; shift > 12; shift -= 9)
		t = table(m, t + (va >> shift & 511) * 8);
	put64(m, t + (va >> 12 & 511) * 8, (AREA_GPA + i * PAGE_SIZE) | flags);
}

static void map_half(struct machine *m, const struct half *h)
{
	const u64 rw = PTE_P | PTE_W | PTE_G;
	unsigned v;

	for (v = 0; v < 2; v++) {
		map_page(m, h->code + v * PAGE_SIZE, CODE + v, rw);
		map_page(m, h->alias + v * PAGE_SIZE, CODE + v, rw);
		map_page(m, h->data + v * PAGE_SIZE, DATA + v, rw);
		map_page(m, h->stack + v * PAGE_SIZE, STACK + v, rw);
		/* not in a row: what crosses has two places */
		map_page(m, h->other + v * PAGE_SIZE, USER2 - v, PTE_P | PTE_W | PTE_U);
	}
	map_page(m, h->other + 2 * PAGE_SIZE, USER_READONLY, PTE_P | PTE_U);
	map_page(m, h->data + 2 * PAGE_SIZE, READONLY, PTE_P);
	map_page(m, h->percpu, PERCPU, rw);
}

static void build_guest(struct machine *m)
{
	const u64 rw = PTE_P | PTE_W | PTE_G;
	u8 *sys = page(m, SYSTEM);
	unsigned v;

	put64(m, PT_GPA - 8, PT_GPA + PAGE_SIZE);
	for (v = 0; v < ARRAY_LEN(halves); v++)
		map_half(m, &halves[v]);
	for (v = 0; v < 3; v++)
		map_page(m, SYSTEM_AT + v * PAGE_SIZE, SYSTEM + v, rw);
	for (v = 0; v < 32; v++) {
		u64 at = SYSTEM_AT + PAGE_SIZE + v * 16, gate[2];

		gate[0] = (at & 0xffff) | 8 << 16 | 0x8e01ull << 32 | (at >> 16 & 0xffff) << 48;
		gate[1] = at >> 32;
		memcpy(sys + v * 16, gate, 16);
		page(m, HANDLERS)[v * 16] = 0xf4; /* hlt */
	}
	memcpy(sys + GDT_OFF + 8, &(u64){0x00af9b000000ffff}, 8);
	memcpy(sys + TSS_OFF + 36, &(u64){SYSTEM_AT + 3 * PAGE_SIZE}, 8); /* IST 1 */
}

void reset_guest(struct machine *m)
{
	struct cpu *c = m->c;
	unsigned i;

	cpu_reset(c);
	c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_FSGSBASE;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->cr3 = PT_GPA;
	for (i = 0; i < SEG_COUNT; i++)
		c->seg[i] = (struct seg_reg){.attr = SEG_NULL};
	c->seg[SEG_CS] =
	    (struct seg_reg){.limit = ~0u, .sel = 8, .attr = SEG_P | SEG_S | 0xb | SEG_L | SEG_G};
	c->tr = (struct seg_reg){
	    .base = SYSTEM_AT + TSS_OFF, .limit = 0x67, .sel = 0x28, .attr = SEG_P | 0xb};
	c->gdtr = (struct table_reg){SYSTEM_AT + GDT_OFF, 0x17};
	c->idtr = (struct table_reg){SYSTEM_AT, 0x1ff};
	cpu_update_paging(c);
	cpu_update_mode(c);
}

void machine_init(struct machine *m, u64 ram_at, u64 code_at)
{
	m->c = aligned_alloc(64, ALIGN_UP(sizeof(*m->c), 64));
	BUG_ON(!m->c);
	memset(m->c, 0, sizeof(*m->c));
	BUG_ON(ram_init(&m->ram, RAM_SIZE, (void *)ram_at));
	mmu_init(&m->c->mmu, &m->ram, &m->stats, 40);
	m->c->maxphyaddr = 40;
	m->c->stats = &m->stats;
	m->c->ops = &soak_ops;
	m->c->vm = m->c;
	BUG_ON(engine_init(m->c, (void *)code_at));
	build_guest(m);
	reset_guest(m);
}

gpa_t tables_end(struct machine *m)
{
	u64 end;

	memcpy(&end, m->ram.window + PT_GPA - 8, 8);
	return end;
}
