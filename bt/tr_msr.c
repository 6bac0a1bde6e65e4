/*
 * RDMSR, WRMSR and CPUID without the engine.
 *
 * Which MSR an RDMSR or WRMSR means is known when the block is made if an immediate has been moved
 * into ECX before, as compilers do it. Those that are a word in memory and nothing more
 * (cpu_ops.msr_word) are loads and stores then; what may not be written is left to the engine,
 * which raises #GP.
 *
 * CPUID asks a small table of the last answers (cpu.bt.cpuid), which the engine fills; they hold
 * until a control register, XCR0 or an MSR changes (cpu_forget_cpuid).
 */
#include "tr.h"

/* What RCX is known to hold behind this instruction. */
void tr_track_ecx(struct tr *t, const struct insn *in)
{
	const u16 rcx = 1u << GPR_RCX;
	bool msr = in->map == INSN_MAP_0F && (in->opcode == 0x30 || in->opcode == 0x32);

	if (in->map == INSN_MAP_1B && in->opcode == 0xb9 && !(in->rex & 1) && in->opsize >= 4) {
		t->ecx_known = true; /* mov ecx, imm32 */
		t->ecx = (u32)in->imm;
	} else if (!msr &&
		   (((in->gpr_written | in->gpr_implicit) & rcx) || in->class == CLASS_SENSITIVE)) {
		t->ecx_known = false;
	}
}

static bool word_of(struct tr *t, struct msr_word *w)
{
	const struct cpu *c = t->bt->c;

	return t->ecx_known && c->ops->msr_word && c->ops->msr_word(c->vm, t->ecx, w) &&
	       !((u64)(uintptr_t)w->place >> 31);
}

/* mov r32, [addr]; mov [addr], r32; reg: EAX or EDX */
static void emit_half(struct tr *t, u8 op, unsigned reg, u32 addr)
{
	emit_bytes(&t->e, (u8[]){op, 4 | reg << 3, 0x25}, 3);
	emit_u32(&t->e, addr);
}

bool tr_rdmsr(struct tr *t)
{
	struct msr_word w;
	u32 place;

	if (!word_of(t, &w))
		return false;
	place = (u32)(uintptr_t)w.place;
	emit_half(t, 0x8b, GPR_RAX, place);
	tr_record(t, t->at, RECOVER_NEVER);
	emit_half(t, 0x8b, GPR_RDX, place + 4);
	return true;
}

static enum base base_of(const struct cpu *c, const u64 *place)
{
	return place == &c->seg[SEG_FS].base   ? BASE_FS
	       : place == &c->seg[SEG_GS].base ? BASE_GS
	       : place == &c->kernel_gs_base   ? BASE_OTHER
					       : BASE_NONE;
}

bool tr_wrmsr(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	struct msr_word w;
	enum base base;

	if (!word_of(t, &w) || w.writes == MSR_WRITE_OTHER)
		return false;
	base = base_of(t->bt->c, w.place);
	if (w.writes == MSR_WRITE_ANY && base == BASE_NONE) {
		emit_half(t, 0x89, GPR_RAX, (u32)(uintptr_t)w.place);
		tr_record(t, t->at, RECOVER_NEVER);
		emit_half(t, 0x89, GPR_RDX, (u32)(uintptr_t)w.place + 4);
		return true;
	}
	tr_spill(t, true, REG_NONE);
	tr_record(t, t->at, SPILL_ALL);
	emit_bytes(e, "\x89\xc1", 2); /* mov ecx, eax */
	tr_save_flags(t);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
	emit_bytes(e, "\x48\xc1\xe2\x20\x48\x09\xca", 7); /* shl rdx, 32; or rdx, rcx */
	if (w.writes == MSR_WRITE_32)
		tr_check_32(t);
	if (w.writes == MSR_WRITE_CANONICAL)
		tr_check_canonical(t);
	if (base != BASE_NONE)
		tr_write_base(t, base);
	else
		emit_store_abs(e, GPR_RDX, (u32)(uintptr_t)w.place);
	tr_end_write(t, t->at + in->len);
	return true;
}

/* op reg, [rax*8 + a field of the table] */
static void emit_answer(struct tr *t, u8 rex, u8 op, unsigned reg, unsigned off)
{
	if (rex)
		emit_u8(&t->e, rex);
	emit_bytes(&t->e, (u8[]){op, 4 | reg << 3, 0xc5}, 3);
	emit_u32(&t->e, CTX(t->bt, bt.cpuid[0]) + off);
}

#define ANSWER(i) (offsetof(struct cpuid_answer, out) + 4 * (i))

bool tr_cpuid(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;

	_Static_assert(sizeof(struct cpuid_answer) == 24, "found by multiplying by 3 and 8");
	tr_may_miss(t);
	tr_spill(t, true, REG_NONE);
	tr_record(t, t->at, SPILL_ALL);
	emit_bytes(e, "\x89\xc2", 2); /* mov edx, eax */
	tr_save_flags(t);
	tr_record(t, t->at, SPILL_ALL | RECOVER_FLAGS);
	emit_bytes(e, "\x8d\x04\x11\x83\xe0", 5); /* lea eax, [rcx+rdx]; and eax, .. */
	emit_u8(e, CPUID_ANSWERS - 1);
	emit_bytes(e, "\x48\xc1\xe1\x20\x48\x09\xd1", 7); /* shl rcx, 32; or rcx, rdx */
	emit_bytes(e, "\x8d\x04\x40", 3);                 /* lea eax, [rax+rax*2] */
	emit_answer(t, 0x48, 0x3b, GPR_RCX, offsetof(struct cpuid_answer, asked)); /* cmp */
	tr_miss_if(t, 5);                                                          /* ne */
	emit_bytes(e, "\x48\xff\x04\x25", 4); /* inc qword [stats] */
	emit_u32(e, (u32)(uintptr_t)&t->bt->c->stats->n[STAT_cpuids]);
	emit_bytes(e, "\x89\xc2", 2); /* mov edx, eax */
	tr_restore_flags(t);
	tr_record(t, t->at, SPILL_ALL);
	emit_bytes(e, "\x89\xd0", 2); /* mov eax, edx */
	emit_answer(t, 0, 0x8b, GPR_RDX, ANSWER(3));
	emit_store_abs(e, GPR_RDX, CTX(t->bt, bt.jump));
	emit_answer(t, 0, 0x8b, GPR_RCX, ANSWER(2));
	emit_answer(t, 0, 0x8b, GPR_RDX, ANSWER(0));
	emit_answer(t, 0, 0x8b, GPR_RBX, ANSWER(1)); /* the one that is not spilled */
	tr_record(t, t->at, RECOVER_NEVER);
	emit_bytes(e, "\x89\xd0", 2); /* mov eax, edx */
	emit_load_abs(e, GPR_RDX, CTX(t->bt, bt.jump));
	tr_record(t, t->at + in->len, 0);
	tr_after_miss(t);
	return true;
}
