/*
 * The single-step engine against the host CPU: random user-mode instruction sequences run natively
 * and under the engine from the same state at the same addresses; registers, flags, vector and x87
 * state, memory and faults must agree.
 *
 * A sequence is made of random encodings (any map, any prefix, VEX and EVEX) that the decoder takes
 * for ordinary instructions. Memory operands are kept near the data area by base registers that no
 * chosen instruction writes; the area's last page is absent, so some fault.
 *
 * step_host [--count INSTRUCTIONS] [--seed N] [--verbose]
 */
#include <string.h>
#include <sys/mman.h>

#include "native.h"
#include "op.h"
#include "step.h"
#include "xstate.h"

#define RAM_SIZE   (16 * MIB)
#define AREA_GPA   0x400000ull
#define PT_GPA     0x10000ull
#define IDT_GPA    0x8000ull
#define GDT_GPA    0x9000ull
#define TSS_GPA    0xa000ull
#define STUB_GPA   0xb000ull
#define KSTACK_GPA 0xd000ull
#define MAX_INSNS  12

struct bench {
	struct cpu *c;
	struct ram ram;
	struct stats stats;
	struct decoder *dec;
	u64 rng;
	u8 code[MAX_INSNS * 15 + 16];
	unsigned len, count;
	bool strings;        /* this sequence may hold string instructions */
	bool selectors_zero; /* FCS and FDS read as zero on this host */
	bool verbose;
};

static u64 rnd(struct bench *b)
{
	b->rng ^= b->rng << 13;
	b->rng ^= b->rng >> 7;
	b->rng ^= b->rng << 17;
	return b->rng;
}

/* --- the guest: long mode, CPL 3, the area mapped where it is here; exceptions halt at CPL 0 ---
 */

static void put64(struct bench *b, gpa_t at, u64 v)
{
	BUG_ON(ram_write(&b->ram, at, &v, 8));
}

static void map_page(struct bench *b, gva_t va, gpa_t gpa, u64 flags)
{
	put64(b, PT_GPA + (va >> 39 & 511) * 8, (PT_GPA + 0x1000) | 7);
	put64(b, PT_GPA + 0x1000 + (va >> 30 & 511) * 8, (PT_GPA + 0x2000) | 7);
	put64(b, PT_GPA + 0x2000 + (va >> 21 & 511) * 8,
	      (PT_GPA + 0x3000 + (va >> 21 & 511) * 0x1000) | 7);
	put64(b, PT_GPA + 0x3000 + (va >> 21 & 511) * 0x1000 + (va >> 12 & 511) * 8, gpa | flags);
}

static void build_guest(struct bench *b)
{
	u64 off;
	unsigned v;

	for (off = 0; off < 0x10000; off += PAGE_SIZE)
		map_page(b, off, off, 3); /* supervisor */
	for (off = 0; off < AREA_SIZE; off += PAGE_SIZE)
		if (AREA_BASE + off < DATA_AT + DATA_SIZE ||
		    (AREA_BASE + off >= STACK_AT && AREA_BASE + off < STACK_AT + STACK_SIZE))
			map_page(b, AREA_BASE + off, AREA_GPA + off, 7);
	put64(b, GDT_GPA + 8, 0x00af9b000000ffff);
	put64(b, GDT_GPA + 16, 0x00cf93000000ffff);
	for (v = 0; v < 32; v++) {
		u64 at = STUB_GPA + v * 16;

		put64(b, IDT_GPA + v * 16,
		      (at & 0xffff) | 8 << 16 | 0xee00ull << 32 | at >> 16 << 48);
		put64(b, at, 0xf4); /* hlt */
	}
	put64(b, TSS_GPA + 4, KSTACK_GPA + 0x1000);
}

static u32 no_port(void *vm, u16 port, unsigned size)
{
	(void)vm, (void)port, (void)size;
	return ~0u;
}

static void fpu_error(void *vm)
{
	(void)vm;
}

