/*
 * What guest instructions become: host bytes by class, the ways out of a block, dropping and
 * chaining, and the log that shows all of it. Nothing is run here.
 *
 * Translated code wants the CPU below 2 GiB: the tests are not position-independent, so malloc is
 * kept on the heap.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "recover.h"
#include "step.h"
#include "translate.h"

#define PC   0xffffffff81000000ull
#define ROOT 0x100000ull
#define CODE 0x110000ull /* gpa of PC, four pages */
#define AREA ((void *)0x70000000)

struct world {
	struct cpu *c;
	struct bt *bt;
	struct ram ram;
	struct stats stats;
	u64 used; /* guest bytes put */
	u8 want[256];
	unsigned n_want;
};

static struct world *open_world(void)
{
	struct world *x;
	u64 *table;
	int rc;

	mallopt(M_MMAP_MAX, 0);
	x = calloc(1, sizeof(*x));
	x->c = aligned_alloc(64, ALIGN_UP(sizeof(*x->c), 64));
	memset(x->c, 0, sizeof(*x->c));
	cr_assert_eq(ram_init(&x->ram, 4 * MIB, NULL), 0);
	x->c->maxphyaddr = 40;
	x->c->stats = &x->stats;
	mmu_init(&x->c->mmu, &x->ram, &x->stats, 40);
	cpu_reset(x->c);
	table = (u64 *)(void *)(x->ram.window + ROOT);
	table[511] = (ROOT + 0x1000) | PTE_P | PTE_W;
	table[512 + 510] = (ROOT + 0x2000) | PTE_P | PTE_W;
	table[2 * 512 + 8] = (ROOT + 0x3000) | PTE_P | PTE_W;
	for (unsigned i = 0; i < 4; i++)
		table[3 * 512 + i] = (CODE + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_G;
	x->c->cr0 = CR0_PE | CR0_PG | CR0_WP;
	x->c->cr3 = ROOT;
	x->c->cr4 = CR4_PAE | CR4_PGE;
	x->c->efer = EFER_LME | EFER_LMA | EFER_NXE;
	x->c->seg[SEG_CS].attr |= SEG_L;
	x->c->cpl = 0;
	cpu_update_mode(x->c);
	cpu_update_paging(x->c);
	cr_assert_eq(engine_init(x->c, NULL), 0);
	if (!bt_host_can())
		cr_skip_test("no FSGSBASE");
	rc = bt_init(x->c, AREA);
#ifdef __SANITIZE_ADDRESS__
	if (rc == -EFAULT)
		cr_skip_test("the sanitizer's heap is not below 2 GiB");
#endif
	cr_assert_eq(rc, 0);
	x->bt = x->c->translator;
	return x;
}

static void close_world(struct world *x)
{
	bt_free(x->c);
	engine_free(x->c);
	ram_destroy(&x->ram);
	free(x->c);
	free(x);
}

/* Guest code at an offset from PC, as hexadecimal digits. */
static unsigned put(struct world *x, unsigned off, const char *hex)
{
	unsigned n = 0, v;

	for (; *hex; hex += 2, n++) {
		while (*hex == ' ')
			hex++;
		cr_assert_eq(sscanf(hex, "%2x", &v), 1);
		x->ram.window[CODE + off + n] = (u8)v;
	}
	return n;
}

static struct block *block_at(struct world *x, u64 pc)
{
	struct block *b;

