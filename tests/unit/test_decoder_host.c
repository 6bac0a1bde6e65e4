/*
 * The decoder against the processor it runs on.
 *
 * Every form of every opcode the decoder accepts in 64-bit mode (but for stack, string, control and
 * sensitive ones) is executed, with [rsi] as its memory operand, and what it does is compared with
 * what struct insn says of it:
 *
 *   size      the operand may end exactly at an inaccessible page, and not one byte later
 *   access    it faults on a read-only page if and only if it writes; memory changes only then;
 *             what is written but not read does not depend on the old bytes
 *   registers and flags: nothing changes that is not listed as written, nothing depends on what
 *             is not listed as read
 *   LOCK      the processor takes it exactly where the decoder does
 *
 * Encodings the host lacks raise #UD and prove nothing; the tests check that enough remain.
 *
 * Everything the stub touches lies at a fixed low address, so that it needs no register of its own:
 *   CTX          struct stub, the XRSTOR image behind it
 *   CODE         the instruction and a jump to the exit stub
 *   MEM          one page, readable and writable; the next is inaccessible
 *   MEM_RO       one read-only page; the next is inaccessible
 */
#include "insn.h"

#include <cpuid.h>
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define CTX      0x10000000ul
#define XSAVE    (CTX + 0x1000)
#define CODE     (CTX + 0x10000)
#define MEM      (CTX + 0x20000)
#define MEM_RO   (CTX + 0x22000)
#define MEM_NONE (CTX + 0x24000)
#define AREA     0x26000ul
#define OPERAND  (MEM + 0x540) /* where no limit is near; aligned enough for everything */

struct stub {
	u64 in[16];      /* 0x000 */
	u64 in_flags;    /* 0x080 */
	u64 host_rsp;    /* 0x088 */
	u64 out[16];     /* 0x090 */
	u64 out_flags;   /* 0x110 */
	u32 xrstor_mask; /* 0x118 */
	u32 mxcsr;       /* 0x11c */
	u64 code;        /* 0x120 */
	volatile int signo, si_code;
	s64 disp; /* of the operand: [rsi + disp] */
};
#define ctx ((struct stub *)CTX)
_Static_assert(offsetof(struct stub, code) == 0x120, "the stub below knows the offsets");

/* Places in mcontext_t.gregs; glibc's names clash with those of insn.h. */
enum { HOST_RIP = 16, HOST_EFL = 17 };

void host_enter(void);
void host_leave(void);

asm(".pushsection .text\n"
    "host_enter:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, 0x10000088\n"
    "	mov 0x10000118, %eax\n"
    "	xor %edx, %edx\n"
    "	xrstor64 0x10001000\n"
    "	pushq 0x10000080\n"
    "	popfq\n"
    "	mov 0x10000000, %rax; mov 0x10000008, %rcx; mov 0x10000010, %rdx; mov 0x10000018, %rbx\n"
    "	mov 0x10000028, %rbp; mov 0x10000030, %rsi; mov 0x10000038, %rdi; mov 0x10000040, %r8\n"
    "	mov 0x10000048, %r9; mov 0x10000050, %r10; mov 0x10000058, %r11; mov 0x10000060, %r12\n"
    "	mov 0x10000068, %r13; mov 0x10000070, %r14; mov 0x10000078, %r15\n"
    "	jmp *0x10000120\n"
    "host_leave:\n"
    "	mov %rax, 0x10000090; mov %rcx, 0x10000098; mov %rdx, 0x100000a0; mov %rbx, 0x100000a8\n"
    "	mov %rsp, 0x100000b0; mov %rbp, 0x100000b8; mov %rsi, 0x100000c0; mov %rdi, 0x100000c8\n"
    "	mov %r8, 0x100000d0; mov %r9, 0x100000d8; mov %r10, 0x100000e0; mov %r11, 0x100000e8\n"
    "	mov %r12, 0x100000f0; mov %r13, 0x100000f8; mov %r14, 0x10000100; mov %r15, 0x10000108\n"
    "	mov 0x10000088, %rsp\n"
    "	pushfq\n"
    "	popq 0x10000110\n"
    "	cld\n"
    "	fninit\n"
    "	ldmxcsr 0x1000011c\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n"
    ".popsection\n");

