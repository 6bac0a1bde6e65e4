/*
 * What becomes of each guest instruction in translated code. All sixteen registers stand for
 * themselves, guest arithmetic flags are the host's, RSP holds guest RSP + SHADOW_BIAS, the GS base
 *is SHADOW_BIAS and the FS base the guest's GS base + SHADOW_BIAS (design, section 2).
 *
 *	registers only		copied
 *	memory operand		GS prefix (FS if the guest says GS; none if the base is RSP);
 *				RIP-relative becomes absolute, sign-extended from 32 bits
 *	RSP as data		un-biased on the way out, biased on the way in
 *	direct branches		chained
 *	returns, indirect ones	the common lookup code, flags untouched
 *	everything else		a callout: the block ends and the single-step engine executes it
 *
 * Every host byte belongs to a recovery record (struct recovery) that says which guest instruction
 * is about to be executed and which registers are spilled, so that a fault or a signal can stop
 * anywhere. Instructions that commit in more than one host instruction are avoided; where that
 *cannot be (LEAVE), the bytes in between are RECOVER_NEVER and a signal steps over them.
 */
#include "translate.h"

#include <string.h>

#define CTX(bt, field) ((u32)(uintptr_t) & (bt)->c->field)

struct tr {
	struct bt *bt;
	struct emit e;
	u8 *start;
	u64 pc;         /* of the block */
	u64 at;         /* of the instruction being translated */
	u64 behind_sti; /* address of the instruction after the last STI, 0: none */
	u32 stop;       /* guest offset of the callout at the end, ~0: none */
	struct recovery rec[8 * BT_MAX_INSNS + 16];
	unsigned n_rec;
	struct {
		u8 *rel32; /* to be pointed at the stub, later at the block */
		u64 target;
	} exit[BT_MAX_EXITS];
	unsigned n_exits;
};

/* From here on: the state before the instruction at guest address pc, with these spills. */
static void record(struct tr *t, u64 pc, u8 spills)
{
	struct recovery *r = &t->rec[t->n_rec];

	BUG_ON(t->n_rec >= ARRAY_LEN(t->rec));
	r->host = t->e.p - t->start;
	r->guest = pc - t->pc;
	r->spills = spills | (pc == t->behind_sti ? RECOVER_STI : 0);
	t->n_rec++;
}

/* --- bytes --- */

/* op reg, [abs32] */
static void op_abs(struct emit *e, u8 op, unsigned reg, u32 addr)
{
	emit_u8(e, 0x48 | (reg >> 3) << 2);
	emit_u8(e, op);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0x25);
	emit_u32(e, addr);
}

static void store_abs(struct emit *e, unsigned reg, u32 addr)
{
	op_abs(e, 0x89, reg, addr);
}

static void load_abs(struct emit *e, unsigned reg, u32 addr)
{
	op_abs(e, 0x8b, reg, addr);
}

/* mov qword [abs32], imm32 sign-extended */
static void store_imm_abs(struct emit *e, u32 addr, u32 imm)
{
	emit_bytes(e, "\x48\xc7\x04\x25", 4);
	emit_u32(e, addr);
	emit_u32(e, imm);
}

static void movabs(struct emit *e, unsigned reg, u64 imm)
{
	emit_u8(e, 0x48 | reg >> 3);
	emit_u8(e, 0xb8 | (reg & 7));
	emit_bytes(e, &imm, 8);
}

/* lea dst, [base + index + disp32]; index is not RSP */
static void lea_sum(struct emit *e, unsigned dst, unsigned base, unsigned index, u32 disp)
{
	emit_u8(e, 0x48 | (dst >> 3) << 2 | (index >> 3) << 1 | base >> 3);
	emit_u8(e, 0x8d);
	emit_u8(e, 0x84 | (dst & 7) << 3);
	emit_u8(e, (index & 7) << 3 | (base & 7));
	emit_u32(e, disp);
}

