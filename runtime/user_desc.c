/*
 * See user_desc.h. Tables are read as the processor does, through the guest's page tables, but
 * without the software TLB: this must not raise anything.
 */
#include "user_desc.h"

#include <string.h>

#include "mmu.h"

#define DATA_SEL  0x2b
#define ENTRY     8u
#define LDT_CHUNK 512u
#define LDT_MAX   8192u

/* False: it is not there. */
static bool read_system(const struct cpu *c, gva_t va, void *buf, u64 len)
{
	u8 *to = buf;

	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (va & ~PAGE_MASK));
		struct walk w;

		if (mmu_probe(c->mmu.ram, &c->mmu.pg, va, MMU_READ, false, &w) ||
		    ram_read(c->mmu.ram, w.gpa, to, n))
			return false;
		va += n;
		to += n;
		len -= n;
	}
	return true;
}

static struct seg_reg unpack(u64 raw, u16 sel)
{
	struct seg_reg s = {.sel = sel, .attr = raw >> 40 & 0xf0ff};

	s.base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000);
	s.limit = (u32)((raw & 0xffff) | (raw >> 32 & 0xf0000));
	if (s.attr & SEG_G)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

/* --- giving --- */

static void update_tls(struct user_desc *d, const struct cpu *c, struct space *sp)
{
	const unsigned at = SPACE_TLS_FIRST * ENTRY;
	u64 raw[SPACE_TLS] = {0};

	if (c->gdtr.limit + 1u < at + sizeof(raw) ||
	    !read_system(c, c->gdtr.base + at, raw, sizeof(raw)))
		memset(raw, 0, sizeof(raw));
	d->tls = raw[0] | raw[1] | raw[2];
	space_set_tls(sp, raw);
}

static bool has_ldt(const struct cpu *c)
{
	return (c->ldtr.sel & ~3u) && !(c->ldtr.attr & SEG_NULL);
}

static int update_ldt(struct user_desc *d, const struct cpu *c, struct space *sp)
{
	unsigned n = has_ldt(c) ? MIN((c->ldtr.limit + 1u) / ENTRY, LDT_MAX) : 0;
	unsigned all = MAX(n, d->ldt), part;
	int ret = 0;

	d->ldt = n;
	for (unsigned i = 0; i < all && !ret; i += part) {
		u64 raw[LDT_CHUNK] = {0};

		part = MIN(all - i, LDT_CHUNK);
		if (i < n &&
		    !read_system(c, c->ldtr.base + i * ENTRY, raw, MIN(part, n - i) * ENTRY))
			memset(raw, 0, sizeof(raw));
		ret = space_set_ldt(sp, i, raw, part);
	}
	return ret;
}

static bool is_plain(const struct cpu *c, unsigned seg)
{
	u16 sel = c->seg[seg].sel;

	return !(sel & ~3u) || sel == DATA_SEL;
}

int user_desc_update(struct user_desc *d, const struct cpu *c, struct space *sp, bool quick)
{
	if (quick && c->mode == INSN_MODE_64 && !d->tls && !d->ldt && !has_ldt(c) &&
	    is_plain(c, SEG_DS) && is_plain(c, SEG_ES) && is_plain(c, SEG_FS) &&
	    is_plain(c, SEG_GS))
		return 0;
	update_tls(d, c, sp);
	return has_ldt(c) || d->ldt ? update_ldt(d, c, sp) : 0;
}

/* --- selectors --- */

static struct seg_reg flat(u16 sel)
{
	return (struct seg_reg){.sel = sel,
				.limit = 0xffffffff,
				.attr = SEG_P | SEG_S | SEG_W | SEG_A | SEG_G | SEG_DB | 3u << 5};
}

static bool fits(const struct cpu *c, const struct space *sp, unsigned seg)
{
	const u32 matters = SEG_TYPE | SEG_S | SEG_P | SEG_DB | 3u << 5;
	const struct seg_reg *s = &c->seg[seg];
	struct seg_reg there;

	if (!(s->sel & ~3u))
		return true;
	if (!space_selector_valid(sp, s->sel))
		return false;
	there =
	    (s->sel | 3u) == DATA_SEL ? flat(s->sel) : unpack(space_descriptor(sp, s->sel), s->sel);
	return !((s->attr ^ there.attr) & matters & ~SEG_A) && s->limit == there.limit &&
	       (seg == SEG_FS || seg == SEG_GS || s->base == there.base);
}

bool user_desc_fits(const struct cpu *c, const struct space *sp)
{
	return fits(c, sp, SEG_DS) && fits(c, sp, SEG_ES) && fits(c, sp, SEG_FS) &&
	       fits(c, sp, SEG_GS);
}

/* Only code of the LDT, which the space has checked, or the host's own. */
static struct seg_reg loaded_code(const struct space *sp, u16 sel)
{
	struct seg_reg s = flat(sel);

	if (sel != SPACE_CS32 && sel != SPACE_CS64)
		return unpack(space_descriptor(sp, sel), sel);
	s.attr = (s.attr & ~SEG_DB) | SEG_CODE | (sel == SPACE_CS64 ? SEG_L : SEG_DB);
	return s;
}

/* What a program could have loaded; what claims to be something else is as good as the data segment
 * every program has. */
static bool is_loadable(const struct seg_reg *s, bool stack)
{
	const u32 must = SEG_P | SEG_S | 3u << 5;

	if ((s->attr & must) != must)
		return false;
	if (stack)
		return (s->attr & (SEG_CODE | SEG_W)) == SEG_W && (s->sel & 3) == 3;
	return (s->attr & (SEG_CODE | SEG_W)) != SEG_CODE;
}

bool user_desc_limit(const struct cpu *c, u16 sel, u32 *limit)
{
	struct seg_reg s;
	u64 raw;

	if ((sel | 7u) > c->gdtr.limit ||
	    !read_system(c, c->gdtr.base + (sel & ~7u), &raw, sizeof(raw)))
		return false;
	s = unpack(raw, sel);
	*limit = s.limit;
	return (s.attr & SEG_S) && SEG_DPL(s.attr) == 3;
}

struct seg_reg user_desc_loaded(const struct cpu *c, const struct space *sp, unsigned seg, u16 sel)
{
	unsigned i = sel >> 3;
	struct seg_reg s;
	u64 raw;

	if (seg == SEG_CS)
		return loaded_code(sp, sel);
	if (!(sel & ~3u) && seg != SEG_SS)
		return (struct seg_reg){.sel = sel, .attr = SEG_NULL};
	raw = space_descriptor(sp, sel);
	/* Else one the host has where the guest should have the same. */
	if (!raw && (sel & 4 || (sel | 7u) > c->gdtr.limit ||
		     !read_system(c, c->gdtr.base + i * ENTRY, &raw, sizeof(raw))))
		raw = 0;
	s = unpack(raw, sel);
	return is_loadable(&s, seg == SEG_SS) ? s : flat(DATA_SEL);
}
