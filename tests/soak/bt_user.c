/*
 * See bt_user.h.
 */
#include "bt_user.h"

#include <string.h>

#include "bt_vector.h"

unsigned user_insn(u64 *rng, gva_t user, u8 out[16])
{
	static const struct {
		u8 len, code[5];
	} insn[] = {
	    {3, {0x48, 0x8b, 0x06}},             /* mov rax, [rsi] */
	    {3, {0x48, 0x8b, 0x36}},             /* mov rsi, [rsi] */
	    {3, {0x48, 0x89, 0x16}},             /* mov [rsi], rdx */
	    {2, {0x88, 0x26}},                   /* mov [rsi], ah */
	    {3, {0x0f, 0xb6, 0x16}},             /* movzx edx, byte [rsi] */
	    {2, {0x01, 0x06}},                   /* add [rsi], eax */
	    {2, {0x11, 0x16}},                   /* adc [rsi], edx */
	    {3, {0x66, 0x39, 0x16}},             /* cmp [rsi], dx */
	    {2, {0xf7, 0x16}},                   /* not dword [rsi] */
	    {2, {0xf7, 0x26}},                   /* mul dword [rsi] */
	    {2, {0xd3, 0x06}},                   /* rol dword [rsi], cl */
	    {3, {0x48, 0x87, 0x06}},             /* xchg [rsi], rax */
	    {3, {0x0f, 0x95, 0x06}},             /* setne [rsi] */
	    {5, {0x48, 0x0f, 0xba, 0x2e, 0x07}}, /* bts qword [rsi], 7 */
	    {4, {0xf0, 0x0f, 0xc1, 0x0e}},       /* lock xadd [rsi], ecx */
	    {4, {0xf0, 0x0f, 0xb1, 0x16}},       /* lock cmpxchg [rsi], edx */
	};
	u64 r = soak_rnd(rng), at = user + (r & 0x700 ? 1 : 2) * PAGE_SIZE - (r & 15);
	unsigned k = (r >> 16) % ARRAY_LEN(insn);

	memcpy(out, "\x48\xbe", 2); /* movabs rsi, at */
	memcpy(out + 2, &at, 8);
	memcpy(out + 10, insn[k].code, insn[k].len);
	return 10 + insn[k].len;
}

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
