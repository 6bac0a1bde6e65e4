/*
 * What QEMU TCG does not check or gets wrong: limits, types and null selectors of data accesses;
 * code segment limits; room on inner stacks; absent stack segments; LTR of a null selector.
 * SDM vol. 3, 5.3 to 5.5 and 6.12; vol. 2, the instructions concerned.
 */
#include "lib.h"

enum {
	SMALL = FREE_SEL,             /* base buffer, limit 0xff, writable */
	READ_ONLY = FREE_SEL + 8,     /* the same, not writable */
	DOWN16 = FREE_SEL + 0x10,     /* expand-down, limit 0xfff, B 0: 0x1000 to 0xffff */
	DOWN32 = FREE_SEL + 0x18,     /* expand-down, limit 0xfff, B 1 */
	EXEC_ONLY = FREE_SEL + 0x20,  /* code over buffer, limit 0xff */
	READ_CODE = FREE_SEL + 0x28,  /* readable code over buffer, limit 0xff */
	STACK32 = FREE_SEL + 0x30,    /* base buffer, limit 0xff, B 1 */
	STACK16 = FREE_SEL + 0x38,    /* base buffer, limit 0xffff, B 0 */
	SHORT_CODE = FREE_SEL + 0x40, /* 32-bit code over short_code, limit 0x1f */
	R1_CODE = FREE_SEL + 0x48,
	R1_DATA = FREE_SEL + 0x50,
	ABSENT = FREE_SEL + 0x58, /* data, DPL 1 */
	GATE_R1 = FREE_SEL + 0x60,
	ABSENT3 = FREE_SEL + 0x68,    /* data, DPL 3 */
	R1_SMALL = FREE_SEL + 0x70,   /* data, DPL 1, limit 0xf */
	STACK_DOWN = FREE_SEL + 0x78, /* expand-down stack, limit 0xfff, B 1, base 0 */
	PAGES = FREE_SEL + 0x80,      /* G 1, limit 0: one page */
};
asm(".set GATE_R1, 0xa8; .set SHORT_CODE, 0x88\n");

static u8 buffer[0x20000] ALIGNED(16);

