/*
 * Protected mode without paging: ring transitions by IRET, INT, call gates, far JMP, CALL and RET;
 * checks of selectors and descriptors with their error codes; LDT; LAR LSL VERR VERW ARPL; the I/O
 * bitmap; IOPL; virtual-8086 mode. SDM vol. 3, chapters 5, 6 and 20.
 *
 * Limits and segment types of data accesses are in prot32_hw.
 */
#include "lib.h"

/* Slots of the GDT beyond those of the library. */
enum {
	R1_CODE = FREE_SEL, /* DPL 1 */
	R1_DATA = FREE_SEL + 8,
	CONFORMING = FREE_SEL + 0x10,
	ABSENT_CODE = FREE_SEL + 0x18,
	ABSENT_DATA = FREE_SEL + 0x20,
	READ_ONLY = FREE_SEL + 0x28,
	EXEC_ONLY = FREE_SEL + 0x30,
	LDT_SEL = FREE_SEL + 0x38,
	GATE = FREE_SEL + 0x40,
	GATE16 = FREE_SEL + 0x48,
	GATE_K = FREE_SEL + 0x50, /* DPL 0 */
	GATE_ABSENT = FREE_SEL + 0x58,
	GATE_BAD = FREE_SEL + 0x60, /* leads to ABSENT_CODE */
	GATE_NULL = FREE_SEL + 0x68,
	GATE_DATA = FREE_SEL + 0x70,
	GATE_R1 = FREE_SEL + 0x78,
	DATA16 = FREE_SEL + 0x80, /* 16-bit stack, DPL 3, base 0 */
	SMALL = FREE_SEL + 0x88,  /* limit 0x123, base 0x1000, DPL 3 */
	ABSENT_LDT = FREE_SEL + 0x90,
	TSS2 = FREE_SEL + 0x98,
	CONFORMING3 = FREE_SEL + 0xa0, /* execute-only, DPL 3 */
	BEYOND = GDT_SLOTS * 8 + 8,
};

static u64 ldt[4] ALIGNED(8);
static u8 r1_stack[1024];

