/* The processor state in which a kernel is entered; see loader.h. */
#include <string.h>

#include "cpu.h"
#include "loader.h"

#define ATTR_FLAT (SEG_P | SEG_S | SEG_W | SEG_A | SEG_G)

static void load_flat(struct cpu *c, unsigned s, u16 sel, u32 attr)
{
	c->seg[s] = (struct seg_reg){.limit = 0xffffffff, .sel = sel, .attr = ATTR_FLAT | attr};
}

void boot_apply(struct cpu *c, const struct boot_state *s)
{
	bool long64 = s->kind == BOOT_LONG64;

	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[GPR_RAX] = s->rax;
	c->gpr[GPR_RBX] = s->rbx;
	c->gpr[GPR_RSI] = s->rsi;
	c->rip = s->rip;
	cpu_set_rflags(c, 0);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		load_flat(c, i, s->ds, SEG_DB);
	load_flat(c, SEG_CS, s->cs, SEG_CODE | (long64 ? SEG_L : SEG_DB));
	c->cpl = 0;
	/* PVH asks for a busy TSS of 0x67 bytes; it does not disturb the others. */
	c->tr = (struct seg_reg){.limit = 0x67, .attr = SEG_P | 0xb};
	c->ldtr = (struct seg_reg){.attr = SEG_NULL};
	c->gdtr = (struct table_reg){s->gdt, s->gdt_limit};
	c->idtr = (struct table_reg){0, 0};

	c->cr0 = CR0_PE | CR0_ET | (long64 ? CR0_PG : 0);
	c->cr3 = long64 ? s->cr3 : 0;
	c->cr4 = long64 ? CR4_PAE : 0;
	c->efer = long64 ? EFER_LME | EFER_LMA : 0;
	cpu_update_paging(c);
	cpu_update_mode(c);
}
