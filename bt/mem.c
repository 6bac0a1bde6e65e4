/*
 * Guest memory as instructions see it. The fast path is a TLB hit (mmu_fast); what misses it goes
 * through resolve(), which raises #PF and says whether the byte is RAM or MMIO. Data breakpoints
 * and alignment checks are looked for on the slow path only: while either is armed the MMU hands
 * out no read or write tags (mmu.no_fill), so nothing gets past.
 *
 * SDM vol. 3: 5.3 (limits), 5.4 (types), 6.15 (#AC, #DB), 17.2 (debug registers).
 */
#include "mem.h"

#include <string.h>

#include "lockstep.h"
#include "translate.h"

/* --- segmentation --- */

static NORETURN void segment_fault(struct cpu *c, unsigned seg)
{
	cpu_raise_error(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

static bool limit_ok(const struct seg_reg *s, u64 off, unsigned size)
{
	u64 last = off + size - 1;

	if ((s->attr & (SEG_CODE | SEG_E)) == SEG_E) /* expand-down data */
		return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffull : 0xffffull);
	return last <= s->limit;
}

gva_t seg_linear(struct cpu *c, unsigned seg, u64 off, unsigned size, enum mmu_access access)
{
	const struct seg_reg *s = &c->seg[seg];
	gva_t la;

	if (c->mode == INSN_MODE_64) {
		la = off + (seg >= SEG_FS ? s->base : 0);
		if (unlikely(!cpu_canonical(la) || !cpu_canonical(la + size - 1)))
			segment_fault(c, seg);
		return la;
	}
	if (unlikely(!limit_ok(s, off, size)))
		segment_fault(c, seg);
	if (!cpu_real_or_v86(c)) {
		if (unlikely(s->attr & SEG_NULL))
			segment_fault(c, seg);
		if (access == MMU_WRITE && (s->attr & (SEG_CODE | SEG_W)) != SEG_W)
			segment_fault(c, seg);
		if (access == MMU_READ && (s->attr & (SEG_CODE | SEG_W)) == SEG_CODE)
			segment_fault(c, seg);
	}
	return (u32)(s->base + off);
}

/* --- linear accesses --- */

static void check_breakpoints(struct cpu *c, gva_t la, unsigned len, bool write)
{
	static const u8 length[4] = {1, 2, 8, 4};
	unsigned i;

	for (i = 0; i < 4; i++) {
		unsigned rw = c->dr[7] >> (16 + 4 * i) & 3,
			 n = length[c->dr[7] >> (18 + 4 * i) & 3];
		gva_t at = c->dr[i] & ~(u64)(n - 1);

		if (!(c->dr[7] >> (2 * i) & 3) || !(rw == 3 || (rw == 1 && write)))
			continue;
		if (la < at + n && at < la + len)
			c->debug_hits |= 1u << i;
	}
	if (c->debug_hits)
		c->slow = true;
}

static void check_data(struct cpu *c, gva_t la, unsigned len, enum mmu_access access)
{
	if (c->align_check && len <= 8 && !(len & (len - 1)) && (la & (len - 1)))
		cpu_raise_error(c, EXC_AC, 0);
	if (c->dr[7] & 0xff)
		check_breakpoints(c, la, len, access == MMU_WRITE);
}

/* Translate one byte's page; faults are raised. */
static enum mmu_kind resolve(struct cpu *c, gva_t la, enum mmu_access access, bool user,
			     struct mmu_target *t)
{
	enum mmu_kind k = mmu_translate(&c->mmu, la, access, user, t);

	if (unlikely(k == MMU_FAULT))
		cpu_raise_pf(c, la, t->error);
	if (unlikely(c->mmu.watch_writes))
		lockstep_note_access(c->translator->lockstep, k, access, t->gpa);
	return k;
}

static void copy_sized(void *dst, const void *src, unsigned size)
{
	switch (size) {
	case 1: *(u8 *)dst = *(const u8 *)src; break;
	case 2: memcpy(dst, src, 2); break;
	case 4: memcpy(dst, src, 4); break;
	case 8: memcpy(dst, src, 8); break;
	default: memcpy(dst, src, size);
	}
}

/* Move len bytes that lie within one page, MMIO in naturally sized pieces. */
static void move_within_page(struct cpu *c, const struct mmu_target *t, enum mmu_kind k, u8 *buf,
			     unsigned len, bool write)
{
	gpa_t gpa = t->gpa;

	if (k == MMU_RAM) {
		if (write) {
			copy_sized(t->host, buf, len);
			if (unlikely(c->mmu.ram->code[gpa >> 12]))
				ram_note_write(c->mmu.ram, gpa, len);
		} else {
			copy_sized(buf, t->host, len);
		}
		return;
	}
	while (len) {
		unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
		u64 v = 0;

		if (write) {
			memcpy(&v, buf, n);
			c->stats->n[STAT_mmio_writes]++;
			c->ops->mmio_write(c->vm, gpa, n, v);
		} else {
			c->stats->n[STAT_mmio_reads]++;
			v = c->ops->mmio_read(c->vm, gpa, n);
			memcpy(buf, &v, n);
		}
		gpa += n;
		buf += n;
		len -= n;
	}
}

static void move_slow(struct cpu *c, gva_t la, u8 *buf, unsigned len, enum mmu_access access,
		      bool user)
{
	unsigned first = MIN(len, PAGE_SIZE - (la & ~PAGE_MASK));
	struct mmu_target a, b = {0};
	enum mmu_kind ka, kb = MMU_RAM;

	ka = resolve(c, la, access, user, &a);
	if (first < len) {
		gva_t next = la + first;

		if (c->mode != INSN_MODE_64 && !(la >> 32)) /* system accesses may lie higher */
			next = (u32)next;
		c->stats->n[STAT_slow_mem]++;
		kb = resolve(c, next, access, user, &b);
	}
	move_within_page(c, &a, ka, buf, first, access == MMU_WRITE);
	if (first < len)
		move_within_page(c, &b, kb, buf + first, len - first, access == MMU_WRITE);
}

static ALWAYS_INLINE u64 load(const void *p, unsigned size)
{
	u64 v = 0;

	copy_sized(&v, p, size);
	return v;
}

u64 mem_read(struct cpu *c, gva_t la, unsigned size)
{
	void *p = mmu_fast(&c->mmu, la, size, MMU_READ, c->user);
	u64 v = 0;

	if (likely(p))
		return load(p, size);
	check_data(c, la, size, MMU_READ);
	move_slow(c, la, (u8 *)&v, size, MMU_READ, c->user);
	return v;
}

void mem_write(struct cpu *c, gva_t la, unsigned size, u64 val)
{
	void *p = mmu_fast(&c->mmu, la, size, MMU_WRITE, c->user);

	if (likely(p)) {
		copy_sized(p, &val, size);
		return;
	}
	check_data(c, la, size, MMU_WRITE);
	move_slow(c, la, (u8 *)&val, size, MMU_WRITE, c->user);
}

void mem_read_buf(struct cpu *c, gva_t la, void *buf, unsigned len)
{
	check_data(c, la, len, MMU_READ);
	move_slow(c, la, buf, len, MMU_READ, c->user);
}

void mem_write_buf(struct cpu *c, gva_t la, const void *buf, unsigned len)
{
	check_data(c, la, len, MMU_WRITE);
	move_slow(c, la, (u8 *)buf, len, MMU_WRITE, c->user);
}

static void probe(struct cpu *c, gva_t la, unsigned len, enum mmu_access access)
{
	struct mmu_target t;
	gva_t last = la + len - 1;

	if (mmu_fast(&c->mmu, la, len, access, c->user))
		return;
	if (c->align_check)
		check_data(c, la, len, access);
	resolve(c, la, access, c->user, &t);
	if (c->mode != INSN_MODE_64 && !(la >> 32))
		last = (u32)last;
	if ((last ^ la) & PAGE_MASK)
		resolve(c, last & PAGE_MASK, access, c->user, &t);
}

void mem_probe_write(struct cpu *c, gva_t la, unsigned len)
{
	probe(c, la, len, MMU_WRITE);
}

void mem_probe_read(struct cpu *c, gva_t la, unsigned len)
{
	probe(c, la, len, MMU_READ);
}

void *mem_host(struct cpu *c, gva_t la, unsigned len, enum mmu_access access)
{
	void *p = mmu_fast(&c->mmu, la, len, access, c->user);
	struct mmu_target t;

	if (likely(p))
		return p;
	check_data(c, la, len, access);
	if (((la + len - 1) ^ la) & PAGE_MASK)
		return NULL;
	return resolve(c, la, access, c->user, &t) == MMU_RAM ? t.host : NULL;
}

void mem_wrote(struct cpu *c, const void *host, unsigned len)
{
	struct ram *ram = c->mmu.ram;
	gpa_t gpa = (gpa_t)((const u8 *)host - ram->window);

	if (unlikely(ram->code[gpa >> 12]))
		ram_note_write(ram, gpa, len);
}

u64 sys_read(struct cpu *c, gva_t la, unsigned size)
{
	void *p = mmu_fast(&c->mmu, la, size, MMU_READ, false);
	u64 v = 0;

	if (likely(p))
		return load(p, size);
	move_slow(c, la, (u8 *)&v, size, MMU_READ, false);
	return v;
}

void sys_write(struct cpu *c, gva_t la, unsigned size, u64 val)
{
	void *p = mmu_fast(&c->mmu, la, size, MMU_WRITE, false);

	if (likely(p))
		copy_sized(p, &val, size);
	else
		move_slow(c, la, (u8 *)&val, size, MMU_WRITE, false);
}

/* --- stack --- */

u64 stack_mask(const struct cpu *c)
{
	if (c->mode == INSN_MODE_64)
		return ~0ull;
	return c->seg[SEG_SS].attr & SEG_DB ? 0xffffffffull : 0xffffull;
}

static void set_rsp(struct cpu *c, u64 val, u64 mask)
{
	if (mask == 0xffff)
		c->gpr[GPR_RSP] = (c->gpr[GPR_RSP] & ~0xffffull) | (val & 0xffff);
	else
		c->gpr[GPR_RSP] = val & mask;
}

void stack_add(struct cpu *c, s64 delta)
{
	set_rsp(c, c->gpr[GPR_RSP] + delta, stack_mask(c));
}

void stack_push(struct cpu *c, unsigned size, u64 val)
{
	u64 mask = stack_mask(c), sp = (c->gpr[GPR_RSP] - size) & mask;

	mem_write(c, seg_linear(c, SEG_SS, sp, size, MMU_WRITE), size, val);
	set_rsp(c, sp, mask);
}

u64 stack_peek(struct cpu *c, u64 off, unsigned size)
{
	u64 sp = (c->gpr[GPR_RSP] + off) & stack_mask(c);

	return mem_read(c, seg_linear(c, SEG_SS, sp, size, MMU_READ), size);
}

u64 stack_pop(struct cpu *c, unsigned size)
{
	u64 v = stack_peek(c, 0, size);

	stack_add(c, size);
	return v;
}

/* --- registers and addresses --- */

u64 reg_read(const struct cpu *c, unsigned reg, unsigned size, bool rex)
{
	switch (size) {
	case 1:
		if (!rex && reg >= 4 && reg < 8)
			return (u8)(c->gpr[reg - 4] >> 8);
		return (u8)c->gpr[reg];
	case 2: return (u16)c->gpr[reg];
	case 4: return (u32)c->gpr[reg];
	default: return c->gpr[reg];
	}
}

void reg_write(struct cpu *c, unsigned reg, unsigned size, bool rex, u64 val)
{
	u64 *r = &c->gpr[reg];

	switch (size) {
	case 1:
		if (!rex && reg >= 4 && reg < 8) {
			r = &c->gpr[reg - 4];
			*r = (*r & ~0xff00ull) | (u64)(u8)val << 8;
		} else {
			*r = (*r & ~0xffull) | (u8)val;
		}
		break;
	case 2: *r = (*r & ~0xffffull) | (u16)val; break;
	case 4: *r = (u32)val; break;
	default: *r = val;
	}
}

u64 insn_next_rip(const struct cpu *c, const struct insn *in)
{
	u64 next = c->rip + in->len;

	return in->mode == INSN_MODE_64 ? next : in->mode == INSN_MODE_32 ? (u32)next : (u16)next;
}

u64 insn_ea(const struct cpu *c, const struct insn *in)
{
	u64 ea = in->disp;

	if (in->base < 16)
		ea += c->gpr[in->base];
	else if (in->base == REG_RIP)
		ea += c->rip + in->len;
	if (in->index < 16 && !in->vsib)
		ea += c->gpr[in->index] * in->scale;
	if (in->addrsize == 8)
		return ea;
	return in->addrsize == 4 ? (u32)ea : (u16)ea;
}

gva_t insn_linear(struct cpu *c, const struct insn *in, unsigned size, enum mmu_access access)
{
	return seg_linear(c, in->seg, insn_ea(c, in), size, access);
}