/* 32-bit code below 64 KiB, for 16-bit gates. */
#define SNIPPET_LOW(name, code)                                                                    \
	extern u8 name[];                                                                          \
	asm(".pushsection .low,\"ax\"\n.globl " #name "\n" #name ":\n" code "\n.popsection\n")

/* The same for the assembler; FREE_SEL is 0x48. */
asm(".set R1_CODE, 0x48; .set R1_DATA, 0x50; .set CONFORMING, 0x58; .set ABSENT_CODE, 0x60\n"
    ".set ABSENT_DATA, 0x68; .set READ_ONLY, 0x70; .set EXEC_ONLY, 0x78; .set LDT_SEL, 0x80\n"
    ".set GATE, 0x88; .set GATE16, 0x90; .set GATE_K, 0x98; .set GATE_ABSENT, 0xa0\n"
    ".set GATE_BAD, 0xa8; .set GATE_NULL, 0xb0; .set GATE_DATA, 0xb8; .set GATE_R1, 0xc0\n"
    ".set DATA16, 0xc8; .set SMALL, 0xd0; .set ABSENT_LDT, 0xd8; .set TSS2, 0xe0\n"
    ".set CONFORMING3, 0xe8; .set BEYOND, 0x208\n");

SNIPPET(stop, STOP);
/* Targets of call gates: what lies on the stack goes into registers. */
SNIPPET(gate_target, "mov 0(%esp),%eax; mov 4(%esp),%ebx; mov 8(%esp),%ecx; mov 12(%esp),%edx\n"
		     "mov 16(%esp),%esi; mov 20(%esp),%edi; mov %cs,%ebp; lret $8\n");
SNIPPET_LOW(gate16_target, "movzwl 0(%esp),%eax; movzwl 2(%esp),%ebx; movzwl 4(%esp),%ecx\n"
			   "movzwl 6(%esp),%edx; movzwl 8(%esp),%esi; movzwl 10(%esp),%edi\n"
			   "movzwl 12(%esp),%ebp; data16 lret $6\n");
SNIPPET_LOW(int16_target, "movzwl 0(%esp),%eax; movzwl 2(%esp),%ebx; movzwl 4(%esp),%ecx\n"
			  "movzwl 6(%esp),%edx; movzwl 8(%esp),%esi\n" STOP);
SNIPPET(r1_target, "mov %cs,%eax; mov %ss,%ebx; mov (%esp),%ecx; mov 4(%esp),%edx\n" STOP);

static u64 call_gate(unsigned sel, const void *target, unsigned type, unsigned params)
{
	u32 off = (u32)target;

	return (off & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)type << 40 |
	       (u64)(off >> 16) << 48;
}

static void make_descriptors(void)
{
	const u32 flat = D_BIG | D_PAGES;

	set_gdt(R1_CODE, 0, 0xfffff, D_CODE | D_DPL(1) | flat);
	set_gdt(R1_DATA, 0, 0xfffff, D_DATA | D_DPL(1) | flat);
	set_gdt(CONFORMING, 0, 0xfffff, 0x9e | flat);
	set_gdt(ABSENT_CODE, 0, 0xfffff, 0x1a | D_DPL(3) | flat);
	set_gdt(ABSENT_DATA, 0, 0xfffff, 0x12 | D_DPL(3) | flat);
	set_gdt(READ_ONLY, 0, 0xfffff, 0x90 | D_DPL(3) | flat);
	set_gdt(EXEC_ONLY, 0, 0xfffff, 0x99 | D_DPL(3) | flat);
	set_gdt(LDT_SEL, (u32)ldt, sizeof(ldt) - 1, 0x82);
	set_gdt(ABSENT_LDT, (u32)ldt, sizeof(ldt) - 1, 0x02);
	set_gdt(DATA16, 0, 0xffff, D_DATA | D_DPL(3));
	set_gdt(SMALL, 0x1000, 0x123, D_DATA | D_DPL(3) | D_BIG);
	set_gdt(TSS2, (u32)&tss, 103, 0x89);
	set_gdt(CONFORMING3, 0, 0xfffff, 0x9c | D_DPL(3) | flat);
	gdt[GATE >> 3] = call_gate(KCODE, gate_target, 0xec, 2);
	gdt[GATE16 >> 3] = call_gate(KCODE, gate16_target, 0xe4, 3);
	gdt[GATE_K >> 3] = call_gate(KCODE, gate_target, 0x8c, 2);
	gdt[GATE_ABSENT >> 3] = call_gate(KCODE, gate_target, 0x6c, 0);
	gdt[GATE_BAD >> 3] = call_gate(ABSENT_CODE, gate_target, 0xec, 0);
	gdt[GATE_NULL >> 3] = call_gate(0, gate_target, 0xec, 0);
	gdt[GATE_DATA >> 3] = call_gate(KDATA, gate_target, 0xec, 0);
	gdt[GATE_R1 >> 3] = call_gate(R1_CODE, r1_target, 0xec, 0);
	ldt[1] = descriptor(0x2000, 0xfffff, D_DATA | D_DPL(3) | flat);
	ldt[2] = descriptor(0, 0xfffff, D_CODE | D_DPL(3) | flat);
	tss.ss1 = R1_DATA | 1;
	tss.esp1 = (u32)r1_stack + sizeof(r1_stack);
	asm volatile("lldt %w0" : : "r"(LDT_SEL));
}

/* --- tables --- */

SNIPPET(store_tables, "sub $16,%esp; sgdt (%esp); movzwl (%esp),%eax; mov 2(%esp),%ebx\n"
		      "sidt (%esp); movzwl (%esp),%ecx; mov 2(%esp),%edx; str %esi; sldt %edi\n"
		      "smsw %ebp\n" STOP);

static void test_tables(void)
{
	struct regs r = regs_user(store_tables);

	guest_run(&r);
	say("sgdt limit", r.ax);
	check("sgdt base", r.bx == (u32)gdt);
	say("sidt limit", r.cx);
	check("sidt base", r.dx == (u32)idt);
	say("str", r.si);
	say("sldt", r.di);
	check("smsw", r.bp == read_cr0());
	say("tss busy", gdt[TSS_SEL >> 3] >> 40 & 0xff);
	r = regs_kernel(store_tables);
	guest_run(&r);
	say("sgdt limit, cpl 0", r.ax);
}

/* --- interrupt gates --- */

static ulong seen_flags, seen_frame, seen_ss;

static void note(struct regs *r)
{
	ASM("pushf; pop %0" : "=r"(seen_flags));
	ASM("mov %%ss,%0" : "=r"(seen_ss));
	seen_frame = (ulong)r;
}

#define INT_CASES(X)                                                                               \
	X(int_dpl, "int through a DPL 0 gate", "int $0x20\n")                                      \
	X(int_absent, "int through an absent gate", "int $0x43\n")                                 \
	X(int_null, "gate with null selector", "int $0x44\n")                                      \
	X(int_data, "gate to data", "int $0x45\n")                                                 \
	X(int_absent_code, "gate to absent code", "int $0x46\n")                                   \
	X(int_beyond, "gate to beyond the GDT", "int $0x47\n")                                     \
	X(int_outer, "gate to an outer ring", "int $0x48\n")                                       \
	X(int_system, "gate of call gate type", "int $0x49\n")                                     \
	X(int_limit, "vector beyond the IDT", "int $0xf0\n")                                       \
	X(int_ldt, "gate to an LDT selector", "int $0x4d\n")
INT_CASES(CASE_SNIPPET)
static const struct test_case int_cases[] = {INT_CASES(CASE_ENTRY)};

SNIPPET(int_note, "int $0x41\n" STOP);
SNIPPET(trap_note, "int $0x42\n" STOP);
SNIPPET(int_conforming, "int $0x4a\n" STOP);
SNIPPET(int_16, "int $0x4b\n");
SNIPPET(int_r1, "int $0x4c\n");

static void test_gate_flags(void)
{
	struct regs r = regs_user(int_note);

	handlers[0x41] = handlers[0x42] = note;
	r.flags |= F_IF | F_NT;
	guest_run(&r);
	say_trap("interrupt gate", &r);
	say("handler flags", seen_flags & (F_IF | F_TF | F_NT));
	say("handler ss", seen_ss);
	check("handler on the TSS stack",
	      seen_frame + __builtin_offsetof(struct regs, v_es) == tss.esp0);
	say("flags after", r.flags & (F_IF | F_NT));
	say("cs ss after", r.cs << 16 | r.ss);
	r = regs_user(trap_note);
	r.flags |= F_IF;
	guest_run(&r);
	say("trap gate flags", seen_flags & F_IF);
	r = regs_kernel(int_note);
	guest_run(&r);
	check("same ring, same stack", seen_frame + 17 * 4 == (u32)snippet_stack_top);
}

static void test_int_gates(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) small = {0xf0 * 8 - 1, (u32)idt}, whole = {2047, (u32)idt};
	struct regs r;
	unsigned i;

	set_gate(0x41, stub_of(0x41), KCODE, 0xee);
	set_gate(0x42, stub_of(0x42), KCODE, 0xef);
	set_gate(0x43, stop, KCODE, 0x6e);
	set_gate(0x44, stop, 0, 0xee);
	set_gate(0x45, stop, KDATA, 0xee);
	set_gate(0x46, stop, ABSENT_CODE, 0xee);
	set_gate(0x47, stop, BEYOND, 0xee);
	set_gate(0x48, stop, UCODE, 0xee);
	set_gate(0x49, stop, KCODE, 0xec);
	set_gate(0x4a, stop, CONFORMING, 0xee);
	set_gate(0x4b, int16_target, KCODE, 0xe6);
	set_gate(0x4c, r1_target, R1_CODE, 0xee);
	set_gate(0x4d, stop, 0x24, 0xee);
	test_gate_flags();
	ASM("lidt %0" : : "m"(small));
	for (i = 0; i < COUNT(int_cases); i++) {
		r = int_cases[i].code == int_outer ? regs_kernel(int_cases[i].code)
						   : regs_user(int_cases[i].code);
		guest_run(&r);
		say_trap(int_cases[i].text, &r);
	}
	ASM("lidt %0" : : "m"(whole));
	r = regs_user(int_conforming);
	guest_run(&r);
	say("conforming handler cs", r.cs);
	say("its stack use", (u32)user_stack_top - r.sp);
	r = regs_user(int_16);
	r.flags |= F_CF;
	guest_run(&r);
	check("16-bit gate ip", r.ax == (u16)((u32)int_16 + 2));
	say("16-bit gate cs", r.bx);
	say("16-bit gate flags", r.cx);
	check("16-bit gate sp", r.dx == (u16)(u32)user_stack_top);
	say("16-bit gate ss", r.si);
	say("16-bit gate stack use", tss.esp0 - r.sp);
	r = regs_user(int_r1);
	guest_run(&r);
	say("ring 1 handler cs", r.ax);
	say("ring 1 handler ss", r.bx);
	say("ring 1 frame cs", r.dx);
	check("ring 1 stack", r.sp == tss.esp1 - 20);
}

