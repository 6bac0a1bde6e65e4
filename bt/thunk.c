/*
 * Thunks run ordinary guest instructions on the host CPU, so that their results and flags are the
 * host's own. The guest's instruction is re-encoded for 64-bit mode, its memory operand replaced by
 * [reg] with the operand's host address in reg; everything else keeps its place: every general
 * register stands for itself, RSP included (the host's RSP waits in the CPU structure meanwhile;
 * signals arrive on an alternate stack). Around it the thunk loads what the instruction reads or
 * may leave unchanged, and stores what it writes.
 *
 *	push callee-saved registers in use
 *	mov  ctx, rdi; mov mem, rsi		to registers the instruction does not use
 *	x87 image, opmasks, vectors, MXCSR	by the register files it touches
 *	push [aflags]; popfq			if it reads flags or keeps some
 *	mov  reg, [ctx + ...]
 *	THE INSTRUCTION
 *	mov  [ctx + ...], reg
 *	pushfq; pop [aflags]			if it writes flags
 *	and so on back, ret
 *
 * A host exception in a thunk happens before anything has been stored, so the guest's state is
 * still that of the instruction's start: the handler abandons the thunk and raises the guest's
 * exception.
 *
 * Thunks are kept once per host byte sequence: displacements vanish in re-encoding, so a kernel's
 * 400,000 instructions need only some tens of thousands. The area is mapped twice, W and X apart.
 */
#define _GNU_SOURCE
#include "thunk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#define HASH_FUNCTION(key, len, hashv) ((hashv) = (unsigned)XXH3_64bits(key, len))
#include <uthash.h>

#include "emit_x64.h"
#include "thunk_fault.h"

#define THUNK_MAX  512
#define OFF(field) ((u32)offsetof(struct cpu, field))

struct thunk_entry {
	u32 off, len;
	UT_hash_handle hh;
};

static unsigned host_vector_width(void)
{
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512bw"))
		return 64;
	return __builtin_cpu_supports("avx") ? 32 : 16;
}

static int map_area(struct thunks *t, void *at)
{
	int fixed = at ? MAP_FIXED_NOREPLACE : 0;

	t->fd = memfd_create("ringshift-thunks", MFD_CLOEXEC);
	if (t->fd < 0 || ftruncate(t->fd, THUNK_AREA_SIZE) < 0)
		return -errno;
	t->rx = mmap(at, THUNK_AREA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, t->fd, 0);
	if (t->rx == MAP_FAILED)
		return -errno;
	t->rw = mmap(at ? (u8 *)at + THUNK_AREA_SIZE : NULL, THUNK_AREA_SIZE,
		     PROT_READ | PROT_WRITE, MAP_SHARED | fixed, t->fd, 0);
	return t->rw == MAP_FAILED ? -errno : 0;
}

struct thunks *thunks_new(struct stats *stats, void *code_area)
{
	struct thunks *t = calloc(1, sizeof(*t));
	struct host_cpu host;
	int err;

	if (!t)
		return NULL;
	t->fd = -1;
	t->rx = t->rw = MAP_FAILED;
	t->stats = stats;
	t->vec_width = host_vector_width();
	host_cpu_probe(&host);
	t->mxcsr_mm = host.mxcsr_mask & MXCSR_MM;
	t->alt = aligned_alloc(ALT_STACK_SIZE, ALT_STACK_SIZE);
	t->landing = aligned_alloc(64, LANDING_SIZE);
	t->guard = aligned_alloc(PAGE_SIZE, 3 * PAGE_SIZE);
	err = t->alt && t->landing && t->guard ? map_area(t, code_area) : -ENOMEM;
	if (!err && (mprotect(t->guard, PAGE_SIZE, PROT_NONE) ||
		     mprotect(t->guard + 2 * PAGE_SIZE, PAGE_SIZE, PROT_NONE)))
		err = -errno;
	if (err) {
		thunks_free(t);
		errno = -err;
		return NULL;
	}
	return t;
}