	x->c->rip = pc;
	b = bt_find_block(x->bt);
	cr_assert_not_null(b);
	cr_assert_eq(b->pc, pc);
	return b;
}

static const u8 *host(const struct world *x, const struct block *b)
{
	return x->bt->rw + b->host;
}

/* --- what is expected --- */

static void want_hex(struct world *x, const char *hex)
{
	unsigned v;

	for (; *hex; hex += 2) {
		while (*hex == ' ')
			hex++;
		cr_assert_eq(sscanf(hex, "%2x", &v), 1);
		x->want[x->n_want++] = (u8)v;
	}
}

static void want32(struct world *x, u64 v)
{
	u32 w = (u32)v;

	memcpy(x->want + x->n_want, &w, 4);
	x->n_want += 4;
}

static void want64(struct world *x, u64 v)
{
	memcpy(x->want + x->n_want, &v, 8);
	x->n_want += 8;
}

#define CTX(x, field) ((u64)(uintptr_t) & (x)->c->field)

/* jmp rel32 from the place expected now to common code. */
static void want_jmp(struct world *x, const struct block *b, u32 to)
{
	want_hex(x, "e9");
	want32(x, to - (b->host + x->n_want + 4));
}

static void expect_start(struct world *x, const struct block *b, const char *what)
{
	char got[3 * 64 + 1] = "";

	for (unsigned i = 0; i < MIN(x->n_want, 64u); i++)
		sprintf(got + 3 * i, "%02x ", host(x, b)[i]);
	cr_expect(!memcmp(host(x, b), x->want, x->n_want), "%s became %s", what, got);
	x->n_want = 0;
}

/* Each guest instruction, followed by HLT, must begin with these host bytes. */
static void expect_becomes(struct world *x, const char *guest, const char *want)
{
	char text[128];

	bt_flush(x->bt);
	snprintf(text, sizeof(text), "%s f4", guest);
	put(x, 0, text);
	want_hex(x, want);
	expect_start(x, block_at(x, PC), guest);
}

/* The instruction at guest offset `off` of the block ends it as a callout. */
/* field: bt.step for a callout that ends the block, bt.jump for a light one. */
static bool is_callout_by(struct world *x, const struct block *b, u32 off, u64 field)
{
	struct records s = bt_records(x->bt, b);

	while (records_next(&s)) {
		const u8 *p = host(x, b) + s.at.host;
		u32 rip = (u32)CTX(x, rip), second = (u32)field;
		u32 at = (u32)(b->pc + off);

		if (s.at.guest == off && !memcmp(p, "\x48\xc7\x04\x25", 4) &&
		    !memcmp(p + 4, &rip, 4) && !memcmp(p + 8, &at, 4) &&
		    !memcmp(p + 16, &second, 4))
			return true;
	}
	return false;
}

static bool is_callout(struct world *x, const struct block *b, u32 off)
{
	return is_callout_by(x, b, off, CTX(x, bt.step));
}

static bool is_light_callout(struct world *x, const struct block *b, u32 off)
{
	return is_callout_by(x, b, off, CTX(x, bt.jump));
}

/* --- classes --- */

Test(translate, registers_are_copied)
{
	struct world *x = open_world();

	expect_becomes(x, "4801d8", "4801d8"); /* add rax, rbx */
	expect_becomes(x, "4d89c7", "4d89c7"); /* mov r15, r8 */
	expect_becomes(x, "0fc8", "0fc8");     /* bswap eax */
	expect_becomes(x, "b878563412", "b878563412");
	expect_becomes(x, "488d4310", "488d4310"); /* lea rax, [rbx+16] */
	close_world(x);
}

Test(translate, memory_gets_the_gs_prefix)
{
	struct world *x = open_world();

	expect_becomes(x, "488b4308", "65488b4308");                 /* mov rax, [rbx+8] */
	expect_becomes(x, "3e488b4308", "65488b4308");               /* ds: is dropped */
	expect_becomes(x, "66894708", "6566894708");                 /* mov [rdi+8], ax */
	expect_becomes(x, "f0ff07", "65f0ff07");                     /* lock inc dword [rdi] */
	expect_becomes(x, "f3480fb807", "65f3480fb807");             /* popcnt rax, [rdi] */
	expect_becomes(x, "488b04253412f0ff", "65488b04253412f0ff"); /* [disp32] */
	close_world(x);
}

Test(translate, guest_gs_is_host_fs)
{
	struct world *x = open_world();

	expect_becomes(x, "65488b042500400100", "64488b042500400100"); /* mov rax, gs:[0x14000] */
	expect_becomes(x, "65ff05f0ff0000", "64ff0425f7ff0081");       /* inc dword gs:[rip+...] */
	close_world(x);
}

Test(translate, the_stack_needs_no_prefix)
{
	struct world *x = open_world();

	expect_becomes(x, "488b442408", "488b442408"); /* mov rax, [rsp+8] */
	expect_becomes(x, "53", "53");                 /* push rbx */
	expect_becomes(x, "415f", "415f");             /* pop r15 */
	expect_becomes(x, "68785634f2", "68785634f2");
	close_world(x);
}

Test(translate, rip_relative_becomes_absolute)
{
	struct world *x = open_world();

	expect_becomes(x, "488b0500100000", "65488b042507100081"); /* mov rax, [rip+0x1000] */
	/* An immediate stays behind the address, and counts for RIP. */
	expect_becomes(x, "c705001000005a000000", "65c704250a1000815a000000");
	close_world(x);
}

Test(translate, rsp_as_data_carries_no_bias)
{
	struct world *x = open_world();

	put(x, 0, "4889e5 f4"); /* mov rbp, rsp */
	want_hex(x, "48bd");
	want64(x, -SHADOW_BIAS);
	want_hex(x, "488dac2c00000000"); /* lea rbp, [rsp+rbp] */
	expect_start(x, block_at(x, PC), "mov rbp, rsp");
	bt_flush(x->bt);
	put(x, 0, "4889ec f4"); /* mov rsp, rbp */
	want_hex(x, "48bc");
	want64(x, SHADOW_BIAS);
	want_hex(x, "488da42c00000000"); /* lea rsp, [rsp+rbp] */
	expect_start(x, block_at(x, PC), "mov rsp, rbp");
	close_world(x);
}

Test(translate, if_lives_in_the_cpu)
{
	struct world *x = open_world();

	put(x, 0, "fa f4"); /* cli */
	want_hex(x, "c60425");
	want32(x, CTX(x, sflags) + 1);
	want_hex(x, "00");
	expect_start(x, block_at(x, PC), "cli");
	close_world(x);
}

Test(translate, what_is_not_inline_is_a_callout)
{
	static const struct {
		const char *code;
		bool light; /* the block goes on behind it */
	} guest[] = {
	    {"f4", false},      /* hlt */
	    {"cf", false},      /* iret */
	    {"0f05", false},    /* syscall */
	    {"0f0b", false},    /* ud2 */
	    {"64488b00", true}, /* mov rax, fs:[rax] */
	    {"67488b00", true}, /* mov rax, [eax] */
	    {"0f22d8", true},   /* mov cr3, rax */
	    {"0fa2", true},     /* cpuid */
	    {"6c", true},       /* insb */
	    {"67a4", true},     /* movsb [edi], [esi] */
	    {"64a4", true},     /* movsb fs:[rsi] */
	};
	struct world *x = open_world();

	for (unsigned i = 0; i < ARRAY_LEN(guest); i++) {
		char text[64];
		struct block *b;

		bt_flush(x->bt);
		snprintf(text, sizeof(text), "90 4801d8 %s 90f4", guest[i].code);
		put(x, 0, text);
		b = block_at(x, PC);
		cr_expect_eq(is_callout(x, b, 4), !guest[i].light, "%s", guest[i].code);
		cr_expect_eq(is_light_callout(x, b, 4), guest[i].light, "%s", guest[i].code);
	}
	close_world(x);
}

/* --- vector state --- */

/* What the first vector instruction of a class begins with: bytes of the check. */
#define VEC_CHECK 55

static void want_check(struct world *x, const struct block *b, unsigned class)
{
	want_hex(x, "48890c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, "0fb60c25"); /* movzx ecx, byte [...]; jrcxz over the way to the loader */
	want32(x, CTX(x, bt.vec_missing[class]));
	want_hex(x, "e31d 48c70425");
	want32(x, CTX(x, rip));
	want32(x, PC);
	want_hex(x, "48c70425");
	want32(x, CTX(x, bt.jump));
	want32(x, (u64)(uintptr_t)x->bt->rx + b->host + x->n_want + 9);
	want_jmp(x, b, x->bt->vec_load_at[class]);
	want_hex(x, "488b0c25");
	want32(x, CTX(x, bt.spill[1]));
	cr_assert_eq(x->n_want, VEC_CHECK);
}

/* The block of these guest instructions: what follows the check. */
static void expect_vector(struct world *x, unsigned class, const char *guest, const char *want)
{
	struct block *b;
	char text[128];

	bt_flush(x->bt);
	snprintf(text, sizeof(text), "%s f4", guest);
	put(x, 0, text);
	b = block_at(x, PC);
	cr_expect(b->vector);
	want_check(x, b, class);
	want_hex(x, want);
	expect_start(x, b, guest);
}

Test(translate, vector_instructions_are_copied_behind_a_check)
{
	struct world *x = open_world();

	expect_vector(x, 0, "660fefc1", "660fefc1");                   /* pxor xmm0, xmm1 */
	expect_vector(x, 0, "0f1003 0f114310", "650f1003 650f114310"); /* one check for both */
	expect_vector(x, 0, "0f106424 10", "0f10642410");              /* movups xmm4, [rsp+16] */
	expect_vector(x, 1, "c5f96f03", "65c5f96f03");                 /* vmovdqa xmm0, [rbx] */
	expect_vector(x, 1, "c5f877", "c5f877");                       /* vzeroupper */
	expect_vector(x, 2, "62f17d486f4301", "6562f17d486f4301");     /* disp8*64 stays */
	/* X would make R12 an index: vmovdqa, vmovdqa32 [rip+0x1000] with X set */
	expect_vector(x, 1, "c4a1796f0500100000", "65c4e1796f042509100081");
	expect_vector(x, 2, "62b17d486f0500100000", "6562f17d486f04250a100081");
	close_world(x);
}

Test(translate, what_vector_code_leaves_to_the_engine)
{
	static const char *const guest[] = {
	    "d9e8",         /* fld1 */
	    "0fefc1",       /* pxor mm0, mm1 */
	    "0fae13",       /* ldmxcsr [rbx] */
	    "0fae03",       /* fxsave [rbx] */
	    "c4e27190140b", /* vpgatherdd */
	    "660ff7c1",     /* maskmovdqu */
	    "66480f7ec4",   /* movq rsp, xmm0 */
	};
	struct world *x = open_world();

	for (unsigned i = 0; i < ARRAY_LEN(guest); i++) {
		char text[64];

		bt_flush(x->bt);
		snprintf(text, sizeof(text), "4801d8 %s f4", guest[i]);
		put(x, 0, text);
		cr_expect(is_light_callout(x, block_at(x, PC), 3), "%s", guest[i]);
	}
	close_world(x);
}

/* --- strings --- */

/* The record for which RDI (and RSI) carry the bias and the instruction is not yet over. */
static struct recovery biased_record(struct world *x, const struct block *b, u16 spills)
{
	struct records s = bt_records(x->bt, b);

	while (records_next(&s))
		if (s.at.spills == spills && s.at.guest == 0)
			return s.at;
	cr_assert(false, "no record with %#x", spills);
	return s.at;
}

/* A host fault where the record begins; the guest's registers as they come out. */
static void fault_at(struct world *x, const struct block *b, struct recovery r)
{
	struct host_frame f = {.trapno = EXC_GP};

	f.rip = (u64)(uintptr_t)x->bt->rx + b->host + r.host;
	f.gpr[GPR_RDX] = SHADOW_BIAS;
	f.gpr[GPR_RCX] = 5;
	f.gpr[GPR_RSI] = f.gpr[GPR_RDI] = 0x1000;
	x->c->bt.spill[2] = 77;
	cr_assert_eq(bt_on_fault(x->c, &f), RECOVER_RESUME);
	cr_expect_eq(f.rip, (u64)(uintptr_t)x->bt->rx + x->bt->leave_at);
	cr_expect_eq(x->c->rip, PC);
	cr_expect_eq(x->c->gpr[GPR_RDX], 77);
}

Test(translate, a_fault_in_a_string_takes_the_bias_off)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0, "f3a4 f4"); /* rep movsb */
	b = block_at(x, PC);
	fault_at(x, b, biased_record(x, b, SPILL_RDX | RECOVER_RDI_BIAS | RECOVER_RSI_BIAS));
	cr_expect_eq(x->c->gpr[GPR_RCX], 5);
	cr_expect_eq(x->c->gpr[GPR_RDI], 0x1000 - SHADOW_BIAS);
	cr_expect_eq(x->c->gpr[GPR_RSI], 0x1000 - SHADOW_BIAS);
	bt_flush(x->bt);
	put(x, 0, "f348ab f4"); /* rep stosq: RSI is not its */
	b = block_at(x, PC);
	fault_at(x, b, biased_record(x, b, SPILL_RDX | RECOVER_RDI_BIAS));
	cr_expect_eq(x->c->gpr[GPR_RDI], 0x1000 - SHADOW_BIAS);
	cr_expect_eq(x->c->gpr[GPR_RSI], 0x1000);
	bt_flush(x->bt);
	put(x, 0, "65ac f4"); /* lodsb gs: has the bias in the segment */
	b = block_at(x, PC);
	fault_at(x, b, biased_record(x, b, SPILL_RDX));
	cr_expect_eq(x->c->gpr[GPR_RDI], 0x1000);
	cr_expect_eq(x->c->gpr[GPR_RSI], 0x1000);
	close_world(x);
}