/* --- call gates --- */

SNIPPET(call_gate_user, "push $0x11111111; push $0x22222222; lcall $GATE+3,$0xdeadbeef\n" STOP);
SNIPPET(call_gate_kernel, "push $0x11111111; push $0x22222222; lcall $GATE,$0\n" STOP);
SNIPPET_LOW(call_gate_user16,
	    "pushw $0x1111; pushw $0x2222; pushw $0x3333; lcall $GATE16+3,$0\n" STOP);
SNIPPET(call_gate_mem, "push $0x11111111; push $0x22222222; lcall *gate_pointer\n" STOP);
asm(".pushsection .data\ngate_pointer: .long 0; .word GATE\n.popsection");

#define FAR_CASES(X)                                                                               \
	X(far_gate_dpl, "call gate DPL", "lcall $GATE_K,$0\n")                                     \
	X(far_gate_absent, "absent call gate", "lcall $GATE_ABSENT,$0\n")                          \
	X(far_gate_bad, "call gate to absent code", "lcall $GATE_BAD,$0\n")                        \
	X(far_gate_null, "call gate with null", "lcall $GATE_NULL,$0\n")                           \
	X(far_gate_data, "call gate to data", "lcall $GATE_DATA,$0\n")                             \
	X(far_gate_jmp, "jmp through gate inward", "ljmp $GATE,$0\n")                              \
	X(far_kernel, "jmp to ring 0 code", "ljmp $8,$stop\n")                                     \
	X(far_kernel_call, "call to ring 0 code", "lcall $8,$stop\n")                              \
	X(far_rpl, "jmp to own ring with RPL 0", "ljmp $0x18,$stop\n")                             \
	X(far_absent, "jmp to absent code", "ljmp $ABSENT_CODE,$stop\n")                           \
	X(far_data, "jmp to data", "ljmp $0x23,$stop\n")                                           \
	X(far_null, "jmp to null", "ljmp $3,$stop\n")                                              \
	X(far_beyond, "jmp beyond the GDT", "ljmp $BEYOND+3,$stop\n")                              \
	X(far_conforming, "jmp to conforming code", "ljmp $CONFORMING,$stop\n")                    \
	X(far_call_conforming, "call to conforming code", "lcall $CONFORMING+3,$stop\n")           \
	X(far_ldt, "jmp to LDT code", "ljmp $0x17,$stop\n")                                        \
	X(far_ldt_data, "jmp to LDT data", "ljmp $0x0f,$stop\n")                                   \
	X(far_ldt_beyond, "jmp beyond the LDT", "ljmp $0x27,$stop\n")                              \
	X(far_exec_only, "jmp to execute-only code", "ljmp $EXEC_ONLY+3,$stop\n")                  \
	X(far_ldt_system, "jmp to LDT descriptor", "ljmp $LDT_SEL,$stop\n")                        \
	X(far_mem16, "jmp m16:16", "ljmpw *far_low\n")                                             \
	X(far_lret_inner, "ret to inner ring", "push $8; push $stop; lret\n")                      \
	X(far_lret_null, "ret to null", "push $0; push $stop; lret\n")                             \
	X(far_lret_data, "ret to data", "push $0x23; push $stop; lret\n")                          \
	X(far_lret, "ret to same ring", "push $0x1b; push $stop; lret\n")                          \
	X(far_lret16, "16-bit ret", "pushw $0x1b; pushw $stop_low; data16 lret\n")                 \
	X(far_iret_inner, "iret to inner ring", "pushf; push $8; push $stop; iret\n")              \
	X(far_iret, "iret to same ring", "pushf; push $0x1b; push $stop; iret\n")                  \
	X(far_iret_null, "iret to null", "pushf; push $1; push $stop; iret\n")                     \
	X(far_iret16, "16-bit iret", "pushfw; pushw $0x1b; pushw $stop_low; data16 iret\n")
