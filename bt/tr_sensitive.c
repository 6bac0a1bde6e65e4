/*
 * Sensitive instructions that are executed inline, on struct cpu.
 *
 * While translated code runs, IF is the only bit of sflags that may be set (bt_eligible), so the
 * byte that holds it is 0 or 2 and can be stored whole: nothing here touches the host's flags.
 */
#include "tr.h"

static void store_if(struct tr *t, u8 byte)
{
	emit_bytes(&t->e, "\xc6\x04\x25", 3); /* mov byte [abs32], imm8 */
	emit_u32(&t->e, CTX(t->bt, sflags) + 1);
	emit_u8(&t->e, byte);
}

/* STI with an interrupt waiting is the single-step engine's: it casts the shadow and delivers. */
static void tr_sti(struct tr *t)
{
	u8 *skip;

	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
	emit_load_abs_zx(&t->e, GPR_RCX, CTX(t->bt, intr), false);
	emit_bytes(&t->e, "\xe3\x00", 2); /* jrcxz */
	skip = t->e.p;
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_callout(t);
	t->stop = ~0u; /* not the block's end */
	emit_here8(&t->e, skip);
	tr_record(t, t->at, SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, 0);
	store_if(t, FL_IF >> 8);
	t->behind_sti = t->at + 1;
}

/* The host's IF is always set and goes onto the stack with the rest: take it off if the guest's is
 * clear. The quadword is written as a whole, so that a POP behind does not wait for two stores. */
static void tr_pushf(struct tr *t, const struct insn *in)
{
	emit_pushfq(&t->e);
	tr_record(t, t->at, RECOVER_NEVER);
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_bytes(&t->e, "\x48\x8b\x04\x24", 4); /* mov rax, [rsp] */
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, sflags));
	emit_lea_sum(&t->e, GPR_RAX, GPR_RAX, GPR_RCX, -FL_IF);
	emit_bytes(&t->e, "\x48\x89\x04\x24", 4); /* mov [rsp], rax */
	tr_record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.spill[0]));
}

/*
 * POPF inline if no flag beside the arithmetic ones and IF is set in the new value, and no
 * interrupt waits. What is tested, without touching flags, is a sum of three bytes, one of them
 * from a table (bt->flags_byte_at). The host's POPF does the rest: IF it ignores.
 */