static const struct cpu_ops ops = {.port_read = no_port, .fpu_error = fpu_error};

static void reset_guest(struct bench *b)
{
	struct cpu *c = b->c;
	unsigned s;

	cpu_reset(c);
	c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->cr3 = PT_GPA;
	c->xcr0 = c->xcr0_allowed;
	for (s = 0; s < SEG_COUNT; s++)
		c->seg[s] = (struct seg_reg){
		    .limit = ~0u, .sel = 0x1b, .attr = SEG_P | SEG_S | 0x60 | 3 | SEG_DB | SEG_G};
	c->seg[SEG_CS] = (struct seg_reg){
	    .limit = ~0u, .sel = 0x23, .attr = SEG_P | SEG_S | 0x60 | 0xb | SEG_L | SEG_G};
	c->tr = (struct seg_reg){.base = TSS_GPA, .limit = 0x67, .sel = 0x28, .attr = SEG_P | 0xb};
	c->gdtr = (struct table_reg){GDT_GPA, 0x17};
	c->idtr = (struct table_reg){IDT_GPA, 0x1ff};
	c->cpl = 3;
	cpu_update_paging(c);
	cpu_update_mode(c);
}

static void bench_init(struct bench *b)
{
	b->c = aligned_alloc(64, ALIGN_UP(sizeof(*b->c), 64));
	BUG_ON(!b->c);
	memset(b->c, 0, sizeof(*b->c));
	BUG_ON(ram_init(&b->ram, RAM_SIZE, NULL));
	mmu_init(&b->c->mmu, &b->ram, &b->stats, 40);
	b->c->maxphyaddr = 40;
	b->c->stats = &b->stats;
	b->c->ops = &ops;
	b->c->xcr0_allowed = native_state.xsave_mask;
	b->selectors_zero = native_fcs_fds_zero();
	b->dec = decoder_new();
	BUG_ON(!b->dec || engine_init(b->c, NULL));
	build_guest(b);
}

/* --- choosing instructions --- */

/* RBX, R13 point into the data, R9 is a small index, RSP is the stack: nobody writes them. */
#define KEPT (1u << GPR_RBX | 1u << GPR_R13 | 1u << GPR_R9 | 1u << GPR_RSP)

static unsigned random_modrm(struct bench *b, u8 *p, bool rex_b, bool rex_x)
{
	u64 r = rnd(b);
	u8 reg = r & 0x38;
	unsigned n = 0;

	if (r & 0x40) { /* register form */
		p[0] = 0xc0 | reg | (r >> 8 & 7);
		return 1;
	}
	if (rex_x || (r & 0x80)) { /* [base + index*scale + disp8] */
		p[n++] = 0x44 | reg;
		p[n++] = (r >> 16 & 0xc0) | (rex_x ? 1 << 3 : 4 << 3) | (rex_b ? 5 : 3);
		p[n++] = r >> 32;
		return n;
	}
	p[n++] = 0x80 | reg | (rex_b ? 5 : 3);
	n += 4;
	p[1] = r >> 32;
	p[2] = r >> 40 & 15;
	p[3] = p[4] = 0;
	return n;
}