/* Promoted, it looks whether the upper 16 bits of its addresses are clear, and if so for them in
 * the software TLB. Halfway, registers have been moved as far as bt.distance says. */
Test(translate, a_promoted_string_looks_at_its_addresses)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0, "f3a4 4801d8 f4");
	bt_promote(x->bt, PC, STEP_ADDRESS);
	b = block_at(x, PC);
	want_hex(x, "48890c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x,
		 "4889f9 480fc9 0fb7c9 e318"); /* mov rcx, rdi; bswap rcx; movzx ecx, cx; jrcxz */
	want_hex(x, "4889f1 480fc9 0fb7c9 e30d"); /* the same with rsi */
	want_hex(x, "488b0c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, "e9");
	expect_start(x, b, "promoted rep movsb");
	cr_expect(is_callout(x, b, 5), "the block goes on behind it");
	cr_expect_eq(b->stop, 5);
	biased_record(x, b, SPILL_RDX | RECOVER_RDI_BIAS | RECOVER_RSI_BIAS);
	x->c->bt.distance[0] = 0x300;
	x->c->bt.distance[1] = 0x500;
	fault_at(x, b, biased_record(x, b, SPILL_RDX | RECOVER_RDI_HOST | RECOVER_RSI_HOST));
	cr_expect_eq(x->c->gpr[GPR_RDI], 0x1000 - 0x300);
	cr_expect_eq(x->c->gpr[GPR_RSI], 0x1000 - 0x500);
	biased_record(x, b, SPILL_RAX | SPILL_RCX | SPILL_RDX | RECOVER_FLAGS); /* of the lookup */
	close_world(x);
}

