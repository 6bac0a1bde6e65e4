/*
 * See bt_sequence.h.
 */
#include "bt_sequence.h"

#include <string.h>

#include "bt_system.h"
#include "bt_user.h"
#include "bt_vector.h"

static u64 rnd(struct sequence *s)
{
	return soak_rnd(&s->rng);
}

/* Bits well mixed, never 0: of neighbouring numbers, unlike ones (Steele, Lea, Flood: SplitMix). */
static u64 mix(u64 a, u64 b)
{
	u64 z = a * 0x9e3779b97f4a7c15ull + b * 0xd1b54a32d192ed03ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) | 1;
}

void sequence_seed(struct sequence *s, u64 seed, u64 n, unsigned only)
{
	s->at = &halves[only ? only - 1 : (mix(seed, n / 16) >> 1) % HALVES];
	s->rng = mix(seed, ~n);
}

/* --- choosing instructions --- */

/* RBX and R13 point into the data, R9 is a small index, R15 counts the loop: random instructions do
 * not write them, nor RSP. */
#define KEPT (1u << GPR_RBX | 1u << GPR_R13 | 1u << GPR_R9 | 1u << GPR_R15 | 1u << GPR_RSP)

static void byte(struct sequence *s, u8 b)
{
	BUG_ON(s->len >= sizeof(s->code));
	s->code[s->len++] = b;
}

static void bytes(struct sequence *s, const void *p, unsigned n)
{
	const u8 *b = p;

	while (n--)
		byte(s, *b++);
}
#define BYTES(s, ...) bytes(s, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void imm32(struct sequence *s, u64 v)
{
	bytes(s, &v, 4);
}

static struct form random_form(struct sequence *s)
{
	u64 r = rnd(s);
	s32 d = r >> 40 & 0x7ff;
	u32 data = (u32)s->at->data + (r & 0x1000000000 ? 0 : 0xff0) + d;
	u8 scale = r >> 16 & 0xc0;

	switch (r & 7) {
	case 0: return (struct form){.mod_rm = 0x83, .disp_size = 4, .disp = d};
	case 1: return (struct form){.mod_rm = 0x43, .disp_size = 1, .disp = (s8)d};
	case 2:
		return (struct form){.b = 1,
				     .x = 1,
				     .mod_rm = 0x44,
				     .sib = scale | 1 << 3 | 5,
				     .has_sib = true,
				     .disp_size = 1,
				     .disp = (s8)d};
	case 3: /* rsp */
		return (struct form){
		    .mod_rm = 0x44, .sib = 0x24, .has_sib = true, .disp_size = 1, .disp = d & 0x78};
	case 4:
	case 5:
		return (struct form){
		    .mod_rm = 4, .sib = 0x25, .has_sib = true, .disp_size = 4, .disp = (s32)data};
	case 6: /* gs:[disp32] */
		return (struct form){.gs = true,
				     .mod_rm = 4,
				     .sib = 0x25,
				     .has_sib = true,
				     .disp_size = 4,
				     .disp = d};
	default: /* gs:[r9*scale + disp32] */
		return (struct form){.gs = true,
				     .x = 1,
				     .mod_rm = 4,
				     .sib = scale | 1 << 3 | 5,
				     .has_sib = true,
				     .disp_size = 4,
				     .disp = d};
	}
}

static bool wanted(const struct insn *in)
{
	u8 ext = in->modrm >> 3 & 7;

	if (in->class != CLASS_IDENTICAL && in->class != CLASS_MEMORY &&
	    in->class != CLASS_STACK_DATA)
		return false;
	if ((in->gpr_written & KEPT) || in->state || in->moffs || in->vsib || in->addrsize != 8)
		return false;
	if (in->map == INSN_MAP_0F && in->opcode == 0xc7) /* rdrand rdseed */
		return in->has_mem;
	/* What was to be an opcode may have become a prefix, and the rest an operand anywhere: in
	 * the sequence's own code, say, which makes RAX a bad target of a call. */
	if (in->has_mem && in->access && in->base < 16 && !(KEPT >> in->base & 1))
		return false;
	if (in->map == INSN_MAP_0F && in->has_mem && /* bit offsets reach too far */
	    (in->opcode == 0xa3 || in->opcode == 0xab || in->opcode == 0xb3 || in->opcode == 0xbb))
		return in->reg == GPR_R9;
	if (in->map == INSN_MAP_1B && in->opcode == 0xff && ext >= 2) /* own items */
		return false;
	return in->has_modrm || in->class != CLASS_STACK_DATA;
}