/* jmp rel32 to an area offset */
static void jmp_to(struct tr *t, u32 area_off)
{
	u32 here = t->e.p - t->bt->rw;

	emit_u8(&t->e, 0xe9);
	emit_u32(&t->e, area_off - (here + 5));
}

static bool fits_s32(u64 v)
{
	return (u64)(s64)(s32)v == v;
}

/* --- exits --- */

static void exit_direct(struct tr *t, u64 target)
{
	BUG_ON(t->n_exits >= BT_MAX_EXITS);
	t->exit[t->n_exits].rel32 = t->e.p;
	t->exit[t->n_exits++].target = target;
	emit_u32(&t->e, 0);
}

static void jump_direct(struct tr *t, u64 target)
{
	emit_u8(&t->e, 0xe9);
	exit_direct(t, target);
}

static void callout(struct tr *t)
{
	record(t, t->at, 0);
	t->stop = t->at - t->pc;
	store_imm_abs(&t->e, CTX(t->bt, rip), t->at);
	store_imm_abs(&t->e, CTX(t->bt, bt.step), 1);
	jmp_to(t, t->bt->exit_at);
}

static void emit_stubs(struct tr *t)
{
	struct bt *bt = t->bt;
	unsigned i;

	for (i = 0; i < t->n_exits; i++) {
		u32 at = t->exit[i].rel32 - bt->rw, rel = t->e.p - t->exit[i].rel32 - 4;

		memcpy(t->exit[i].rel32, &rel, 4);
		bt->links[bt->n_links] = (struct link){.at = at, .target = t->exit[i].target};
		/* The guest's state is that before the target: recovery by rip in the context would
		 * need another kind of record, so a signal here waits for the exit, two moves off.
		 */
		record(t, t->pc, RECOVER_NEVER);
		store_imm_abs(&t->e, CTX(bt, rip), t->exit[i].target);
		store_imm_abs(&t->e, CTX(bt, bt.link), bt->n_links++);
		jmp_to(t, bt->exit_at);
	}
}

/* --- ordinary instructions --- */

static bool is_segment_prefix(u8 b)
{
	return (b & 0xe7) == 0x26 || (b & 0xfe) == 0x64;
}

static bool is_rex(u8 b)
{
	return (b & 0xf0) == 0x40;
}

static bool is_prefix(u8 b)
{
	return is_segment_prefix(b) || is_rex(b) || (b & 0xfe) == 0x66 || b == 0xf0 ||
	       (b & 0xfe) == 0xf2;
}

/* A REX that another prefix follows means nothing, and must not come to. */
static bool void_rex(const struct insn *in, unsigned i)
{
	return is_rex(in->bytes[i]) && i + 1 < in->off_opcode && is_prefix(in->bytes[i + 1]);
}

/* The instruction without segment prefixes, with another prefix in front (0: none). */
static void copy_plain(struct tr *t, const struct insn *in, u8 prefix)
{
	unsigned i = 0;

	if (prefix)
		emit_u8(&t->e, prefix);
	for (; i < in->off_opcode && is_prefix(in->bytes[i]); i++)
		if (!is_segment_prefix(in->bytes[i]) && !void_rex(in, i))
			emit_u8(&t->e, in->bytes[i]);
	emit_bytes(&t->e, in->bytes + i, in->len - i);
}

static void copy_rip_relative(struct tr *t, const struct insn *in, u8 prefix, u64 addr)
{
	unsigned i;

	if (prefix)
		emit_u8(&t->e, prefix);
	for (i = 0; i < in->off_modrm; i++) {
		u8 b = in->bytes[i];

		if (i < in->off_opcode && (is_segment_prefix(b) || void_rex(in, i)))
			continue;
		/* X means nothing without a SIB byte, and would now make R12 the index. */
		if (in->enc == INSN_LEGACY && i < in->off_opcode && is_rex(b))
			b &= ~2;
		if (in->enc == INSN_VEX && in->bytes[in->off_opcode] == 0xc4 &&
		    i == in->off_opcode + 1u)
			b |= 0x40;
		emit_u8(&t->e, b);
	}
	emit_u8(&t->e, (in->modrm & 0x38) | 4);
	emit_u8(&t->e, 0x25);
	emit_u32(&t->e, addr);
	emit_bytes(&t->e, in->bytes + in->off_imm, in->imm_size);
}