/* --- ways out --- */

Test(translate, a_call_pushes_the_guest_address)
{
	struct world *x = open_world();
	struct block *b;
	u32 rel;

	put(x, 0, "e8fb0f0000"); /* call +0x1000 */
	b = block_at(x, PC);
	want_hex(x, "68050000 81 e9");
	expect_start(x, b, "call");
	/* The jump leads to a stub that names the target. */
	memcpy(&rel, host(x, b) + 6, 4);
	x->n_want = 0;
	want_hex(x, "48c70425");
	want32(x, CTX(x, rip));
	want32(x, PC + 0x1000);
	cr_assert(!memcmp(host(x, b) + 10 + rel, x->want, x->n_want));
	close_world(x);
}

/* Does this code set RIP to target, and then bt.link to `link`, if that is not 0? */
static bool sets_rip(struct world *x, const u8 *p, u64 target, u32 link)
{
	u32 rip = (u32)CTX(x, rip), where = (u32)CTX(x, bt.link), to = (u32)target;

	return !memcmp(p, "\x48\xc7\x04\x25", 4) && !memcmp(p + 4, &rip, 4) &&
	       !memcmp(p + 8, &to, 4) &&
	       (!link || (!memcmp(p + 16, &where, 4) && !memcmp(p + 20, &link, 4)));
}

/* Is there a rel32 at this area offset that leads to an exit to target, and can be linked? */
static bool is_exit(struct world *x, u32 at, u64 target)
{
	u32 rel;

	memcpy(&rel, x->bt->rw + at, 4);
	return sets_rip(x, x->bt->rw + at + 4 + rel, target, at);
}

/* Does it have an exit to target? */
static bool leaves_for(struct world *x, const struct block *b, u64 target)
{
	for (u32 i = 0; i + 24 <= b->host_len; i++)
		if (sets_rip(x, host(x, b) + i, target, 0))
			return true;
	return false;
}

Test(translate, a_condition_has_two_exits_and_both_can_be_chained)
{
	struct world *x = open_world();
	struct block *b, *taken, *next;
	u32 rel;

	put(x, 0, "7410 f4");
	put(x, 0x12, "f4");
	b = block_at(x, PC);
	cr_assert(is_exit(x, b->host + 2, PC + 0x12));
	cr_assert(is_exit(x, b->host + 7, PC + 2));
	cr_assert(!memcmp(host(x, b), "\x0f\x84", 2));
	taken = block_at(x, PC + 0x12);
	next = block_at(x, PC + 2);
	bt_link(x->bt, b->host + 2, (u64)(uintptr_t)x->bt->rx + taken->host);
	bt_link(x->bt, b->host + 7, (u64)(uintptr_t)x->bt->rx + next->host);
	memcpy(&rel, host(x, b) + 2, 4);
	cr_assert_eq(b->host + 6 + rel, taken->host);
	cr_assert_eq(host(x, b)[6], 0xe9);
	memcpy(&rel, host(x, b) + 7, 4);
	cr_assert_eq(b->host + 11 + rel, next->host);
	close_world(x);
}

Test(translate, a_return_goes_by_its_pad)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0, "c3");
	b = block_at(x, PC);
	want_hex(x, "48890c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, "48c70425"); /* who it was, if it has to be taken back */
	want32(x, CTX(x, bt.from));
	want32(x, FROM_RETURN | (b->host + 8));
	want_hex(x, "488b0c24 0fb7c9 8b0c8d");
	want32(x, (u64)(uintptr_t)x->bt->landing[R64H][VIA_RETURN]);
	want_hex(x, "ffe1");
	expect_start(x, b, "ret");
	close_world(x);
}

Test(translate, an_indirect_call_goes_by_its_pad)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0, "ffd0");
	b = block_at(x, PC);
	want_hex(x, "48890c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, "48c70425");
	want32(x, CTX(x, bt.from));
	want32(x, FROM_CALL | (b->host + 8));
	want_hex(x, "488bc8 48890c25");
	want32(x, CTX(x, bt.target));
	want_hex(x, "68 02000081 0fb7c9 8b0c8d");
	want32(x, (u64)(uintptr_t)x->bt->landing[R64H][VIA_JUMP]);
	want_hex(x, "ffe1");
	expect_start(x, b, "call rax");
	close_world(x);
}

/* --- landing pads --- */

/* Area offset of where returns (indirect jumps) with these 16 bits go. */
static u32 landing(const struct world *x, enum via via, u64 pc)
{
	return x->bt->landing[R64H][via][(u16)pc] - (u32)(uintptr_t)x->bt->rx;
}

static struct block *arrive(struct world *x, enum via via, u64 pc)
{
	u64 at;

	x->c->rip = pc;
	x->c->bt.via = via;
	at = bt_find(x->bt);
	cr_assert_neq(at, 0);
	cr_assert_eq(x->c->bt.via, VIA_OTHER, "it has been seen to");
	return bt_block_at(x->bt, at);
}

/* Is there a pad for pc at this area offset? Returns where it ends. */
static u32 expect_pad(struct world *x, u32 at, enum via via, u64 pc)
{
	const struct block none = {.host = at};

	x->n_want = 0;
	if (via == VIA_RETURN) {
		want_hex(x, "488b0c24");
	} else {
		want_hex(x, "488b0c25");
		want32(x, CTX(x, bt.target));
	}
	want_hex(x, "488d89");
	want32(x, -pc);
	want_hex(x, "e305");
	want_jmp(x, &none, x->bt->lookup_at[R64H][via]);
	want_hex(x, "488b0c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, via == VIA_RETURN ? "488d642408 90" : "6690");
	cr_expect(!memcmp(x->bt->rw + at, x->want, x->n_want), "the pad of %#lx", pc);
	cr_expect_eq(x->n_want, 32);
	return at + x->n_want;
}

Test(translate, a_block_that_is_returned_to_has_its_pad_in_front)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0x35, "f4");
	put(x, 0x45, "f4");
	cr_assert_eq(landing(x, VIA_RETURN, PC + 0x35), x->bt->stray_at[VIA_RETURN]);
	b = arrive(x, VIA_RETURN, PC + 0x35);
	cr_assert_eq(expect_pad(x, landing(x, VIA_RETURN, b->pc), VIA_RETURN, b->pc), b->host);
	cr_assert_eq(landing(x, VIA_JUMP, b->pc), x->bt->stray_at[VIA_JUMP]);
	b = arrive(x, VIA_JUMP, PC + 0x45);
	cr_assert_eq(expect_pad(x, landing(x, VIA_JUMP, b->pc), VIA_JUMP, b->pc), b->host);
	arrive(x, VIA_OTHER, PC);
	cr_assert_eq(landing(x, VIA_RETURN, PC), x->bt->stray_at[VIA_RETURN]);
	cr_assert_eq(x->stats.n[STAT_bt_pads], 2);
	close_world(x);
}

