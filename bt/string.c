/*
 * String instructions: MOVS CMPS STOS LODS SCAS INS OUTS with their repeat prefixes; XLAT and the
 * byte-masked stores, whose operand is implicit too.
 *
 * A repeated instruction runs in chunks. A chunk is as many elements as lie in one page of RAM at
 * either end and within the segments' limits; it is done through host pointers, and RCX, RSI and
 * RDI are moved on before the next chunk can fault. What has no host pointer (MMIO, an element
 * across a page, DF set, breakpoints armed) goes element by element through mem_read and mem_write.
 * Between chunks a set `attention` ends the call with RIP unchanged, so that the instruction is
 * resumed after the interrupt. In careful mode (cpu.slow) a chunk is one element, so that a
 * single-step trap follows each iteration.
 *
 * CMPS and SCAS change the flags when they end or are interrupted; a fault leaves them as they
 * were, or (AMD's) as the last comparison before it. SDM vol. 2, REP; vol. 1, 7.3.9.
 */
#include <string.h>

#include "exec.h"
#include "fpu_check.h"
#include "io.h"
#include "mem.h"
#include "xstate.h"

struct string {
	struct cpu *c;
	const struct insn *in;
	unsigned size; /* of an element */
	u64 step;      /* what an element adds to the index registers */
	u64 mask;      /* of the address size */
	bool rep;
	bool ended;    /* by the ZF condition of REPE or REPNE */
	bool compares; /* flags is valid */
	u64 flags;
};

enum {
	OP_INS = 0x6c,
	OP_OUTS = 0x6e,
	OP_MOVS = 0xa4,
	OP_CMPS = 0xa6,
	OP_STOS = 0xaa,
	OP_LODS = 0xac,
	OP_SCAS = 0xae,
};

static void advance(struct string *s, unsigned reg, u64 n)
{
	reg_write(s->c, reg, s->in->addrsize, true, s->c->gpr[reg] + n * s->step);
}

static gva_t element(struct string *s, unsigned seg, unsigned reg, enum mmu_access access)
{
	return seg_linear(s->c, seg, s->c->gpr[reg] & s->mask, s->size, access);
}

static ALWAYS_INLINE u64 load(const u8 *p, unsigned size)
{
	u64 v = 0;

	memcpy(&v, p, size);
	return v;
}

/* The flags of CMP a, b. */
static u64 compare_flags(u64 a, u64 b, unsigned size)
{
	unsigned top = size * 8 - 1;
	u64 r = (a - b) & (~0ull >> (63 - top)), f;

	f = (a < b ? FL_CF : 0) | ((a ^ b ^ r) & FL_AF) | (r == 0 ? FL_ZF : 0);
	f |= __builtin_parity((u8)r) ? 0 : FL_PF;
	f |= r >> top & 1 ? FL_SF : 0;
	f |= ((a ^ b) & (a ^ r)) >> top & 1 ? FL_OF : 0;
	return f;
}

/* Does a comparison with this outcome end the repetition? */
static ALWAYS_INLINE bool ends(const struct string *s, bool equal)
{
	return s->in->prefixes & PFX_REPNE ? equal : !equal;
}

static void compared(struct string *s, u64 a, u64 b)
{
	s->compares = true;
	s->flags = compare_flags(a, b, s->size);
	s->ended = ends(s, a == b);
}

/* --- chunks --- */

/* The last offset that a segment's limit lets through, for an offset that it does let through. */
static u64 segment_last(const struct cpu *c, unsigned seg)
{
	const struct seg_reg *r = &c->seg[seg];

	if (c->mode == INSN_MODE_64)
		return ~0ull;
	if ((r->attr & (SEG_CODE | SEG_E)) == SEG_E)
		return r->attr & SEG_DB ? 0xffffffffull : 0xffffull;
	return r->limit;
}

/*
 * Host address of the elements from seg:reg upward; *n is lowered to those within one page, the
 * segment and the address size. NULL if that leaves none or they are not RAM. Raises for the first
 * element.
 */
static u8 *window(struct string *s, unsigned seg, unsigned reg, enum mmu_access access, u64 *n)
{
	u64 off = s->c->gpr[reg] & s->mask;
	gva_t la = element(s, seg, reg, access);
	u64 last = PAGE_SIZE - 1 - (la & ~PAGE_MASK);

	last = MIN(last, s->mask - off);
	last = MIN(last, segment_last(s->c, seg) - off);
	*n = MIN(*n, (last + 1) / s->size);
	return *n ? mem_host(s->c, la, *n * s->size, access) : NULL;
}