/* Can the memory operand be relocated? */
static bool relocatable(const struct tr *t, const struct insn *in)
{
	if (in->addrsize != 8 || in->moffs || in->vsib || in->seg == SEG_FS)
		return false;
	if (in->base == GPR_RSP && in->seg == SEG_GS)
		return false;
	if (in->base == REG_RIP && !fits_s32(t->at + in->len + in->disp))
		return false;
	return true;
}

static void copy_memory(struct tr *t, const struct insn *in)
{
	u8 prefix = in->base == GPR_RSP ? 0 : in->seg == SEG_GS ? 0x64 : 0x65;

	if (in->base == REG_RIP)
		copy_rip_relative(t, in, prefix, t->at + in->len + in->disp);
	else
		copy_plain(t, in, prefix);
}

static bool rsp_is_data(const struct insn *in)
{
	if ((in->gpr_written >> GPR_RSP & 1) || (in->gpr_implicit >> GPR_RSP & 1))
		return true;
	if (!(in->gpr_read >> GPR_RSP & 1))
		return false;
	/* Only as the base? Then neither ModRM.reg nor vvvv nor a register form names it. */
	return !(in->has_mem && in->base == GPR_RSP && in->reg != GPR_RSP && in->vvvv != GPR_RSP);
}

static bool tr_lea(struct tr *t, const struct insn *in)
{
	if (in->addrsize != 8)
		return false;
	if (in->base == REG_RIP) {
		u64 v = t->at + in->len + in->disp;

		if (in->opsize != 8 || in->reg == GPR_RSP)
			return false;
		movabs(&t->e, in->reg, v);
		return true;
	}
	if (in->base != GPR_RSP && in->reg != GPR_RSP) {
		copy_plain(t, in, 0);
		return true;
	}
	if (in->opsize != 8 || !fits_s32(in->disp))
		return false;
	if (in->base == GPR_RSP && in->reg == GPR_RSP) {
		copy_plain(t, in, 0); /* bias in, bias out */
		return true;
	}
	if (in->base == GPR_RSP) {
		if (in->index != REG_NONE)
			return false;
		/* Two host instructions, but the first only destroys the destination. */
		movabs(&t->e, in->reg, -SHADOW_BIAS);
		record(t, t->at, RECOVER_NEVER);
		lea_sum(&t->e, in->reg, GPR_RSP, in->reg, in->disp);
		return true;
	}
	if (in->base == REG_NONE || in->index != REG_NONE || in->base == GPR_RAX)
		return false;
	store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0])); /* lea rsp, [base + disp] */
	record(t, t->at, SPILL_RAX);
	movabs(&t->e, GPR_RAX, SHADOW_BIAS);
	lea_sum(&t->e, GPR_RSP, in->base, GPR_RAX, in->disp);
	record(t, t->at + in->len, SPILL_RAX);
	load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

/* mov r, rsp; mov rsp, r; add, sub rsp, imm (flags as the guest's RSP gives them). */
static bool tr_rsp_mov(struct tr *t, const struct insn *in)
{
	unsigned src = in->opcode == 0x89 ? in->reg : in->rm;
	unsigned dst = in->opcode == 0x89 ? in->rm : in->reg;

	if (in->has_mem || in->opsize != 8 || src == dst)
		return false;
	if (src == GPR_RSP) {
		movabs(&t->e, dst, -SHADOW_BIAS);
		record(t, t->at, RECOVER_NEVER);
		lea_sum(&t->e, dst, GPR_RSP, dst, 0);
		return true;
	}
	movabs(&t->e, GPR_RSP, SHADOW_BIAS);
	record(t, t->at, RECOVER_NEVER);
	/* lea rsp, [src + rsp]: RSP cannot be an index, so it is the base */
	lea_sum(&t->e, GPR_RSP, GPR_RSP, src, 0);
	return true;
}

