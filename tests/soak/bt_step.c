/*
 * The translator against the single-step engine: random ring-0 instruction sequences run on two
 * machines of the same state, one with a translator; registers, flags, RIP, CR2 and memory must
 * agree when both have halted.
 *
 * A sequence is made of items: random ALU encodings with operands in every addressing form a kernel
 * uses (registers, RSP, RIP, GS, absolute), pushes and pops, arithmetic on RSP, frames, forward
 * branches, calls direct and indirect, returns, flag stores and loads, IRET to the same ring,
 * runs of operands at one base, SWAPGS, MSRs, segment bases, CPUID, strings, vector and x87
 * instructions, and writes to the sequence's own code, through the address it runs at or an alias,
 * and excursions to the other half of the address space. It may be a loop. It runs in either half
 * (struct half); data and stack lie there, or elsewhere; their addresses come near a read-only and
 * an absent page, so some sequences end in a fault; the handlers halt. Page tables count as memory
 * but for A bits, which are set also by accesses that come to nothing; now and then A and D bits
 * are cleared. A timer kicks the translator meanwhile, which must not show.
 *
 * Linked like ringshift itself: the guest's kernel half takes the process's address space.
 *
 * bt_step [--count INSTRUCTIONS] [--seed N] [--one-insn] [--no-chain] [--flush-every N]
 *         [--lockstep] [--half N] [--no-kicks] [--verbose]
 */
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bt_machine.h"
#include "bt_run.h"
#include "bt_system.h"
#include "bt_user.h"
#include "bt_vector.h"
#include "lowland.h"
#include "op.h"
#include "step.h"
#include "thunk_fault.h"
#include "translate.h"

#define MAX_ITEMS 24
#define MAX_STEPS 1000000u

struct soak {
	struct machine bt, step;
	struct decoder *dec;
	u64 rng;
	const struct half *at;
	unsigned only; /* half + 1; 0: each in its turn */
	u8 code[1024];
	unsigned len, items;
	u8 *patch[MAX_ITEMS]; /* immediates that may be written */
	unsigned n_patch;
	u64 end; /* RIP behind the final HLT */
	bool verbose, kicks;
	struct bt_options options;
};

static u64 rnd(struct soak *s)
{
	return soak_rnd(&s->rng);
}

/* --- choosing instructions --- */

/* RBX and R13 point into the data, R9 is a small index, R15 counts the loop: random instructions do
 * not write them, nor RSP. */
#define KEPT (1u << GPR_RBX | 1u << GPR_R13 | 1u << GPR_R9 | 1u << GPR_R15 | 1u << GPR_RSP)

static void byte(struct soak *s, u8 b)
{
	BUG_ON(s->len >= sizeof(s->code));
	s->code[s->len++] = b;
}

static void bytes(struct soak *s, const void *p, unsigned n)
{
	const u8 *b = p;

	while (n--)
		byte(s, *b++);
}
#define BYTES(s, ...) bytes(s, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void imm32(struct soak *s, u64 v)
{
	bytes(s, &v, 4);
}

static struct form random_form(struct soak *s)
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
static bool random_insn(struct soak *s)
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
static void rip_item(struct soak *s, u64 start)
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
static void patched_item(struct soak *s)
{
	u8 reg = rnd(s) & 3; /* rax rcx rdx, rbx is kept */

	BYTES(s, 0x81, 0xc0 | (reg == GPR_RBX ? 0 : reg));
	if (s->n_patch < MAX_ITEMS)
		s->patch[s->n_patch++] = s->code + s->len;
	imm32(s, rnd(s));
}

static void patch_item(struct soak *s, u64 start)
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
static void rsp_item(struct soak *s)
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
static void iret_item(struct soak *s)
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

static void stack_item(struct soak *s)
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
static u8 *branch_item(struct soak *s)
{
	u64 r = rnd(s);

	if (r & 0x10)
		BYTES(s, 0x70 | (r & 15), 0);
	else
		BYTES(s, 0xeb, 0);
	return s->code + s->len - 1;
}

/* call over, [function], over: so that a return address is used */
static void call_item(struct soak *s, u64 start)
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
static void vector_item(struct soak *s, u64 start)
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

static void string_item(struct soak *s)
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
static void go_item(struct soak *s, u64 start, u64 delta)
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
static void beyond_item(struct soak *s, u64 start)
{
	u64 delta = s->at->beyond - s->at->code;

	go_item(s, start, delta);
	while (!random_insn(s))
		;
	go_item(s, start + delta, -delta);
}