/* One random instruction into code[len..]; false: try again. */
static bool random_insn(struct sequence *s)
{
	u64 r = rnd(s);
	u8 p[16], rex = 0;
	unsigned n = 0, i;
	struct form f = random_form(s);
	struct insn in;
	bool vex = (r & 15) == 0, mem = r & 0x10;
	u8 modrm = mem ? f.mod_rm | (r >> 8 & 0x38) : 0xc0 | (r >> 8 & 0x3f);
	s32 disp = f.disp;
	int len;

	if (mem && f.gs)
		p[n++] = 0x65;
	if (vex) { /* ANDN, BEXTR, SHLX, MULX, RORX... */
		p[n++] = 0xc4;
		p[n++] = (r >> 16 & 0x80) | (mem && f.x ? 0 : 0x40) | (mem && f.b ? 0 : 0x20) |
			 (2 + (r >> 17 & 1));
		p[n++] = r >> 24 & 0xfb;
	} else {
		if ((r & 0x60) == 0)
			p[n++] = 0x66;
		if ((r & 0x380) == 0)
			p[n++] = r & 0x400 ? 0xf0 : 0xf3;
		rex = 0x40 | (r >> 16 & 0xc) | (mem ? (u64)(f.x << 1 | f.b) : r >> 18 & 1);
		if (rex != 0x40 || (r & 0x800))
			p[n++] = rex;
		if (r & 0x100000)
			p[n++] = 0x0f;
	}
	p[n++] = r >> 32;
	p[n++] = modrm;
	if (mem && f.has_sib)
		p[n++] = f.sib;
	i = n;
	if (mem)
		n += f.disp_size;
	for (; n < 16; n++)
		p[n] = rnd(s);
	memcpy(p + i, &disp, mem ? f.disp_size : 0);
	len = decoder_decode(s->dec, p, 15, INSN_MODE_64, &in);
	if (len <= 0 || !wanted(&in) || in.has_mem != mem)
		return false;
	bytes(s, p, len);
	return true;
}

/* --- items --- */

/* add/or/.../cmp/mov/lea with a RIP-relative operand: the place in the code is known here. */
static void rip_item(struct sequence *s, u64 start)
{
	u64 r = rnd(s), target = s->at->data + (r >> 16 & 0x1ff8);
	u8 reg = r & 7, op = (r >> 3 & 0x38) | (r & 0x200 ? 1 : 3);

	if (KEPT & 1u << reg)
		reg = GPR_RAX;
	if ((r & 0x3000) == 0)
		op = 0x8d;
	BYTES(s, 0x48 | (r >> 40 & 3), op, reg << 3 | 5); /* X and B mean nothing here */
	imm32(s, target - (start + s->len + 4));
}

/* add r32, imm32, whose immediate others may write. */
static void patched_item(struct sequence *s)
{
	u8 reg = rnd(s) & 3; /* rax rcx rdx, rbx is kept */

	BYTES(s, 0x81, 0xc0 | (reg == GPR_RBX ? 0 : reg));
	if (s->n_patch < MAX_ITEMS)
		s->patch[s->n_patch++] = s->code + s->len;
	imm32(s, rnd(s));
}

static void patch_item(struct sequence *s, u64 start)
{
	u64 at;

	if (!s->n_patch)
		return;
	at = start + (s->patch[rnd(s) % s->n_patch] - s->code);
	if (rnd(s) & 1) { /* mov byte [rip+x], imm8 */
		BYTES(s, 0xc6, 0x05);
		imm32(s, at - (start + s->len + 5));
		byte(s, rnd(s));
	} else { /* movabs rsi, alias; mov [rsi], eax */
		at += s->at->alias - s->at->code;
		BYTES(s, 0x48, 0xbe);
		bytes(s, &at, 8);
		BYTES(s, 0x89, 0x06);
	}
}

