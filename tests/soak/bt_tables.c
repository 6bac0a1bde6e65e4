/*
 * See bt_tables.h.
 */
#include "bt_tables.h"

static u64 *entry(const struct cpu *c, gpa_t at)
{
	return (u64 *)(void *)(c->mmu.ram->window + at);
}

void tables_clean(struct cpu *c, gpa_t first, gpa_t end)
{
	gpa_t at;

	for (at = first; at < end; at += 8)
		*entry(c, at) &= ~(PTE_A | PTE_D);
	mmu_flush_all(&c->mmu);
	c->code_page = CODE_PAGE_NONE;
}

unsigned tables_compare(const struct cpu *bt, const struct cpu *step, gpa_t first, gpa_t end)
{
	unsigned bad = 0;
	gpa_t at;

	for (at = first; at < end; at += 8) {
		u64 a = *entry(bt, at), b = *entry(step, at);

		if (!((a ^ b) & ~PTE_A))
			continue;
		printf("  page-table entry at %llx: translated %llx stepped %llx\n",
		       (unsigned long long)at, (unsigned long long)a, (unsigned long long)b);
		bad++;
	}
	return bad;
}
