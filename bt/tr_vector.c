/*
 * SSE, AVX and AVX-512 instructions on the guest's registers in the host's own.
 *
 * In C code the guest's vector state is in struct cpu (vec_state) and the host's registers are the
 * monitor's. The first vector instruction of a block finds out whether the state has been loaded
 * since translated code was entered, and else has it loaded, all of it; the code that returns to C
 * saves it again. So a run of vector code pays once, and code without pays nothing. The whole is
 * vector registers, opmasks and MXCSR; not x87 and MMX, see below.
 *
 *	vec_missing	a byte per class of instructions (enum vec_class): not 0: not loaded, or
 *			not to be used as CR0, CR4 and XCR0 stand. The fourth: not loaded.
 *	vec_denied	the same without the first reason; computed at entry. What changes
 *			CR0, CR4 and XCR0 is a callout, so this holds until the next.
 *
 * A class that is denied ends in a callout, where the engine raises #UD or #NM.
 *
 * A signal in between finds the state in the registers; the host kernel keeps it in the signal
 * frame and gives the handler fresh registers. If the handler has translated code left for good, it
 * only points RIP at the common exit: sigreturn brings the state back into the registers, and the
 * exit saves it as always. Nothing here has to look into the frame. A host exception of a vector
 * instruction (#XM, a misaligned operand) leaves in the same way and is stepped, which raises it
 * with all its details.
 *
 * Callouts remain:
 *	x87, MMX	no 64-bit kernel computes with them; their last-instruction pointers would
 *			be those of the host's copy
 *	LDMXCSR		the host may have bits that the guest has not, which must be #GP
 *	XSAVE and kin	memory layout is that of the guest's CPUID
 *	gathers, scatters, MASKMOVDQU	their addresses are not plain operands, and kernels have
 *			no use for them
 *	masked stores	whether one that stores nothing sets D would depend on what the shadow
 *			happens to have mapped
 */
#include "thunk_fault.h"
#include "tr.h"

#define OFF(field) ((u32)offsetof(struct cpu, field))

enum vec_class { CLASS_SSE, CLASS_AVX, CLASS_AVX512 };

static enum vec_class class_of(const struct insn *in)
{
	if (in->state & (STATE_AVX512 | STATE_OPMASK))
		return CLASS_AVX512;
	return in->state & STATE_AVX ? CLASS_AVX : CLASS_SSE;
}

/* --- common code --- */

static void emit_state(struct emit *e, const struct bt *bt, unsigned ctx, bool store)
{
	unsigned width = bt->c->engine->thunks->vec_width, i;

	for (i = 0; i < (width == 64 ? 32 : 16); i++)
		emit_vec_move(e, i, ctx, OFF(vec.zmm) + 64 * i, width, store);
	for (i = 0; width == 64 && i < 8; i++)
		emit_kmovq(e, i, ctx, OFF(vec.k) + 8 * i, store);
	emit_0f_mem(e, 0xae, store ? 3 : 2, ctx, OFF(vec.mxcsr), false); /* stmxcsr, ldmxcsr */
}

static void emit_mov32_imm(struct emit *e, unsigned reg, u32 imm)
{
	emit_u8(e, 0xb8 | reg);
	emit_u32(e, imm);
}

/* A callout: #UD or #NM. */
static void emit_denied(struct tr *t)
{
	emit_load_abs(&t->e, GPR_RCX, CTX(t->bt, bt.spill[1]));
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.step), STEP_CALLOUT);
	emit_store_imm_abs(&t->e, CTX(t->bt, bt.op), 0); /* to be fetched */
	tr_jmp_to(t, t->bt->exit_at);
}

/* RCX is spilled, RIP in the context is that of the instruction, bt.jump where to go on. */
static void emit_load(struct tr *t, enum vec_class class, u32 denied_at, u8 **to_load)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;

	bt->vec_load_at[class] = e->p - bt->rw;
	emit_load_abs_zx(e, GPR_RCX, CTX(bt, bt.vec_denied[class]), false);
	emit_bytes(e, "\xe3\x00", 2); /* jrcxz, patched */
	*to_load = e->p;
	tr_jmp_to(t, denied_at);
}