/* A fault in the stub: note it and go on at the exit. */
static void on_signal(int signo, siginfo_t *si, void *uc)
{
	ucontext_t *u = uc;
	u64 rip = u->uc_mcontext.gregs[HOST_RIP];

	if (rip < CODE || rip >= CODE + 64) { /* not the stub's: let it kill us */
		signal(signo, SIG_DFL);
		return;
	}
	ctx->signo = signo;
	ctx->si_code = si->si_code;
	u->uc_mcontext.gregs[HOST_RIP] = (long)host_leave;
	u->uc_mcontext.gregs[HOST_EFL] &= ~(long)FL_DF;
}

/* XMM7 (the index of gathers) is zero, all other vector and mask registers are all ones. */
static void prepare_vectors(void)
{
	u8 *image = (u8 *)XSAVE;
	u32 a, b, c, d, xcr0, hi;

	asm volatile("xgetbv" : "=a"(xcr0), "=d"(hi) : "c"(0));
	ctx->xrstor_mask = xcr0 & 0xe7;
	ctx->mxcsr = 0x1f80;
	memcpy(image, &(u16){0x37f}, 2);
	memcpy(image + 24, &(u32){0x1f80}, 4);
	memset(image + 160, 0xff, 16 * 16);
	memset(image + 160 + 7 * 16, 0, 16);
	memcpy(image + 512, &(u64){ctx->xrstor_mask}, 8);
	for (unsigned i = 2; i < 8; i++) {
		if (!(ctx->xrstor_mask >> i & 1))
			continue;
		__cpuid_count(13, i, a, b, c, d);
		memset(image + b, 0xff, a);
		if (i == 2)
			memset(image + b + 7 * 16, 0, 16);
		if (i == 6)
			memset(image + b + 7 * 32, 0, 32);
	}
}