Test(translate, a_block_that_is_there_is_made_again_with_a_pad)
{
	struct world *x = open_world();
	struct block *old, *b;

	put(x, 0, "f4");
	old = block_at(x, PC);
	b = arrive(x, VIA_RETURN, PC);
	cr_assert(b != old && old->dropped);
	cr_assert(is_exit(x, old->host + 1, PC), "who is chained to the old one is led on");
	cr_assert_eq(expect_pad(x, landing(x, VIA_RETURN, PC), VIA_RETURN, PC), b->host);
	cr_assert_null(bt_block_at(x->bt, (u64)(uintptr_t)x->bt->rx + b->host - 1),
		       "nothing to recover");
	/* It has its pad, and no room for another. */
	cr_assert_eq(arrive(x, VIA_RETURN, PC), b);
	cr_assert_eq(arrive(x, VIA_JUMP, PC), b);
	cr_assert_eq(landing(x, VIA_JUMP, PC), x->bt->lookup_at[R64H][VIA_JUMP]);
	cr_assert_eq(x->stats.n[STAT_bt_pads], 1);
	cr_assert_eq(x->stats.n[STAT_bt_blocks], 2);
	close_world(x);
}

Test(translate, pads_of_the_same_place_take_turns)
{
	struct world *x = open_world();
	u64 *table = (u64 *)(void *)(x->ram.window + ROOT), other = PC + 0x10000;
	struct block *b, *c;

	table[3 * 512 + 16] = (CODE + PAGE_SIZE) | PTE_P | PTE_W | PTE_G;
	put(x, 0x20, "f4");
	put(x, 0x1020, "f4");
	b = arrive(x, VIA_RETURN, PC + 0x20);
	c = arrive(x, VIA_RETURN, other + 0x20);
	cr_assert_eq(landing(x, VIA_RETURN, PC + 0x20), c->host - 32);
	arrive(x, VIA_RETURN, PC + 0x20);
	cr_assert_eq(landing(x, VIA_RETURN, PC + 0x20), b->host - 32, "it is still there");
	cr_assert_eq(x->stats.n[STAT_bt_pads], 2);
	close_world(x);
}

Test(translate, nobody_lands_on_a_block_that_is_gone)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0x20, "f4");
	put(x, 0x30, "f4");
	arrive(x, VIA_JUMP, PC + 0x20);
	b = arrive(x, VIA_RETURN, PC + 0x30);
	ram_note_write(&x->ram, CODE + 0x20, 1);
	cr_assert_eq(landing(x, VIA_JUMP, PC + 0x20), x->bt->stray_at[VIA_JUMP]);
	cr_assert_eq(landing(x, VIA_RETURN, PC + 0x30), b->host - 32);
	b = arrive(x, VIA_JUMP, PC + 0x20);
	cr_assert_eq(landing(x, VIA_JUMP, PC + 0x20), b->host - 32, "its successor has one");
	bt_flush(x->bt);
	cr_assert_eq(landing(x, VIA_JUMP, PC + 0x20), x->bt->stray_at[VIA_JUMP]);
	cr_assert_eq(landing(x, VIA_RETURN, PC + 0x30), x->bt->stray_at[VIA_RETURN]);
	close_world(x);
}

Test(translate, a_block_ends_with_its_page)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0x1ffd, "4801d8 f4"); /* ends just there */
	b = block_at(x, PC + 0x1ffd);
	cr_assert_eq(b->len, 3);
	cr_assert_not(is_callout(x, b, 3));
	cr_assert(leaves_for(x, b, PC + 0x2000));
	close_world(x);
}

Test(translate, a_block_ends_before_its_room_does)
{
	static const char *const guest[] = {"9d", "0f01f8", "9c", "54", "fb"};
	struct world *x = open_world();

	for (unsigned g = 0; g < ARRAY_LEN(guest); g++) {
		unsigned len = 0;

		bt_flush(x->bt);
		for (unsigned i = 0; i < 2 * BT_MAX_INSNS; i++)
			len += put(x, len, guest[g]);
		put(x, len, "f4");
		cr_expect_leq(block_at(x, PC)->host_len, BT_BLOCK_ROOM);
		cr_expect_leq(block_at(x, PC)->len, BT_MAX_INSNS * (len / (2 * BT_MAX_INSNS)));
	}
	close_world(x);
}

Test(translate, an_instruction_across_pages_belongs_to_both)
{
	struct world *x = open_world();
	u64 *pte = (u64 *)(void *)(x->ram.window + ROOT + 0x3008), old = *pte;
	struct block *b;

	put(x, 0xffd, "90 4801d8 f4"); /* the second crosses */
	b = block_at(x, PC + 0xffd);
	cr_assert_eq(b->len, 4);
	cr_assert(leaves_for(x, b, PC + 0x1001));
	cr_assert_eq(x->ram.code[(CODE >> 12) + 1], 1, "writes to the second page are seen");
	/* The first byte behind it, its last one, its first one. */
	ram_note_write(&x->ram, CODE + 0x1001, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 0);
	ram_note_write(&x->ram, CODE + 0x1000, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 1);
	cr_assert_eq(block_at(x, PC + 0xffd)->len, 4);
	ram_note_write(&x->ram, CODE + 0xffe, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 2);
	/* The second page goes elsewhere, where the instruction ends otherwise; and away. */
	block_at(x, PC + 0xffd);
	put(x, 0x3000, "c8");
	*pte = (CODE + 0x3000) | PTE_P | PTE_W | PTE_G;
	mmu_invlpg(&x->c->mmu, PC + 0x1000);
	bt_revalidate(x->c, PC + 0x1000, BT_PAGE);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 3);
	b = block_at(x, PC + 0xffd);
	cr_assert(memmem(host(x, b), b->host_len, "\x48\x01\xc8", 3));
	*pte = 0;
	mmu_invlpg(&x->c->mmu, PC + 0x1000);
	bt_revalidate(x->c, PC + 0x1000, BT_PAGE);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 4);
	cr_expect(is_callout(x, block_at(x, PC + 0xffd), 1));
	/* The first page goes: nothing is left in the list of the second. */
	*pte = old;
	bt_flush(x->bt);
	block_at(x, PC + 0xffd);
	block_at(x, PC + 0x1001);
	pte[-1] = (CODE + 0x3000) | PTE_P | PTE_W | PTE_G;
	mmu_invlpg(&x->c->mmu, PC);
	bt_revalidate(x->c, PC, BT_PAGE);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 5);
	ram_note_write(&x->ram, CODE + 0x1000, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 5);
	ram_note_write(&x->ram, CODE + 0x1001, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 6);
	close_world(x);
}