FAR_CASES(CASE_SNIPPET)
static const struct test_case far_cases[] = {FAR_CASES(CASE_ENTRY)};
SNIPPET_LOW(stop_low, STOP);
asm(".pushsection .data\nfar_low: .word stop_low, 0x1b\n.popsection");

static void say_gate_call(const char *name, const struct regs *r, const void *code,
			  unsigned call_at)
{
	say_trap(name, r);
	check("  return address", (u16)r->ax == (u16)((u32)code + call_at));
	say("  cs", r->bx);
	say("  params", (u64)r->cx << 32 | r->dx);
	say("  cs inside", r->bp);
}

static void test_call_gates(void)
{
	struct regs r = regs_user(call_gate_user);

	guest_run(&r);
	say_gate_call("call gate", &r, call_gate_user, 17);
	check("  old esp", r.si == (u32)user_stack_top - 8);
	say("  old ss", r.di);
	check("  esp after", r.sp == (u32)user_stack_top);
	r = regs_kernel(call_gate_kernel);
	guest_run(&r);
	say_gate_call("call gate, same ring", &r, call_gate_kernel, 17);
	check("  esp after", r.sp == (u32)snippet_stack_top);
	r = regs_user(call_gate_mem);
	guest_run(&r);
	say_gate_call("call gate from memory", &r, call_gate_mem, 16);
	r = regs_user(call_gate_user16);
	guest_run(&r);
	say_trap("16-bit call gate", &r);
	check("  return address", r.ax == (u16)((u32)call_gate_user16 + 19));
	say("  cs", r.bx);
	say("  param 3", r.cx);
	say("  param 2", r.dx);
	say("  param 1", r.si);
	check("  old sp", r.di == (u16)((u32)user_stack_top - 6));
	say("  old ss", r.bp);
	check("  sp after", r.sp == (u16)(u32)user_stack_top); /* a word is popped into ESP */
}

static void test_far(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(far_cases); i++) {
		r = regs_user(far_cases[i].code);
		guest_run(&r);
		say_trap_kind(far_cases[i].text, &r);
		if (r.vector == STOP_VECTOR)
			say("  cs", r.cs);
		else
			check("  restart", r.ip >= r.start && r.ip < r.start + 16);
	}
}

/* The new stack of a ring 1 call is bad. */
SNIPPET(call_r1, "lcall $GATE_R1,$0\n" STOP);

static void test_bad_stack(const char *name, u16 ss)
{
	struct regs r = regs_user(call_r1);

	tss.ss1 = ss;
	guest_run(&r);
	tss.ss1 = R1_DATA | 1;
	say_trap_kind(name, &r);
}

static void test_bad_stacks(void)
{
	test_bad_stack("ss1 good", R1_DATA | 1);
	test_bad_stack("ss1 null", 0);
	test_bad_stack("ss1 with wrong RPL", R1_DATA | 3);
	test_bad_stack("ss1 with wrong DPL", KDATA | 1);
	test_bad_stack("ss1 code", R1_CODE | 1);
	test_bad_stack("ss1 absent", ABSENT_DATA | 1);
	test_bad_stack("ss1 beyond the GDT", BEYOND | 1);
}

