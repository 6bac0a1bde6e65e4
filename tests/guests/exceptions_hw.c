/*
 * What exceptions.c leaves out because QEMU TCG does not model it: #AC, #XM, #MF at the next x87
 * instruction, ICEBP, LOCK on what cannot be locked, the EXT bit, RF in frames, DR6 of several
 * hits, DR7.GD, debug traps delayed by MOV SS, checks of control registers. SDM vol.
 * 3, 2.5, 6.13, 6.15, 17.
 */
#include "lib.h"

#define CR0_TS 8ul
#define CR0_NE 0x20ul
#define CR0_AM 0x40000ul

static u32 watched[8] ALIGNED(32);

/* --- encodings --- */

#define VECTORS(X)                                                                                 \
	X(int1, "icebp", ".byte 0xf1\n")                                                           \
	X(c6_1, "c6 /1", ".byte 0xc6,0xc8,0\n")                                                    \
	X(lock_mov, "lock mov", ".byte 0xf0; mov %eax,watched\n")                                  \
	X(lock_load, "lock add register, memory", ".byte 0xf0; add watched,%eax\n")                \
	X(lock_cmp, "lock cmp", ".byte 0xf0; cmp %eax,watched\n")                                  \
	X(lock_bt, "lock bt", ".byte 0xf0; bt %eax,watched\n")                                     \
	X(lock_test, "lock test", ".byte 0xf0; test %eax,watched\n")                               \
	X(lock_shl, "lock shl", ".byte 0xf0; shll $1,watched\n")                                   \
	X(lock_push, "lock push", ".byte 0xf0; push %eax\n")                                       \
	X(lock_movs, "lock movs", ".byte 0xf0; movsb\n")                                           \
	X(lock_xadd, "lock xadd register", ".byte 0xf0; xadd %eax,%ebx\n")
VECTORS(CASE_SNIPPET)
static const struct test_case vectors[] = {VECTORS(CASE_ENTRY)};

/* --- x87 and SSE --- */

SNIPPET(emms_ts, "emms\n" STOP);
#define UNMASKED "fninit; fnstcw -4(%esp); andw $~4,-4(%esp); fldcw -4(%esp); fld1; fldz; fdivrp\n"
SNIPPET(mf_next, UNMASKED "fnstsw %ax; fld1\n" STOP);
SNIPPET(mf_store, UNMASKED "fnstcw -4(%esp); fstps -4(%esp)\n" STOP);
SNIPPET(mf_none, UNMASKED "fninit; fld1\n" STOP);
SNIPPET(mf_mmx, UNMASKED "movd %eax,%mm0\n" STOP);
SNIPPET(xm, "movl $0x1f00,-4(%esp); ldmxcsr -4(%esp); xorps %xmm0,%xmm0; xorps %xmm1,%xmm1\n"
	    "divps %xmm1,%xmm0\n" STOP);
SNIPPET(xm_masked, "movl $0x1f80,-4(%esp); ldmxcsr -4(%esp); xorps %xmm0,%xmm0; xorps %xmm1,%xmm1\n"
		   "divps %xmm1,%xmm0; stmxcsr -4(%esp); mov -4(%esp),%eax\n" STOP);
SNIPPET(xm_flags, "xorps %xmm0,%xmm0; divps %xmm0,%xmm0\n" STOP);
SNIPPET(mxcsr_reserved, "movl $0x11f80,-4(%esp); ldmxcsr -4(%esp)\n" STOP);
SNIPPET(read_mxcsr, "stmxcsr -4(%esp); mov -4(%esp),%eax\n" STOP);
SNIPPET(movaps_odd, "mov $watched+4,%eax; movaps (%eax),%xmm0\n" STOP);

