/*
 * Control transfers: direct ones are exits that get chained, indirect ones go through the lookup.
 */
#include <string.h>

#include "tr.h"

static void spill_for_lookup(struct tr *t)
{
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_store_abs(&t->e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX | SPILL_RDX);
}

/* Whether the target is canonical is found out when it has no pad and the lookup misses, too late
 * for an instruction that is to fault before it does anything: bt_enter takes it back. RCX is
 * spilled already. */
static void note_origin(struct tr *t, u32 how)
{
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.from), how | (u32)(t->e.p - t->bt->rw));
}

/* RCX: the target. */
static void land(struct tr *t, enum via via)
{
	emit_bytes(&t->e, "\x0f\xb7\xc9", 3); /* movzx ecx, cx */
	emit_bytes(&t->e, "\x8b\x0c\x8d", 3); /* mov ecx, [landing + rcx*4] */
	emit_u32(&t->e, (u32)(uintptr_t)t->bt->landing[t->regime][via]);
	emit_bytes(&t->e, "\xff\xe1", 2); /* jmp rcx */
}

static void spill_rcx(struct tr *t)
{
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
}

/* What is written first is the whole of it, so only that can fault. */
static void push_return(struct tr *t, u64 next)
{
	emit_u8(&t->e, 0x68);
	emit_u32(&t->e, (u32)next);
	tr_record(t, t->at, RECOVER_NEVER);
	if (!fits_s32(next)) {
		emit_bytes(&t->e, "\xc7\x44\x24\x04", 4); /* mov dword [rsp+4], imm32 */
		emit_u32(&t->e, next >> 32);
	}
}

/* The pad takes the address off the stack: until then nothing has been done. */
static bool tr_ret(struct tr *t, const struct insn *in)
{
	if (in->opsize != 8 || in->opcode == 0xc2) /* 64-bit code has no use for that */
		return false;
	spill_rcx(t);
	note_origin(t, FROM_RETURN);
	emit_bytes(&t->e, "\x48\x8b\x0c\x24", 4); /* mov rcx, [rsp] */
	land(t, VIA_RETURN);
	return true;
}

/* A flag that IRET writes and that translated code cannot have set. */
#define FL_NOT_OURS                                                                                \
	(FL_TF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID)

struct slow_exits {
	u8 *rel32[8];
	unsigned n;
};

static void emit_slow_if(struct tr *t, struct slow_exits *s, u8 cc)
{
	emit_u8(&t->e, 0x0f);
	emit_u8(&t->e, 0x80 | cc);
	s->rel32[s->n++] = t->e.p;
	emit_u32(&t->e, 0);
}

/* Compare 16 bits of the stack with a selector. */
static void emit_check_selector(struct tr *t, struct slow_exits *s, u8 disp, u32 sel)
{
	emit_bytes(&t->e, (u8[]){0x0f, 0xb7, 0x4c, 0x24, disp}, 5); /* movzx ecx, word [rsp+disp] */
	emit_bytes(&t->e, "\x66\x3b\x0c\x25", 4);                   /* cmp cx, [sel] */
	emit_u32(&t->e, sel);
	emit_slow_if(t, s, 5); /* ne */
}

/*
 * IRETQ that stays in its code and stack segment and changes no flag beside the arithmetic ones and
 * IF, with no interrupt waiting and no NMI to be let in again. The flags, which the tests change,
 * are saved meanwhile. Afterwards it is an indirect jump.
 */
static void emit_iret_checks(struct tr *t, struct slow_exits *s)
{
	struct emit *e = &t->e;

	emit_bytes(e, "\x9f\x0f\x90\xc0", 4); /* lahf; seto al */
	emit_store_abs(e, GPR_RAX, CTX(t->bt, bt.flags));
	emit_check_selector(t, s, 8, CTX(t->bt, seg[SEG_CS].sel));
	emit_check_selector(t, s, 32, CTX(t->bt, seg[SEG_SS].sel));
	emit_bytes(e, "\x8b\x54\x24\x10\xf7\xc2", 6); /* mov edx, [rsp+16]; test edx, imm32 */
	emit_u32(e, FL_NOT_OURS);
	emit_slow_if(t, s, 5); /* nz */
	emit_load_abs_zx(e, GPR_RCX, CTX(t->bt, intr), false);
	emit_bytes(e, "\x0a\x0c\x25", 3); /* or cl, [nmi_blocked] */
	emit_u32(e, CTX(t->bt, nmi_blocked));
	emit_slow_if(t, s, 5);
	emit_bytes(e, "\x48\x8b\x04\x24\x48\x89\xc1", 7); /* mov rax, [rsp]; mov rcx, rax */
	emit_bytes(e, "\x48\xc1\xf9\x2f", 4);             /* sar rcx, 47: 0 or -1 */
	emit_bytes(e, "\x48\xff\xc1\x48\x83\xf9\x01", 7); /* inc rcx; cmp rcx, 1 */
	emit_slow_if(t, s, 7);                            /* above: not canonical */
}