void thunks_free(struct thunks *t)
{
	if (!t)
		return;
	thunks_flush(t);
	if (t->rx != MAP_FAILED)
		munmap(t->rx, THUNK_AREA_SIZE);
	if (t->rw != MAP_FAILED)
		munmap(t->rw, THUNK_AREA_SIZE);
	if (t->fd >= 0)
		close(t->fd);
	if (t->guard)
		mprotect(t->guard, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE);
	free(t->guard);
	free(t->landing);
	free(t->alt);
	free(t);
}

void thunks_flush(struct thunks *t)
{
	struct thunk_entry *e, *tmp;

	HASH_ITER(hh, t->table, e, tmp)
	{
		HASH_DEL(t->table, e);
		free(e);
	}
	t->used = 0;
}

/* --- re-encoding --- */

struct plan {
	const struct insn *in;
	u16 gprs;     /* registers loaded; those in in->gpr_written are stored */
	u32 vecs;     /* vector registers loaded and stored */
	unsigned ctx; /* register that holds struct cpu * */
	unsigned mem; /* register that holds the operand's address */
	bool load_flags, store_flags, x87, vector, mxcsr, opmask;
};

/* In 16- and 32-bit code W has no meaning for VEX and EVEX instructions with a general register
 * operand. */
static bool w_is_gpr_width(const struct insn *in)
{
	bool scalar = in->mandatory == 0xf3 || in->mandatory == 0xf2, evex = in->enc == INSN_EVEX;
	u8 op = in->opcode;

	switch (in->map) {
	case INSN_MAP_0F:
		if (op == 0x6e || op == 0x7e) /* but F3 7E is a move between vectors */
			return in->mandatory == 0x66;
		return scalar && (op == 0x2a || op == 0x2c || op == 0x2d ||
				  (evex && (op == 0x78 || op == 0x79 || op == 0x7b)));
	case INSN_MAP_0F38: return evex ? op == 0x7c : op >= 0xf0;
	default: return op == 0x16 || op == 0x22 || (!evex && op == 0xf0);
	}
}

/* The immediate of the VEX blends names a register, of which other modes than 64-bit have eight. */
static u8 last_imm_mask(const struct insn *in)
{
	bool is4 = in->enc == INSN_VEX && in->map == INSN_MAP_0F3A && in->opcode >= 0x4a &&
		   in->opcode <= 0x4c;

	return is4 && in->mode != INSN_MODE_64 ? 0x7f : 0xff;
}

static void encode_modrm_imm(struct emit *e, const struct plan *p)
{
	const struct insn *in = p->in;

	if (in->has_modrm)
		emit_u8(e, in->has_mem ? (in->modrm & 0x38) | (p->mem & 7) : in->modrm);
	if (in->imm_size)
		emit_bytes(e, in->bytes + in->off_imm, in->imm_size - 1);
	if (in->imm_size)
		emit_u8(e, in->bytes[in->off_imm + in->imm_size - 1] & last_imm_mask(in));
}

static void encode_vex(struct emit *e, const struct plan *p)
{
	static const u8 pp_of[4] = {0, 0x66, 0xf3, 0xf2};
	const struct insn *in = p->in;
	unsigned pp = 0, w = in->w;
	bool b = in->has_mem ? p->mem >= 8 : in->rm >= 8;

	while (pp_of[pp] != in->mandatory)
		pp++;
	if (in->mode != INSN_MODE_64 && w_is_gpr_width(in))
		w = 0;
	emit_u8(e, 0xc4);
	emit_u8(e, (in->reg & 8 ? 0 : 0x80) | 0x40 | (b ? 0 : 0x20) | in->map);
	emit_u8(e, w << 7 | (~in->vvvv & 15) << 3 | (in->vl == 32) << 2 | pp);
	emit_u8(e, in->opcode);
	encode_modrm_imm(e, p);
}

static void encode_evex(struct emit *e, const struct plan *p)
{
	const struct insn *in = p->in;
	const u8 *b = in->bytes + in->off_opcode;
	u8 p0 = b[1], p1 = b[2], p2 = b[3];

	if (in->mode != INSN_MODE_64) { /* no register beyond 7, whatever the (inverted) bits say */
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
		if (w_is_gpr_width(in))
			p1 &= 0x7f;
	}
	if (in->has_mem)
		p0 = (p0 & ~0x60) | 0x40 | (p->mem >= 8 ? 0 : 0x20);
	emit_u8(e, 0x62);
	emit_u8(e, p0);
	emit_u8(e, p1);
	emit_u8(e, p2);
	emit_u8(e, in->opcode);
	encode_modrm_imm(e, p);
}