/* RSP written as data, or where random instructions seldom have it. */
static void rsp_item(struct sequence *s)
{
	u8 k = rnd(s);

	switch (k % 14) {
	case 0: BYTES(s, 0x54); break;                                     /* push rsp */
	case 1: BYTES(s, 0x54, 0x5c); break;                               /* push rsp; pop rsp */
	case 2: BYTES(s, 0xff, 0xf4, 0x8f, 0xc4); break;                   /* the same by ModRM */
	case 3: BYTES(s, 0x48, 0x83, 0xe4, k & 0x80 ? 0xf8 : 0xf0); break; /* and rsp, -8, -16 */
	case 4: BYTES(s, 0x48, 0x89, 0x63, k & 0x78, 0x48, 0x8b, 0x63, k & 0x78); break;
	case 5: BYTES(s, 0x48, 0x94, 0x48, 0x94); break; /* xchg rax, rsp, twice */
	case 6: BYTES(s, 0x48, 0x87, 0x63, k & 0x78, 0x48, 0x87, 0x63, k & 0x78); break;
	case 7: BYTES(s, 0x4c, 0x01, 0xcc); break;                   /* add rsp, r9 */
	case 8: BYTES(s, 0x48, 0xff, 0xc4, 0x48, 0xff, 0xcc); break; /* inc rsp; dec rsp */
	case 9: BYTES(s, 0x4a, 0x8d, 0x44, 0x8c, k); break;          /* lea rax, [rsp+r9*4+x] */
	case 10: BYTES(s, 0x8d, 0x4c, 0x24, k); break;               /* lea ecx, [rsp+x] */
	case 11: BYTES(s, 0x4a, 0x8d, 0x24, 0xcc); break;            /* lea rsp, [rsp+r9*8] */
	case 12: BYTES(s, 0x48, 0x89, 0x64, 0x24, 0xf8, 0x48, 0x8b, 0x64, 0x24, 0xf8); break;
	default: BYTES(s, 0x48, 0x8d, 0x6c, 0x24, k, 0x48, 0x0f, 0x4c, 0xe5); /* cmovl rsp, rbp */
	}
}

/* IRETQ to behind itself, with some flags changed: as a kernel serializes, or ends an interrupt. */
static void iret_item(struct sequence *s)
{
	u64 r = rnd(s);
	u32 flags = (u32)(r >> 16) & (FL_ARITH | FL_IF);

	if ((r & 0xf) == 0)
		flags |= r & 0x10 ? FL_DF : r & 0x20 ? FL_AC : r & 0x40 ? FL_ID : FL_NT;
	BYTES(s, 0x8c, 0xd0, 0x50);                   /* mov eax, ss; push rax */
	BYTES(s, 0x54, 0x48, 0x83, 0x04, 0x24, 0x08); /* push rsp; add qword [rsp], 8 */
	BYTES(s, 0x9c, 0x81, 0x34, 0x24);             /* pushfq; xor dword [rsp], flags */
	imm32(s, flags);
	BYTES(s, 0x8c, 0xc8, 0x50); /* mov eax, cs; push rax */
	if ((r & 0xf00) == 0) {     /* a target that is not canonical: ror rax, 8 */
		BYTES(s, 0x48, 0x8d, 0x05, 7, 0, 0, 0, 0x48, 0xc1, 0xc8, 0x08);
	} else { /* lea rax, [rip+3] */
		BYTES(s, 0x48, 0x8d, 0x05, 3, 0, 0, 0);
	}
	BYTES(s, 0x50, 0x48, 0xcf); /* push rax; iretq */
}

