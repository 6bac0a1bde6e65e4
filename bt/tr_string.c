/*
 * MOVS, STOS, LODS, SCAS and CMPS, with or without a repeat prefix. Their destination has no
 * segment that could carry the bias (ES cannot be overridden), so RDI and RSI carry it themselves
 * while the instruction runs: added and taken off by LEA, which leaves the flags alone.
 *
 * A fault or a signal between iterations finds RCX, RSI, RDI as far as the host has come; the
 * recovery record says which of them carry the bias, and RIP is still that of the instruction. The
 * rest is then stepped or, after a kick, translated again from there.
 *
 * A place that has met an address of the other half once may be one that always does (copy_to_user)
 * or one that hardly ever does (the kernel's memcpy, which also writes to the text-poking address
 * space). Once promoted it looks at its addresses. If all are of the half it runs in it goes on as
 * above. Otherwise the others are looked up in the software TLB, like those of checked sites
 * (tr_checked.c), and the instruction runs on the guest RAM's window there; how far each register
 * has been moved for that is in bt.distance. What reaches into another page there, or is not in the
 * TLB, is a light callout, which does it page by page (string.c).
 *
 * DF is clear in translated code (bt_eligible).
 */
#include <string.h>

#include "tr.h"

static void move_register(struct tr *t, unsigned reg)
{
	emit_lea_sum(&t->e, reg, reg, GPR_RDX, 0);
}

/* Jump if reg is of the other half, by JRCXZ on 16 bits; returns the byte to be patched. */
static u8 *jump_if_other_half(struct tr *t, unsigned reg)
{
	emit_mov64(&t->e, GPR_RCX, reg);
	emit_bytes(&t->e, "\x48\x0f\xc9", 3); /* bswap rcx */
	emit_bytes(&t->e, "\x0f\xb7\xc9", 3); /* movzx ecx, cx */
	if (t->regime == R64H)
		emit_bytes(&t->e, "\xe3\x00", 2);
	else
		emit_bytes(&t->e, "\xe3\x02\xeb\x00", 4);
	return t->e.p;
}

static bool uses_rsi(u8 op)
{
	return op == 0xa4 || op == 0xa6 || op == 0xac;
}

/* What a string instruction does with its addresses. */
struct string_use {
	bool rdi, rsi; /* RSI without the GS base: that is in the host's FS */
	bool writes, rep;
	u8 shift; /* log2 of an element */
};

static struct string_use use_of(const struct insn *in)
{
	u8 op = in->opcode & 0xfe;

	return (struct string_use){
	    .rdi = op != 0xac, /* all but LODS */
	    .rsi = uses_rsi(op) && in->seg != SEG_GS,
	    .writes = op == 0xa4 || op == 0xaa,
	    .rep = in->prefixes & (PFX_REP | PFX_REPNE),
	    .shift = in->opcode & 1 ? __builtin_ctz(in->opsize) : 0,
	};
}

/* distance[which] = from the address in reg to where the host has the RCX bytes there. */
static void emit_distance(struct tr *t, unsigned reg, unsigned which, enum mmu_access access)
{
	struct emit *e = &t->e;
	bool high = t->regime == R64H;
	u8 *other, *join;

	emit_mov64(e, GPR_RAX, reg); /* shr rax, 47 or 39; jz, jnz */
	emit_bytes(e, high ? "\x48\xc1\xe8\x2f\x74\x00" : "\x48\xc1\xe8\x27\x75\x00", 6);
	other = e->p;
	emit_movabs(e, GPR_RAX, t->bias);
	emit_bytes(e, "\xeb\x00", 2);
	join = e->p;
	emit_here8(e, other);
	tr_tlb_slot(t, reg);
	emit_lea_sum(e, GPR_RDX, reg, GPR_RCX, -1u);
	emit_bytes(e, "\x48\x81\xe2", 3); /* and rdx, PAGE_MASK */
	emit_u32(e, (u32)PAGE_MASK);
	tr_tlb_op(t, 0x3b, GPR_RDX, offsetof(struct tlb_entry, tag[access])); /* cmp */
	tr_miss_if(t, 5);                                                     /* ne */
	tr_tlb_op(t, 0x8b, GPR_RAX, offsetof(struct tlb_entry, addend));      /* mov */
	emit_here8(e, join);
	emit_store_abs(e, GPR_RAX, CTX(t->bt, bt.distance[which]));
}

/* RCX = bytes, if they can lie in one page. */
static void emit_length(struct tr *t, const struct string_use *u)
{
	struct emit *e = &t->e;

	if (!u->rep) {
		emit_u8(e, 0xb9); /* mov ecx, imm32 */
		emit_u32(e, 1u << u->shift);
		return;
	}
	emit_bytes(e, "\x48\x81\xf9", 3); /* cmp rcx, imm32 */
	emit_u32(e, PAGE_SIZE >> u->shift);
	tr_miss_if(t, 7);                                     /* above */
	emit_bytes(e, (u8[]){0x48, 0xc1, 0xe1, u->shift}, 4); /* shl rcx, imm8 */
}