static unsigned random_encoding(struct bench *b, u8 *p)
{
	static const u8 prefixes[] = {0x66, 0xf2, 0xf3, 0x66};
	u64 r = rnd(b);
	unsigned n = 0, i;
	bool rb = r & 1, rx = r & 2;
	u8 opcode = r >> 8;

	switch (r >> 4 & 7) {
	case 0:
	case 1:
	case 2:
	case 3: /* legacy */
		if (r & 0x10000)
			p[n++] = prefixes[r >> 17 & 3];
		if ((r & 0x780000) == 0)
			p[n++] = 0xf0;
		if (rb || rx || (r & 0x800000))
			p[n++] = 0x40 | rb | rx << 1 | (r >> 24 & 0xc);
		if (r & 0x10000000)
			p[n++] = 0x0f;
		if ((r & 0x70000000) == 0x70000000) {
			p[n++] = 0x38 | (r >> 31 & 2);
		}
		break;
	case 4:
	case 5: /* VEX3 */
		p[n++] = 0xc4;
		p[n++] = (rnd(b) & 0x80) | (rx ? 0 : 0x40) | (rb ? 0 : 0x20) | (1 + (r >> 16) % 3);
		p[n++] = r >> 24;
		break;
	default: /* EVEX */
		p[n++] = 0x62;
		p[n++] = (rnd(b) & 0x90) | (rx ? 0 : 0x40) | (rb ? 0 : 0x20) | (1 + (r >> 16) % 3);
		p[n++] = (r >> 24 & 0xfb) | 4;
		p[n++] = (r >> 32) & 0xff;
	}
	p[n++] = opcode;
	n += random_modrm(b, p + n, rb, rx);
	for (i = 0; i < 4; i++)
		p[n++] = rnd(b);
	return n;
}

/* String instructions work on RSI, RDI and RCX, which the others leave alone in such a sequence. */
#define STRING_REGS (1u << GPR_RSI | 1u << GPR_RDI | 1u << GPR_RCX)

/* push, pop, and what has RSP as an operand without writing it. */
static bool wanted_stack(const struct insn *in)
{
	u8 op = in->opcode, ext = in->modrm >> 3 & 7;

	if (in->gpr_written & KEPT & ~(1u << GPR_RSP))
		return false;
	if (in->map != INSN_MAP_1B || !(in->gpr_written >> GPR_RSP & 1))
		return !(in->gpr_written >> GPR_RSP & 1);
	return (op >= 0x50 && op <= 0x5f && op != 0x5c) || op == 0x68 || op == 0x6a ||
	       (op == 0xff && ext == 6) || (op == 0x8f && in->has_mem);
}

/* FNSTENV, FNSAVE. Older processors store the selectors of the last instruction, which the engine
 * does not keep; tests/unit/test_xstate.c compares the rest. */
static bool stores_x87_environment(const struct insn *in)
{
	return in->map == INSN_MAP_1B && (in->opcode == 0xd9 || in->opcode == 0xdd) &&
	       in->has_mem && (in->modrm >> 3 & 7) == 6;
}

static bool wanted(const struct bench *b, const struct insn *in)
{
	if (in->class == CLASS_STRING)
		return b->strings && in->map == INSN_MAP_1B && in->opcode != 0xd7 &&
		       in->seg != SEG_FS && in->seg != SEG_GS && in->addrsize == 8;
	if (b->strings && (in->gpr_written & STRING_REGS))
		return false;
	if (in->class == CLASS_STACK_DATA && !wanted_stack(in))
		return false;
	if (in->class != CLASS_IDENTICAL && in->class != CLASS_MEMORY &&
	    in->class != CLASS_STACK_DATA)
		return false;
	if (in->class != CLASS_STACK_DATA && (in->gpr_written & KEPT))
		return false;
	if (in->vsib || in->moffs)
		return false;
	if (in->has_mem && (in->disp < -0x1000 || in->disp > 0x1000))
		return false;
	if (in->has_mem && in->mem_size == 0 && in->access != ACCESS_NONE)
		return false;
	if (in->has_mem && in->access &&
	    !((in->base == GPR_RBX || in->base == GPR_R13) &&
	      (in->index == GPR_R9 || in->index == REG_NONE)))
		return false;
	if (in->map == INSN_MAP_0F && in->opcode == 0xc7) /* rdrand rdseed */
		return in->has_mem;
	if (stores_x87_environment(in) && !b->selectors_zero)
		return false;
	/* cmpxchg16b etc. stay; a bit offset in a register reaches too far */
	if (in->map == INSN_MAP_0F && in->has_mem &&
	    (in->opcode == 0xa3 || in->opcode == 0xab || in->opcode == 0xb3 ||
	     in->opcode == 0xbb) &&
	    in->reg != GPR_R9)
		return false;
	if (in->map == INSN_MAP_0F && in->opcode == 0xf7) /* maskmov: [rdi] */
		return false;
	return in->seg != SEG_FS && in->seg != SEG_GS;
}