static void tr_popf(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	u32 table = (u32)(uintptr_t)t->bt->rx + t->bt->flags_byte_at;
	u8 *skip;

	emit_store_abs(e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_store_abs(e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
	emit_bytes(e, "\x48\x8b\x04\x24", 4);     /* mov rax, [rsp] */
	emit_bytes(e, "\x0f\xb6\x4c\x24\x02", 5); /* movzx ecx, byte [rsp+2] */
	emit_bytes(e, "\x0f\xb6\xc4", 3);         /* movzx eax, ah */
	emit_bytes(e, "\x0f\xb6\x80", 3);         /* movzx eax, byte [rax+table] */
	emit_u32(e, table);
	emit_bytes(e, "\x8d\x0c\x01", 3); /* lea ecx, [rcx+rax] */
	emit_load_abs_zx(e, GPR_RAX, CTX(t->bt, intr), false);
	emit_bytes(e, "\x8d\x0c\x01", 3);
	emit_bytes(e, "\xe3\x00", 2); /* jrcxz */
	skip = e->p;
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.spill[0]));
	emit_load_abs(e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_callout(t);
	t->stop = ~0u; /* not the block's end */
	emit_here8(e, skip);
	tr_record(t, t->at, SPILL_RAX | SPILL_RCX);
	emit_bytes(e, "\x0f\xb6\x44\x24\x01", 5); /* movzx eax, byte [rsp+1] */
	emit_bytes(e, "\x0f\xb6\x80", 3);         /* movzx eax, byte [rax+its IF] */
	emit_u32(e, table + 256);
	emit_popfq(e);
	tr_record(t, t->at, RECOVER_NEVER);
	emit_bytes(e, "\x88\x04\x25", 3); /* mov [sflags+1], al */
	emit_u32(e, CTX(t->bt, sflags) + 1);
	tr_record(t, t->at + in->len, SPILL_RAX | SPILL_RCX);
	emit_load_abs(e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	tr_record(t, t->at + in->len, SPILL_RAX);
	emit_load_abs(e, GPR_RAX, CTX(t->bt, bt.spill[0]));
}

/* Where the guest's time is the host's, the host's own instruction does; with lockstep the two runs
 * of a block would differ. */
static bool tr_rdtsc(struct tr *t, bool aux)
{
	if (!t->bt->c->ops->host_tsc || t->bt->lockstep)
		return false;
	emit_bytes(&t->e, aux ? "\x0f\x01\xf9" : "\x0f\x31", aux ? 3 : 2);
	if (aux) {
		tr_record(t, t->at, RECOVER_NEVER);
		emit_bytes(&t->e, "\x8b\x0c\x25", 3); /* mov ecx, [tsc_aux] */
		emit_u32(&t->e, CTX(t->bt, tsc_aux));
	}
	return true;
}

static bool tr_mov_from_cr(struct tr *t, const struct insn *in)
{
	unsigned r = (in->modrm & 7) | (in->rex & 1) << 3;
	u32 from;

	if (r == GPR_RSP)
		return false;
	switch ((in->modrm >> 3 & 7) | (in->rex & 4) << 1) {
	case 0: from = CTX(t->bt, cr0); break;
	case 2: from = CTX(t->bt, cr2); break;
	case 3: from = CTX(t->bt, cr3); break;
	case 4: from = CTX(t->bt, cr4); break;
	default: return false;
	}
	emit_load_abs(&t->e, r, from);
	return true;
}

static bool tr_mov_from_sreg(struct tr *t, const struct insn *in)
{
	if (in->has_mem || in->rm == GPR_RSP || (in->reg & 7) >= SEG_COUNT)
		return false;
	if (in->opsize == 2) {
		emit_u8(&t->e, 0x66);
		emit_u8(&t->e, 0x40 | (in->rm >> 3) << 2);
		emit_bytes(&t->e, (u8[]){0x8b, 4 | (in->rm & 7) << 3, 0x25}, 3);
		emit_u32(&t->e, CTX(t->bt, seg[in->reg & 7].sel));
	} else {
		emit_load_abs_zx(&t->e, in->rm, CTX(t->bt, seg[in->reg & 7].sel), true);
	}
	return true;
}

static bool tr_sensitive_0f(struct tr *t, const struct insn *in)
{
	switch (in->opcode) {
	case 0x01:
		if (in->modrm == 0xf9)
			return tr_rdtsc(t, true);
		if (in->modrm != 0xf8)
			return false;
		tr_swapgs(t);
		return true;
	case 0x20: return tr_mov_from_cr(t, in);
	case 0x30: return tr_wrmsr(t, in);
	case 0x31: return tr_rdtsc(t, false);
	case 0x32: return tr_rdmsr(t);
	case 0xa2: return tr_cpuid(t, in);
	case 0xae: return tr_fsgsbase(t, in);
	default: return false;
	}
}

/* False: a callout. */
bool tr_sensitive(struct tr *t, const struct insn *in)
{
	if (in->map == INSN_MAP_0F)
		return tr_sensitive_0f(t, in);
	if (in->map != INSN_MAP_1B)
		return false;
	switch (in->opcode) {
	case 0x8c: return tr_mov_from_sreg(t, in);
	case 0x9c:
	case 0x9d:
		if (in->opsize != 8)
			return false;
		if (in->opcode == 0x9c)
			tr_pushf(t, in);
		else
			tr_popf(t, in);
		return true;
	case 0xfa: store_if(t, 0); return true;
	case 0xfb: tr_sti(t); return true;
	case 0xfc: return true; /* CLD: DF is clear */
	default: return false;
	}
}