/* DS, ES and SS are what the case says. */
#define DATA_CASES(X)                                                                              \
	X(d_last, SMALL, "byte at the limit", "mov 0xff,%al\n")                                    \
	X(d_beyond, SMALL, "byte beyond", "mov 0x100,%al\n")                                       \
	X(d_word, SMALL, "word across", "mov 0xff,%ax\n")                                          \
	X(d_dword_ok, SMALL, "dword at the limit", "mov 0xfc,%eax\n")                              \
	X(d_dword, SMALL, "dword across", "mov 0xfd,%eax\n")                                       \
	X(d_write, SMALL, "write across", "movl $1,0xfd\n")                                        \
	X(d_rmw, SMALL, "add across", "addl $1,0xfd\n")                                            \
	X(d_locked, SMALL, "locked add beyond", "lock addl $1,0x100\n")                            \
	X(d_negative, SMALL, "negative offset", "mov -4,%eax\n")                                   \
	X(d_x87, SMALL, "x87 load across", "fldl 0xf9\n")                                          \
	X(d_x87_ok, SMALL, "x87 load at the limit", "fninit; fldl 0xf8\n")                         \
	X(d_addr16, SMALL, "16-bit address wraps", "mov $0xfff0,%ebx; addr16 mov 0x20(%bx),%al\n") \
	X(d_pages_ok, PAGES, "page granular, last", "mov 0xfff,%al\n")                             \
	X(d_pages, PAGES, "page granular, beyond", "mov 0x1000,%al\n")                             \
	X(d_ro_read, READ_ONLY, "read-only, read", "mov 0x10,%al\n")                               \
	X(d_ro_write, READ_ONLY, "read-only, write", "mov %al,0x10\n")                             \
	X(d_ro_rmw, READ_ONLY, "read-only, add 0", "addb $0,0x10\n")                               \
	X(d_ro_bt, READ_ONLY, "read-only, bt", "btl $1,0x10\n")                                    \
	X(d_ro_bts, READ_ONLY, "read-only, bts", "btsl $1,0x10\n")                                 \
	X(d_ro_xchg, READ_ONLY, "read-only, xchg", "xchg %eax,0x10\n")                             \
	X(d_ro_cmpxchg, READ_ONLY, "read-only, cmpxchg", "cmpxchg %ecx,0x10\n")                    \
	X(d_code_read, READ_CODE, "readable code, read", "mov 0x10,%al\n")                         \
	X(d_code_write, READ_CODE, "readable code, write", "mov %al,0x10\n")                       \
	X(d_down_in, DOWN32, "expand-down, at the limit", "mov 0xfff,%al\n")                       \
	X(d_down_ok, DOWN32, "expand-down, above", "mov 0x1000,%al\n")                             \
	X(d_down_across, DOWN32, "expand-down, across", "mov 0xfff,%ax\n")                         \
	X(d_down_top, DOWN32, "expand-down, top", "mov 0xfffffffc,%eax\n")                         \
	X(d_down_wrap, DOWN32, "expand-down, over the top", "mov 0xfffffffd,%eax\n")               \
	X(d_down16_ok, DOWN16, "expand-down 16, top", "mov 0xfffe,%ax\n")                          \
	X(d_down16, DOWN16, "expand-down 16, over the top", "mov 0xffff,%ax\n")                    \
	X(d_down16_far, DOWN16, "expand-down 16, beyond", "mov 0x10000,%al\n")                     \
	X(d_null, 0, "null segment", "mov 0x10,%al\n")                                             \
	X(d_null_write, 0, "null segment, write", "mov %al,0x10\n")                                \
	X(d_null_lea, 0, "null segment, lea", "lea 0x10,%eax\n")                                   \
	X(d_stos, SMALL, "rep stos runs into the limit",                                           \
	  "mov $0xf0,%edi; mov $0x20,%ecx; rep stosb\n")                                           \
	X(d_stosl, SMALL, "rep stosl runs into the limit",                                         \
	  "mov $0xf2,%edi; mov $8,%ecx; rep stosl\n")                                              \
	X(d_movs, SMALL, "rep movs backward below 0",                                              \
	  "std; mov $3,%esi; mov $0x80,%edi; mov $8,%ecx; rep movsb\n")                            \
	X(d_movs0, SMALL, "rep movs of nothing", "mov $0x1000,%esi; xor %ecx,%ecx; rep movsb\n")   \
	X(d_xlat, SMALL, "xlat beyond", "mov $0xf0,%ebx; mov $0x10,%al; xlat\n")                   \
	X(d_movs_ro, READ_ONLY, "movs to read-only", "mov $1,%esi; mov $2,%edi; movsb\n")          \
	X(d_far, SMALL, "far pointer across", "ljmp *0xfc\n")                                      \
	X(d_sgdt, SMALL, "sgdt across", "sgdt 0xfc\n")                                             \
	X(d_fxsave, SMALL, "fxsave across", "fxsave 0\n")                                          \
	X(d_cmpxchg8b, SMALL, "cmpxchg8b across", "cmpxchg8b 0xf9\n")                              \
	X(d_bt, SMALL, "bt far away", "mov $0x800,%ecx; bt %ecx,0\n")
#define DATA_SNIPPET(name, sel, text, code) SNIPPET(name, code STOP);
#define DATA_ENTRY(name, sel, text, code)   {{text, name}, sel},
DATA_CASES(DATA_SNIPPET)
static const struct {
	struct test_case t;
	unsigned sel;
} data_cases[] = {DATA_CASES(DATA_ENTRY)};

static void test_data(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(data_cases); i++) {
		r = regs_kernel(data_cases[i].t.code);
		r.ds = r.es = data_cases[i].sel;
		guest_run(&r);
		say_trap(data_cases[i].t.text, &r);
		if (data_cases[i].t.code == d_stos || data_cases[i].t.code == d_stosl ||
		    data_cases[i].t.code == d_movs) {
			say("  ecx", r.cx);
			say("  edi", r.di);
		}
	}
}