static void encode_legacy_opcode(struct emit *e, const struct plan *p)
{
	const struct insn *in = p->in;
	unsigned rex = in->w << 3;

	if (in->has_modrm)
		rex |= (in->reg >> 3 & 1) << 2 | (in->has_mem ? p->mem >> 3 : in->rm >> 3 & 1);
	else
		rex |= in->moffs ? p->mem >> 3 : in->rex & 1;
	if (in->rex || rex)
		emit_u8(e, 0x40 | rex);
	if (in->map != INSN_MAP_1B)
		emit_u8(e, 0x0f);
	if (in->map == INSN_MAP_0F38)
		emit_u8(e, 0x38);
	if (in->map == INSN_MAP_0F3A)
		emit_u8(e, 0x3a);
}

/* 82 is 80's double. MOVSXD with a 16-bit operand size is a MOV, but some processors read 32 bits
 * of memory for it. */
static u8 legacy_opcode(const struct insn *in)
{
	if (in->map == INSN_MAP_1B && in->opcode == 0x82)
		return 0x80;
	return in->map == INSN_MAP_1B && in->opcode == 0x63 && in->opsize == 2 ? 0x8b : in->opcode;
}

static void encode_legacy(struct emit *e, const struct plan *p)
{
	static const u8 moffs_opcode[4] = {0x8a, 0x8b, 0x88, 0x89};
	const struct insn *in = p->in;
	bool one_byte = in->map == INSN_MAP_1B;

	if (in->prefixes & PFX_LOCK)
		emit_u8(e, 0xf0);
	if (in->mandatory == 0x66 || (in->opsize_66 && in->opsize == 2))
		emit_u8(e, 0x66);
	if (in->mandatory == 0xf2 || in->mandatory == 0xf3)
		emit_u8(e, in->mandatory);
	else if (one_byte && in->opcode == 0x90 && (in->prefixes & PFX_REP))
		emit_u8(e, 0xf3); /* with REX.B: Intel's PAUSE, AMD's XCHG */
	encode_legacy_opcode(e, p);
	if (in->moffs) {
		emit_u8(e, moffs_opcode[in->opcode & 3]);
		emit_u8(e, p->mem & 7);
		return;
	}
	if (one_byte && in->mode != INSN_MODE_64 && (in->opcode & 0xf0) == 0x40) {
		emit_u8(e, 0xff); /* inc, dec r: the opcode is REX in 64-bit mode */
		emit_u8(e, 0xc0 | (in->opcode & 15));
		return;
	}
	emit_u8(e, legacy_opcode(in));
	encode_modrm_imm(e, p);
}

static void encode(struct emit *e, const struct plan *p)
{
	switch (p->in->enc) {
	case INSN_VEX: encode_vex(e, p); break;
	case INSN_EVEX: encode_evex(e, p); break;
	default: encode_legacy(e, p);
	}
}

/* --- planning --- */

static u16 operand_gprs(const struct insn *in)
{
	u16 set = in->gpr_read | in->gpr_written | in->gpr_implicit;
	const u8 addr[2] = {in->base, in->index};
	unsigned i;

	if (!in->has_mem)
		return set;
	/* Registers that only form the address need not be loaded. reg may mean AH..BH. */
	for (i = 0; i < 2; i++)
		if (addr[i] < 16 && !((in->gpr_written | in->gpr_implicit) >> addr[i] & 1) &&
		    in->reg != addr[i] && in->reg != addr[i] + 4 && in->vvvv != addr[i])
			set &= ~(1u << addr[i]);
	return set;
}

static u32 operand_vectors(const struct insn *in)
{
	u32 set = 1u; /* XMM0: implicit in a few */

	if (in->has_modrm)
		set |= 1u << in->reg;
	if (in->has_modrm && !in->has_mem)
		set |= 1u << in->rm;
	set |= 1u << in->vvvv;
	if (in->enc == INSN_VEX && in->map == INSN_MAP_0F3A && in->imm_size == 1)
		set |= 1u << ((in->bytes[in->off_imm] & last_imm_mask(in)) >> 4);
	return set;
}