static void make_code(struct bench *b)
{
	unsigned want = 1 + rnd(b) % MAX_INSNS;
	struct insn in;

	b->len = b->count = 0;
	b->strings = rnd(b) % 4 == 0;
	while (b->count < want) {
		u8 *p = b->code + b->len;
		unsigned n = random_encoding(b, p);
		int len = decoder_decode(b->dec, p, MIN(n, 15u), INSN_MODE_64, &in);

		if (len <= 0 || !wanted(b, &in))
			continue;
		b->len += len;
		b->count++;
	}
	/* jmp *[rip+0]; native_exit */
	memcpy(b->code + b->len, "\xff\x25\0\0\0\0", 6);
	u64 to = (u64)native_exit;
	memcpy(b->code + b->len + 6, &to, 8);
}

/* --- states --- */

#define LEGACY_XMM 160
enum { X_AVX = 2, X_OPMASK = 5, X_ZMM_HI = 6, X_HI16 = 7 };

static void to_xsave(const struct vec_state *v, u8 *x)
{
	unsigned i, avx = native_xsave_offset(X_AVX), k = native_xsave_offset(X_OPMASK),
		    hi = native_xsave_offset(X_ZMM_HI), hi16 = native_xsave_offset(X_HI16);

	memset(x, 0, 4096);
	memcpy(x, v->fx, 160);
	memcpy(x + 24, &v->mxcsr, 4);
	for (i = 0; i < 16; i++) {
		memcpy(x + LEGACY_XMM + 16 * i, v->zmm[i], 16);
		if (avx)
			memcpy(x + avx + 16 * i, v->zmm[i] + 16, 16);
		if (hi)
			memcpy(x + hi + 32 * i, v->zmm[i] + 32, 32);
		if (hi16)
			memcpy(x + hi16 + 64 * i, v->zmm[16 + i], 64);
	}
	if (k)
		memcpy(x + k, v->k, 64);
	memcpy(x + 512, &native_state.xsave_mask, 8);
}

/* Components in their initial state are not written by XSAVE: header bit clear. */
static void from_xsave(const u8 *x, struct vec_state *v)
{
	unsigned i, avx = native_xsave_offset(X_AVX), k = native_xsave_offset(X_OPMASK),
		    hi = native_xsave_offset(X_ZMM_HI), hi16 = native_xsave_offset(X_HI16);
	u64 bv;

	memcpy(&bv, x + 512, 8);
	memset(v, 0, sizeof(*v));
	if (bv & 1) {
		memcpy(v->fx, x, 160);
	} else {
		v->fx[0] = 0x7f;
		v->fx[1] = 3;
	}
	memcpy(&v->mxcsr, x + 24, 4);
	memcpy(v->fx + 24, x + 24, 8);
	for (i = 0; i < 16; i++) {
		if (bv & 2)
			memcpy(v->zmm[i], x + LEGACY_XMM + 16 * i, 16);
		if (avx && (bv & BIT(X_AVX)))
			memcpy(v->zmm[i] + 16, x + avx + 16 * i, 16);
		if (hi && (bv & BIT(X_ZMM_HI)))
			memcpy(v->zmm[i] + 32, x + hi + 32 * i, 32);
		if (hi16 && (bv & BIT(X_HI16)))
			memcpy(v->zmm[16 + i], x + hi16 + 64 * i, 64);
	}
	if (k && (bv & BIT(X_OPMASK)))
		memcpy(v->k, x + k, 64);
}