void tr_emit_vector_load(struct tr *t)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;
	u8 *to_load[VEC_CLASSES];
	u32 denied_at = e->p - bt->rw;
	unsigned i;

	emit_denied(t);
	for (i = 0; i < VEC_CLASSES; i++)
		emit_load(t, i, denied_at, &to_load[i]);
	for (i = 0; i < VEC_CLASSES; i++)
		emit_here8(e, to_load[i]);
	emit_mov32_imm(e, GPR_RCX, (u32)(uintptr_t)bt->c);
	emit_state(e, bt, GPR_RCX, false);
	emit_bytes(e, "\x8b\x0c\x25", 3); /* mov ecx, [vec_denied] */
	emit_u32(e, CTX(bt, bt.vec_denied));
	emit_bytes(e, "\x89\x0c\x25", 3); /* mov [vec_missing], ecx */
	emit_u32(e, CTX(bt, bt.vec_missing));
	emit_bytes(e, "\xff\x24\x25", 3); /* jmp [bt.jump] */
	emit_u32(e, CTX(bt, bt.jump));
}

void tr_emit_vector_save(struct tr *t)
{
	struct emit *e = &t->e;
	struct bt *bt = t->bt;
	u8 *skip;

	emit_bytes(e, "\x80\x3c\x25", 3); /* cmp byte [vec_missing + 3], 0 */
	emit_u32(e, CTX(bt, bt.vec_missing[VEC_CLASSES]));
	emit_u8(e, 0);
	emit_bytes(e, "\x0f\x85", 2); /* jne */
	emit_u32(e, 0);
	skip = e->p;
	emit_mov32_imm(e, GPR_RCX, (u32)(uintptr_t)bt->c);
	emit_state(e, bt, GPR_RCX, true);
	emit_0f_mem(e, 0xae, 2, GPR_RCX, OFF(host_mxcsr), false); /* ldmxcsr */
	if (bt->c->engine->thunks->vec_width > 16)
		emit_vzeroupper(e);
	emit_bytes(e, "\xc7\x04\x25", 3); /* mov dword [vec_missing], all ones */
	emit_u32(e, CTX(bt, bt.vec_missing));
	emit_u32(e, VEC_ALL_MISSING);
	emit_bytes(e, "\x48\xff\x04\x25", 4); /* inc qword [stats] */
	emit_u32(e, (u32)(uintptr_t)&bt->c->stats->n[STAT_bt_vector_loads]);
	*(u32 *)(void *)(skip - 4) = e->p - skip;
}

/* --- in blocks --- */

/* Once per block and class; the flags are the guest's all the while. */
static void ensure_loaded(struct tr *t, enum vec_class class)
{
	struct bt *bt = t->bt;
	u8 *missing, *resume;
	u32 live;

	if (t->vec_checked >> class & 1)
		return;
	t->vec_checked |= 1u << class;
	t->vector = true;
	emit_store_abs(&t->e, GPR_RCX, CTX(bt, bt.spill[1]));
	tr_record(t, t->at, SPILL_RCX);
	emit_load_abs_zx(&t->e, GPR_RCX, CTX(bt, bt.vec_missing[class]), false);
	emit_bytes(&t->e, "\xe3\x00", 2); /* jrcxz, patched */
	missing = t->e.p;
	emit_store_imm64_abs(&t->e, CTX(bt, rip), t->at);
	emit_store_imm_abs(&t->e, CTX(bt, bt.jump), 0);
	resume = t->e.p;
	tr_jmp_to(t, bt->vec_load_at[class]);
	emit_here8(&t->e, missing);
	live = (u32)(uintptr_t)bt->rx + (u32)(t->e.p - bt->rw);
	memcpy(resume - 4, &live, 4);
	emit_load_abs(&t->e, GPR_RCX, CTX(bt, bt.spill[1]));
	tr_record(t, t->at, 0);
}

/* STMXCSR, VZEROUPPER, VZEROALL; the rest of what exec_xstate does is left to it. */
static bool plain_xstate(const struct insn *in)
{
	if (in->map != INSN_MAP_0F)
		return false;
	if (in->opcode == 0xae)
		return (in->modrm >> 3 & 7) == 3;
	return in->opcode == 0x77;
}

bool tr_vector(struct tr *t, const struct insn *in, exec_fn *f)
{
	if (in->state & (STATE_X87 | STATE_MMX))
		return false;
	if (f != exec_vec_reg && f != exec_vec_mem && f != exec_masked &&
	    !(f == exec_xstate && plain_xstate(in)))
		return false;
	if (f == exec_masked && (in->access & ACCESS_W))
		return false;
	if (in->rsp_operand || (in->has_mem && !tr_relocatable(t, in)))
		return false;
	ensure_loaded(t, class_of(in));
	if (in->has_mem)
		tr_copy_memory(t, in);
	else
		tr_copy_plain(t, in, 0);
	return true;
}