/* --- returns to an outer ring --- */

SNIPPET(lret_outer, "push %eax; push %ebx; push $0x1b; push $stop\n"
		    "mov $0x10,%edx; mov %edx,%ds; mov $0x23,%edx; mov %edx,%es\n"
		    "mov $CONFORMING,%edx; mov %edx,%fs; mov $8,%edx; mov %edx,%gs\n lret\n");
SNIPPET(lret_outer_imm,
	"push %eax; push %ebx; push $1; push $2; push $0x1b; push $stop\n lret $8\n");
SNIPPET(iret_outer, "push %eax; push %ebx; push %ecx; push $0x1b; push $stop\n"
		    "mov $CONFORMING,%edx; mov %edx,%fs; mov $0x10,%edx; mov %edx,%gs\n iret\n");

static void outer(const char *name, const u8 *code, u16 ss)
{
	struct regs r = regs_kernel(code);

	r.ax = ss;
	r.bx = (u32)user_stack_top;
	r.cx = 2 | F_NT * 0 | F_DF;
	guest_run(&r);
	say_trap_kind(name, &r);
	if (r.vector != STOP_VECTOR)
		return;
	say("  cs ss", r.cs << 16 | r.ss);
	say("  ds es", r.ds << 16 | r.es);
	say("  fs gs", r.fs << 16 | r.gs);
	say("  moved", r.sp - (u32)user_stack_top);
}

static void test_outer(void)
{
	outer("ret outward", lret_outer, UDATA);
	outer("ret outward, imm", lret_outer_imm, UDATA);
	outer("iret outward", iret_outer, UDATA);
	outer("ret outward, null ss", lret_outer, 0);
	outer("ret outward, ss RPL", lret_outer, UDATA & ~3);
	outer("ret outward, ss DPL", lret_outer, KDATA | 3);
	outer("ret outward, read-only ss", lret_outer, READ_ONLY | 3);
	outer("iret outward, null ss", iret_outer, 3);
	outer("iret outward, beyond", iret_outer, BEYOND | 3);
}

/* --- segment registers --- */

#define LOAD(sel, seg) "mov $" sel ",%eax; mov %eax,%" seg "\n"
#define SEG_CASES(X)                                                                               \
	X(seg_null, "ds null", LOAD("3", "ds"))                                                    \
	X(seg_kernel, "ds ring 0", LOAD("0x10", "ds"))                                             \
	X(seg_rpl0, "ds own ring, RPL 0", LOAD("0x20", "ds"))                                      \
	X(seg_absent, "ds absent", LOAD("ABSENT_DATA+3", "ds"))                                    \
	X(seg_beyond, "ds beyond the GDT", LOAD("BEYOND+3", "ds"))                                 \
	X(seg_system, "ds system", LOAD("0x28", "ds"))                                             \
	X(seg_code, "es readable code", LOAD("0x1b", "es"))                                        \
	X(seg_exec_only, "es execute-only code", LOAD("EXEC_ONLY+3", "es"))                        \
	X(seg_conforming, "es conforming ring 0", LOAD("CONFORMING+3", "es"))                      \
	X(seg_ro, "fs read-only", LOAD("READ_ONLY+3", "fs"))                                       \
	X(seg_ldt, "gs from LDT", LOAD("0xf", "gs"))                                               \
	X(seg_ldt_beyond, "gs beyond the LDT", LOAD("0x27", "gs"))                                 \
	X(seg_ldt_null, "gs null LDT entry", LOAD("4", "gs"))                                      \
	X(seg_ss_null, "ss null", LOAD("0", "ss"))                                                 \
	X(seg_ss_null3, "ss null, RPL 3", LOAD("3", "ss"))                                         \
	X(seg_ss_rpl, "ss RPL", LOAD("0x20", "ss"))                                                \
	X(seg_ss_dpl, "ss DPL", LOAD("0x13", "ss"))                                                \
	X(seg_ss_ro, "ss read-only", LOAD("READ_ONLY+3", "ss"))                                    \
	X(seg_ss_code, "ss code", LOAD("0x1b", "ss"))                                              \
	X(seg_ss_absent, "ss absent", LOAD("ABSENT_DATA+3", "ss"))                                 \
	X(seg_pop, "pop ds ring 0", "push $0x10; pop %ds\n")                                       \
	X(seg_pop_ss, "pop ss absent", "push $ABSENT_DATA+3; pop %ss\n")                           \
	X(seg_les, "les ring 0", "les seg_pointer,%ebx\n")                                         \
	X(seg_lss, "lss", "lss seg_pointer+8,%ebx\n")                                              \
	X(seg_lfs16, "lfs 16-bit", "mov $-1,%ebx; lfsw seg_pointer+16,%bx\n")                      \
	X(seg_cs, "mov to cs", ".byte 0x8e,0xc8\n")                                                \
	X(seg_lldt, "lldt", "lldt %ax\n")                                                          \
	X(seg_ltr, "ltr", "ltr %ax\n")