static void random_vectors(struct bench *b, struct vec_state *v)
{
	static const u16 fcw[] = {0x37f, 0x37f, 0x27f, 0x340, 0xf7f};
	static const u32 mxcsr[] = {0x1f80, 0x1f80, 0x9fc0, 0x7f80, 0x0000, 0x1f00, 0x21f80};
	unsigned i, j;
	u16 cw = fcw[rnd(b) % ARRAY_LEN(fcw)];

	for (i = 0; i < 32; i++)
		for (j = 0; j < 64; j += 8) {
			u64 r = rnd(b);
			/* Small doubles and integers as well as noise. */
			double d = (double)(s64)(r % 2000) - 1000;
			if (r & 0x10000)
				memcpy(&r, &d, 8);
			memcpy(v->zmm[i] + j, &r, 8);
		}
	memset(v->fx, 0, sizeof(v->fx));
	memcpy(v->fx, &cw, 2);
	for (i = 0; i < 8; i++) {
		long double d = (double)(s64)(rnd(b) % 100000) / 7;
		u64 r = rnd(b);
		if (r & 3) {
			memcpy(v->fx + 32 + 16 * i, &d, 10);
			v->fx[4] |= 1u << i;
		}
		v->k[i] = r & 4 ? rnd(b) : rnd(b) & rnd(b) & 0xff;
	}
	v->mxcsr = mxcsr[rnd(b) % ARRAY_LEN(mxcsr)] & b->c->host.mxcsr_mask;
	memcpy(v->fx + 24, &v->mxcsr, 4);
}

static void random_state(struct bench *b)
{
	struct cpu *c = b->c;
	unsigned i;

	reset_guest(b);
	random_vectors(b, &c->vec);
	for (i = 0; i < 16; i++) {
		u64 r = rnd(b);
		c->gpr[i] = r & 0x700 ? r : r & 0xff;
	}
	c->gpr[GPR_RBX] = DATA_AT + 0x800 + rnd(b) % 0x40 * (rnd(b) & 1 ? 1 : 64);
	c->gpr[GPR_R13] = rnd(b) & 7 ? DATA_AT + 0x1000 + rnd(b) % 0x100
				     : DATA_AT + DATA_SIZE - 0x80 - rnd(b) % 0xa00;
	c->gpr[GPR_R9] = rnd(b) % 64;
	c->gpr[GPR_RSP] = STACK_TOP;
	if (b->strings) {
		c->gpr[GPR_RSI] = DATA_AT + 0x700 + rnd(b) % 0x1000;
		c->gpr[GPR_RDI] = DATA_AT + 0x700 + rnd(b) % 0x1000;
		c->gpr[GPR_RCX] = rnd(b) % 3 ? rnd(b) % 24 : rnd(b) % 0x180;
	}
	cpu_set_rflags(c, (rnd(b) & (FL_ARITH | (b->strings ? FL_DF : 0))) | FL_IF);
	c->rip = CODE_AT + rnd(b) % 0xc00;
	memcpy(native_state.gpr, c->gpr, sizeof(c->gpr));
	native_state.rflags = cpu_rflags(c);
	native_state.entry = c->rip;
	to_xsave(&c->vec, native_state.xsave);
	memcpy((void *)c->rip, b->code, b->len + 14);
	for (i = 0; i < DATA_SIZE; i += 8)
		*(u64 *)(DATA_AT + i) = rnd(b) & 1 ? rnd(b) : rnd(b) % 100;
	BUG_ON(ram_write(&b->ram, AREA_GPA, (void *)AREA_BASE, 0x3000));
	BUG_ON(ram_write(&b->ram, AREA_GPA + (STACK_AT - AREA_BASE), (void *)STACK_AT, STACK_SIZE));
	BUG_ON(ram_write(&b->ram, AREA_GPA + (DATA_AT - AREA_BASE), (void *)DATA_AT, DATA_SIZE));
}

/* --- comparing --- */

static unsigned differ(const char *what, unsigned n, u64 ours, u64 host)
{
	printf("  %s%u: engine %016llx host %016llx\n", what, n, (unsigned long long)ours,
	       (unsigned long long)host);
	return 1;
}