/* Moves and integer operations neither read nor write MXCSR, but for MM. */
static bool uses_mxcsr(const struct insn *in)
{
	u8 op = in->opcode;

	if (in->map != INSN_MAP_0F)
		return true;
	return !(op == 0x10 || op == 0x11 || op == 0x28 || op == 0x29 ||
		 (op >= 0x60 && op <= 0x7f) || op >= 0xd0 || op == 0x54 || op == 0x57) ||
	       op == 0xe6 || op == 0xd0 || op == 0x7c || op == 0x7d || op == 0x78 || op == 0x79 ||
	       op == 0x7a || op == 0x7b;
}

/* MXCSR.MM, where it exists: legacy instructions with a 16-byte operand to read need no alignment;
 * aligned moves do all the same. APM vol. 1, 4.2.2. */
static bool heeds_mxcsr_mm(const struct insn *in)
{
	return in->enc == INSN_LEGACY && in->mem_size == 16 && in->access == ACCESS_R;
}

static unsigned pick(u16 busy, const u8 *candidates, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++)
		if (!(busy >> candidates[i] & 1))
			return candidates[i];
	bug_at(__FILE__, __LINE__, "an instruction leaves no register free for its thunk");
}

static void make_plan(struct plan *p, const struct insn *in, bool mxcsr_mm)
{
	/* No candidate for mem may need a SIB byte or a displacement, and the first four need no
	 * REX. */
	static const u8 for_ctx[] = {GPR_RDI, GPR_R11, GPR_R10, GPR_R9, GPR_R8, GPR_RBP};
	static const u8 for_mem[] = {GPR_RSI, GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_R8, GPR_R9};

	memset(p, 0, sizeof(*p));
	p->in = in;
	p->gprs = operand_gprs(in);
	p->x87 = in->state & (STATE_X87 | STATE_MMX);
	p->vector = in->state & (STATE_SSE | STATE_AVX | STATE_AVX512);
	p->vecs = p->vector ? operand_vectors(in) : 0;
	p->mxcsr = p->vector && (uses_mxcsr(in) || (mxcsr_mm && heeds_mxcsr_mm(in)));
	p->opmask = in->state & (STATE_AVX512 | STATE_OPMASK);
	p->load_flags = (in->flags_read & FL_ARITH) || in->flags_partial;
	p->store_flags = in->flags_written & FL_ARITH;
	p->ctx = pick(p->gprs, for_ctx, ARRAY_LEN(for_ctx));
	p->mem = pick(p->gprs | 1u << p->ctx, for_mem, ARRAY_LEN(for_mem));
}

/* --- emitting --- */

static const u8 callee_saved[] = {GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15};

/* ctx in RBP would make [rbp+disp32]: fine; R12 and RSP never hold it. */
static u16 saved_registers(const struct plan *p)
{
	u16 used = p->gprs | 1u << p->ctx | (p->in->has_mem ? 1u << p->mem : 0), set = 0;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(callee_saved); i++)
		set |= used & 1u << callee_saved[i];
	return set;
}

static void emit_gprs_in(struct emit *e, const struct plan *p)
{
	unsigned r;

	for (r = 0; r < 16; r++)
		if ((p->gprs >> r & 1) && r != GPR_RSP)
			emit_load64(e, r, p->ctx, OFF(gpr) + 8 * r);
	if (p->gprs >> GPR_RSP & 1) {
		emit_store64(e, GPR_RSP, p->ctx, OFF(host_rsp));
		emit_load64(e, GPR_RSP, p->ctx, OFF(gpr) + 8 * GPR_RSP);
	}
}

static void emit_gprs_out(struct emit *e, const struct plan *p)
{
	unsigned r;

	for (r = 0; r < 16; r++)
		if (p->in->gpr_written >> r & 1)
			emit_store64(e, r, p->ctx, OFF(gpr) + 8 * r);
	if (p->gprs >> GPR_RSP & 1)
		emit_load64(e, GPR_RSP, p->ctx, OFF(host_rsp));
}