/* Copy upward as the CPU does element by element, overlaps included. */
static void copy_up(u8 *dst, const u8 *src, u64 len, unsigned size)
{
	u64 gap = dst - src, done, k;

	if (dst <= src || gap >= len) {
		memmove(dst, src, len);
		return;
	}
	if (gap < size) {
		for (done = 0; done < len; done += size) {
			u64 v = load(src + done, size);

			memcpy(dst + done, &v, size);
		}
		return;
	}
	/* What has been written repeats with period gap: each copy can be longer than the last. */
	for (done = 0; done < len; done += k) {
		k = MIN(gap + done, len - done);
		memcpy(dst + done, src, k);
	}
}

static void fill(u8 *dst, u64 n, u64 val, unsigned size)
{
	u64 i;

	switch (size) {
	case 1: memset(dst, (u8)val, n); break;
	case 2:
		for (i = 0; i < n; i++)
			memcpy(dst + 2 * i, &val, 2);
		break;
	case 4:
		for (i = 0; i < n; i++)
			memcpy(dst + 4 * i, &val, 4);
		break;
	default:
		for (i = 0; i < n; i++)
			memcpy(dst + 8 * i, &val, 8);
	}
}

/* How many of n elements are compared until the repetition ends; b may be NULL: against val. */
static ALWAYS_INLINE u64 scan_sized(const struct string *s, const u8 *a, const u8 *b, u64 val,
				    u64 n, unsigned size)
{
	bool until_equal = s->in->prefixes & PFX_REPNE;
	u64 i;

	for (i = 0; i < n; i++) {
		u64 x = load(a + i * size, size), y = b ? load(b + i * size, size) : val;

		if ((x == y) == until_equal)
			return i + 1;
	}
	return n;
}

static u64 scan(const struct string *s, const u8 *a, const u8 *b, u64 val, u64 n)
{
	switch (s->size) {
	case 1: return scan_sized(s, a, b, val, n, 1);
	case 2: return scan_sized(s, a, b, val, n, 2);
	case 4: return scan_sized(s, a, b, val, n, 4);
	default: return scan_sized(s, a, b, val, n, 8);
	}
}

static u64 movs_chunk(struct string *s, u64 n)
{
	u8 *src = window(s, s->in->seg, GPR_RSI, MMU_READ, &n), *dst;

	if (!src)
		return 0;
	dst = window(s, SEG_ES, GPR_RDI, MMU_WRITE, &n);
	if (!dst)
		return 0;
	copy_up(dst, src, n * s->size, s->size);
	mem_wrote(s->c, dst, n * s->size);
	advance(s, GPR_RSI, n);
	advance(s, GPR_RDI, n);
	return n;
}

static u64 stos_chunk(struct string *s, u64 n)
{
	u8 *dst = window(s, SEG_ES, GPR_RDI, MMU_WRITE, &n);

	if (!dst)
		return 0;
	fill(dst, n, s->c->gpr[GPR_RAX], s->size);
	mem_wrote(s->c, dst, n * s->size);
	advance(s, GPR_RDI, n);
	return n;
}

static u64 scas_chunk(struct string *s, u64 n)
{
	u64 val = reg_read(s->c, GPR_RAX, s->size, true);
	u8 *p = window(s, SEG_ES, GPR_RDI, MMU_READ, &n);

	if (!p)
		return 0;
	n = scan(s, p, NULL, val, n);
	compared(s, val, load(p + (n - 1) * s->size, s->size));
	advance(s, GPR_RDI, n);
	return n;
}

static u64 cmps_chunk(struct string *s, u64 n)
{
	u8 *a = window(s, s->in->seg, GPR_RSI, MMU_READ, &n), *b;

	if (!a)
		return 0;
	b = window(s, SEG_ES, GPR_RDI, MMU_READ, &n);
	if (!b)
		return 0;
	n = scan(s, a, b, 0, n);
	compared(s, load(a + (n - 1) * s->size, s->size), load(b + (n - 1) * s->size, s->size));
	advance(s, GPR_RSI, n);
	advance(s, GPR_RDI, n);
	return n;
}

/* A device may have something to say between any two elements. */
static bool attention(struct cpu *c)
{
	return atomic_load_explicit(&c->attention, memory_order_relaxed);
}