SEG_CASES(CASE_SNIPPET)
static const struct test_case seg_cases[] = {SEG_CASES(CASE_ENTRY)};
asm(".pushsection .data\nseg_pointer: .long 0x12345678, 0x10, 0x87654321, 0x23\n"
    ".word 0x4321, 0x23\n.popsection");

#define KSEG_CASES(X)                                                                              \
	X(kseg_lldt_type, "lldt of data", "mov $0x10,%eax; lldt %ax\n")                            \
	X(kseg_lldt_absent, "lldt absent", "mov $ABSENT_LDT,%eax; lldt %ax\n")                     \
	X(kseg_lldt_ldt, "lldt from LDT", "mov $0xc,%eax; lldt %ax\n")                             \
	X(kseg_lldt_null, "lldt null",                                                             \
	  "xor %eax,%eax; lldt %ax; sldt %ebx\n"                                                   \
	  "mov $0xc,%eax; mov %eax,%es\n")                                                         \
	X(kseg_ltr_busy, "ltr busy", "mov $0x28,%eax; ltr %ax\n")                                  \
	X(kseg_ltr_type, "ltr of code", "mov $8,%eax; ltr %ax\n")                                  \
	X(kseg_ss_user, "ss of ring 3", "mov $0x23,%eax; mov %eax,%ss\n")                          \
	X(kseg_ds_user, "ds of ring 3", "mov $0x23,%eax; mov %eax,%ds\n")                          \
	X(kseg_ds_rpl, "ds of ring 0 with RPL 3", "mov $0x13,%eax; mov %eax,%ds\n")                \
	X(kseg_outer_jmp, "jmp to ring 3 code", "ljmp $0x1b,$stop\n")                              \
	X(kseg_gate_rpl, "ring 0 gate with RPL 3", "lcall $GATE_K+3,$0\n")                         \
	X(kseg_conforming3, "jmp to outer conforming", "ljmp $CONFORMING3,$stop\n")
KSEG_CASES(CASE_SNIPPET)
static const struct test_case kseg_cases[] = {KSEG_CASES(CASE_ENTRY)};

static void test_segments(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(seg_cases); i++) {
		r = try_user(seg_cases[i].text, seg_cases[i].code);
		if (r.vector == STOP_VECTOR)
			say("  ds es fs gs", (u64)(r.ds << 16 | r.es) << 32 | (r.fs << 16 | r.gs));
		if (seg_cases[i].code == seg_lss || seg_cases[i].code == seg_lfs16)
			say("  ebx", r.bx);
	}
	for (i = 0; i < COUNT(kseg_cases); i++)
		try_kernel(kseg_cases[i].text, kseg_cases[i].code);
	ASM("lldt %w0" : : "r"(LDT_SEL));
	say("accessed data", gdt[READ_ONLY >> 3] >> 40 & 0xff);
	say("not accessed", gdt[SMALL >> 3] >> 40 & 0xff);
	say("absent, not accessed", gdt[ABSENT_DATA >> 3] >> 40 & 0xff);
	ASM("ltr %w0" : : "r"(TSS2));
	say("second tss", gdt[TSS2 >> 3] >> 40 & 0xff);
	gdt[TSS_SEL >> 3] &= ~(2ull << 40);
	ASM("ltr %w0" : : "r"(TSS_SEL));
}

/* --- LAR, LSL, VERR, VERW, ARPL --- */

SNIPPET(inspect, "mov $-1,%edx; lar %eax,%edx; setz %cl; mov $-1,%esi; lsl %eax,%esi; setz %ch\n"
		 "verr %ax; setz %bl; verw %ax; setz %bh\n" STOP);
SNIPPET(arpl_up, "mov $0x10,%eax; mov $3,%ecx; arpl %cx,%ax; setz %bl\n" STOP);
SNIPPET(arpl_same, "mov $0x13,%eax; mov $1,%ecx; arpl %cx,%ax; setz %bl\n" STOP);
SNIPPET(arpl_mem, "mov $3,%ecx; push $0xabcd0021; arpl %cx,(%esp); setz %bl; pop %eax\n" STOP);
SNIPPET(lar16, "mov $-1,%edx; mov $0x23,%eax; larw %ax,%dx; mov $-1,%esi; lslw %ax,%si\n" STOP);

static void inspect_one(u16 sel, bool user)
{
	struct regs r = user ? regs_user(inspect) : regs_kernel(inspect);

	r.ax = sel;
	guest_run(&r);
	put(user ? "user " : "kernel ");
	put_hex(sel);
	put(": lar ");
	put_hex(r.cx & 0xff ? r.dx : 0);
	put(r.cx & 0xff ? "" : "(no)");
	put(" lsl ");
	put_hex(r.cx & 0xff00 ? r.si : 0);
	put(r.cx & 0xff00 ? "" : "(no)");
	if (sel != ABSENT_CODE && sel != ABSENT_DATA) { /* the manual does not say */
		put(r.bx & 0xff ? " r" : " -");
		put(r.bx & 0xff00 ? "w" : "-");
	}
	put(!(r.cx & 0xff) && r.dx != ~0ul ? " lar wrote" : "");
	put(!(r.cx & 0xff00) && r.si != ~0ul ? " lsl wrote" : "");
	put("\n");
}