static bool tr_rsp_add(struct tr *t, const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;
	u8 op[7] = {0x48, 0x81, (u8)(0xc0 | ext << 3)};
	s32 imm = (s32)in->imm;

	if (in->has_mem || in->opsize != 8 || in->rm != GPR_RSP || (ext != 0 && ext != 5))
		return false;
	/* rax = guest RSP op imm, with its flags; then rsp = rax + bias. */
	store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	record(t, t->at, SPILL_RAX | SPILL_RCX);
	movabs(&t->e, GPR_RAX, -SHADOW_BIAS);
	movabs(&t->e, GPR_RCX, SHADOW_BIAS);
	lea_sum(&t->e, GPR_RAX, GPR_RSP, GPR_RAX, 0);
	memcpy(op + 3, &imm, 4);
	emit_bytes(&t->e, op, sizeof(op));
	record(t, t->at, RECOVER_NEVER); /* flags are the new ones, RSP is not */
	lea_sum(&t->e, GPR_RSP, GPR_RAX, GPR_RCX, 0);
	record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	record(t, t->at + in->len, SPILL_RAX);
	load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

static bool tr_leave(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8)
		return false;
	store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	record(t, t->at, SPILL_RAX);
	movabs(&t->e, GPR_RAX, SHADOW_BIAS);
	lea_sum(&t->e, GPR_RAX, GPR_RBP, GPR_RAX, 0);
	emit_bytes(&t->e, "\x48\x8b\x28", 3); /* mov rbp, [rax] */
	record(t, t->at, RECOVER_NEVER);
	emit_bytes(&t->e, "\x48\x8d\x60\x08", 4); /* lea rsp, [rax+8] */
	record(t, t->at + in->len, SPILL_RAX);
	load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	return true;
}

static bool tr_stack(struct tr *t, const struct insn *in, exec_fn *f)
{
	unsigned r = (in->opcode & 7) | (in->rex & 1) << 3;

	if (f == exec_push || f == exec_pop) {
		if (r == GPR_RSP || in->opsize != 8)
			return false;
		copy_plain(t, in, 0);
		return true;
	}
	if (f == exec_push_imm && in->opsize == 8) {
		copy_plain(t, in, 0);
		return true;
	}
	if (f == exec_push_rm && in->has_mem && in->opsize == 8 && relocatable(t, in)) {
		copy_memory(t, in);
		return true;
	}
	if (f == exec_leave)
		return tr_leave(t, in);
	if (f != exec_reg)
		return false;
	if (in->map == INSN_MAP_1B && (in->opcode == 0x89 || in->opcode == 0x8b))
		return tr_rsp_mov(t, in);
	if (in->map == INSN_MAP_1B && (in->opcode == 0x81 || in->opcode == 0x83))
		return tr_rsp_add(t, in);
	return false;
}

/* --- sensitive instructions, inline --- */

/*
 * While translated code runs, IF is the only bit of sflags that may be set (bt_eligible), so the
 * byte that holds it is 0 or 2 and can be stored whole: nothing here touches the host's flags.
 */
static void store_if(struct tr *t, u8 byte)
{
	emit_bytes(&t->e, "\xc6\x04\x25", 3); /* mov byte [abs32], imm8 */
	emit_u32(&t->e, CTX(t->bt, sflags) + 1);
	emit_u8(&t->e, byte);
}

/* movzx r32, byte or word [abs32] */
static void load_abs_zx(struct emit *e, unsigned reg, u32 addr, bool word)
{
	if (reg >= 8)
		emit_u8(e, 0x44);
	emit_u8(e, 0x0f);
	emit_u8(e, word ? 0xb7 : 0xb6);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0x25);
	emit_u32(e, addr);
}

