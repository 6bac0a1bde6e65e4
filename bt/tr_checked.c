/*
 * Checked sites: instructions that have met a user address, as get_user, put_user and the loops of
 * copy_from_user do. Their operand is looked up in the software TLB (mmu.h), in its supervisor
 * half, and they are executed on the guest RAM's window, where the monitor itself accesses it:
 *
 *	spill RAX, RCX, RDX; the flags to site_flags
 *	rdx = linear address
 *	rax = its slot in the TLB
 *	compare the slot's tag with the page of the operand's last byte: an operand that crosses
 *		into another page differs from its slot's tag, and so does one that is not canonical
 *	rdx += addend
 *	flags and two of the three registers back; the instruction with [the third]; the third back
 *
 * What misses is stepped (a light callout), which fills the TLB or raises the guest's fault. That
 * is every access to a device, every write to a page with code, the first write to a page whose D
 * bit is clear, and every write while the lockstep check is on. Since the TLB knows kernel
 * addresses as well, a place that is used with both kinds (memcpy, copy_from_kernel_nofault) stays
 * fast.
 *
 * The flags are saved even if nobody will read them: a fault or an interrupt shows them.
 *
 * Not handled, and stepped as before: vector instructions, bit offsets in registers, CMPXCHG16B
 * (which needs all three registers), RSP as data, FS, 32-bit addresses.
 */
#include "tr.h"

_Static_assert(sizeof(struct tlb_entry) == 40, "the slot is found by multiplying by 5 and 8");

/* lea dst, [base + index*scale + disp], any of them absent; index is not RSP */
static void emit_lea_operand(struct emit *e, unsigned dst, const struct insn *in)
{
	bool base = in->base != REG_NONE, index = in->index != REG_NONE;
	unsigned b = base ? in->base : 5, x = index ? in->index : 4;

	emit_u8(e, 0x48 | (dst >> 3) << 2 | (x >> 3) << 1 | b >> 3);
	emit_u8(e, 0x8d);
	emit_u8(e, (base ? 0x84 : 0x04) | (dst & 7) << 3);
	emit_u8(e, (index ? (u8)__builtin_ctz(in->scale) << 6 : 0) | (x & 7) << 3 | (b & 7));
	emit_u32(e, (u32)in->disp);
}

/* RDX = linear address, without the segment base; RAX is free. */
static void emit_address(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;

	if (in->base == REG_RIP) {
		emit_movabs(e, GPR_RDX, t->at + in->len + in->disp);
		return;
	}
	emit_lea_operand(e, GPR_RDX, in);
	if (in->base == GPR_RSP) {
		emit_movabs(e, GPR_RAX, -t->bias);
		emit_lea_sum(e, GPR_RDX, GPR_RDX, GPR_RAX, 0);
	}
}

void tr_save_flags(struct tr *t)
{
	emit_bytes(&t->e, "\x9f\x0f\x90\xc0", 4); /* lahf; seto al */
	emit_store_abs(&t->e, GPR_RAX, CTX(t->bt, bt.site_flags));
}

void tr_restore_flags(struct tr *t)
{
	emit_load_abs(&t->e, GPR_RAX, CTX(t->bt, bt.site_flags));
	emit_bytes(&t->e, "\x04\x7f\x9e", 3); /* add al, 127; sahf */
}

void tr_tlb_slot(struct tr *t, unsigned reg)
{
	emit_bytes(&t->e, (u8[]){0x89, 0xc0 | reg << 3, 0xc1, 0xe8, 0x0c, 0x25}, 6);
	emit_u32(&t->e, TLB_SIZE - 1);        /* mov eax, reg; shr eax, 12; and eax, .. */
	emit_bytes(&t->e, "\x8d\x04\x80", 3); /* lea eax, [rax + rax*4] */
}

/* op r64, [rax*8 + addr] */
void tr_tlb_op(struct tr *t, u8 op, unsigned reg, unsigned off)
{
	emit_u8(&t->e, 0x48);
	emit_u8(&t->e, op);
	emit_u8(&t->e, 0x04 | reg << 3);
	emit_u8(&t->e, 0xc5);
	emit_u32(&t->e, CTX(t->bt, mmu.tlb[0][0]) + off);
}

void tr_may_miss(struct tr *t)
{
	BUG_ON(t->n_misses >= ARRAY_LEN(t->miss));
	t->miss[t->n_misses].at = t->at;
	t->miss[t->n_misses].op = tr_op(t);
	t->miss[t->n_misses++].n = 0;
}

void tr_miss_if(struct tr *t, u8 cc)
{
	unsigned i = t->n_misses - 1;

	emit_bytes(&t->e, (u8[]){0x0f, 0x80 | cc}, 2);
	BUG_ON(t->miss[i].n >= ARRAY_LEN(t->miss[i].rel32));
	t->miss[i].rel32[t->miss[i].n++] = t->e.p;
	emit_u32(&t->e, 0);
}

void tr_after_miss(struct tr *t)
{
	t->miss[t->n_misses - 1].resume = t->e.p;
	t->vec_checked = 0; /* C code may have had the registers in between */
	if (t->fs == FS_HOST)
		t->fs = FS_UNKNOWN; /* it has, and FS is right, or it has not */
}