/* --- the cache --- */

Test(translate, found_again_until_dropped)
{
	struct world *x = open_world();
	struct block *b;
	u64 at;
	u32 rel;

	put(x, 0, "4801d8 f4");
	put(x, 0x100, "f4");
	b = block_at(x, PC);
	cr_assert_eq(block_at(x, PC), b);
	x->c->rip = PC;
	at = bt_find(x->bt);
	cr_assert_eq(at, (u64)(uintptr_t)x->bt->rx + b->host);
	cr_assert_eq(bt_block_at(x->bt, at + 3), b);
	block_at(x, PC + 0x100);
	cr_assert_eq(x->stats.n[STAT_bt_blocks], 2);
	cr_assert_eq(x->ram.code[CODE >> 12], 1);

	/* A write to the byte behind it leaves it, one to its last byte does not. */
	ram_note_write(&x->ram, CODE + b->len, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 0);
	ram_note_write(&x->ram, CODE + b->len - 1, 1);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 1);
	cr_assert_eq(host(x, b)[0], 0xe9, "who is chained to it leaves");
	cr_assert(is_exit(x, b->host + 1, PC));
	memcpy(&rel, host(x, b) + 1, 4);
	cr_assert_eq(b->host + 5 + rel, x->bt->tails);
	cr_assert_null(bt_block_at(x->bt, (u64)(uintptr_t)x->bt->rx + x->bt->tails));
	x->c->rip = PC;
	cr_assert_neq(bt_find(x->bt), at);
	cr_assert_eq(x->stats.n[STAT_bt_blocks], 3);
	block_at(x, PC + 0x100);
	cr_assert_eq(x->stats.n[STAT_bt_blocks], 3);
	close_world(x);
}

/* Blocks of a byte each from PC on, until the cache has been flushed or there are n. */
static unsigned make_blocks(struct world *x, unsigned n)
{
	u64 flushes = x->stats.n[STAT_bt_flushes];
	unsigned i;

	for (i = 0; i < n; i++) {
		block_at(x, PC + i);
		if (x->stats.n[STAT_bt_flushes] != flushes)
			break;
	}
	return i;
}

/* Dropping needs room, and cannot flush. */
Test(translate, a_full_cache_has_room_to_drop_all)
{
	struct world *x = open_world();
	unsigned n;

	for (unsigned i = 0; i < PAGE_SIZE; i++)
		put(x, i, "f4");
	x->bt->limit = 2 * BT_CACHE_MIN;
	bt_flush(x->bt);
	n = make_blocks(x, PAGE_SIZE);
	cr_assert_lt(n, PAGE_SIZE);
	bt_flush(x->bt);
	cr_assert_eq(make_blocks(x, n), n, "as many as fit");
	x->stats.n[STAT_bt_dropped] = 0;
	ram_note_write(&x->ram, CODE, PAGE_SIZE);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], n);
	cr_assert_geq(x->bt->tails, x->bt->used);
	for (unsigned i = 0; i < n; i++) {
		const struct block *b = &x->bt->block[i];

		cr_assert(b->dropped && is_exit(x, b->host + 1, b->pc));
	}
	close_world(x);
}

Test(translate, remapped_code_is_dropped_at_invlpg)
{
	struct world *x = open_world();
	struct block *b;
	u64 *pte = (u64 *)(void *)(x->ram.window + ROOT + 0x3000);

	put(x, 0, "4801d8 f4");
	put(x, 0x1000, "90 f4");
	b = block_at(x, PC);
	mmu_invlpg(&x->c->mmu, PC);
	bt_revalidate(x->c, PC, BT_PAGE);
	cr_assert_eq(block_at(x, PC), b, "still mapped there");
	*pte += PAGE_SIZE;
	mmu_invlpg(&x->c->mmu, PC);
	bt_revalidate(x->c, PC, BT_PAGE);
	cr_assert_eq(x->stats.n[STAT_bt_dropped], 1);
	cr_assert_neq(block_at(x, PC), b);
	cr_assert_eq(x->ram.code[(CODE >> 12) + 1], 1, "made from where it is now");
	close_world(x);
}

Test(translate, promotion_drops_the_blocks_and_is_forgotten)
{
	struct world *x = open_world();
	struct block *b;

	put(x, 0, "4801d8 488b03 f4");
	b = block_at(x, PC);
	cr_assert_eq(block_at(x, PC), b);
	bt_promote(x->bt, PC + 3, STEP_DEVICE);
	bt_promote(x->bt, PC + 3, STEP_ADDRESS);
	cr_expect_eq(x->stats.n[STAT_bt_dropped], 1);
	cr_expect_eq(x->stats.n[STAT_bt_promotions_device], 1);
	cr_expect_eq(x->stats.n[STAT_bt_promotions], 0);
	cr_assert_neq(block_at(x, PC), b);
	cr_expect(bt_is_promoted(x->bt, PC + 3));
	cr_expect_not(bt_is_promoted(x->bt, PC));
	/* A guest cannot have us remember for ever. */
	for (u64 i = 0; i < 70000; i++)
		bt_promote(x->bt, PC + 0x2000 + i, STEP_ADDRESS);
	cr_expect_not(bt_is_promoted(x->bt, PC + 3));
	cr_expect(bt_is_promoted(x->bt, PC + 0x2000 + 69999));
	close_world(x);
}

/* --- checked sites --- */