static void stack_item(struct sequence *s)
{
	static const u8 safe[] = {GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBP, GPR_RSI, GPR_RDI};
	u8 reg = safe[rnd(s) % sizeof(safe)], k = rnd(s);

	switch (k % 14) {
	case 0:
	case 1: BYTES(s, 0x50 | reg); break;
	case 2:
	case 3: BYTES(s, 0x58 | reg); break;
	case 4: BYTES(s, 0x41, 0x50 | (k >> 5)); break;
	case 5: BYTES(s, 0x6a, k); break;
	case 6: BYTES(s, 0xff, 0x73, k & 0x78); break;                 /* push [rbx+x] */
	case 7: BYTES(s, 0x8f, 0x43, k & 0x78); break;                 /* pop [rbx+x] */
	case 8: BYTES(s, 0x48, 0x89, 0xe0 | reg); break;               /* mov r, rsp */
	case 9: BYTES(s, 0x48, 0x8d, 0x44 | reg << 3, 0x24, k); break; /* lea r, [rsp+x] */
	case 10: BYTES(s, 0x48, 0x83, k & 0x80 ? 0xc4 : 0xec, k & 0x38); break;
	case 11: BYTES(s, 0x48, 0x8d, 0x64, 0x24, (k & 0x78) - 0x38); break; /* lea rsp, [rsp+x] */
	case 12: /* push rbp; mov rbp, rsp; push rax; leave */
		BYTES(s, 0x55, 0x48, 0x89, 0xe5, 0x50, 0xc9);
		break;
	default: /* pushfq; xor dword [rsp], flags; popfq */
		BYTES(s, 0x9c, 0x81, 0x34, 0x24);
		imm32(s, rnd(s) & (FL_ARITH | FL_IF));
		if (k & 0x80)
			byte(s, 0x9d);
		else
			byte(s, 0x58);
	}
}

/* Over the next item. */
static u8 *branch_item(struct sequence *s)
{
	u64 r = rnd(s);

	if (r & 0x10)
		BYTES(s, 0x70 | (r & 15), 0);
	else
		BYTES(s, 0xeb, 0);
	return s->code + s->len - 1;
}

/* call over, [function], over: so that a return address is used */
static void call_item(struct sequence *s, u64 start)
{
	u64 r = rnd(s);
	u8 *over;
	u64 function;

	BYTES(s, 0xeb, 0);
	over = s->code + s->len;
	function = start + s->len;
	if (rnd(s) % 16) {
		while (!random_insn(s)) /* it may write the return address */
			;
	} else { /* xor dword [rsp+4]: hardly canonical any more */
		BYTES(s, 0x81, 0x74, 0x24, 0x04);
		imm32(s, r >> 16);
	}
	if (r & 1) {
		BYTES(s, 0xc3);
	} else { /* ret 8 takes what the caller pushes */
		BYTES(s, 0xc2, 8, 0);
	}
	over[-1] = s->code + s->len - over;
	if (!(r & 1))
		byte(s, 0x50);
	switch (r >> 1 & 3) {
	case 0: /* lea rax, [rip+x]; call rax */
		BYTES(s, 0x48, 0x8d, 0x05);
		imm32(s, function - (start + s->len + 4));
		BYTES(s, 0xff, 0xd0);
		break;
	case 1: /* mov qword gs:[8], function; call gs:[8] */
		BYTES(s, 0x65, 0x48, 0xc7, 0x04, 0x25, 8, 0, 0, 0);
		imm32(s, function);
		BYTES(s, 0x65, 0xff, 0x14, 0x25, 8, 0, 0, 0);
		break;
	default: byte(s, 0xe8); imm32(s, function - (start + s->len + 4));
	}
}

/* Several in a row, so that state is loaded once. RIP-relative operands are given their address
 * here. */
static void vector_item(struct sequence *s, u64 start)
{
	unsigned n = 1 + (rnd(s) & 3), len;
	u64 target = s->at->data + (rnd(s) & 0x1fc0);
	u8 code[16];

	while (n--) {
		do {
			struct form f = random_form(s);

			len = vector_insn(&s->rng, s->dec, &f, KEPT, code);
		} while (!len);
		vector_aim(s->dec, code, start + s->len, target);
		bytes(s, code, len);
	}
}