/* Some processors leave x87 mode for MMX (TOP, tags) before an MMX instruction's operand faults. */
static bool faulted_in_mmx(struct bench *b, unsigned vector, u64 rip)
{
	struct insn in;

	return vector != 255 && decoder_decode(b->dec, (u8 *)rip, 15, INSN_MODE_64, &in) > 0 &&
	       (in.state & STATE_MMX);
}

/* MOVSXD with a 16-bit operand, of which some processors read 32. */
static bool faulted_in_movsxd_16(struct bench *b)
{
	struct insn in;

	return native_state.trapno == EXC_PF &&
	       decoder_decode(b->dec, (u8 *)native_state.rip, 15, INSN_MODE_64, &in) > 0 &&
	       in.map == INSN_MAP_1B && in.opcode == 0x63 && in.opsize == 2 &&
	       native_state.cr2 % PAGE_SIZE == 0;
}

static unsigned compare(struct bench *b, const u64 gpr[16], u64 rip, u64 rflags, unsigned vector)
{
	struct native_state *s = &native_state;
	const u8 *data = ram_ptr(&b->ram, AREA_GPA + (DATA_AT - AREA_BASE), DATA_SIZE);
	const u8 *stack = ram_ptr(&b->ram, AREA_GPA + (STACK_AT - AREA_BASE), STACK_SIZE);
	struct vec_state v;
	u8 x87[512] __attribute__((aligned(8)));
	unsigned bad = 0, i;
	u64 end = s->entry + b->len;

	/*
	 * The engine resolves a memory operand before the host sees the instruction: where both the
	 * operand and the encoding (reserved VEX fields), its alignment or the x87 state are bad,
	 * the fault is another one of the same instruction.
	 */
	if (vector == EXC_PF && rip == s->rip &&
	    (s->trapno == EXC_UD || s->trapno == EXC_GP || s->trapno == EXC_MF))
		return 0;
	if (vector != EXC_PF && faulted_in_movsxd_16(b))
		return 0;
	if (vector != (u8)s->trapno)
		return differ("vector ", 0, vector, s->trapno);
	if (rip != (vector == 255 ? end : s->rip))
		bad += differ("rip", 0, rip, s->rip);
	if (vector == EXC_PF && b->c->cr2 != s->cr2)
		bad += differ("cr2", 0, b->c->cr2, s->cr2);
	for (i = 0; i < 16; i++)
		if (gpr[i] != s->gpr[i])
			bad += differ("gpr", i, gpr[i], s->gpr[i]);
	if ((rflags ^ s->rflags) & FL_ARITH)
		bad += differ("rflags", 0, rflags & FL_ARITH, s->rflags & FL_ARITH);
	from_xsave(s->xsave, &v);
	for (i = 0; i < 32; i++)
		if (memcmp(v.zmm[i], b->c->vec.zmm[i], 64))
			bad += differ("zmm", i, *(u64 *)b->c->vec.zmm[i], *(u64 *)v.zmm[i]);
	for (i = 0; i < 8; i++)
		if (v.k[i] != b->c->vec.k[i])
			bad += differ("k", i, b->c->vec.k[i], v.k[i]);
	if (v.mxcsr != b->c->vec.mxcsr)
		bad += differ("mxcsr", 0, b->c->vec.mxcsr, v.mxcsr);
	x87_encode(b->c, true, x87); /* the host's state is in this form, too */
	for (i = 0; i < 160 && !faulted_in_mmx(b, vector, rip); i += 8)
		if (i != 24 && memcmp(v.fx + i, x87 + i, i >= 32 && (i & 8) ? 2 : 8))
			bad += differ("x87 image ", i, *(u64 *)(x87 + i), *(u64 *)(v.fx + i));
	for (i = 0; i < DATA_SIZE; i += 8)
		if (memcmp(data + i, (u8 *)DATA_AT + i, 8))
			bad += differ("memory ", i, *(u64 *)(data + i), *(u64 *)(DATA_AT + i));
	for (i = 0; i < STACK_SIZE; i += 8)
		if (memcmp(stack + i, (u8 *)STACK_AT + i, 8))
			bad += differ("stack ", i, *(u64 *)(stack + i), *(u64 *)(STACK_AT + i));
	return bad;
}