static void user_item(struct soak *s)
{
	u8 code[16];

	bytes(s, code, user_insn(&s->rng, s->at->other, code));
}

/* Instructions behind one another that use the same base register, which one may overwrite. */
static void run_item(struct soak *s)
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

static void state_item(struct soak *s)
{
	u8 code[48];

	bytes(s, code, system_insn(&s->rng, s->at->percpu, code));
}

static void system_item(struct soak *s)
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

static void item(struct soak *s, u64 start)
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

static void make_code(struct soak *s, u64 start)
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

/* --- running --- */

static void set_state(struct machine *m, const u64 gpr[16], const u64 gs[2], u64 rflags, u64 rip)
{
	struct cpu *c = m->c;

	c->seg[SEG_GS].base = gs[0];
	c->kernel_gs_base = gs[1];
	memcpy(c->gpr, gpr, sizeof(c->gpr));
	c->rip = rip;
	c->cr2 = 0;
	c->halted = false;
	c->shadow = SHADOW_NONE;
	cpu_set_rflags(c, rflags);
	cpu_update_mode(c);
}

static void random_state(struct soak *s, u64 start, bool same_code)
{
	const struct half *h = s->at;
	const u64 others[] = {h->percpu + 0x40, 0, 0x3ffff000, 0x7f0000000000, h->other};
	u64 gpr[16], flags = (rnd(s) & (FL_ARITH | FL_IF));
	u64 gs[2] = {h->percpu, others[rnd(s) % ARRAY_LEN(others)]};
	unsigned i, k;

	for (i = 0; i < 16; i++) {
		u64 r = rnd(s);

		gpr[i] = r & 0x700 ? r : r & 0xff;
	}
	gpr[GPR_RBX] = h->data + 0x100 + (rnd(s) & 0x1fff) % 0x1700;
	gpr[GPR_R13] = h->data + (rnd(s) & 7 ? 0x900 + rnd(s) % 0x400 : 0x1f00 + rnd(s) % 0x1100);
	if (rnd(s) % 3 == 0) /* the same instructions then meet both halves */
		gpr[GPR_RBX] = rnd(s) & 1 ? h->other + PAGE_SIZE - (rnd(s) & 0x7f)
					  : gpr[GPR_RBX] + h->other - h->data;
	if (rnd(s) % 3 == 0)
		gpr[GPR_R13] += h->other - h->data;
	gpr[GPR_R9] = rnd(s) % 64;
	gpr[GPR_RSP] = (rnd(s) % 16 ? h->stack : h->far_stack) + (rnd(s) % 16 ? 0x1000 : 0x100) +
		       (rnd(s) & 0x3f8);
	gpr[GPR_R15] = 1 + rnd(s) % (rnd(s) % 8 ? 4 : 40);
	for (i = 0; i < PAGES; i++)
		for (k = 0; i != CODE && i != CODE2 && i < SYSTEM && k < PAGE_SIZE; k += 8) {
			u64 r = rnd(s);

			memcpy(page(&s->bt, i) + k, &r, 8);
		}
	memset(page(&s->bt, KSTACK), 0, PAGE_SIZE);
	memcpy(page(&s->step, DATA), page(&s->bt, DATA), (SYSTEM - DATA) * PAGE_SIZE);
	memset(page(&s->step, KSTACK), 0, PAGE_SIZE);
	if (!same_code) {
		gpa_t at = AREA_GPA + (start - h->code);

		/* What was promoted in other code at these addresses shall be translated again. */
		bt_forget_sites(s->bt.c->translator);
		BUG_ON(ram_write(&s->bt.ram, at, s->code, s->len));
		BUG_ON(ram_write(&s->step.ram, at, s->code, s->len));
	}
	if (rnd(s) % 8 == 0) {
		reset_guest(&s->bt);
		reset_guest(&s->step);
	}
	if (rnd(s) % 8 == 0) {
		tables_clean(s->bt.c, PT_GPA, tables_end(&s->bt));
		tables_clean(s->step.c, PT_GPA, tables_end(&s->step));
	}
	vector_state(&s->rng, s->bt.c);
	s->step.c->vec = s->bt.c->vec;
	s->step.c->cr0 = s->bt.c->cr0;
	s->step.c->cr4 = s->bt.c->cr4;
	s->step.c->xcr0 = s->bt.c->xcr0;
	system_state(&s->rng, s->bt.c, s->step.c);
	set_state(&s->bt, gpr, gs, flags, start);
	set_state(&s->step, gpr, gs, flags, start);
}