static u64 ins_chunk(struct string *s, u64 n)
{
	struct cpu *c = s->c;
	u16 port = c->gpr[GPR_RDX];
	u8 *dst = window(s, SEG_ES, GPR_RDI, MMU_WRITE, &n);
	u64 done = 0;

	if (!dst)
		return 0;
	while (done < n) {
		u32 v = c->ops->port_read(c->vm, port, s->size);

		memcpy(dst + done * s->size, &v, s->size);
		done++;
		if (attention(c))
			break;
	}
	c->stats->n[STAT_pio_reads] += done;
	mem_wrote(c, dst, done * s->size);
	advance(s, GPR_RDI, done);
	return done;
}

/* Up to n elements at once; 0 if this place needs them one by one. */
static u64 do_chunk(struct string *s, u64 n)
{
	switch (s->in->opcode & 0xfe) {
	case OP_MOVS: return movs_chunk(s, n);
	case OP_STOS: return stos_chunk(s, n);
	case OP_SCAS: return scas_chunk(s, n);
	case OP_CMPS: return cmps_chunk(s, n);
	case OP_INS: return ins_chunk(s, n);
	default: return 0;
	}
}

/* --- single elements --- */

static void do_one(struct string *s)
{
	struct cpu *c = s->c;
	unsigned src = s->in->seg, size = s->size;
	u64 v, w;
	gva_t la;

	switch (s->in->opcode & 0xfe) {
	case OP_MOVS:
		v = mem_read(c, element(s, src, GPR_RSI, MMU_READ), size);
		mem_write(c, element(s, SEG_ES, GPR_RDI, MMU_WRITE), size, v);
		advance(s, GPR_RSI, 1);
		advance(s, GPR_RDI, 1);
		break;
	case OP_CMPS:
		v = mem_read(c, element(s, src, GPR_RSI, MMU_READ), size);
		w = mem_read(c, element(s, SEG_ES, GPR_RDI, MMU_READ), size);
		compared(s, v, w);
		advance(s, GPR_RSI, 1);
		advance(s, GPR_RDI, 1);
		break;
	case OP_STOS:
		mem_write(c, element(s, SEG_ES, GPR_RDI, MMU_WRITE), size, c->gpr[GPR_RAX]);
		advance(s, GPR_RDI, 1);
		break;
	case OP_LODS:
		v = mem_read(c, element(s, src, GPR_RSI, MMU_READ), size);
		reg_write(c, GPR_RAX, size, true, v);
		advance(s, GPR_RSI, 1);
		break;
	case OP_SCAS:
		v = mem_read(c, element(s, SEG_ES, GPR_RDI, MMU_READ), size);
		compared(s, reg_read(c, GPR_RAX, size, true), v);
		advance(s, GPR_RDI, 1);
		break;
	case OP_INS:
		la = element(s, SEG_ES, GPR_RDI, MMU_WRITE);
		mem_probe_write(c, la, size);
		v = c->ops->port_read(c->vm, c->gpr[GPR_RDX], size);
		c->stats->n[STAT_pio_reads]++;
		mem_write(c, la, size, v);
		advance(s, GPR_RDI, 1);
		break;
	}
}

static bool must_pause(const struct string *s)
{
	return s->c->slow || attention(s->c);
}

static u64 count(const struct string *s)
{
	return s->c->gpr[GPR_RCX] & s->mask;
}

static void set_count(struct string *s, u64 n)
{
	reg_write(s->c, GPR_RCX, s->in->addrsize, true, n);
}

static void commit_flags(struct string *s)
{
	if (s->compares)
		s->c->aflags = s->flags;
}

/* OUTS has its registers and RIP in place before the device hears of the byte: the device may be
 * the one that resets the processor. */
static void outs(struct string *s)
{
	struct cpu *c = s->c;
	bool last;
	u64 rip;
	u32 v;

	do {
		v = mem_read(c, element(s, s->in->seg, GPR_RSI, MMU_READ), s->size);
		advance(s, GPR_RSI, 1);
		if (s->rep)
			set_count(s, count(s) - 1);
		last = !s->rep || !count(s);
		if (last)
			c->rip = insn_next_rip(c, s->in);
		rip = c->rip;
		c->stats->n[STAT_pio_writes]++;
		c->ops->port_write(c->vm, c->gpr[GPR_RDX], s->size, v);
	} while (!last && c->rip == rip && !must_pause(s));
}