/* From the spills to the instruction: in three parts, with the address in between. */
static void want_checked(struct world *x, const char *lea, unsigned size, enum mmu_access access)
{
	u64 slot = CTX(x, mmu.tlb[0][0]);

	want_hex(x, "48890425");
	want32(x, CTX(x, bt.spill[0]));
	want_hex(x, "48890c25");
	want32(x, CTX(x, bt.spill[1]));
	want_hex(x, "48891425");
	want32(x, CTX(x, bt.spill[2]));
	want_hex(x, lea);
	want_hex(x, "9f 0f90c0 48890425"); /* lahf; seto al */
	want32(x, CTX(x, bt.site_flags));
	want_hex(x, "89d0 c1e80c 25ff070000 8d0480 488d8a");
	want32(x, size - 1);
	want_hex(x, "4881e100f0ffff 483b0cc5"); /* cmp rcx, [rax*8 + tag] */
	want32(x, slot + 8 * access);
	want_hex(x, "0f85");
}

static void want_checked_end(struct world *x, const char *insn)
{
	want_hex(x, "480314c5"); /* add rdx, [rax*8 + addend] */
	want32(x, CTX(x, mmu.tlb[0][0].addend));
	want_hex(x, "488b0425");
	want32(x, CTX(x, bt.site_flags));
	want_hex(x, "047f9e"); /* add al, 127; sahf */
	want_hex(x, insn);
}

static void expect_checked(struct world *x, const char *guest, const char *lea, unsigned size,
			   enum mmu_access access, const char *end)
{
	struct block *b;
	u32 rel, miss;
	char text[64];

	bt_flush(x->bt);
	snprintf(text, sizeof(text), "%s f4", guest);
	put(x, 0, text);
	b = block_at(x, PC);
	want_checked(x, lea, size, access);
	memcpy(&rel, host(x, b) + x->n_want, 4);
	miss = x->n_want + 4 + rel;
	want32(x, rel);
	want_checked_end(x, end);
	expect_start(x, b, guest);
	/* A miss: a light callout by way of the common code. */
	want_hex(x, "48c70425");
	want32(x, CTX(x, rip));
	want32(x, PC);
	cr_expect(!memcmp(host(x, b) + miss, x->want, x->n_want), "miss of %s", guest);
	cr_expect_eq(host(x, b)[miss + 36], 0xe9);
	cr_expect(b->stop, "the block goes on behind %s", guest);
	x->n_want = 0;
}

Test(translate, a_checked_site_asks_the_tlb)
{
	struct world *x = open_world();
	char back[2][32];

	snprintf(back[0], 32, "488b0425 %08x", __builtin_bswap32((u32)CTX(x, bt.spill[0])));
	snprintf(back[1], 32, "488b0c25 %08x", __builtin_bswap32((u32)CTX(x, bt.spill[1])));
	bt_promote(x->bt, PC, STEP_ADDRESS);
	{
		char end[3][128];

		snprintf(end[0], 128, "%s %s 48890a", back[0], back[1]); /* mov [rdx], rcx */
		expect_checked(x, "48898bf0000000", "488d9423 f0000000", 8, MMU_WRITE, end[0]);
		snprintf(end[1], 128, "%s %s 66403902", back[0], back[1]); /* cmp [rdx], ax */
		expect_checked(x, "6643390440", "4b8d944000000000", 2, MMU_READ, end[1]);
		/* RDX is the operand: the address goes to RCX */
		snprintf(end[2], 128, "4889d1 %s 488b1425 %08x 0fb611", back[0],
			 __builtin_bswap32((u32)CTX(x, bt.spill[2]))); /* movzx edx, byte [rcx] */
		expect_checked(x, "0fb610", "488d942000000000", 1, MMU_READ, end[2]);
	}
	close_world(x);
}

Test(translate, checked_sites_recover_registers_and_flags)
{
	struct world *x = open_world();
	struct recovery looked_up;
	struct block *b;

	put(x, 0, "488903 f4"); /* mov [rbx], rax */
	bt_promote(x->bt, PC, STEP_ADDRESS);
	b = block_at(x, PC);
	looked_up = biased_record(x, b, SPILL_RAX | SPILL_RCX | SPILL_RDX | RECOVER_FLAGS);
	x->c->bt.spill[0] = 70;
	x->c->bt.spill[1] = 71;
	x->c->bt.site_flags = (FL_CF | FL_SF) << 8 | 1;
	fault_at(x, b, looked_up);
	cr_expect_eq(x->c->gpr[GPR_RAX], 70);
	cr_expect_eq(x->c->aflags & FL_ARITH, FL_CF | FL_SF | FL_OF);
	close_world(x);
}

static bool holds(struct world *x, const struct block *b, const char *hex)
{
	x->n_want = 0;
	want_hex(x, hex);
	bool found = memmem(host(x, b), b->host_len, x->want, x->n_want);
	x->n_want = 0;
	return found;
}

/* At PC, all promoted but those from `plain` on; how many runs its block has. */
static u64 runs_of(struct world *x, const char *guest, unsigned plain, struct block **b)
{
	u64 before = x->stats.n[STAT_bt_runs];
	char text[128];

	bt_forget_sites(x->bt);
	for (unsigned i = 0; i < plain; i++)
		bt_promote(x->bt, PC + i, STEP_ADDRESS);
	bt_flush(x->bt);
	snprintf(text, sizeof(text), "%s f4", guest);
	put(x, 0, text);
	*b = block_at(x, PC);
	return x->stats.n[STAT_bt_runs] - before;
}

Test(translate, checked_sites_at_one_base_ask_the_tlb_once)
{
	struct world *x = open_world();
	struct block *b;

	/* mov [rbx+0x20], rax; mov rsi, [rbx+8]; mov word [rbx+0xf00], 5; add rbx, [rbx+8] */
	cr_expect_eq(runs_of(x, "48894320 488b7308 66c783000f00000500 48035b08 4801d8", 21, &b), 1);
	cr_expect(holds(x, b, "488d942308000000"), "lea rdx, [rbx + 8]");
	cr_expect(holds(x, b, "488d8af90e0000"), "lea rcx, [rdx + size - 1]");
	cr_expect(holds(x, b, "48894218 488b32 66c782f80e00000500 48031a"), "in a row, from RDX");
	cr_expect(holds(x, b, "4801d8"), "the block goes on");
	/* RAX and RDX are operands. */
	cr_expect_eq(runs_of(x, "488903 48895308", 8, &b), 1);
	cr_expect(holds(x, b, "488901 48895108"), "from RCX");
	/* The base may be one of the three. */
	cr_expect_eq(runs_of(x, "488932 48897a08", 8, &b), 1);
	cr_expect(holds(x, b, "488932 48897a08"));
	close_world(x);
}