/* STI with an interrupt waiting is the single-step engine's: it casts the shadow and delivers. */
static void tr_sti(struct tr *t)
{
	u8 *skip;

	store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	record(t, t->at, SPILL_RCX);
	load_abs_zx(&t->e, GPR_RCX, CTX(t->bt, intr), false);
	emit_bytes(&t->e, "\xe3\x00", 2); /* jrcxz */
	skip = t->e.p;
	load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	callout(t);
	t->stop = ~0u; /* not the block's end */
	skip[-1] = t->e.p - skip;
	record(t, t->at, SPILL_RCX);
	load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	record(t, t->at, 0);
	store_if(t, FL_IF >> 8);
	t->behind_sti = t->at + 1;
}

/* The host's IF is always set and goes onto the stack with the rest: take it off if the guest's is
 * clear. */
static void tr_pushf(struct tr *t, const struct insn *in)
{
	emit_pushfq(&t->e);
	record(t, t->at, RECOVER_NEVER);
	store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_bytes(&t->e, "\x0f\xb6\x44\x24\x01", 5); /* movzx eax, byte [rsp+1] */
	load_abs_zx(&t->e, GPR_RCX, CTX(t->bt, sflags) + 1, false);
	emit_bytes(&t->e, "\x8d\x44\x08\xfe", 4); /* lea eax, [rax+rcx-2] */
	emit_bytes(&t->e, "\x88\x44\x24\x01", 4); /* mov [rsp+1], al */
	record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	record(t, t->at + in->len, SPILL_RAX);
	load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
}

/* False: a callout. */
static bool tr_sensitive(struct tr *t, const struct insn *in)
{
	if (in->map != INSN_MAP_1B)
		return false;
	switch (in->opcode) {
	case 0x8c: /* mov from a segment register */
		if (in->has_mem || in->opsize < 4 || in->rm == GPR_RSP ||
		    (in->reg & 7) >= SEG_COUNT)
			return false;
		load_abs_zx(&t->e, in->rm, CTX(t->bt, seg[in->reg & 7].sel), true);
		return true;
	case 0x9c:
		if (in->opsize != 8)
			return false;
		tr_pushf(t, in);
		return true;
	case 0xfa: store_if(t, 0); return true;
	case 0xfb: tr_sti(t); return true;
	case 0xfc: return true; /* CLD: DF is clear */
	default: return false;
	}
}

/* An instruction that does not end the block. False: it needs a callout. */
static bool tr_ordinary(struct tr *t, const struct insn *in)
{
	bool wants_thunk;
	exec_fn *f = op_bind(in, &wants_thunk);

	if (in->state)
		return false;
	if (f == exec_system || f == exec_mov_from_sreg)
		return tr_sensitive(t, in);
	if (f == exec_nop)
		return true;
	if (f == exec_lea)
		return tr_lea(t, in);
	if (rsp_is_data(in))
		return tr_stack(t, in, f);
	if (f == exec_reg) {
		copy_plain(t, in, 0);
		return true;
	}
	if ((f == exec_mem || f == exec_bit_string) && relocatable(t, in)) {
		copy_memory(t, in);
		return true;
	}
	return false;
}

/* --- control transfers --- */

static void spill_for_lookup(struct tr *t)
{
	store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	record(t, t->at, SPILL_RAX | SPILL_RCX | SPILL_RDX);
}

static bool tr_ret(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8)
		return false;
	spill_for_lookup(t);
	emit_pop(&t->e, GPR_RAX);
	record(t, t->at, RECOVER_NEVER);
	if (in->opcode == 0xc2)
		lea_sum(&t->e, GPR_RSP, GPR_RSP, GPR_RSP, (u16)in->imm); /* index 4: none */
	jmp_to(t, t->bt->lookup_at);
	return true;
}