static void test_inspect(void)
{
	static const u16 sels[] = {0,         3,         KCODE,      KDATA,         UCODE,
				   UDATA,     TSS_SEL,   CONFORMING, ABSENT_CODE,   ABSENT_DATA,
				   READ_ONLY, EXEC_ONLY, LDT_SEL,    GATE,          GATE16,
				   GATE | 3,  SMALL,     SMALL | 3,  BEYOND,        0xf,
				   0x24,      KDATA | 3, UDATA & ~3, CONFORMING | 3};
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(sels); i++)
		inspect_one(sels[i], false);
	for (i = 0; i < COUNT(sels); i++)
		inspect_one(sels[i], true);
	r = try_user("arpl raises", arpl_up);
	say("  ", r.ax << 8 | (u8)r.bx);
	r = try_user("arpl leaves", arpl_same);
	say("  ", r.ax << 8 | (u8)r.bx);
	r = try_user("arpl memory", arpl_mem);
	say("  ", (u64)r.ax << 8 | (u8)r.bx);
	r = try_user("16-bit lar, lsl", lar16);
	say("  lar", r.dx);
	say("  lsl", r.si);
}

/* --- privilege --- */

#define PRIV_CASES(X)                                                                              \
	X(priv_hlt, "hlt", "hlt\n")                                                                \
	X(priv_cli, "cli", "cli\n")                                                                \
	X(priv_sti, "sti", "sti\n")                                                                \
	X(priv_lgdt, "lgdt", "lgdt 0x9000\n")                                                      \
	X(priv_lidt, "lidt", "lidt 0x9000\n")                                                      \
	X(priv_lmsw, "lmsw", "lmsw %ax\n")                                                         \
	X(priv_clts, "clts", "clts\n")                                                             \
	X(priv_cr0, "mov from cr0", "mov %cr0,%eax\n")                                             \
	X(priv_cr3, "mov to cr3", "mov %eax,%cr3\n")                                               \
	X(priv_dr, "mov from dr7", "mov %dr7,%eax\n")                                              \
	X(priv_invlpg, "invlpg", "invlpg (%eax)\n")                                                \
	X(priv_wbinvd, "wbinvd", "wbinvd\n")                                                       \
	X(priv_rdmsr, "rdmsr", "rdmsr\n")                                                          \
	X(priv_wrmsr, "wrmsr", "wrmsr\n")                                                          \
	X(priv_rdtsc, "rdtsc", "rdtsc\n")                                                          \
	X(priv_in_allowed, "out to allowed port", "out %al,$0x80\n")                               \
	X(priv_in_word, "word out to two allowed ports", "mov $0x80,%edx; out %ax,%dx\n")          \
	X(priv_in_cross, "word out across", "mov $0x81,%edx; out %ax,%dx\n")                       \
	X(priv_in_dword, "dword out across", "mov $0x80,%edx; out %eax,%dx\n")                     \
	X(priv_in_denied, "out to denied port", "out %al,$0x82\n")                                 \
	X(priv_outs, "outs to denied port", "mov $0x82,%edx; mov $stop,%esi; outsb\n")             \
	X(priv_in_beyond, "in beyond the bitmap", "mov $0x3000,%edx; in %dx,%al\n")                \
	X(priv_popf, "popf", "push $0x3202; popf; pushf; pop %ebx\n")                              \
	X(priv_popf_if, "popf clears IF", "push $2; popf; pushf; pop %ebx\n")                      \
	X(priv_popfw, "popfw", "pushw $0x3202; popfw; pushf; pop %ebx\n")                          \
	X(priv_popf_id, "popf ID AC", "push $0x240002; popf; pushf; pop %ebx; push $2; popf\n")    \
	X(priv_iret, "iret", "push $0x3202; push %cs; push $1f; iret; 1: pushf; pop %ebx\n")
PRIV_CASES(CASE_SNIPPET)
static const struct test_case priv_cases[] = {PRIV_CASES(CASE_ENTRY)};
SNIPPET(tsd, "rdtsc\n" STOP);

static void privilege(const char *who, bool user, ulong flags)
{
	struct regs r;
	unsigned i;

	say_str("privilege", who);
	for (i = 0; i < COUNT(priv_cases); i++) {
		const u8 *code = priv_cases[i].code;

		if (!user && i < 15) /* those the kernel may do */
			continue;
		r = user ? regs_user(code) : regs_kernel(code);
		r.flags = 2 | flags;
		r.bx = 0;
		guest_run(&r);
		say_trap_kind(priv_cases[i].text, &r);
		if (r.bx)
			say("  flags", r.bx);
	}
}