static void test_fpu(void)
{
	struct regs r;

	write_cr0((read_cr0() | CR0_NE) & ~6ul);
	write_cr4(read_cr4() | 0x600);
	write_cr0(read_cr0() | CR0_TS);
	try_kernel("emms with TS", emms_ts);
	write_cr0(read_cr0() & ~CR0_TS);
	r = try_kernel("#MF at the next", mf_next);
	say("  status", r.ax & 0xff);
	try_kernel("#MF at a store", mf_store);
	try_kernel("not after fninit", mf_none);
	try_kernel("#MF at MMX", mf_mmx);
	ASM("fninit");
	try_kernel("#XM", xm);
	r = try_kernel("its flag", read_mxcsr);
	say("  mxcsr", r.ax);
	r = try_kernel("masked", xm_masked);
	say("  mxcsr", r.ax);
	write_cr4(read_cr4() & ~0x400ul);
	try_kernel("without OSXMMEXCPT", xm);
	write_cr4(read_cr4() | 0x400);
	try_kernel("reserved bits of MXCSR", mxcsr_reserved);
	try_kernel("movaps unaligned", movaps_odd);
}

/* --- alignment --- */

#define ALIGN_CASES(X)                                                                             \
	X(a_word, "word", "mov watched+1,%ax\n")                                                   \
	X(a_dword, "dword", "mov watched+2,%eax\n")                                                \
	X(a_dword_ok, "dword aligned", "mov watched+4,%eax\n")                                     \
	X(a_byte, "byte", "mov watched+1,%al\n")                                                   \
	X(a_write, "write", "mov %eax,watched+1\n")                                                \
	X(a_push, "push", "sub $1,%esp; push %eax\n")                                              \
	X(a_call, "call", "sub $2,%esp; call 1f\n1:\n")                                            \
	X(a_double, "x87 double", "fldl watched+4\n")                                              \
	X(a_movs, "movs", "mov $watched+1,%esi; mov $watched+16,%edi; movsl\n")                    \
	X(a_rep, "rep movsw", "mov $watched,%esi; mov $watched+17,%edi; mov $2,%ecx; rep movsw\n") \
	X(a_lock, "lock add", "lock addl $1,watched+2\n")                                          \
	X(a_popf, "pop", "sub $5,%esp; pop %eax\n")
ALIGN_CASES(CASE_SNIPPET)
static const struct test_case align_cases[] = {ALIGN_CASES(CASE_ENTRY)};

static void test_align(void)
{
	struct regs r;
	unsigned i;

	write_cr0(read_cr0() | CR0_AM);
	for (i = 0; i < COUNT(align_cases); i++) {
		r = regs_user(align_cases[i].code);
		r.flags |= F_AC;
		guest_run(&r);
		put("align, ");
		say_trap(align_cases[i].text, &r);
	}
	r = regs_kernel(a_dword);
	r.flags |= F_AC;
	guest_run(&r);
	say_trap("align, CPL 0", &r);
	try_user("align, AC clear", a_dword);
	write_cr0(read_cr0() & ~CR0_AM);
	r = regs_user(a_dword);
	r.flags |= F_AC;
	guest_run(&r);
	say_trap("align, AM clear", &r);
}

/* --- EXT --- */

enum { ABSENT_CODE = FREE_SEL, R1_CODE = FREE_SEL + 8, R1_DATA = FREE_SEL + 16 };
SNIPPET(raise_ud, "ud2\n" STOP);
SNIPPET(raise_bp, "int3\n" STOP);
SNIPPET(raise_int, "int $0x44\n" STOP);
SNIPPET(raise_into, "mov $0x7f,%al; inc %al; into\n" STOP);
SNIPPET(raise_ice, ".byte 0xf1\n" STOP);

static void with_gate(const char *name, const u8 *code, unsigned vector, unsigned sel,
		      unsigned attr)
{
	struct regs r = regs_user(code);

	set_gate(vector, stub_of(vector), sel, attr);
	guest_run(&r);
	set_gate(vector, stub_of(vector), KCODE, 0xee);
	say_trap(name, &r);
}