static bool tr_indirect(struct tr *t, const struct insn *in, bool call)
{
	u64 next = t->at + in->len;
	struct insn load = *in;

	if (in->opsize != 8 || (in->has_mem ? !relocatable(t, in) : in->rm == GPR_RSP) ||
	    !fits_s32(next))
		return false;
	spill_for_lookup(t);
	/* mov rax, r/m: the same operand, another opcode */
	load.opcode = load.bytes[load.off_opcode] = 0x8b;
	load.modrm = load.bytes[load.off_modrm] = in->modrm & 0xc7;
	load.reg = 0;
	if (!(in->rex & 0x40)) { /* give it REX.W */
		memmove(load.bytes + load.off_opcode + 1, load.bytes + load.off_opcode,
			load.len - load.off_opcode);
		load.bytes[load.off_opcode] = 0x48;
		load.rex = 0x48;
		load.len++;
		load.off_opcode++;
		load.off_modrm++;
	} else {
		load.bytes[load.off_opcode - 1] = (in->rex & 0x43) | 0x48;
	}
	if (load.has_mem && load.base == REG_RIP)
		copy_rip_relative(t, &load, load.seg == SEG_GS ? 0x64 : 0x65, next + in->disp);
	else if (load.has_mem)
		copy_memory(t, &load);
	else
		copy_plain(t, &load, 0);
	if (call) {
		emit_u8(&t->e, 0x68);
		emit_u32(&t->e, next);
	}
	record(t, t->at, RECOVER_NEVER);
	jmp_to(t, t->bt->lookup_at);
	return true;
}

/* An instruction that ends the block. False: callout. */
static bool tr_control(struct tr *t, const struct insn *in, exec_fn *f)
{
	u64 next = t->at + in->len, to = next + in->imm;

	if ((f == exec_jcc || f == exec_jmp || f == exec_call) &&
	    (!fits_s32(to) || !fits_s32(next)))
		return false;
	if (f == exec_jcc) {
		emit_u8(&t->e, 0x0f);
		emit_u8(&t->e, 0x80 | (in->opcode & 15));
		exit_direct(t, to);
		record(t, next, 0);
		jump_direct(t, next);
		return true;
	}
	if (f == exec_jmp) {
		jump_direct(t, to);
		return true;
	}
	if (f == exec_call && in->opsize == 8) {
		emit_u8(&t->e, 0x68);
		emit_u32(&t->e, next);
		record(t, t->at, RECOVER_NEVER);
		jump_direct(t, to);
		return true;
	}
	if (f == exec_ret)
		return tr_ret(t, in);
	if (f == exec_jmp_ind || f == exec_call_ind)
		return tr_indirect(t, in, f == exec_call_ind);
	return false;
}

static bool ends_block(exec_fn *f)
{
	return f == exec_jcc || f == exec_jmp || f == exec_call || f == exec_ret ||
	       f == exec_jmp_ind || f == exec_call_ind || f == exec_loop;
}

/* Translate instructions until the block ends; guest bytes covered. */
static unsigned tr_block(struct tr *t, const u8 *code, unsigned avail)
{
	struct bt *bt = t->bt;
	unsigned done = 0, n = 0;
	struct insn in;

	for (;;) {
		int len;
		bool wants_thunk, last;
		exec_fn *f;

		t->at = t->pc + done;
		record(t, t->at, 0);
		len = decoder_decode(bt->c->engine->decoder, code + done,
				     MIN(avail - done, (unsigned)INSN_MAX_LEN), INSN_MODE_64, &in);
		if (len <= 0 || bt_is_step_site(bt, t->at)) {
			callout(t);
			return done + (len > 0 ? len : 1);
		}
		f = op_bind(&in, &wants_thunk);
		if (ends_block(f)) {
			if (!tr_control(t, &in, f))
				callout(t);
			return done + len;
		}
		last = n + 1 == (bt->one_insn ? 1 : BT_MAX_INSNS) || done + len >= avail;
		/* An interrupt may come between blocks, but not behind STI. */
		if ((last && in.map == INSN_MAP_1B && in.opcode == 0xfb) || !tr_ordinary(t, &in)) {
			callout(t);
			return done + len;
		}
		done += len;
		n++;
		if (last) {
			t->at = t->pc + done;
			record(t, t->at, 0);
			jump_direct(t, t->at);
			return done;
		}
	}
}