static bool tr_iret(struct tr *t, const struct insn *in)
{
	struct slow_exits s = {.n = 0};
	struct emit *e = &t->e;

	if (in->opsize != 8)
		return false;
	spill_for_lookup(t);
	emit_bytes(e, "\x48\x8b\x44\x24\x20", 5); /* mov rax, [rsp+32]: the frame is there... */
	emit_bytes(e, "\x48\x8b\x04\x24", 4);     /* mov rax, [rsp]: ...from its start */
	tr_record(t, t->at, RECOVER_NEVER);
	emit_iret_checks(t, &s);
	emit_bytes(e, "\x81\xe2", 2); /* and edx, IF: nothing else is in sflags */
	emit_u32(e, FL_IF);
	emit_store_abs(e, GPR_RDX, CTX(t->bt, sflags));
	emit_bytes(e, "\x48\x8b\x54\x24\x18", 5); /* mov rdx, [rsp+24] */
	emit_movabs(e, GPR_RCX, t->bias);
	emit_bytes(e, "\x48\x8d\x64\x24\x10\x9d", 6); /* lea rsp, [rsp+16]; popfq */
	emit_lea_sum(e, GPR_RSP, GPR_RDX, GPR_RCX, 0);
	tr_jmp_to(t, t->bt->lookup_at[t->regime][VIA_OTHER]);
	while (s.n-- > 0) {
		u32 rel = e->p - s.rel32[s.n] - 4;

		memcpy(s.rel32[s.n], &rel, 4);
	}
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.flags));
	emit_bytes(e, "\x04\x7f\x9e", 3); /* add al, 127; sahf */
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX | SPILL_RDX);
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_load_abs(e, GPR_RDX, CTX(t->bt, bt.spill[2]));
	tr_callout(t);
	t->stop = ~0u; /* not the block's only end */
	return true;
}

/* mov rcx, [rip+x]; RCX is spilled. */
static void load_rip_relative(struct tr *t, const struct insn *load, u64 addr)
{
	u8 prefix = load->seg == SEG_GS ? 0x64 : 0x65;

	if (is_nameable(addr)) {
		tr_copy_rip_relative(t, load, prefix, addr);
		return;
	}
	emit_movabs(&t->e, GPR_RCX, addr);
	emit_u8(&t->e, prefix);
	emit_bytes(&t->e, "\x48\x8b\x09", 3); /* mov rcx, [rcx] */
}

static bool tr_indirect(struct tr *t, const struct insn *in, bool call)
{
	u64 next = t->at + in->len;
	struct insn load = *in;

	if (in->opsize != 8 || (in->has_mem ? !tr_relocatable(t, in) : in->rm == GPR_RSP))
		return false;
	spill_rcx(t);
	note_origin(t, call ? FROM_CALL : 0);
	/* mov rcx, r/m: the same operand, another opcode */
	load.opcode = load.bytes[load.off_opcode] = 0x8b;
	load.modrm = load.bytes[load.off_modrm] = (in->modrm & 0xc7) | GPR_RCX << 3;
	load.reg = GPR_RCX;
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
		load_rip_relative(t, &load, next + in->disp);
	else if (load.has_mem)
		tr_copy_memory(t, &load);
	else
		tr_copy_plain(t, &load, 0);
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.target));
	if (call)
		push_return(t, next);
	land(t, VIA_JUMP);
	return true;
}

/* An instruction that ends the block. False: tr_callout. */
bool tr_control(struct tr *t, const struct insn *in, exec_fn *f)
{
	u64 next = t->at + in->len, to = next + in->imm;

	if ((f == exec_jcc || f == exec_jmp || f == exec_call) && !cpu_canonical(to))
		return false;
	if (f == exec_jcc) {
		emit_u8(&t->e, 0x0f);
		emit_u8(&t->e, 0x80 | (in->opcode & 15));
		tr_exit_direct(t, to);
		tr_record(t, next, 0);
		tr_jump_direct(t, next);
		return true;
	}
	if (f == exec_jmp) {
		tr_jump_direct(t, to);
		return true;
	}
	if (f == exec_call && in->opsize == 8) {
		push_return(t, next);
		tr_jump_direct(t, to);
		return true;
	}
	if (f == exec_iret)
		return tr_iret(t, in);
	if (f == exec_ret)
		return tr_ret(t, in);
	if (f == exec_jmp_ind || f == exec_call_ind)
		return tr_indirect(t, in, f == exec_call_ind);
	return false;
}