static void emit_vectors(struct emit *e, const struct plan *p, unsigned width, bool store)
{
	unsigned r, k;

	for (r = 0; r < (width == 64 ? 32 : 16); r++)
		if (p->vecs >> r & 1)
			emit_vec_move(e, r, p->ctx, OFF(vec.zmm) + 64 * r, width, store);
	for (k = 0; p->opmask && k < 8; k++)
		emit_kmovq(e, k, p->ctx, OFF(vec.k) + 8 * k, store);
}

static void emit_state_in(struct emit *e, const struct plan *p, unsigned width)
{
	if (p->x87)
		emit_0f_mem(e, 0xae, 1, p->ctx, OFF(vec.fx), true); /* fxrstor64 */
	if (p->vector)
		emit_vectors(e, p, width, false);
	if (p->mxcsr)
		emit_0f_mem(e, 0xae, 2, p->ctx, OFF(vec.mxcsr), false); /* ldmxcsr */
}

static void emit_state_out(struct emit *e, const struct plan *p, unsigned width)
{
	if (p->vector)
		emit_vectors(e, p, width, true);
	if (p->mxcsr)
		emit_0f_mem(e, 0xae, 3, p->ctx, OFF(vec.mxcsr), false); /* stmxcsr */
	if (p->x87) {
		emit_0f_mem(e, 0xae, 0, p->ctx, OFF(vec.fx), true); /* fxsave64 */
		emit_fninit(e);
	}
	if (p->mxcsr || p->x87)
		emit_0f_mem(e, 0xae, 2, p->ctx, OFF(host_mxcsr), false);
	if (p->vector && width > 16)
		emit_vzeroupper(e);
}

static void emit_thunk(struct emit *e, const struct insn *in, const struct thunks *t)
{
	unsigned width = t->vec_width;
	struct plan p;
	u16 saved;
	unsigned i;

	make_plan(&p, in, t->mxcsr_mm);
	saved = saved_registers(&p);
	for (i = 0; i < ARRAY_LEN(callee_saved); i++)
		if (saved >> callee_saved[i] & 1)
			emit_push(e, callee_saved[i]);
	if (in->has_mem && p.mem != GPR_RSI)
		emit_mov64(e, p.mem, GPR_RSI);
	if (p.ctx != GPR_RDI)
		emit_mov64(e, p.ctx, GPR_RDI);
	emit_state_in(e, &p, width);
	if (p.load_flags) {
		emit_push_mem(e, p.ctx, OFF(aflags));
		emit_popfq(e);
	}
	emit_gprs_in(e, &p);
	encode(e, &p);
	emit_gprs_out(e, &p);
	if (p.store_flags) {
		emit_pushfq(e);
		emit_pop_mem(e, p.ctx, OFF(aflags));
	}
	emit_state_out(e, &p, width);
	for (i = ARRAY_LEN(callee_saved); i-- > 0;)
		if (saved >> callee_saved[i] & 1)
			emit_pop(e, callee_saved[i]);
	emit_ret(e);
}

int thunk_get(struct thunks *t, const struct insn *in, thunk_fn **out)
{
	u8 buf[THUNK_MAX];
	struct emit e = {.p = buf, .end = buf + sizeof(buf)};
	struct thunk_entry *entry;
	unsigned len;

	emit_thunk(&e, in, t);
	BUG_ON(e.full);
	len = e.p - buf;
	HASH_FIND(hh, t->table, buf, len, entry);
	if (!entry) {
		if (t->used + len > THUNK_AREA_SIZE)
			return -ENOSPC;
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		memcpy(t->rw + t->used, buf, len);
		entry->off = t->used;
		entry->len = len;
		HASH_ADD_KEYPTR(hh, t->table, t->rw + entry->off, len, entry);
		t->used = ALIGN_UP(t->used + len, 16);
		t->stats->n[STAT_thunks]++;
		t->stats->n[STAT_thunk_bytes] += len;
	}
	*out = (thunk_fn *)(void *)(t->rx + entry->off);
	return 0;
}