static void test_privilege(void)
{
	struct regs r;

	tss.bits[0x80 / 8] &= ~3; /* ports 0x80 and 0x81 */
	privilege("user, IOPL 0", true, 0);
	privilege("user, IOPL 0, IF", true, F_IF);
	privilege("user, IOPL 3", true, F_IOPL3);
	privilege("kernel", false, 0);
	tss.iomap = sizeof(tss);
	try_user("no bitmap", priv_in_allowed);
	tss.iomap = __builtin_offsetof(struct tss, bits);
	write_cr4(read_cr4() | 4);
	r = regs_user(tsd);
	guest_run(&r);
	say_trap("rdtsc with TSD", &r);
	r = regs_kernel(tsd);
	guest_run(&r);
	say_trap("rdtsc with TSD, cpl 0", &r);
	write_cr4(read_cr4() & ~4);
}

/* --- virtual-8086 mode --- */

#define V86_CASES(X)                                                                               \
	X(v_hlt, "hlt", "hlt\n")                                                                   \
	X(v_int3, "int3", "int3\n")                                                                \
	X(v_int, "int, DPL 3", "int $0x40\n")                                                      \
	X(v_int_k, "int, DPL 0", "int $0x20\n")                                                    \
	X(v_cli, "cli", "cli; pushf; pop %bx; hlt\n")                                              \
	X(v_pushf, "pushf", "stc; pushf; pop %bx; hlt\n")                                          \
	X(v_pushfd, "pushfd", "stc; pushfl; pop %ebx; hlt\n")                                      \
	X(v_popf, "popf", "mov $0x0203,%bx; push %bx; popf; pushf; pop %bx; hlt\n")                \
	X(v_iret, "iret", "pushf; push %cs; push $1f; iret; 1: mov $0x77,%bx; hlt\n")              \
	X(v_out_ok, "out to allowed port", "out %al,$0x80; hlt\n")                                 \
	X(v_out, "out to denied port", "out %al,$0x82; hlt\n")                                     \
	X(v_lldt, "lldt", "lldt %ax; hlt\n")                                                       \
	X(v_str, "str", "str %ax; hlt\n")                                                          \
	X(v_lar, "lar", "lar %ax,%bx; hlt\n")                                                      \
	X(v_arpl, "arpl", "arpl %ax,%bx; hlt\n")                                                   \
	X(v_cr0, "mov from cr0", "mov %cr0,%eax; hlt\n")                                           \
	X(v_lgdt, "lgdt", "lgdt 0; hlt\n")                                                         \
	X(v_smsw, "smsw", "smsw %bx; and $1,%bx; hlt\n")                                           \
	X(v_seg, "segments",                                                                       \
	  "mov $0x7c0,%ax; mov %ax,%es; mov $0x5a,%dl; mov %dl,%es:0x400\n"                        \
	  "xor %ax,%ax; mov %ax,%ds; mov 0x8000,%bl; movzbw 0x8000,%bx; hlt\n")                    \
	X(v_far, "far call",                                                                       \
	  "lcall $0x10,$v_far_target-0x100; hlt\n"                                                 \
	  "v_far_target: mov %cs,%bx; lret\n")                                                     \
	X(v_into, "into", "mov $0x7f,%al; inc %al; into; hlt\n")                                   \
	X(v_sti, "sti", "sti; hlt\n")                                                              \
	X(v_ud, "ud2", "ud2\n")                                                                    \
	X(v_de, "divide", "xor %bl,%bl; div %bl\n")
#define V86_SNIPPET(name, text, code) SNIPPET16(name, code);
V86_CASES(V86_SNIPPET)
static const struct test_case v86_cases[] = {V86_CASES(CASE_ENTRY)};

static struct regs regs_v86(const u8 *code, ulong flags)
{
	struct regs r = regs_kernel(code);

	r.flags = 2 | F_VM | flags;
	r.cs = r.ss = 0;
	r.sp = 0x7000;
	r.v_ds = 0x1111;
	r.v_es = 0x2222;
	r.v_fs = 0x3333;
	r.v_gs = 0x4444;
	r.ds = r.es = r.fs = r.gs = 0;
	return r;
}

static void test_v86(void)
{
	struct regs r;
	unsigned i, pass;

	for (pass = 0; pass < 2; pass++) {
		say_str("v86", pass ? "IOPL 3" : "IOPL 0");
		for (i = 0; i < COUNT(v86_cases); i++) {
			r = regs_v86(v86_cases[i].code, pass ? F_IOPL3 | F_IF : F_IF);
			r.bx = 0;
			guest_run(&r);
			say_trap(v86_cases[i].text, &r);
			if (r.bx && r.vector == GP)
				say("  bx", r.bx);
		}
	}
	say("v86 frame ds es", r.v_ds << 16 | r.v_es);
	say("v86 frame fs gs", r.v_fs << 16 | r.v_gs);
	say("v86 handler segments", r.ds | r.es | r.fs | r.gs);
	say("v86 frame flags", r.flags & ~(F_ARITH | F_RF));
	say("v86 frame cs ss sp", (u64)r.cs << 32 | r.ss << 16 | r.sp);
}

void guest_main(void)
{
	make_descriptors();
	test_tables();
	test_int_gates();
	test_call_gates();
	test_far();
	test_bad_stacks();
	test_outer();
	test_segments();
	test_inspect();
	test_privilege();
	test_v86();
}