static void repeat(struct string *s)
{
	struct cpu *c = s->c;
	bool chunks = s->step == s->size && !c->mmu.no_fill;

	for (;;) {
		u64 left = count(s), n = 0;

		if (chunks && !c->slow)
			n = do_chunk(s, left);
		if (!n) {
			do_one(s);
			n = 1;
		}
		set_count(s, left - n);
		if (c->host.rep_fault_flags)
			commit_flags(s);
		if (left == n || s->ended)
			break;
		if (must_pause(s)) {
			commit_flags(s);
			return;
		}
	}
	commit_flags(s);
	c->rip = insn_next_rip(c, s->in);
}

/* With 32-bit addresses in 64-bit mode, Intel processors cut registers to 32 bits even if the count
 * is zero, though not all of them; AMD's leave all alone. */
static void count_is_zero(struct string *s)
{
	static const u8 regs[] = {GPR_RCX, GPR_RSI, GPR_RDI};
	struct cpu *c = s->c;
	u16 cuts = c->host.rep_zero_cuts[host_rep_index(s->in->opcode)];
	unsigned i;

	if (s->in->mode == INSN_MODE_64 && s->in->addrsize == 4)
		for (i = 0; i < ARRAY_LEN(regs); i++)
			if (cuts >> regs[i] & 1)
				c->gpr[regs[i]] = (u32)c->gpr[regs[i]];
	c->rip = insn_next_rip(c, s->in);
}

void exec_string(struct cpu *c, const struct insn *in)
{
	bool io = in->opcode < OP_MOVS;
	unsigned size = !(in->opcode & 1) ? 1 : io && in->opsize == 8 ? 4 : in->opsize;
	struct string s = {
	    .c = c,
	    .in = in,
	    .size = size,
	    .step = c->sflags & FL_DF ? -(u64)size : size,
	    .mask = in->addrsize == 8   ? ~0ull
		    : in->addrsize == 4 ? 0xffffffffull
					: 0xffffull,
	    .rep = in->prefixes & (PFX_REP | PFX_REPNE),
	};

	if (s.rep && !count(&s)) {
		count_is_zero(&s);
		return;
	}
	if (io)
		io_check(c, c->gpr[GPR_RDX], size);
	if ((in->opcode & 0xfe) == OP_OUTS) {
		outs(&s);
	} else if (s.rep) {
		repeat(&s);
	} else {
		do_one(&s);
		commit_flags(&s);
		c->rip = insn_next_rip(c, in);
	}
}

/* --- implicit operands of other kinds --- */

static u64 truncate_address(const struct insn *in, u64 a)
{
	return in->addrsize == 8 ? a : in->addrsize == 4 ? (u32)a : (u16)a;
}

void exec_xlat(struct cpu *c, const struct insn *in)
{
	u64 off = truncate_address(in, c->gpr[GPR_RBX] + (u8)c->gpr[GPR_RAX]);
	u64 v = mem_read(c, seg_linear(c, in->seg, off, 1, MMU_READ), 1);

	reg_write(c, GPR_RAX, 1, true, v);
	c->rip = insn_next_rip(c, in);
}

/* MASKMOVQ and (V)MASKMOVDQU: bytes of reg whose mask bit 7 in rm is set go to DS:rDI. */
void exec_maskmov(struct cpu *c, const struct insn *in)
{
	bool mmx = in->state & STATE_MMX;
	unsigned len = mmx ? 8 : 16, i;
	u8 data[16], mask[16];
	gva_t la[16];

	if (in->enc != INSN_LEGACY && (in->vl != 16 || in->vvvv))
		cpu_raise(c, EXC_UD);
	fpu_check(c, in->state);
	if (mmx) {
		fpu_check_pending(c);
		mmx_read(c, in->reg & 7, data);
		mmx_read(c, in->rm & 7, mask);
	} else {
		memcpy(data, c->vec.zmm[in->reg], len);
		memcpy(mask, c->vec.zmm[in->rm], len);
	}
	/* All that will be written is probed first, so that a fault leaves memory alone. */
	for (i = 0; i < len; i++) {
		if (!(mask[i] & 0x80))
			continue;
		la[i] =
		    seg_linear(c, in->seg, truncate_address(in, c->gpr[GPR_RDI] + i), 1, MMU_WRITE);
		mem_probe_write(c, la[i], 1);
	}
	for (i = 0; i < len; i++)
		if (mask[i] & 0x80)
			mem_write(c, la[i], 1, data[i]);
	if (mmx)
		mmx_enter(c);
	c->rip = insn_next_rip(c, in);
}