/* ESP and SS are what the case says; the runs are at CPL 3. */
#define STACK_CASES(X)                                                                             \
	X(s_push, STACK32, 4, "push", "push %eax\n")                                               \
	X(s_push_low, STACK32, 3, "push below 0", "push %eax\n")                                   \
	X(s_push_top, STACK32, 0x100, "push at the top", "push %eax\n")                            \
	X(s_push_over, STACK32, 0x101, "push over the top", "push %eax\n")                         \
	X(s_pop, STACK32, 0xfc, "pop", "pop %eax\n")                                               \
	X(s_pop_over, STACK32, 0xfd, "pop over the top", "pop %eax\n")                             \
	X(s_call, STACK32, 2, "call", "call stop\n")                                               \
	X(s_ret, STACK32, 0xfe, "ret", "ret\n")                                                    \
	X(s_pusha, STACK32, 16, "pusha", "pusha\n")                                                \
	X(s_enter, STACK32, 8, "enter", "enter $8,$1\n")                                           \
	X(s_leave, STACK32, 8, "leave", "mov $0x100,%ebp; leave\n")                                \
	X(s_ebp, STACK32, 8, "ebp beyond", "mov $0x100,%ebp; mov (%ebp),%al\n")                    \
	X(s_esp, STACK32, 0x100, "esp beyond", "mov (%esp),%al\n")                                 \
	X(s_ss, STACK32, 8, "ss: beyond", "mov %ss:0x100,%al\n")                                   \
	X(s_pop_mem, STACK32, 0xfe, "pop to memory over the top", "pop 0x1000\n")                  \
	X(s_popf, STACK32, 0xfe, "popf over the top", "popf\n")                                    \
	X(s_lret, STACK32, 0xfa, "ret far over the top", "lret\n")                                 \
	X(s_iret, STACK32, 0xf6, "iret over the top", "iret\n")                                    \
	X(s_16, STACK16, 0, "16-bit stack wraps", "mov $0,%esp; pushw %ax\n")                      \
	X(s_16_odd, STACK16, 0, "16-bit stack, odd", "mov $1,%esp; pushw %ax\n")                   \
	X(s_16_call, STACK16, 0, "16-bit stack, call", "mov $2,%esp; call stop\n")                 \
	X(s_16_high, STACK16, 0, "16-bit stack, high ESP", "mov $0x50010,%esp; push %eax\n")       \
	X(s_16_ebp, STACK16, 0, "16-bit stack, ebp beyond",                                        \
	  "mov $0x10,%esp; mov $0x10000,%ebp; mov (%ebp),%al\n")                                   \
	X(s_down, STACK_DOWN, 0x1004, "expand-down stack", "push %eax\n")                          \
	X(s_down_low, STACK_DOWN, 0x1003, "expand-down stack below", "push %eax\n")
#define STACK_SNIPPET(name, sel, sp, text, code) SNIPPET(name, code STOP);
#define STACK_ENTRY(name, sel, sp, text, code)   {{text, name}, sel, sp},
STACK_CASES(STACK_SNIPPET)
static const struct {
	struct test_case t;
	unsigned sel, sp;
} stack_cases[] = {STACK_CASES(STACK_ENTRY)};
SNIPPET(stop, STOP);

static void test_stack(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(stack_cases); i++) {
		r = regs_user(stack_cases[i].t.code);
		r.ss = stack_cases[i].sel | 3;
		r.sp = stack_cases[i].sp;
		guest_run(&r);
		say_trap_kind(stack_cases[i].t.text, &r);
		if (r.vector != STOP_VECTOR)
			check("  at the start", r.ip - r.start <= 10);
		say("  esp", r.sp);
	}
}

/* --- code --- */

/* At offset 0x20 the segment ends. */
asm(".pushsection .text\n.balign 16\nshort_code:\n"
    "int $0x40; .org short_code+4; jmp short_code+0x20; .org short_code+0xc; je short_code+0x40\n"
    ".org short_code+0x14; mov %cs:0x1d,%eax\n"
    ".org short_code+0x1b; nop; nop; nop; mov $1,%eax; int $0x40\n.popsection");
SNIPPET(code_far, "ljmp $SHORT_CODE+3,$0x20\n");
extern u8 short_code[];

static void run_code(const char *name, ulong ip, ulong flags)
{
	struct regs r = regs_user(NULL);

	r.ip = ip;
	r.cs = SHORT_CODE | 3;
	r.flags |= flags;
	guest_run(&r);
	r.start = 0;
	say_trap(name, &r);
}

static void test_code(void)
{
	set_gdt(SHORT_CODE, (u32)short_code, 0x1f, D_CODE | D_DPL(3) | D_BIG);
	run_code("inside", 0, 0);
	run_code("jmp to beyond", 4, 0);
	run_code("taken branch to beyond", 0xc, F_ZF);
	run_code("read of code across", 0x14, 0);
	run_code("runs over the end", 0x1b, 0);
	try_user("far jmp to beyond", code_far);
}

/* --- inner stacks and the TSS --- */

SNIPPET(call_r1, "lcall $GATE_R1,$0\n" STOP);
SNIPPET(int_r1, "int $0x41\n" STOP);
SNIPPET(lret_outer, "push %eax; push $0x1000; push $0x1b; push $stop; lret\n");
SNIPPET(iret_outer, "push %eax; push $0x1000; push $2; push $0x1b; push $stop; iret\n");
SNIPPET(ltr_null, "xor %eax,%eax; ltr %ax\n" STOP);