static void string_item(struct sequence *s)
{
	static const u8 op[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xa6, 0xa7};
	u64 r = rnd(s);

	if (r >> 32 & 15)
		BYTES(s, 0x48, 0x8d, 0x7b, r >> 8); /* lea rdi, [rbx+x] */
	if (r >> 36 & 15)
		BYTES(s, 0x48, 0x8d, 0x73, r >> 16);              /* lea rsi, [rbx+x] */
	BYTES(s, 0xb9, r >> 24 & (r & 0x80 ? 255 : 15), 0, 0, 0); /* mov ecx, n */
	if ((r >> 40 & 15) == 0)
		byte(s, 0x65); /* gs: */
	if (r & 0x40)
		byte(s, r & 0x80000000 ? 0xf2 : 0xf3);
	if (r & 0x20)
		byte(s, 0x48);
	byte(s, op[(r & 15) % sizeof(op)]);
}

/* To behind this item, and as much beyond as delta says: by a jump, a return or a call. */
static void go_item(struct sequence *s, u64 start, u64 delta)
{
	static const u8 jump[] = {0xff, 0xe0, 0x50,
				  0xc3, 0xff, 0xd0}; /* jmp rax; push, ret; call rax */
	u64 r = rnd(s), target = start + s->len + 12 + delta;

	if ((r & 7) < 3 && delta == (u64)(s64)(s32)delta) {
		byte(s, r & 8 ? 0xe9 : 0xe8);
		imm32(s, delta);
		return;
	}
	BYTES(s, 0x48, 0xb8); /* movabs rax, target */
	bytes(s, &target, 8);
	bytes(s, jump + 2 * (r % 3), 2);
}

/* The same code in the other half, for an instruction, and back. */
static void beyond_item(struct sequence *s, u64 start)
{
	u64 delta = s->at->beyond - s->at->code;

	go_item(s, start, delta);
	while (!random_insn(s))
		;
	go_item(s, start + delta, -delta);
}

static void user_item(struct sequence *s)
{
	u8 code[16];

	bytes(s, code, user_insn(&s->rng, s->at->other, code));
}

/* Instructions behind one another that use the same base register, which one may overwrite. */
static void run_item(struct sequence *s)
{
	static const struct {
		u8 len, imm, bytes[4];
	} op[] = {{2, 0, {0x48, 0x8b}},
		  {2, 0, {0x48, 0x89}},
		  {1, 0, {0x8b}},
		  {1, 0, {0x89}},
		  {1, 0, {0x88}},
		  {2, 0, {0x66, 0x89}},
		  {2, 0, {0x48, 0x01}},
		  {2, 0, {0x48, 0x13}},
		  {1, 0, {0x39}},
		  {2, 0, {0x48, 0x87}},
		  {2, 0, {0x0f, 0xb6}},
		  {3, 0, {0xf0, 0x48, 0x01}},
		  {3, 0, {0x48, 0x0f, 0xb1}},
		  {1, 4, {0xc7}},
		  {2, 1, {0x66, 0x83}}};
	static const u8 reg[] = {GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBP, GPR_RSI, GPR_RDI};
	static const u8 base[] = {GPR_RBX, GPR_RBX, GPR_RBX, GPR_RAX, GPR_RDX, GPR_RSI};
	unsigned n = 2 + rnd(s) % 6, b = base[rnd(s) % ARRAY_LEN(base)];

	if (b != GPR_RBX)
		BYTES(s, 0x48, 0x89, 0xd8 | b); /* mov base, rbx */
	while (n--) {
		unsigned i = rnd(s) % ARRAY_LEN(op), r = reg[rnd(s) % ARRAY_LEN(reg)];
		u32 disp = rnd(s) & 1 ? rnd(s) & 0x7f : rnd(s) & 0x3ff;

		if (op[i].imm) /* MOV has /0 */
			r = op[i].bytes[0] == 0xc7 ? 0 : r;
		else if (r == b && n) /* at the end only */
			r = b == GPR_RDX ? GPR_RCX : GPR_RDX;
		bytes(s, op[i].bytes, op[i].len);
		byte(s, 0x80 | r << 3 | b);
		bytes(s, &disp, 4);
		disp = (u32)rnd(s);
		bytes(s, &disp, op[i].imm);
	}
}