struct block *bt_translate(struct bt *bt, const u8 *code, unsigned avail)
{
	static const unsigned align = 16;
	struct tr t = {.bt = bt, .pc = bt->c->rip, .stop = ~0u};
	struct block *b = calloc(1, sizeof(*b));

	BUG_ON(!b);
	bt->used = ALIGN_UP(bt->used, align);
	t.start = bt->rw + bt->used;
	t.e = (struct emit){.p = t.start, .end = t.start + BT_BLOCK_ROOM};
	b->pc = t.pc;
	b->host = bt->used;
	b->len = tr_block(&t, code, avail);
	b->stop = MIN(t.stop, b->len);
	emit_stubs(&t);
	b->tail = t.e.p - bt->rw;
	record(&t, t.pc, 0);
	/* Once dropped, the block's entry is a jump to here, and itself an exit that can be linked.
	 */
	bt->links[bt->n_links] = (struct link){.at = b->host + 1, .target = t.pc};
	store_imm_abs(&t.e, CTX(bt, rip), t.pc);
	store_imm_abs(&t.e, CTX(bt, bt.link), bt->n_links++);
	jmp_to(&t, bt->exit_at);
	BUG_ON(t.e.full);
	b->host_len = t.e.p - t.start;
	b->n_recovery = t.n_rec;
	b->recovery = malloc(t.n_rec * sizeof(t.rec[0]));
	BUG_ON(!b->recovery);
	memcpy(b->recovery, t.rec, t.n_rec * sizeof(t.rec[0]));
	bt->used += b->host_len;
	bt->c->stats->n[STAT_bt_blocks]++;
	bt->c->stats->n[STAT_bt_guest_bytes] += b->len;
	bt->c->stats->n[STAT_bt_host_bytes] += b->host_len;
	if (unlikely(bt->check_recovery))
		bt_check_recovery(bt, b, code);
	return b;
}

/* --- common code --- */

_Static_assert(2 * THUNK_AREA_SIZE == 0x4000000, "LOWLAND_TRANSLATIONS");

static const u8 kept_by_c[] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

static void emit_base(struct emit *e, bool gs) /* wrfsbase/wrgsbase rax */
{
	emit_bytes(e, gs ? "\xf3\x48\x0f\xae\xd8" : "\xf3\x48\x0f\xae\xd0", 5);
}

/*
 * Attention may have been set since bt_run looked: the entry looks once more, from a place where a
 * kick's handler knows what to do (bt_on_kick). Until the jump the guest's state is in the context.
 */
static void emit_enter(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(kept_by_c); i++)
		emit_push(e, kept_by_c[i]);
	store_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	t->bt->entered_at = e->p - t->bt->rw;
	emit_bytes(e, "\x8b\x0c\x25", 3); /* mov ecx, [attention] */
	emit_u32(e, CTX(t->bt, attention));
	emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
	jmp_to(t, t->bt->leave_at);
	store_abs(e, GPR_RDI, CTX(t->bt, bt.jump));
	load_abs(e, GPR_RAX, CTX(t->bt, bt.fs_base));
	emit_base(e, false);
	movabs(e, GPR_RAX, SHADOW_BIAS);
	emit_base(e, true);
	emit_bytes(e, "\xff\x34\x25", 3); /* push qword [aflags] */
	emit_u32(e, CTX(t->bt, aflags));
	emit_popfq(e);
	for (i = 0; i < 16; i++)
		load_abs(e, i, CTX(t->bt, gpr[i]));
	emit_bytes(e, "\xff\x24\x25", 3); /* jmp [bt.jump] */
	emit_u32(e, CTX(t->bt, bt.jump));
	t->bt->enter_end = e->p - t->bt->rw;
}