static void print_code(struct bench *b)
{
	struct insn in;
	char text[128];
	unsigned at = 0, i;

	while (at < b->len) {
		int n =
		    decoder_decode(b->dec, b->code + at, MIN(15u, b->len - at), INSN_MODE_64, &in);

		if (n <= 0)
			break;
		printf("  %llx:", (unsigned long long)native_state.entry + at);
		for (i = 0; i < (unsigned)n; i++)
			printf(" %02x", in.bytes[i]);
		printf("  %s\n",
		       decoder_format(b->dec, &in, native_state.entry + at, text, sizeof(text)));
		at += n;
	}
}

/* Run under the engine; returns the exception's vector or 255, state as of the faulting point. */
static unsigned run_engine(struct bench *b, u64 gpr[16], u64 *rip, u64 *rflags)
{
	struct cpu *c = b->c;
	u64 frame[6];
	gpa_t sp;
	enum cpu_exit e;
	unsigned vector;

	BUG_ON(thunk_thread_enter(c->engine->thunks, c));
	e = step_run(c, b->count);
	if (e == EXIT_BUDGET && c->cpl == 3) {
		memcpy(gpr, c->gpr, sizeof(c->gpr));
		*rip = c->rip;
		*rflags = cpu_rflags(c);
		return 255;
	}
	BUG_ON(c->cpl != 0);
	vector = (c->rip - STUB_GPA) / 16;
	sp = c->gpr[GPR_RSP];
	if (vector == EXC_DF || vector == EXC_TS || (vector >= EXC_NP && vector <= EXC_PF) ||
	    vector == EXC_AC)
		sp += 8;
	BUG_ON(ram_read(&b->ram, sp, frame, sizeof(frame)));
	memcpy(gpr, c->gpr, sizeof(c->gpr));
	gpr[GPR_RSP] = frame[3];
	*rip = frame[0];
	*rflags = frame[2];
	return vector;
}

static bool one_test(struct bench *b)
{
	u64 gpr[16], rip, rflags;
	unsigned vector;

	make_code(b);
	random_state(b);
	if (b->verbose)
		print_code(b);
	vector = run_engine(b, gpr, &rip, &rflags);
	native_run();
	return compare(b, gpr, rip, rflags, vector) == 0;
}

int main(int argc, char **argv)
{
	static struct bench b;
	u64 count = 100000, done = 0, tests = 0, bad = 0, faults = 0;
	int i;

	b.rng = 1;
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--count") && i + 1 < argc)
			count = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			b.rng = strtoull(argv[++i], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
		else if (!strcmp(argv[i], "--verbose"))
			b.verbose = true;
		else
			return fprintf(stderr,
				       "usage: step_host [--count N] [--seed N] [--verbose]\n"),
			       2;
	}
	__builtin_cpu_init();
	native_state.xsave_mask = 3 | (__builtin_cpu_supports("avx") ? 4 : 0) |
				  (__builtin_cpu_supports("avx512bw") ? 0xe0 : 0);
	native_init();
	bench_init(&b);
	for (; done < count && bad < 10; tests++) {
		if (!one_test(&b)) {
			bad++;
			printf("test %llu:\n", (unsigned long long)tests);
			print_code(&b);
		}
		done += b.count;
		faults += native_state.trapno != ~0ull;
	}
	printf("%llu instructions in %llu sequences, %llu ended by a fault\n",
	       (unsigned long long)done, (unsigned long long)tests, (unsigned long long)faults);
	printf("%llu passed, %llu failed\n", (unsigned long long)(tests - bad),
	       (unsigned long long)bad);
	return bad != 0;
}