static void state_item(struct sequence *s)
{
	u8 code[48];

	bytes(s, code, system_insn(&s->rng, s->at->percpu, code));
}

static void system_item(struct sequence *s)
{
	switch (rnd(s) % 13) {
	case 0: byte(s, 0xfa); break;
	case 1: byte(s, 0xfb); break;
	case 2: byte(s, 0xfc); break;
	case 3: BYTES(s, 0x8c, 0xc8); break;       /* mov eax, cs */
	case 4: BYTES(s, 0xe4, rnd(s)); break;     /* in al, imm8 */
	case 5: BYTES(s, 0x0f, 0x01, 0x3b); break; /* invlpg [rbx] */
	case 6: BYTES(s, 0x0f, 0x20, 0xd8); break; /* mov rax, cr3 */
	case 7: BYTES(s, 0x0f, 0x01, 0xf8); break; /* swapgs */
	case 8: BYTES(s, 0x0f, 0x01, 0xf8, 0x0f, 0x01, 0xf8); break;
	case 9: BYTES(s, 0x0f, 0x20, rnd(s) & 1 ? 0xc1 : 0xd1); break; /* mov rcx, cr0, cr2 */
	case 10: BYTES(s, 0x66, 0x8c, 0xc8); break;                    /* mov ax, cs */
	case 11: BYTES(s, 0x0f, 0x32); break;                          /* rdmsr */
	default: BYTES(s, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8); break;
	}
}

static void item(struct sequence *s, u64 start)
{
	u64 k = rnd(s) % 50;

	if (k < 18)
		while (!random_insn(s))
			;
	else if (k < 20)
		rip_item(s, start);
	else if (k < 22)
		patched_item(s);
	else if (k == 22)
		patch_item(s, start);
	else if (k < 27)
		stack_item(s);
	else if (k < 29)
		call_item(s, start);
	else if (k < 31)
		string_item(s);
	else if (k < 33)
		system_item(s);
	else if (k < 36)
		rsp_item(s);
	else if (k < 37)
		iret_item(s);
	else if (k < 39)
		user_item(s);
	else if (k < 42)
		state_item(s);
	else if (k < 43)
		beyond_item(s, start);
	else if (k < 45)
		run_item(s);
	else
		vector_item(s, start);
}

void sequence_make(struct sequence *s, u64 start)
{
	unsigned n = 1 + rnd(s) % MAX_ITEMS;
	u8 *over = NULL;

	s->len = s->n_patch = 0;
	for (s->items = 0; s->items < n && s->len < sizeof(s->code) - 200; s->items++) {
		u8 *next = rnd(s) % 6 ? NULL : branch_item(s);

		item(s, start);
		if (over)
			over[0] = s->code + s->len - over - 1;
		over = next;
	}
	if (over)
		over[0] = s->code + s->len - over - 1;
	if (rnd(s) & 1) { /* dec r15; jnz start */
		BYTES(s, 0x49, 0xff, 0xcf, 0x0f, 0x85);
		imm32(s, -(u64)(s->len + 4));
	}
	byte(s, 0xf4);
	s->end = start + s->len;
}

void sequence_print(const struct sequence *s, u64 start)
{
	unsigned at = 0, i;
	struct insn in;
	char text[128];

	while (at < s->len) {
		int n =
		    decoder_decode(s->dec, s->code + at, MIN(15u, s->len - at), INSN_MODE_64, &in);

		if (n <= 0)
			break;
		printf("  %llx:", (unsigned long long)start + at);
		for (i = 0; i < (unsigned)n; i++)
			printf(" %02x", in.bytes[i]);
		printf("  %s\n", decoder_format(s->dec, &in, start + at, text, sizeof(text)));
		at += n;
	}
}