Test(translate, what_is_no_run)
{
	static const struct {
		const char *guest, *why;
		unsigned plain;
	} none[] = {
	    {"488b03 488b4308", "the second is an ordinary site", 3},
	    {"488b1b 488b4308", "the base changes", 8},
	    {"488b03 488b4108", "another base", 8},
	    {"488b03 488b83f90f0000", "more than a page", 10},
	    {"488b03 488b0443", "an index", 8},
	    {"488b03 90 488b4308", "another instruction in between", 8},
	    {"65488b03 65488b4308", "GS", 9},
	    {"480fb10b 48895308", "no register is left", 9},
	};
	struct world *x = open_world();
	struct block *b;

	for (unsigned i = 0; i < ARRAY_LEN(none); i++)
		cr_expect_eq(runs_of(x, none[i].guest, none[i].plain, &b), 0, "%s", none[i].why);
	/* Nor is there one across the end of a page, or with blocks of one instruction. */
	cr_expect_eq(runs_of(x, "488b03 488b83f80f0000", 10, &b), 1);
	x->bt->one_insn = true;
	cr_expect_eq(runs_of(x, "488b03 488b4308", 8, &b), 0);
	x->bt->one_insn = false;
	put(x, 0xff9, "488b03 488b4308 f4");
	bt_promote(x->bt, PC + 0xff9, STEP_ADDRESS);
	bt_promote(x->bt, PC + 0xffc, STEP_ADDRESS);
	b = block_at(x, PC + 0xff9);
	cr_expect_eq(b->len, 7);
	cr_expect_eq(x->stats.n[STAT_bt_runs], 1);
	close_world(x);
}

/* A miss goes to C code, which saves the vector registers. */
Test(translate, vector_state_is_asked_for_again_behind_a_checked_site)
{
	struct world *x = open_world();
	struct block *b;
	unsigned asked = 0;
	u32 missing = (u32)CTX(x, bt.vec_missing[0]);

	put(x, 0, "660fefc1 488903 660fefc1 660fefc1 f4"); /* pxor; mov [rbx], rax; pxor; pxor */
	bt_promote(x->bt, PC + 4, STEP_ADDRESS);
	b = block_at(x, PC);
	for (u32 i = 0; i + 8 <= b->host_len; i++)
		asked += !memcmp(host(x, b) + i, "\x0f\xb6\x0c\x25", 4) &&
			 !memcmp(host(x, b) + i + 4, &missing, 4);
	cr_expect_eq(asked, 2);
	cr_expect(b->vector);
	close_world(x);
}

Test(translate, what_cannot_be_checked_is_a_callout)
{
	static const char *const guest[] = {
	    "480fc70b", /* cmpxchg16b: all scratch registers are operands */
	    "0fa303",   /* bt [rbx], eax */
	    "488923",   /* mov [rbx], rsp */
	    "ff33",     /* push [rbx] */
	    "660f6f03", /* movdqa xmm0, [rbx] */
	    "ff23",     /* jmp [rbx] */
	    "67488b03", /* mov rax, [ebx] */
	};
	struct world *x = open_world();
	struct block *b;

	bt_promote(x->bt, PC, STEP_ADDRESS);
	for (unsigned i = 0; i < ARRAY_LEN(guest); i++) {
		char text[64];

		bt_flush(x->bt);
		snprintf(text, sizeof(text), "%s f4", guest[i]);
		put(x, 0, text);
		b = block_at(x, PC);
		cr_expect(is_callout(x, b, 0) || is_light_callout(x, b, 0), "%s", guest[i]);
	}
	close_world(x);
}

/* --- the log --- */

static const char *symbol(void *opaque, u64 addr, u64 *off)
{
	(void)opaque;
	*off = addr - PC;
	return addr >= PC && addr < PC + 0x100 ? "start" : NULL;
}

static char *log_of(struct world *x, unsigned items, u64 pc)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	engine_set_log(x->c, f, items);
	block_at(x, pc);
	ram_note_write(&x->ram, CODE + (pc - PC), 1);
	engine_set_log(x->c, NULL, 0);
	fclose(f);
	return text;
}

static void expect_line(const char *text, const char *a, const char *b)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		const char *end, *p, *q;

		line += *line == '\n';
		end = strchrnul(line, '\n');
		p = strstr(line, a);
		q = p ? strstr(p, b) : NULL;
		if (q && q < end)
			return;
	}
	cr_expect(false, "no line has \"%s\" and then \"%s\":\n%s", a, b, text);
}

Test(translate, log)
{
	struct world *x = open_world();
	char *text;

	engine_set_symbols(x->c, symbol, NULL);
	put(x, 0x10, "4801d8 488b03 fa 7402 f4");
	text = log_of(x, LOG_IN_ASM | LOG_OUT_ASM | LOG_SMC, PC + 0x10);
	expect_line(text, "block ffffffff81000010 <start+0x10> at gpa 0x110010", "9 bytes");
	expect_line(text, "add rax, rbx", "add rax, rbx");
	expect_line(text, "mov rax, qword ptr [rbx]", "mov rax, qword ptr gs:[rbx]");
	expect_line(text, "cli", "; sflags+1");
	expect_line(text, "je ", "0f 84");
	expect_line(text, "exits", "; rip = 0xffffffff8100001b <start+0x1b>");
	expect_line(text, "; rip = ", "<start+0x19>");
	expect_line(text, "jmp ", "; exit");
	expect_line(text, "smc: block ffffffff81000010 <start+0x10>", "dropped");
	expect_line(text, "smc: gpa 0x110010, 1 bytes written", "1 blocks");
	free(text);

	text = log_of(x, LOG_IN_ASM, PC + 0x10);
	expect_line(text, "ffffffff81000010", "add rax, rbx");
	cr_expect_null(strchr(text, '|'), "no host code without out_asm");
	cr_expect_null(strstr(text, "smc:"));
	free(text);

	put(x, 0x20, "c3");
	text = log_of(x, LOG_OUT_ASM, PC + 0x20);
	expect_line(text, "ret", "; bt.spill");
	expect_line(text, "mov ecx", "; return pads");
	free(text);
	close_world(x);
}