static void inner(const char *name, u16 ss, u32 esp)
{
	struct regs r = regs_user(call_r1);

	tss.ss1 = ss;
	tss.esp1 = esp;
	guest_run(&r);
	put("call, ");
	say_trap_kind(name, &r);
	r = regs_user(int_r1);
	guest_run(&r);
	put("int, ");
	say_trap_kind(name, &r);
}

static void outer(const char *name, const u8 *code, u16 ss)
{
	struct regs r = regs_kernel(code);

	r.ax = ss;
	guest_run(&r);
	say_trap_kind(name, &r);
}

static void test_inner(void)
{
	const u32 top = (u32)buffer + 0x1000;

	inner("good", R1_DATA | 1, top);
	inner("absent", ABSENT | 1, top);
	inner("no room", R1_SMALL | 1, 0xc);
	inner("no room at the top", R1_SMALL | 1, 0x20);
	/* Neither SS1 nor ESP1 fits the limit: the words end at 0x11. */
	set_gdt(TSS_SEL, (u32)&tss, 0x10, 0x8b);
	gdt[TSS_SEL >> 3] &= ~(2ull << 40);
	ASM("ltr %w0" : : "r"(TSS_SEL));
	inner("tss too short", R1_DATA | 1, top);
	set_gdt(TSS_SEL, (u32)&tss, sizeof(tss) - 1, 0x89);
	ASM("ltr %w0" : : "r"(TSS_SEL));
	outer("ret outward, absent ss", lret_outer, ABSENT3 | 3);
	outer("iret outward, absent ss", iret_outer, ABSENT3 | 3);
	try_kernel("ltr null", ltr_null);
}

static void make_descriptors(void)
{
	const u32 base = (u32)buffer, flat = D_BIG | D_PAGES;

	set_gdt(SMALL, base, 0xff, D_DATA | D_DPL(3) | D_BIG);
	set_gdt(READ_ONLY, base, 0xff, 0x90 | D_DPL(3) | D_BIG);
	set_gdt(DOWN16, base, 0xfff, 0x96 | D_DPL(3));
	set_gdt(DOWN32, base + 0x1000, 0xfff, 0x96 | D_DPL(3) | D_BIG);
	set_gdt(EXEC_ONLY, base, 0xff, 0x98 | D_DPL(3) | D_BIG);
	set_gdt(READ_CODE, base, 0xff, D_CODE | D_DPL(3) | D_BIG);
	set_gdt(STACK32, base, 0xff, D_DATA | D_DPL(3) | D_BIG);
	set_gdt(STACK16, base, 0xffff, D_DATA | D_DPL(3));
	set_gdt(STACK_DOWN, base, 0xfff, 0x96 | D_DPL(3) | D_BIG);
	set_gdt(PAGES, base, 0, D_DATA | D_DPL(3) | flat);
	set_gdt(R1_CODE, 0, 0xfffff, D_CODE | D_DPL(1) | flat);
	set_gdt(R1_DATA, 0, 0xfffff, D_DATA | D_DPL(1) | flat);
	set_gdt(ABSENT, 0, 0xfffff, 0x12 | D_DPL(1) | flat);
	set_gdt(ABSENT3, 0, 0xfffff, 0x12 | D_DPL(3) | flat);
	set_gdt(R1_SMALL, base, 0xf, D_DATA | D_DPL(1) | D_BIG);
	gdt[GATE_R1 >> 3] = ((u32)stop & 0xffff) | (u64)R1_CODE << 16 | 0xecull << 40 |
			    (u64)((u32)stop >> 16) << 48;
	set_gate(0x41, stop, R1_CODE, 0xee);
}

/* Execute-only code cannot be loaded into DS: it is read through CS. */
SNIPPET(exec_only_read, ".byte 0x2e; mov 0,%al\n" STOP);

static void test_exec_only(void)
{
	struct regs r = regs_user(NULL);

	memcpy(buffer, exec_only_read, 16);
	r.cs = EXEC_ONLY | 3;
	r.ip = 0;
	guest_run(&r);
	say_trap("read of execute-only code", &r);
	r = regs_user(NULL);
	r.cs = READ_CODE | 3;
	r.ip = 0;
	guest_run(&r);
	say_trap("read of readable code", &r);
	memset(buffer, 0, 16);
}

void guest_main(void)
{
	make_descriptors();
	test_data();
	test_stack();
	test_code();
	test_exec_only();
	say("far jmp sets accessed", gdt[SHORT_CODE >> 3] >> 40 & 0xff);
	test_inner();
}