static enum cpu_exit run(struct machine *m, u64 budget)
{
	enum cpu_exit e;

	BUG_ON(thunk_thread_enter(m->c->engine->thunks, m->c)); /* signals find this CPU now */
	do {
		atomic_store_explicit(&m->c->attention, 0, memory_order_relaxed);
		e = step_run(m->c, budget);
	} while (e == EXIT_ATTENTION);
	return e;
}

/* --- comparing --- */

static unsigned differ(const char *what, unsigned n, u64 bt, u64 step)
{
	printf("  %s%u: translated %016llx stepped %016llx\n", what, n, (unsigned long long)bt,
	       (unsigned long long)step);
	return 1;
}

static unsigned compare(struct soak *s)
{
	struct cpu *a = s->bt.c, *b = s->step.c;
	unsigned bad = 0, i, k;

	for (i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			bad += differ("register ", i, a->gpr[i], b->gpr[i]);
	if (a->rip != b->rip)
		bad += differ("rip", 0, a->rip, b->rip);
	if (cpu_rflags(a) != cpu_rflags(b))
		bad += differ("rflags", 0, cpu_rflags(a), cpu_rflags(b));
	if (a->seg[SEG_GS].base != b->seg[SEG_GS].base || a->kernel_gs_base != b->kernel_gs_base)
		bad += differ("gs base ", 0, a->seg[SEG_GS].base, b->seg[SEG_GS].base);
	if (a->cr2 != b->cr2)
		bad += differ("cr2 ", 0, a->cr2, b->cr2);
	bad += system_compare(a, b);
	bad += vector_compare(a, b);
	bad += tables_compare(a, b, PT_GPA, tables_end(&s->step));
	for (i = 0; i < PAGES; i++)
		for (k = 0; memcmp(page(&s->bt, i), page(&s->step, i), PAGE_SIZE) && k < PAGE_SIZE;
		     k += 8)
			if (memcmp(page(&s->bt, i) + k, page(&s->step, i) + k, 8))
				bad += differ("memory ", i * PAGE_SIZE + k,
					      *(u64 *)(void *)(page(&s->bt, i) + k),
					      *(u64 *)(void *)(page(&s->step, i) + k));
	return bad;
}

static void print_code(struct soak *s, u64 start)
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

struct tally {
	u64 tests, bad, faults;
};

/* Give one machine the memory of the other. */
static void align_machines(struct soak *s, struct machine *to, struct machine *from)
{
	memcpy(page(to, 0), page(from, 0), PAGES * PAGE_SIZE);
	tables_clean(s->bt.c, PT_GPA, tables_end(&s->bt));
	tables_clean(s->step.c, PT_GPA, tables_end(&s->step));
	op_flush_all(to->c);
}

static void one_test(struct soak *s, struct tally *t)
{
	unsigned again;
	u64 start;

	if (rnd(s) % 16 == 0 && !s->only)
		s->at = &halves[rnd(s) % HALVES];
	/* Now and then across the two pages of code. */
	start = s->at->code + (rnd(s) % 4 ? rnd(s) % 0xb00 : 0xf00 + rnd(s) % 0x100);
	make_code(s, start);
	if (s->verbose)
		print_code(s, start);
	fflush(stdout);
	for (again = 0; again < 3; again++) {
		enum cpu_exit a, b;

		random_state(s, start, again);
		b = run(&s->step, MAX_STEPS);
		if (b == EXIT_BUDGET) { /* return addresses got mixed up: it may never end */
			align_machines(s, &s->step, &s->bt);
			break;
		}
		a = run(&s->bt, ~0ull);
		t->tests++;
		t->faults += s->step.c->rip != s->end;
		if (a == b && !compare(s))
			continue;
		t->bad++;
		printf("  ^ test %llu, run %u of it: exits %d %d\n", (unsigned long long)t->tests,
		       again, a, b);
		print_code(s, start);
		align_machines(s, &s->bt, &s->step);
		break;
	}
}

static void kicked(struct cpu *c)
{
	if (c->translator)
		atomic_store_explicit(&c->attention, 1, memory_order_relaxed);
}

static void start_kicks(bool lockstep)
{
	/* A checked block must get to run between two kicks. */
	long period = lockstep ? 1000000 : 40000;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = KICK_SIGNAL};
	struct itimerspec it = {.it_value.tv_nsec = 1, .it_interval.tv_nsec = period};
	timer_t timer;

	BUG_ON(timer_create(CLOCK_MONOTONIC, &ev, &timer) || timer_settime(timer, 0, &it, NULL));
}