/* RDX: linear address -> where it is in the monitor; behind a comparison. */
static void emit_compare(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	enum mmu_access access = in->access & ACCESS_W ? MMU_WRITE : MMU_READ;

	tr_tlb_slot(t, GPR_RDX);
	emit_bytes(e, "\x48\x8d\x8a", 3); /* lea rcx, [rdx + size - 1] */
	emit_u32(e, in->mem_size - 1);    /* and rcx, PAGE_MASK */
	emit_bytes(e, "\x48\x81\xe1", 3);
	emit_u32(e, (u32)PAGE_MASK);
	tr_tlb_op(t, 0x3b, GPR_RCX, offsetof(struct tlb_entry, tag[access])); /* cmp */
}

static void emit_found(struct tr *t)
{
	tr_tlb_op(t, 0x03, GPR_RDX, offsetof(struct tlb_entry, addend)); /* add */
	tr_restore_flags(t);
	tr_record(t, t->at, SPILL_ALL);
}

bool tr_operands(struct tr *t, const struct insn *in, u16 *mask)
{
	u8 bytes[INSN_MAX_LEN];
	unsigned len = tr_with_base(in, GPR_RBX, 0, bytes);
	struct insn out;

	if (decoder_decode(t->bt->c->engine->decoder, bytes, len, INSN_MODE_64, &out) != (int)len)
		return false;
	*mask = out.gpr_read | out.gpr_written | out.gpr_implicit;
	return true;
}

unsigned tr_scratch(u16 free)
{
	static const u8 choice[] = {GPR_RDX, GPR_RCX, GPR_RAX};
	unsigned i;

	for (i = 0; i < ARRAY_LEN(choice); i++)
		if (free >> choice[i] & 1)
			return choice[i];
	return REG_NONE;
}

void tr_spill(struct tr *t, bool store, unsigned except)
{
	unsigned i;

	for (i = GPR_RAX; i <= GPR_RDX; i++)
		if (i != except)
			emit_op_abs(&t->e, store ? 0x89 : 0x8b, i, CTX(t->bt, bt.spill[i]));
}

/* Spills, saved flags, RDX, and the comparison. */
static void emit_start(struct tr *t, const struct insn *in)
{
	tr_spill(t, true, REG_NONE);
	tr_record(t, t->at, SPILL_ALL);
	emit_address(t, in);
	tr_save_flags(t);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
	if (in->seg == SEG_GS)
		emit_op_abs(&t->e, 0x03, GPR_RDX, CTX(t->bt, seg[SEG_GS].base)); /* add */
	emit_compare(t, in);
}

u8 *tr_look_up(struct tr *t, const struct insn *in)
{
	u8 *miss;

	emit_start(t, in);
	emit_bytes(&t->e, "\x0f\x85", 2); /* jne */
	miss = t->e.p;
	emit_u32(&t->e, 0);
	emit_found(t);
	return miss;
}

/* False: it needs a callout. */
bool tr_checked(struct tr *t, const struct insn *in, exec_fn *f)
{
	unsigned scratch, len;
	u8 bytes[INSN_MAX_LEN];
	u16 busy;

	if (f != exec_mem || in->state || tr_rsp_is_data(in) || !tr_relocatable(t, in))
		return false;
	if (!tr_operands(t, in, &busy))
		return false;
	scratch = tr_scratch(~busy);
	if (scratch == REG_NONE)
		return false;
	tr_may_miss(t);
	emit_start(t, in);
	tr_miss_if(t, 5); /* ne */
	emit_found(t);
	if (scratch != GPR_RDX)
		emit_mov64(&t->e, scratch, GPR_RDX);
	tr_spill(t, false, scratch);
	len = tr_with_base(in, scratch, 0, bytes);
	emit_bytes(&t->e, bytes, len);
	tr_record(t, t->at + in->len, 1u << scratch);
	emit_load_abs(&t->e, scratch, CTX(t->bt, bt.spill[scratch]));
	tr_after_miss(t);
	return true;
}

/* A light callout each. With lockstep a block is left, since it runs twice. */
void tr_emit_misses(struct tr *t)
{
	struct bt *bt = t->bt;
	unsigned i, k;

	for (i = 0; i < t->n_misses; i++) {
		for (k = 0; k < t->miss[i].n; k++) {
			u32 rel = t->e.p - t->miss[i].rel32[k] - 4;

			memcpy(t->miss[i].rel32[k], &rel, 4);
		}
		tr_record(t, t->miss[i].at, SPILL_ALL | RECOVER_FLAGS);
		emit_store_imm64_abs(&t->e, CTX(bt, rip), t->miss[i].at);
		emit_store_imm_abs(&t->e, CTX(bt, bt.jump),
				   (u32)(uintptr_t)bt->rx + (t->miss[i].resume - bt->rw));
		emit_store_imm_abs(&t->e, CTX(bt, bt.op), t->miss[i].op);
		tr_jmp_to(t, bt->lockstep ? bt->miss_leave_at : bt->miss_at);
	}
}

static void emit_miss(struct tr *t)
{
	emit_bytes(&t->e, "\x48\xff\x04\x25", 4); /* inc qword [stats] */
	emit_u32(&t->e, (u32)(uintptr_t)&t->bt->c->stats->n[STAT_bt_checked_misses]);
	tr_restore_flags(t);
	tr_spill(t, false, REG_NONE);
}

void tr_emit_checked_miss(struct tr *t)
{
	struct bt *bt = t->bt;

	bt->miss_at = t->e.p - bt->rw;
	emit_miss(t);
	tr_jmp_to(t, bt->light_at[LIGHT_FS_BACK]);
	bt->miss_leave_at = t->e.p - bt->rw;
	emit_miss(t);
	emit_store_imm_abs(&t->e, CTX(bt, bt.step), STEP_CHECKED);
	tr_jmp_to(t, bt->exit_at);
}