static void test_ext(void)
{
	const u32 flat = D_BIG | D_PAGES;

	set_gdt(ABSENT_CODE, 0, 0xfffff, 0x1a | flat);
	set_gdt(R1_CODE, 0, 0xfffff, D_CODE | D_DPL(1) | flat);
	set_gdt(R1_DATA, 0, 0xfffff, D_DATA | D_DPL(1) | flat);
	with_gate("#UD, absent gate", raise_ud, UD, KCODE, 0x6e);
	with_gate("int3, absent gate", raise_bp, BP, KCODE, 0x6e);
	with_gate("into, absent gate", raise_into, OF, KCODE, 0x6e);
	with_gate("int, absent gate", raise_int, 0x44, KCODE, 0x6e);
	with_gate("#UD, absent code", raise_ud, UD, ABSENT_CODE, 0xee);
	with_gate("int, absent code", raise_int, 0x44, ABSENT_CODE, 0xee);
	with_gate("#UD, null code", raise_ud, UD, 0, 0xee);
	with_gate("int, null code", raise_int, 0x44, 0, 0xee);
	tss.ss1 = 0;
	with_gate("#UD, null inner stack", raise_ud, UD, R1_CODE, 0xee);
	with_gate("int, null inner stack", raise_int, 0x44, R1_CODE, 0xee);
	tss.ss1 = KDATA | 1;
	with_gate("#UD, bad inner stack", raise_ud, UD, R1_CODE, 0xee);
	with_gate("int, bad inner stack", raise_int, 0x44, R1_CODE, 0xee);
	with_gate("icebp ignores DPL", raise_ice, DB, KCODE, 0x8e);
}

/* --- RF and debug traps --- */

static u8 places[32];
static unsigned seen;
static ulong base, rf_seen, dr6_seen;

static void note(struct regs *r)
{
	if (seen < sizeof(places))
		places[seen] = r->ip - base;
	rf_seen |= (r->flags & F_RF ? 1ul : 0) << seen++;
	dr6_seen |= read_dr6();
	write_dr6(0xffff0ff0);
}

static void note_and_resume(struct regs *r)
{
	note(r);
	r->flags |= F_RF;
}

static void traced(const char *name, const u8 *code, ulong flags, handler_fn *handler)
{
	struct regs r = regs_kernel(code);
	unsigned i;

	r.flags |= flags;
	base = r.ip;
	seen = rf_seen = dr6_seen = 0;
	write_dr6(0xffff0ff0);
	handlers[DB] = handler;
	guest_run(&r);
	write_dr7(0x400);
	handlers[DB] = NULL;
	put(name);
	put(":");
	for (i = 0; i < seen && i < sizeof(places); i++) {
		put_char(' ');
		put_hex(places[i]);
		put(rf_seen >> i & 1 ? "R" : "");
	}
	say("; dr6", dr6_seen & 0xe00f);
}

SNIPPET(rep_movs, "mov $watched,%esi; mov $watched+8,%edi; mov $3,%ecx; rep movsb; nop\n" STOP);
SNIPPET(sti_nop, "sti; nop; cli; nop\n" STOP);
SNIPPET(nops, "nop; nop; nop\n" STOP);
SNIPPET(write_twice, "movl $1,watched; nop\n" STOP);
SNIPPET(mov_ss_memory, "mov stack_selector,%ss; nop; nop\n" STOP);
SNIPPET(pop_ss_memory,
	"mov %esp,%ebp; mov $stack_selector,%esp; popw %ss; mov %ebp,%esp; nop\n" STOP);
SNIPPET(mov_dr, "nop; mov %dr0,%eax; nop\n" STOP);
asm(".pushsection .data\n.balign 4\nstack_selector: .long 0x10\n.popsection");
extern u32 stack_selector;

static void frame_rf(const char *name, const u8 *code)
{
	struct regs r = regs_user(code);

	guest_run(&r);
	put("RF in the frame of ");
	say(name, r.flags & F_RF);
}

SNIPPET(raise_de, "xor %ebx,%ebx; div %ebx\n" STOP);
SNIPPET(raise_gp, "mov $0x1000,%eax; mov %eax,%ds\n" STOP);