static void move_back(struct tr *t, unsigned reg, unsigned which)
{
	emit_load_abs(&t->e, GPR_RDX, CTX(t->bt, bt.distance[which]));
	emit_bytes(&t->e, "\x48\xf7\xd2", 3); /* not rdx */
	emit_lea_sum(&t->e, reg, reg, GPR_RDX, 1);
}

/* An address of the other half among them. */
static void tr_string_checked(struct tr *t, const struct insn *in, const struct string_use *u)
{
	struct emit *e = &t->e;
	u64 next = t->at + in->len;
	u16 moved = 0;

	tr_may_miss(t);
	tr_spill(t, true, REG_NONE);
	tr_record(t, t->at, SPILL_ALL);
	tr_save_flags(t);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
	emit_length(t, u);
	if (u->rdi)
		emit_distance(t, GPR_RDI, 0, u->writes ? MMU_WRITE : MMU_READ);
	if (u->rsi)
		emit_distance(t, GPR_RSI, 1, MMU_READ);
	if (u->rdi) {
		emit_op_abs(e, 0x03, GPR_RDI, CTX(t->bt, bt.distance[0])); /* add */
		moved |= RECOVER_RDI_HOST;
		tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS | moved);
	}
	if (u->rsi) {
		emit_op_abs(e, 0x03, GPR_RSI, CTX(t->bt, bt.distance[1]));
		moved |= RECOVER_RSI_HOST;
		tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS | moved);
	}
	tr_restore_flags(t);
	tr_record(t, t->at, SPILL_ALL | moved);
	tr_spill(t, false, GPR_RDX);
	tr_record(t, t->at, SPILL_RDX | moved);
	tr_copy_plain(t, in, in->seg == SEG_GS ? 0x64 : 0);
	tr_record(t, next, SPILL_RDX | moved);
	if (u->rdi) {
		move_back(t, GPR_RDI, 0);
		moved &= ~RECOVER_RDI_HOST;
		tr_record(t, next, SPILL_RDX | moved);
	}
	if (u->rsi) {
		move_back(t, GPR_RSI, 1);
		tr_record(t, next, SPILL_RDX);
	}
	emit_load_abs(e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_after_miss(t);
}

/* All addresses are of the half it runs in. */
static void tr_string_biased(struct tr *t, const struct insn *in, const struct string_use *u)
{
	u64 next = t->at + in->len;
	u16 carries = 0;

	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_record(t, t->at, SPILL_RDX);
	emit_movabs(&t->e, GPR_RDX, t->bias);
	if (u->rdi) {
		move_register(t, GPR_RDI);
		carries |= RECOVER_RDI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	if (u->rsi) {
		move_register(t, GPR_RSI);
		carries |= RECOVER_RSI_BIAS;
		tr_record(t, t->at, SPILL_RDX | carries);
	}
	/* The guest's GS base comes with the bias; the host's FS has it. */
	tr_copy_plain(t, in, in->seg == SEG_GS ? 0x64 : 0);
	tr_record(t, next, SPILL_RDX | carries);
	emit_movabs(&t->e, GPR_RDX, -t->bias);
	if (carries & RECOVER_RDI_BIAS) {
		move_register(t, GPR_RDI);
		carries &= ~RECOVER_RDI_BIAS;
		tr_record(t, next, SPILL_RDX | carries);
	}
	if (carries & RECOVER_RSI_BIAS) {
		move_register(t, GPR_RSI);
		tr_record(t, next, SPILL_RDX);
	}
	emit_load_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
}

/* Which of the two ways; returns the rel32 of the jump taken if all addresses are of its own half.
 */
static u8 *look_at_addresses(struct tr *t, const struct string_use *u)
{
	u8 *out[2] = {NULL, NULL}, *own;
	unsigned i;

	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
	if (u->rdi)
		out[0] = jump_if_other_half(t, GPR_RDI);
	if (u->rsi)
		out[1] = jump_if_other_half(t, GPR_RSI);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_u8(&t->e, 0xe9);
	own = t->e.p;
	emit_u32(&t->e, 0);
	for (i = 0; i < 2; i++)
		if (out[i])
			emit_here8(&t->e, out[i]);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, 0);
	return own;
}

bool tr_string(struct tr *t, const struct insn *in)
{
	struct string_use u = use_of(in);
	u8 *own, *end;

	if (in->opcode < 0xa4 || in->addrsize != 8 || in->seg == SEG_FS) /* INS, OUTS */
		return false;
	if (!t->promoted || (!u.rdi && !u.rsi)) {
		tr_string_biased(t, in, &u);
		return true;
	}
	own = look_at_addresses(t, &u);
	tr_string_checked(t, in, &u);
	emit_u8(&t->e, 0xe9);
	end = t->e.p;
	emit_u32(&t->e, 0);
	emit_here32(&t->e, own);
	tr_record(t, t->at, 0);
	tr_string_biased(t, in, &u);
	emit_here32(&t->e, end);
	tr_record(t, t->at + in->len, 0);
	return true;
}