static void emit_exit(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned i;

	t->bt->exit_at = e->p - t->bt->rw;
	for (i = 0; i < 16; i++)
		store_abs(e, i, CTX(t->bt, gpr[i]));
	load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	emit_pushfq(e);
	emit_bytes(e, "\x8f\x04\x25", 3); /* pop qword [aflags] */
	emit_u32(e, CTX(t->bt, aflags));
	t->bt->exit_end = t->bt->leave_at = e->p - t->bt->rw;
	load_abs(e, GPR_RSP, CTX(t->bt, host_rsp));
	load_abs(e, GPR_RAX, CTX(t->bt, bt.host_fs));
	emit_base(e, false);
	emit_bytes(e, "\xfc", 1); /* cld */
	for (i = ARRAY_LEN(kept_by_c); i-- > 0;)
		emit_pop(e, kept_by_c[i]);
	emit_ret(e);
	t->bt->exit_end = e->p - t->bt->rw;
}

/* RAX: guest target; RAX, RCX, RDX spilled. */
static void emit_lookup(struct tr *t)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;
	u8 *to_miss;

	bt->lookup_at = e->p - bt->rw;
	emit_bytes(e, "\x89\xc1", 2);         /* mov ecx, eax */
	emit_bytes(e, "\x0f\xc9", 2);         /* bswap ecx */
	emit_bytes(e, "\x8d\x0c\x08", 3);     /* lea ecx, [rax+rcx] */
	emit_bytes(e, "\x0f\xb7\xc9", 3);     /* movzx ecx, cx */
	emit_bytes(e, "\x48\x8b\x14\xcd", 4); /* mov rdx, [front_tag + rcx*8] */
	emit_u32(e, (u32)(uintptr_t)bt->front_tag);
	emit_bytes(e, "\x48\x8d\x14\x10", 4); /* lea rdx, [rax+rdx]: 0 if it is the tag */
	emit_bytes(e, "\x48\x87\xca", 3);     /* xchg rdx, rcx */
	emit_bytes(e, "\xe3\x05", 2);         /* jrcxz hit */
	emit_u8(e, 0xe9);
	to_miss = e->p;
	emit_u32(e, 0);
	emit_bytes(e, "\x48\x8b\x0c\xd5", 4); /* hit: mov rcx, [front_host + rdx*8] */
	emit_u32(e, (u32)(uintptr_t)bt->front_host);
	store_abs(e, GPR_RCX, CTX(bt, bt.jump));
	load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	emit_bytes(e, "\xff\x24\x25", 3);
	emit_u32(e, CTX(bt, bt.jump));
	*(u32 *)(void *)to_miss = e->p - to_miss - 4;
	store_abs(e, GPR_RAX, CTX(bt, rip));
	load_abs(e, GPR_RAX, CTX(bt, bt.spill[0]));
	load_abs(e, GPR_RCX, CTX(bt, bt.spill[1]));
	load_abs(e, GPR_RDX, CTX(bt, bt.spill[2]));
	jmp_to(t, bt->exit_at);
}

void bt_emit_common(struct bt *bt)
{
	struct tr t = {.bt = bt};

	t.start = bt->rw + bt->used;
	t.e = (struct emit){.p = t.start, .end = t.start + BT_BLOCK_ROOM};
	emit_exit(&t);
	bt->enter = (void (*)(u64))(void *)(bt->rx + (t.e.p - bt->rw));
	emit_enter(&t);
	emit_lookup(&t);
	BUG_ON(t.e.full);
	bt->used = bt->fixed = ALIGN_UP(t.e.p - bt->rw, 64);
}