static void soak_init(struct soak *s)
{
	machine_init(&s->bt, LOWLAND_RAM, LOWLAND_CODE);
	machine_init(&s->step, LOWLAND_RAM + (1ull << 40), LOWLAND_CODE + 0xc000000);
	s->dec = decoder_new();
	BUG_ON(!s->dec || bt_init(s->bt.c, (void *)LOWLAND_TRANSLATIONS) ||
	       bt_configure(s->bt.c, &s->options));
	BUG_ON(thunk_thread_enter(s->bt.c->engine->thunks, s->bt.c));
	BUG_ON(engine_catch_kick(s->step.c, kicked) || engine_catch_kick(s->bt.c, kicked));
	if (s->kicks)
		start_kicks(s->options.lockstep);
}

static bool option(struct soak *s, u64 *count, int argc, char **argv, int *i)
{
	const char *o = argv[*i];
	u64 n = *i + 1 < argc ? strtoull(argv[*i + 1], NULL, 0) : 0;

	if (!strcmp(o, "--one-insn"))
		s->options.one_insn = true;
	else if (!strcmp(o, "--no-chain"))
		s->options.no_chain = true;
	else if (!strcmp(o, "--lockstep"))
		s->options.lockstep = 100;
	else if (!strcmp(o, "--no-kicks"))
		s->kicks = false;
	else if (!strcmp(o, "--verbose"))
		s->verbose = true;
	else if (!n)
		return false;
	else if (!strcmp(o, "--count"))
		*count = n, ++*i;
	else if (!strcmp(o, "--seed"))
		s->rng = n * 0x9e3779b97f4a7c15ull + 1, ++*i;
	else if (!strcmp(o, "--half") && n <= HALVES)
		s->only = n, s->at = &halves[n - 1], ++*i;
	else if (!strcmp(o, "--flush-every"))
		s->options.flush_every = n, ++*i;
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct soak s = {.rng = 1,
				.at = halves,
				.kicks = true,
				.options = {.check_recovery = true, .switch_freely = true}};
	struct tally t = {0};
	u64 count = 100000;
	char err[512];
	int i;

	if (lowland_enter(err, sizeof(err)))
		return fprintf(stderr, "bt_step: %s\n", err), 1;
	for (i = 1; i < argc; i++)
		if (!option(&s, &count, argc, argv, &i))
			return fprintf(stderr, "bt_step: %s? See the head of bt_step.c\n", argv[i]),
			       2;
	soak_init(&s);
	while (s.step.c->insns < count && t.bad < 5)
		one_test(&s, &t);
	printf("%llu instructions in %llu runs of sequences, %llu ended by a fault\n",
	       (unsigned long long)s.step.c->insns, (unsigned long long)t.tests,
	       (unsigned long long)t.faults);
	printf("translated: %llu blocks, %llu callouts, %llu kicks, %llu dropped blocks\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_blocks],
	       (unsigned long long)s.bt.stats.n[STAT_bt_callouts],
	       (unsigned long long)s.bt.stats.n[STAT_bt_kicks],
	       (unsigned long long)s.bt.stats.n[STAT_bt_dropped]);
	printf("%llu promotions, %llu for writing code, %llu misses of checked sites, %llu runs of "
	       "them\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_promotions],
	       (unsigned long long)s.bt.stats.n[STAT_bt_promotions_code],
	       (unsigned long long)s.bt.stats.n[STAT_bt_checked_misses],
	       (unsigned long long)s.bt.stats.n[STAT_bt_runs]);
	printf("%llu times vector state was loaded, %llu changes of regime\n",
	       (unsigned long long)s.bt.stats.n[STAT_bt_vector_loads],
	       (unsigned long long)s.bt.stats.n[STAT_bt_regime_switches]);
	printf("%llu passed, %llu failed\n", (unsigned long long)(t.tests - t.bad),
	       (unsigned long long)t.bad);
	return t.bad != 0 || !s.bt.stats.n[STAT_bt_blocks];
}