static void test_debug(void)
{
	struct regs r;

	frame_rf("#UD", raise_ud);
	frame_rf("#DE", raise_de);
	frame_rf("#GP", raise_gp);
	frame_rf("#BP", raise_bp);
	frame_rf("#OF", raise_into);
	frame_rf("int", raise_int);
	frame_rf("icebp", raise_ice);
	traced("rep movs stepped", rep_movs, F_TF, note);
	traced("sti stepped", sti_nop, F_TF, note);
	write_dr0((ulong)nops + 1);
	write_dr7(0x401);
	traced("instruction breakpoint", nops, 0, note_and_resume);
	write_dr0((ulong)watched);
	write_dr1((ulong)watched + 2);
	write_dr7(0x400 | 5 | 1u << 16 | 5u << 20);
	traced("two on one write", write_twice, 0, note);
	write_dr7(0x400 | 5 | 1u << 16 | 5u << 20);
	traced("and a step", write_twice, F_TF, note);
	/* A match that is not enabled shows in DR6 once another is. */
	write_dr0((ulong)&stack_selector);
	write_dr7(0x400 | 1 | 3u << 16 | 1u << 18);
	traced("mov ss delays a data breakpoint", mov_ss_memory, 0, note);
	write_dr7(0x400 | 1 | 3u << 16 | 1u << 18);
	traced("pop ss delays a data breakpoint", pop_ss_memory, 0, note);
	/* Stepped, the instruction that delays also delays the step. */
	write_dr7(0x400 | 1 | 3u << 16 | 1u << 18);
	traced("and stepped", mov_ss_memory, F_TF, note);
	r = regs_kernel(mov_dr);
	write_dr6(0xffff0ff0);
	write_dr7(0x2400);
	guest_run(&r);
	say_trap("GD", &r);
	say("  dr6", read_dr6() & 0xe00f);
	say("  dr7", read_dr7());
	write_dr7(0x400);
}

/* --- control registers --- */

#define CONTROL(X)                                                                                 \
	X(cr0_pg, "CR0.PG without PE",                                                             \
	  "mov %cr0,%eax; or $0x80000000,%eax; and $~1,%eax\n"                                     \
	  "mov %eax,%cr0\n")                                                                       \
	X(cr0_nw, "CR0.NW without CD",                                                             \
	  "mov %cr0,%eax; or $0x20000000,%eax; and $0xbfffffff,%eax\n"                             \
	  "mov %eax,%cr0\n")                                                                       \
	X(cr4_reserved, "CR4 reserved bit", "mov %cr4,%eax; or $0x80000000,%eax; mov %eax,%cr4\n") \
	X(cr4_bit15, "CR4 bit 15", "mov %cr4,%eax; or $0x8000,%eax; mov %eax,%cr4\n")              \
	X(cr4_pcide, "CR4.PCIDE outside long mode",                                                \
	  "mov %cr4,%eax; or $0x20000,%eax; mov %eax,%cr4\n")                                      \
	X(efer, "EFER reserved bit", "mov $0xc0000080,%ecx; rdmsr; or $0x80000000,%eax; wrmsr\n")  \
	X(rdmsr_, "unknown MSR", "mov $0x12345678,%ecx; rdmsr\n")                                  \
	X(wrmsr_, "unknown MSR, write", "mov $0x12345678,%ecx; wrmsr\n")                           \
	X(wrmsr_nc, "LSTAR not canonical",                                                         \
	  "mov $0xc0000082,%ecx; mov $0x8000,%edx; xor %eax,%eax; wrmsr\n")                        \
	X(pat, "PAT of a reserved type",                                                           \
	  "mov $0x277,%ecx; mov $0x00070406,%edx; mov $0x02070406,%eax; wrmsr\n")
CONTROL(CASE_SNIPPET)
static const struct test_case control[] = {CONTROL(CASE_ENTRY)};

void guest_main(void)
{
	unsigned i;

	for (i = 0; i < COUNT(vectors); i++)
		try_kernel(vectors[i].text, vectors[i].code);
	test_fpu();
	test_align();
	test_ext();
	test_debug();
	for (i = 0; i < COUNT(control); i++)
		try_kernel(control[i].text, control[i].code);
}