static void setup(void)
{
	static u8 stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	void *p = mmap((void *)CTX, AREA, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	cr_assert_eq(p, (void *)CTX);
	prepare_vectors();
	cr_assert_eq(mprotect((void *)MEM_RO, PAGE_SIZE, PROT_READ), 0);
	cr_assert_eq(mprotect((void *)(MEM + PAGE_SIZE), PAGE_SIZE, PROT_NONE), 0);
	cr_assert_eq(mprotect((void *)(MEM_RO + PAGE_SIZE), PAGE_SIZE, PROT_NONE), 0);
	cr_assert_eq(mprotect((void *)MEM_NONE, PAGE_SIZE, PROT_NONE), 0);
	cr_assert_eq(sigaltstack(&ss, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		cr_assert_eq(sigaction(signals[i], &sa, NULL), 0);
}

/* State before a run, and what came of it. */
struct state {
	u64 gpr[16], flags;
	u8 mem[128];
};
struct result {
	struct state s;
	int signo;
	bool gp; /* SIGSEGV that is no page fault: alignment, reserved bits */
};

static void run(const struct state *before, u64 operand, size_t size, struct result *r)
{
	bool writable = size && operand < MEM_RO;

	cr_assert_leq(size, sizeof(before->mem));
	memcpy(ctx->in, before->gpr, sizeof(ctx->in));
	ctx->in[GPR_RSI] = operand - ctx->disp;
	ctx->in_flags = before->flags | FL_FIXED1;
	ctx->code = CODE;
	ctx->signo = 0;
	if (writable)
		memcpy((void *)operand, before->mem, size);
	host_enter();
	memcpy(r->s.gpr, ctx->out, sizeof(ctx->out));
	r->s.gpr[GPR_RSI] -= ctx->in[GPR_RSI]; /* zero, unless it was written */
	r->s.gpr[GPR_RSP] = 0;
	r->s.flags = ctx->out_flags & (FL_ARITH | FL_DF);
	memset(r->s.mem, 0, sizeof(r->s.mem));
	if (writable)
		memcpy(r->s.mem, (void *)operand, size);
	r->signo = ctx->signo;
	r->gp = ctx->signo == SIGBUS || (ctx->signo == SIGSEGV && ctx->si_code == SI_KERNEL);
}

static void place_code(const u8 *bytes, size_t len)
{
	static const u8 jump[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp *0(%rip) */
	u64 leave = (u64)host_leave;
	u8 *p = (u8 *)CODE;

	memcpy(p, bytes, len);
	memcpy(p + len, jump, sizeof(jump));
	memcpy(p + len + sizeof(jump), &leave, 8);
}

struct tally {
	unsigned tested, absent, failed;
};

static void complain(struct tally *t, const struct insn *in, const char *what, u64 detail)
{
	char text[64];

	text[0] = 0;
	for (unsigned i = 0; i < in->len; i++)
		snprintf(text + 3 * i, 4, " %02x", in->bytes[i]);
	if (t->failed++ < 40)
		cr_log_error("%s: %s (%#llx)", text, what, (unsigned long long)detail);
}

static bool is_bit_string(const struct insn *in)
{
	u8 op = in->opcode;

	return in->has_mem && in->enc == INSN_LEGACY && in->map == INSN_MAP_0F &&
	       (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb);
}

/* The SDM's operand of MOVSXD r16 has 16 bits, but AMD's processors read 32 of which they use 16.
 */
static bool is_movsxd_16(const struct insn *in)
{
	return in->map == INSN_MAP_1B && in->opcode == 0x63 && in->opsize == 2;
}

static bool is_random(const struct insn *in)
{
	return in->enc == INSN_LEGACY && in->map == INSN_MAP_0F && in->opcode == 0xc7 &&
	       !in->has_mem;
}

/* Flags the manual defines after an instruction that writes them all. */
static u16 defined_flags(const struct insn *in)
{
	u8 op = in->opcode, digit = in->modrm >> 3 & 7;

	if (in->enc != INSN_LEGACY)
		return FL_ARITH;
	if (in->map == INSN_MAP_0F)
		return op == 0xaf ? FL_CF | FL_OF : FL_ARITH;
	switch (op) {
	case 0x69:
	case 0x6b: return FL_CF | FL_OF;
	case 0xc0:
	case 0xc1: return FL_ARITH & ~(FL_AF | FL_OF);
	case 0xd0:
	case 0xd1: return FL_ARITH & ~FL_AF;
	case 0xf6:
	case 0xf7: return digit >= 4 ? FL_CF | FL_OF : FL_ARITH & ~FL_AF;
	default: return FL_ARITH & ~FL_AF; /* logic leaves it undefined */
	}
}

static void initial_state(const struct insn *in, unsigned variant, struct state *s)
{
	static const u8 mem[] = {0x80, 0x1f, 0, 0};

	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = is_bit_string(in) ? 0 : 0x0123456789abcdefull * (2 * i + 3 + variant);
	if (in->enc == INSN_LEGACY && (in->opcode | 1) == 0xf7 && (in->modrm & 0x30) == 0x30)
		s->gpr[GPR_RDX] = 0; /* so that most divisions work */
	/* A count that shifts, one that does not, and neither shifts everything out. */
	s->gpr[GPR_RCX] = (s->gpr[GPR_RCX] & ~0xffull) | (variant ? 0x40 : 3);
	if (variant == 2)
		memset(s->gpr, 0, sizeof(s->gpr));
	s->flags = 0;
	for (unsigned i = 0; i < sizeof(s->mem); i++)
		s->mem[i] = variant == 2 ? 0 : i < sizeof(mem) ? mem[i] : 17 * i + 1;
}

static u64 difference(const struct state *a, const struct state *b, u16 gprs)
{
	u64 diff = 0;

	for (unsigned i = 0; i < 16; i++)
		if ((gprs >> i & 1) && a->gpr[i] != b->gpr[i])
			diff |= BIT(i);
	if (memcmp(a->mem, b->mem, sizeof(a->mem)))
		diff |= BIT(16);
	return diff;
}

static void check_operand_size(struct tally *t, const struct insn *in, const struct state *s)
{
	struct result r;
	u64 end = MEM + PAGE_SIZE;

	if (!in->has_mem)
		return;
	if (in->access == ACCESS_NONE) {
		run(s, MEM_NONE, 0, &r);
		if (r.signo)
			complain(t, in, "touches memory after all", r.signo);
		return;
	}
	if (!in->mem_size) {
		complain(t, in, "has an access without a size", 0);
		return;
	}
	run(s, end - in->mem_size, 0, &r);
	if (r.signo == SIGSEGV && !r.gp && !is_movsxd_16(in))
		complain(t, in, "operand is larger than mem_size", in->mem_size);
	run(s, end - in->mem_size + 1, 0, &r);
	if (!r.gp && r.signo != SIGSEGV)
		complain(t, in, "operand is smaller than mem_size", in->mem_size);
	run(s, MEM_RO, 0, &r);
	if (!r.gp && (r.signo == SIGSEGV) != !!(in->access & ACCESS_W))
		complain(t, in, "access W is wrong, it is", in->access);
}

static void check_memory_data(struct tally *t, const struct insn *in, const struct state *s,
			      const struct result *r)
{
	struct state other = *s;
	struct result q;
	size_t n = in->mem_size;
	bool depends;

	if (!in->has_mem || !n)
		return;
	if (!(in->access & ACCESS_W) && memcmp(r->s.mem, s->mem, n))
		complain(t, in, "memory changed", 0);
	for (unsigned i = 0; i < n; i++)
		other.mem[i] ^= 0xff;
	run(&other, OPERAND, n, &q);
	if (q.signo)
		return;
	depends =
	    difference(&q.s, &r->s, in->access & ACCESS_W ? 0xffff : 0) || q.s.flags != r->s.flags;
	if (!(in->access & ACCESS_R) && depends)
		complain(t, in, "depends on memory it is not said to read", 0);
	/* with all registers zero, and gives zero whatever was there */
	if (in->access == ACCESS_RW && !depends && s->gpr[GPR_RBX])
		complain(t, in, "does not depend on memory it is said to read", 0);
}

static void check_registers(struct tally *t, const struct insn *in, const struct state *s,
			    const struct result *r)
{
	struct state before = *s, other;
	struct result q;

	before.gpr[GPR_RSI] = before.gpr[GPR_RSP] = 0;
	memcpy(before.mem, r->s.mem, sizeof(before.mem));
	if (difference(&before, &r->s, ~in->gpr_written))
		complain(t, in, "writes registers it is not said to",
			 difference(&before, &r->s, ~in->gpr_written));
	if ((s->flags ^ r->s.flags) & ~(u64)in->flags_written)
		complain(t, in, "writes flags it is not said to",
			 (s->flags ^ r->s.flags) & ~(u64)in->flags_written);
	for (unsigned i = 0; i < 16; i++) {
		if (i == GPR_RSP || i == GPR_RSI || (in->gpr_read >> i & 1))
			continue;
		other = *s;
		other.gpr[i] ^= 0x5a5a5a5a5a5a5a5aull;
		run(&other, OPERAND, in->mem_size, &q);
		if (q.signo || difference(&q.s, &r->s, in->gpr_written | (0xffff & ~(1u << i))) ||
		    q.s.flags != r->s.flags)
			complain(t, in, "depends on a register it is not said to read", i);
	}
}

static void check_flags(struct tally *t, const struct insn *in, const struct state *s,
			const struct result *r)
{
	static const u16 bits[] = {FL_CF, FL_PF, FL_AF, FL_ZF, FL_SF, FL_OF};
	u16 compare = in->flags_written & FL_ARITH & defined_flags(in);

	for (unsigned i = 0; i < ARRAY_LEN(bits); i++) {
		struct state other = *s;
		struct result q;

		if (in->flags_read & bits[i])
			continue;
		other.flags ^= bits[i];
		run(&other, OPERAND, in->mem_size, &q);
		if (difference(&q.s, &r->s, 0xffff))
			complain(t, in, "depends on a flag it is not said to read", bits[i]);
		if ((q.s.flags ^ r->s.flags) & ~bits[i] & compare)
			complain(t, in, "flags depend on a flag it is not said to read", bits[i]);
		if (!in->flags_partial &&
		    ((q.s.flags ^ r->s.flags) & bits[i] & in->flags_written & FL_ARITH))
			complain(t, in, "may keep a flag and is not called partial", bits[i]);
	}
}

static bool in_scope(const struct insn *in)
{
	if (in->has_mem && in->base != GPR_RSI)
		return false; /* the opcode was a prefix, and so the bytes say something else */
	if (is_bit_string(in) && in->reg == GPR_RSI)
		return false; /* the address would be an offset to itself */
	return in->class == CLASS_IDENTICAL || in->class == CLASS_MEMORY;
}

static void check_encoding(struct tally *t, const struct insn *in)
{
	struct state s;
	struct result r;

	place_code(in->bytes, in->len);
	ctx->disp = in->disp;
	for (unsigned variant = 0; variant < 3; variant++) {
		initial_state(in, variant, &s);
		run(&s, OPERAND, in->mem_size, &r);
		if (r.signo == SIGILL) {
			t->absent++;
			return;
		}
		t->tested++;
		if (!variant)
			check_operand_size(t, in, &s);
		if (r.signo || is_random(in) || is_bit_string(in))
			continue;
		check_memory_data(t, in, &s, &r);
		check_registers(t, in, &s, &r);
		check_flags(t, in, &s, &r);
	}
}

struct rig {
	struct decoder *d;
	struct tally tally;
};

/* Decode, then check what is in scope; returns false if the next byte made no difference. */
static bool try_bytes(struct rig *g, u8 *bytes)
{
	struct insn in;

	if (decoder_decode(g->d, bytes, INSN_MAX_LEN, INSN_MODE_64, &in) < 0)
		return true;
	if (in_scope(&in))
		check_encoding(&g->tally, &in);
	return in.has_modrm;
}

/* An opcode (prefixes and all) with register and memory forms of each ModRM.reg in digits, and with
 * immediates that are a shift count and a shift count of zero, the latter with a displacement too.
 * rsi: how to say [rsi] in ModRM.rm. */
static void try_forms(struct rig *g, const u8 *opcode, size_t n, u8 digits, u8 rsi)
{
	static const u8 immediates[] = {0x05, 0x40};

	for (unsigned digit = 0; digit < 8; digit++) {
		if (!(digits >> digit & 1))
			continue;
		for (unsigned form = 0; form < 4; form++) {
			u8 b[INSN_MAX_LEN] = {0};
			size_t k = n;

			memcpy(b, opcode, n);
			b[k++] = digit << 3 | (form == 3 ? 0x40 | rsi : form == 1 ? rsi : 0xc1);
			if ((form & 1) && rsi == 4)
				b[k++] = 0x3e; /* SIB: base RSI, index XMM7 */
			if (form == 3)
				b[k++] = 0xfe;
			b[k] = immediates[form >> 1];
			if (!try_bytes(g, b))
				return;
		}
	}
}

static struct rig new_rig(void)
{
	struct rig g = {.d = decoder_new()};

	cr_assert_not_null(g.d);
	return g;
}

static void finish(struct rig *g, unsigned least)
{
	decoder_free(g->d);
	cr_log_info("%u forms run, %u unknown to this processor", g->tally.tested, g->tally.absent);
	cr_assert_eq(g->tally.failed, 0, "%u disagreements with the processor", g->tally.failed);
	cr_assert_geq(g->tally.tested, least, "only %u forms run", g->tally.tested);
}

static size_t put_escape(u8 *p, unsigned map)
{
	size_t n = 0;

	if (map)
		p[n++] = 0x0f;
	if (map >= INSN_MAP_0F38)
		p[n++] = map == INSN_MAP_0F38 ? 0x38 : 0x3a;
	return n;
}

static void legacy_map(unsigned map, unsigned least)
{
	static const u8 prefixes[] = {0, 0x66, 0xf3, 0xf2};
	static const u8 rexes[] = {0, 0x48, 0x44};
	struct rig g = new_rig();

	for (unsigned opcode = 0; opcode < 256; opcode++) {
		for (unsigned i = 0; i < ARRAY_LEN(prefixes) * ARRAY_LEN(rexes); i++) {
			u8 b[INSN_MAX_LEN];
			size_t n = 0;

			if (prefixes[i % 4])
				b[n++] = prefixes[i % 4];
			if (rexes[i / 4])
				b[n++] = rexes[i / 4];
			n += put_escape(b + n, map);
			b[n++] = opcode;
			try_forms(&g, b, n, 0xff, 6);
		}
	}
	finish(&g, least);
}

static bool is_vsib_opcode(unsigned map, unsigned opcode)
{
	return map == INSN_MAP_0F38 && (opcode >> 4 == 0x9 || opcode >> 4 == 0xa) &&
	       (opcode & 15) < 4;
}

/* Opcodes whose ModRM.reg is part of the opcode. */
static u8 digits_of(unsigned map, unsigned opcode)
{
	bool group =
	    (map == INSN_MAP_0F && (opcode == 0xae || (opcode >= 0x71 && opcode <= 0x73))) ||
	    (map == INSN_MAP_0F38 && opcode == 0xf3);

	return group ? 0xff : 1 << 1;
}

/* i counts through pp, W, two lengths and vvvv (none and 2). */
static void vex_opcode(struct rig *g, unsigned map, unsigned opcode, unsigned i)
{
	u8 vvvv = i & 16 ? 2 : 0;
	u8 b[INSN_MAX_LEN] = {0xc4, 0xe0 | map,
			      (i & 4) << 5 | (~vvvv & 15) << 3 | (i & 8) >> 1 | (i & 3), opcode};

	try_forms(g, b, 4, digits_of(map, opcode), is_vsib_opcode(map, opcode) ? 4 : 6);
}

/* i counts through pp, W, three lengths, vvvv (none and 2), broadcast and masking. */
static void evex_opcode(struct rig *g, unsigned map, unsigned opcode, unsigned i)
{
	u8 vvvv = i & 32 ? 2 : 0, length = i >> 3 & 3;
	u8 b[INSN_MAX_LEN] = {0x62, 0xf0 | map, (i & 4) << 5 | (~vvvv & 15) << 3 | 4 | (i & 3),
			      length << 5 | (i & 64) >> 2 | 8 | i >> 7, opcode};

	if (length < 3)
		try_forms(g, b, 5, digits_of(map, opcode), is_vsib_opcode(map, opcode) ? 4 : 6);
}

Test(decoder_host, one_byte_map, .init = setup, .timeout = 120)
{
	legacy_map(INSN_MAP_1B, 5000);
}

Test(decoder_host, map_0f, .init = setup, .timeout = 120)
{
	legacy_map(INSN_MAP_0F, 5000);
}

Test(decoder_host, map_0f38, .init = setup, .timeout = 120)
{
	legacy_map(INSN_MAP_0F38, 100);
}

Test(decoder_host, map_0f3a, .init = setup, .timeout = 120)
{
	legacy_map(INSN_MAP_0F3A, 100);
}

Test(decoder_host, vex, .init = setup, .timeout = 120)
{
	struct rig g = new_rig();

	for (unsigned map = INSN_MAP_0F; map <= INSN_MAP_0F3A; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned i = 0; i < 32; i++)
				vex_opcode(&g, map, opcode, i);
	finish(&g, __builtin_cpu_supports("avx2") ? 1000 : 0);
}

Test(decoder_host, evex, .init = setup, .timeout = 120)
{
	struct rig g = new_rig();

	for (unsigned map = INSN_MAP_0F; map <= INSN_MAP_0F3A; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned i = 0; i < 256; i++)
				evex_opcode(&g, map, opcode, i);
	finish(&g, __builtin_cpu_supports("avx512bw") ? 5000 : 0);
}

/* LOCK before every memory form: #UD exactly where the decoder says so. */
Test(decoder_host, lock, .init = setup, .timeout = 120)
{
	struct rig g = new_rig();
	struct state s;
	struct result r;
	struct insn in;

	for (unsigned i = 0; i < 512 * 8; i++) {
		u8 b[INSN_MAX_LEN] = {0xf0, 0x0f, i >> 3, (i & 7) << 3 | 6};
		u8 *plain = b + 1;
		bool locked;

		if (i >> 11)
			memmove(b + 1, b + 2, sizeof(b) - 2);
		if (decoder_decode(g.d, plain, sizeof(b) - 1, INSN_MODE_64, &in) < 0 ||
		    !in_scope(&in) || !in.has_mem)
			continue;
		initial_state(&in, 0, &s);
		memset(s.gpr, 0, sizeof(s.gpr));
		ctx->disp = 0;
		locked = decoder_decode(g.d, b, sizeof(b), INSN_MODE_64, &in) > 0;
		place_code(b, locked ? in.len : 12);
		run(&s, OPERAND, 16, &r);
		g.tally.tested++;
		if ((r.signo == SIGILL) == locked)
			complain(&g.tally, &in, "LOCK", locked);
	}
	finish(&g, 300);
}

/* In 64-bit mode ES, CS, SS and DS overrides do not even undo an FS override. */
Test(decoder_host, idle_overrides, .init = setup)
{
	static const u8 idle[] = {0x26, 0x2e, 0x36, 0x3e};
	struct rig g = new_rig();
	struct state s = {0};
	struct result r;
	struct insn in;
	u64 fs_base;

	asm("mov %%fs:0, %0" : "=r"(fs_base)); /* glibc's thread block begins with its address */
	for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
		u8 b[INSN_MAX_LEN] = {0x64, idle[i], 0x8b, 0x06};

		cr_assert_eq(decoder_decode(g.d, b, sizeof(b), INSN_MODE_64, &in), 4);
		cr_expect_eq(in.seg, SEG_FS);
		place_code(b, 4);
		ctx->disp = fs_base;
		run(&s, OPERAND, 4, &r);
		cr_expect_eq(r.signo, 0, "%02x undoes FS here", idle[i]);
	}
	decoder_free(g.d);
}

static u32 next_random(u32 *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Heaps of prefixes before instructions of every kind: the processor must accept what the decoder
 * accepts, refuse what it refuses, and do what it says. */
Test(decoder_host, prefix_heaps, .init = setup, .timeout = 120)
{
	static const u8 prefixes[] = {0x66, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0xf0,
				      0x40, 0x44, 0x48, 0x4c, 0x66, 0xf2, 0xf3, 0x48};
	static const u8 opcodes[][4] = {
	    {1, 0x01},       {1, 0x89},       {1, 0x8b},       {1, 0x8d},       {1, 0xf7},
	    {1, 0xd1},       {1, 0x63},       {1, 0x87},       {1, 0xff},       {1, 0x69},
	    {1, 0xdd},       {1, 0xd9},       {2, 0x0f, 0x1f}, {2, 0x0f, 0x1e}, {2, 0x0f, 0x10},
	    {2, 0x0f, 0x12}, {2, 0x0f, 0x16}, {2, 0x0f, 0x28}, {2, 0x0f, 0x2a}, {2, 0x0f, 0x2d},
	    {2, 0x0f, 0x54}, {2, 0x0f, 0x58}, {2, 0x0f, 0x6f}, {2, 0x0f, 0x7e}, {2, 0x0f, 0x70},
	    {2, 0x0f, 0xaf}, {2, 0x0f, 0xb0}, {2, 0x0f, 0xb6}, {2, 0x0f, 0xb8}, {2, 0x0f, 0xbc},
	    {2, 0x0f, 0xbd}, {2, 0x0f, 0xc1}, {2, 0x0f, 0xc2}, {2, 0x0f, 0xc3}, {2, 0x0f, 0xc7},
	    {2, 0x0f, 0xd6}, {2, 0x0f, 0xe6}, {2, 0x0f, 0xe7}, {2, 0x0f, 0x44}, {2, 0x0f, 0x92},
	};
	struct rig g = new_rig();
	u32 seed = 1;

	for (unsigned i = 0; i < 15000; i++) {
		const u8 *opcode = opcodes[next_random(&seed) % ARRAY_LEN(opcodes)];
		size_t n = next_random(&seed) % 7;
		u8 b[INSN_MAX_LEN] = {0};
		unsigned absent = g.tally.absent;
		struct insn in;
		struct result r;
		struct state s;

		for (size_t k = 0; k < n; k++)
			b[k] = prefixes[next_random(&seed) % ARRAY_LEN(prefixes)];
		memcpy(b + n, opcode + 1, opcode[0]);
		n += opcode[0];
		b[n++] = (next_random(&seed) & 7) << 3 | 6;
		b[n] = 3; /* immediate */
		if (decoder_decode(g.d, b, sizeof(b), INSN_MODE_64, &in) > 0) {
			if (in_scope(&in))
				check_encoding(&g.tally, &in);
			if (g.tally.absent > absent)
				complain(&g.tally, &in, "the processor knows no such thing", 0);
			continue;
		}
		initial_state(&in, 0, &s);
		memcpy(in.bytes, b, sizeof(b));
		in.len = n;
		ctx->disp = 0;
		place_code(b, sizeof(b));
		run(&s, OPERAND, 64, &r);
		if (r.signo != SIGILL)
			complain(&g.tally, &in, "the processor knows it", r.signo);
	}
	finish(&g, 8000);
}
