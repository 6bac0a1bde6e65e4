/*
 * Long mode: 64-bit operands and encodings, compatibility mode, far transfers and 64-bit call
 * gates, IRETQ and its frames, IST, SYSCALL and SYSENTER, FS and GS bases, SWAPGS, CR8, canonical
 * addresses, leaving long mode and coming back. SDM vol. 3, 5.8, 6.14 and chapter 9; vol. 2, the
 * instructions.
 */
#include "lib.h"

#define EFER      0xc0000080
#define STAR      0xc0000081
#define LSTAR     0xc0000082
#define FMASK     0xc0000084
#define FS_BASE   0xc0000100
#define GS_BASE   0xc0000101
#define KERNEL_GS 0xc0000102

enum {
	GATE = FREE_SEL,           /* two slots each */
	GATE_32 = FREE_SEL + 0x10, /* leads to 32-bit code */
	GATE_K = FREE_SEL + 0x20,  /* DPL 0 */
	LDT_SEL = FREE_SEL + 0x30,
	CODE16 = FREE_SEL + 0x40, /* compatibility mode, 16-bit, DPL 3 */
};
asm(".set GATE, 0x48; .set GATE_32, 0x58; .set GATE_K, 0x68; .set LDT_SEL, 0x78\n"
    ".set CODE16, 0x88\n");

static u64 data[16] ALIGNED(64);

SNIPPET(stop, STOP);

/* --- operands and encodings --- */

/* Registers of interest: AX BX CX DX R8. */
#define CASES(X)                                                                                   \
	X(zext, "32-bit result", "mov $-1,%rax; mov $5,%eax; mov $-1,%rbx; add $1,%ebx\n")         \
	X(keep16, "16-bit result", "mov $-1,%rax; mov $5,%ax; mov $-1,%rbx; mov $7,%bh\n")         \
	X(cmov, "cmov not taken",                                                                  \
	  "mov $-1,%rax; cmp %eax,%eax; cmovne %ecx,%eax; sbb %edx,%edx\n")                        \
	X(movsxd, "movslq",                                                                        \
	  "mov $0x80000000,%eax; movslq %eax,%rbx; movzbq %al,%rcx; movswq %ax,%rdx\n")            \
	X(riprel, "rip-relative",                                                                  \
	  "movq $-2,data_here(%rip); mov data_here(%rip),%rax\n"                                   \
	  "lea data_here(%rip),%rbx; sub $data_here,%rbx\n")                                       \
	X(riprel_imm, "rip-relative with imm",                                                     \
	  "movq $0,data_here(%rip); addl $0x12345678,data_here(%rip)\n"                            \
	  "mov data_here,%rax\n")                                                                  \
	X(moffs, "movabs",                                                                         \
	  "movabs $0x1122334455667788,%rax; movabs %rax,data_here\n"                               \
	  "movabs data_here,%al; movabs data_here,%eax; mov %rax,%rbx\n")                          \
	X(addr32, "32-bit address",                                                                \
	  "movabs $0xffffffff00000000,%rbx; mov $data_here,%ecx; or %rcx,%rbx; movl "              \
	  "$77,data_here\n"                                                                        \
	  "mov (%ebx),%eax; lea 1(%ebx),%rcx; xor %ebx,%ebx; sub $data_here,%rcx\n")               \
	X(push_imm, "push imm",                                                                    \
	  "mov %rsp,%rcx; push $-2; pop %rax; push $0x7fffffff; pop %rbx\n"                        \
	  "sub %rsp,%rcx; pushw $3; mov %rsp,%rdx; popw %r8w; sub %rsp,%rdx\n")                    \
	X(pop_rsp, "pop (rsp)", "push $1; push $2; popq (%rsp); pop %rax\n")                       \
	X(push_rsp, "push rsp",                                                                    \
	  "mov %rsp,%rax; push %rsp; pop %rbx; sub %rbx,%rax; mov %rax,%rbx\n")                    \
	X(enter, "enter",                                                                          \
	  "mov %rsp,%rax; enter $32,$0; mov %rax,%rbx; sub %rbp,%rbx; sub %rsp,%rax; leave\n")     \
	X(loop, "loop rcx",                                                                        \
	  "mov $0x100000001,%rcx; 1: inc %eax; cmp $3,%eax; je 2f; loop 1b; 2:\n")                 \
	X(loop32, "loop ecx", "mov $0x100000002,%rcx; 1: inc %eax; addr32 loop 1b\n")              \
	X(jecxz, "jecxz",                                                                          \
	  "mov $0x100000000,%rcx; jrcxz 1f; inc %eax; 1: jecxz 2f; inc %ebx; 2:\n")                \
	X(xchg90, "xchg r8",                                                                       \
	  "mov $5,%r8; mov $6,%eax; .byte 0x49,0x90\nmov $-1,%rbx; .byte 0x90\n")                  \
	X(xchg_eax, "xchg eax,eax is nop",                                                         \
	  "mov $-1,%rax; .byte 0x90; mov $-1,%rbx; .byte 0x87,0xc0\n")                             \
	X(div128, "div 128",                                                                       \
	  "mov $3,%edx; mov $7,%rax; mov $0x10,%ebx; div %rbx; mov %rax,%rcx\n")                   \
	X(imul64, "imul", "mov $0x123456789abcdef,%rax; mov $-3,%rbx; imul %rbx\n")                \
	X(shifts, "shift counts",                                                                  \
	  "mov $1,%eax; mov $65,%ecx; shl %cl,%rax; mov $1,%ebx; shl %cl,%ebx\n"                   \
	  "mov $1,%edx; shl $63,%rdx\n")                                                           \
	X(bswap64, "bswap",                                                                        \
	  "mov $0x1122334455667788,%rax; bswap %rax; mov %rax,%rbx; bswap %ebx\n")                 \
	X(cmpxchg16, "cmpxchg16b",                                                                 \
	  "movq $1,data_here; movq $2,data_here+8; mov $1,%eax; mov $2,%edx\n"                     \
	  "mov $3,%ebx; mov $4,%ecx; lock cmpxchg16b data_here; setz %r8b\n"                       \
	  "mov data_here+8,%rax; mov data_here,%rdx\n")                                            \
	X(bt64, "bts memory",                                                                      \
	  "movq $0,data_here+16; mov $130,%eax; bts %rax,data_here; mov data_here+16,%rbx\n")      \
	X(cwd, "cqo", "mov $-5,%rax; cqto; mov $0x80000000,%ebx; xchg %rax,%rbx; cltq\n")          \
	X(spl, "spl and friends",                                                                  \
	  "mov %rsp,%rcx; mov $0x11,%spl; mov %spl,%al; mov %rcx,%rsp; xor %ecx,%ecx\n"            \
	  "mov $0x22,%sil; mov %sil,%bl\n")                                                        \
	X(sgdt, "sgdt",                                                                            \
	  "sgdt data_here; movzwl data_here,%eax; mov data_here+2,%rbx; sub $gdt,%rbx\n"           \
	  "sidt data_here; movzwl data_here,%ecx\n")                                               \
	X(str, "str sldt",                                                                         \
	  "mov $-1,%rax; str %eax; mov $-1,%rbx; str %rbx; mov $-1,%rcx; str %cx\n"                \
	  "mov $-1,%rdx; sldt %edx\n")                                                             \
	X(smsw, "smsw", "smsw %rax; mov %cr0,%rbx; sub %rbx,%rax; xor %ebx,%ebx\n")                \
	X(nulls, "null data segments",                                                             \
	  "xor %eax,%eax; mov %eax,%ds; mov %eax,%es\n"                                            \
	  "movq $9,data_here; mov data_here,%rbx; mov $0x10,%eax\n"                                \
	  "mov %eax,%ds; mov %eax,%es\n")                                                          \
	X(ss_null, "null ss at CPL 0",                                                             \
	  "xor %eax,%eax; mov %eax,%ss; push $5; pop %rbx; mov %ss,%ecx\n"                         \
	  "mov $0x10,%eax; mov %eax,%ss\n")                                                        \
	X(xlat, "xlat",                                                                            \
	  "mov $data_here,%ebx; movb $0x5a,data_here+7; mov $7,%eax; xlat; xor %ebx,%ebx\n")       \
	X(movs, "movsq",                                                                           \
	  "movq $0x12345,data_here; mov $data_here,%esi; mov $data_here+64,%edi; movsq\n"          \
	  "mov data_here+64,%rax\n")                                                               \
	X(call_reg, "call, ret",                                                                   \
	  "mov $1f,%eax; call *%rax; jmp 2f; 1: incl %ebx; ret; 2: xor %eax,%eax\n"                \
	  "call 3f; jmp 4f; 3: inc %ecx; ret $0; 4:\n")                                            \
	X(jmp66, "jmp with 66", ".byte 0x66; jmp 1f; 1: inc %eax\n")
CASES(CASE_SNIPPET)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};
asm(".pushsection .bss\n.balign 16\ndata_here: .skip 128\n.popsection");

static void test_cases(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(cases); i++) {
		r = regs_kernel(cases[i].code);
		guest_run(&r);
		put(cases[i].text);
		put(r.vector == STOP_VECTOR ? ": ax " : ": TRAP ax ");
		put_hex(r.ax);
		put(" bx ");
		put_hex(r.bx);
		put(" cx ");
		put_hex(r.cx);
		put(" dx ");
		put_hex(r.dx);
		put(" r8 ");
		put_hex(r.r8);
		put("\n");
	}
}

/* --- faults --- */

#define FAULTS(X)                                                                                  \
	X(f_noncanon, "read, not canonical", "mov $0x800000000000,%rbx; mov (%rbx),%al\n")         \
	X(f_noncanon_w, "write, not canonical", "mov $0x7fffffffffffffff,%rbx; mov %al,(%rbx)\n")  \
	X(f_noncanon_x, "x87, not canonical", "mov $0xffff7fffffffffff,%rbx; fldt (%rbx)\n")       \
	X(f_movs, "movs, not canonical", "mov $data_here,%esi; mov $0x800000000000,%rdi; movsb\n") \
	X(f_cmpxchg16, "cmpxchg16b unaligned", "lock cmpxchg16b data_here+8\n")                    \
	X(f_div, "div overflow", "mov $1,%edx; mov $1,%ebx; div %rbx\n")                           \
	X(f_swapgs, "swapgs", "swapgs; swapgs\n")                                                  \
	X(f_cr8, "mov to cr8", "mov $3,%eax; mov %rax,%cr8; xor %eax,%eax; mov %rax,%cr8\n")       \
	X(f_ltr, "ltr busy", "mov $0x30,%eax; ltr %ax\n")                                          \
	X(f_gate_k, "gate of DPL 0", "lcall *gate_k_pointer\n")                                    \
	X(f_gate_32, "gate to 32-bit code", "lcall *gate_32_pointer\n")                            \
	X(f_nt, "iret with NT", "pushf; orl $0x4000,(%rsp); popf; push $0; push $0; iretq\n")      \
	X(f_sysret, "sysret", "mov $stop,%ecx; mov $2,%r11d; sysretq\n")                           \
	X(f_wrmsr, "wrmsr", "mov $0xc0000100,%ecx; xor %eax,%eax; xor %edx,%edx; wrmsr\n")         \
	X(f_lret_null, "lret to null", "push $0; push $stop; lretq\n")                             \
	X(f_lret_data, "lret to data", "push $0x10; push $stop; lretq\n")                          \
	X(f_iret_null_ss, "iretq to CPL 3 with null ss",                                           \
	  "push $3; push %rsp; push $2; push $0x2b\n"                                              \
	  "push $stop; iretq\n")                                                                   \
	X(f_iret_null_ss0, "iretq to CPL 0 with null ss",                                          \
	  "mov %rsp,%rax; push $0; push %rax; push $2\n"                                           \
	  "push $8; push $stop; iretq\n")                                                          \
	X(f_iret_ss_rpl, "iretq with ss of CPL 3",                                                 \
	  "mov %rsp,%rax; push $0x23; push %rax; push $2\n"                                        \
	  "push $8; push $stop; iretq\n")
FAULTS(CASE_SNIPPET)
static const struct test_case faults[] = {FAULTS(CASE_ENTRY)};
asm(".pushsection .data\n"
    "gate_k_pointer: .long 0; .word GATE_K\ngate_32_pointer: .long 0; .word "
    "GATE_32+3\n.popsection");

static const u8 undefined[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
			       0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea};

static void test_faults(void)
{
	static u8 code[32];
	bool all = true;
	unsigned i;

	for (i = 0; i < COUNT(faults); i++) {
		struct regs r = regs_kernel(faults[i].code);

		guest_run(&r);
		say_trap_kind(faults[i].text, &r);
		r = regs_user(faults[i].code);
		guest_run(&r);
		put("  at CPL 3");
		say_trap_kind("", &r);
	}
	memset(code, 0x90, sizeof(code));
	for (i = 0; i < COUNT(undefined); i++) {
		struct regs r = regs_kernel(code);

		code[0] = undefined[i];
		guest_run(&r);
		all &= r.vector == UD && r.ip == (ulong)code;
	}
	check("undefined in 64-bit mode", all);
}

/* --- compatibility mode --- */

SNIPPET32(compat, "mov %esp,%esi; push $0x12345678; pop %ebx; mov %ds,%ecx; .byte 0x40\n"
		  "mov %cs,%edx; pusha; mov 12(%esp),%eax; add $32,%esp; int $0x40\n");
SNIPPET32(compat_wrap, "mov $0xfffffffc,%ebx; addl $1,4+compat_data(%ebx); mov compat_data,%eax\n"
		       "int $0x40\n");
SNIPPET32(compat_bcd, "mov $0x19,%al; add $0x28,%al; daa; int $0x40\n");
SNIPPET32(compat_to64, "ljmp $0x2b,$compat_in64\n");
SNIPPET(compat_in64,
	"mov $-1,%rax; inc %rax; mov %cs,%ebx; mov $-1,%r8; push $0x1b; push $compat_back\n"
	"lretq\n");
SNIPPET32(compat_back, "mov %cs,%ecx; xor %edx,%edx; dec %edx; int $0x40\n");
SNIPPET32(compat_call, "lcall $0x2b,$compat_callee; mov $7,%ecx; int $0x40\n");
SNIPPET(compat_callee, "mov %cs,%eax; mov (%rsp),%ebx; mov 4(%rsp),%edx; lretl\n");
SNIPPET32(compat_gate, "mov %esp,%esi; lcall $GATE+3,$0; mov %esp,%edi; int $0x40\n");
SNIPPET32(compat_pf, "mov 0xfee00000,%eax; ud2\n");
SNIPPET16(compat16, "mov $0x1234,%ax; push %ax; pop %bx; mov %cs,%cx; mov $compat_word,%edx\n"
		    "addr32 mov (%edx),%dx; int $0x40\n"
		    "compat_word: .word 0xbeef\n");
asm(".pushsection .bss\n.balign 8\ncompat_data: .skip 8\n.popsection");

static struct regs compat_run(const char *name, const u8 *code, ulong cs)
{
	struct regs r = cs & 3 ? regs_user(code) : regs_kernel(code);

	r.cs = cs;
	r.r8 = 0x1234567812345678;
	guest_run(&r);
	say_trap_kind(name, &r);
	say("  cs", r.cs);
	return r;
}

static void test_compat(void)
{
	struct regs r = compat_run("compatibility mode", compat, UCODE32);

	say("  bx", r.bx);
	say("  cx", r.cx);
	say("  dx", r.dx);
	check("  esp", r.si == (ulong)user_stack_top && r.ax == r.si && r.sp == r.si);
	say("  r8", r.r8);
	r = compat_run("at CPL 0", compat, KCODE32);
	say("  dx", r.dx);
	r = compat_run("addresses wrap", compat_wrap, UCODE32);
	say("  ax", r.ax);
	r = compat_run("daa", compat_bcd, UCODE32);
	say("  ax", r.ax);
	r = compat_run("to 64-bit code and back", compat_to64, UCODE32);
	say("  ax", r.ax);
	say("  bx", r.bx);
	say("  cx", r.cx);
	say("  dx", r.dx);
	r = compat_run("call to 64-bit code", compat_call, UCODE32);
	say("  ax", r.ax);
	check("  bx", r.bx == (ulong)compat_call + 7);
	say("  cx", r.cx);
	say("  dx", r.dx);
	r = compat_run("a gate from compatibility mode", compat_gate, UCODE32);
	check("  rip", r.ax == (ulong)compat_gate + 9);
	say("  cs", r.bx);
	check("  rsp", r.cx == (ulong)user_stack_top && r.si == r.di);
	say("  ss", r.dx);
	r = compat_run("16-bit code", compat16, CODE16 | 3);
	say("  bx", r.bx & 0xffff);
	say("  cx", r.cx & 0xffff);
	say("  dx", r.dx & 0xffff);
}

/* --- far transfers and call gates --- */

SNIPPET(gate_target, "mov (%rsp),%rax; mov 8(%rsp),%rbx; mov 16(%rsp),%rcx; mov 24(%rsp),%rdx\n"
		     "mov %cs,%r8d; mov %ss,%r9d; mov %rsp,%r10; lretq\n");
SNIPPET(call_gate, "lcall *gate_pointer; mov %rsp,%r11\n" STOP);
SNIPPET(call_gate_k, "lcall *gate_pointer; mov %rsp,%r11\n" STOP);
SNIPPET(jmp_m32, "ljmpl *jmp_pointer32\n");
SNIPPET(jmp_m64, "rex.W ljmp *jmp_pointer64\n");
SNIPPET(call_m64, "rex.W lcall *call_pointer64; mov $5,%ecx\n" STOP);
SNIPPET(call_m32, "lcall *call_pointer32; mov $5,%ecx\n" STOP);
SNIPPET(far_callee64, "mov (%rsp),%rax; mov 8(%rsp),%rbx; lretq\n");
SNIPPET(far_callee32, "mov (%rsp),%eax; mov 4(%rsp),%ebx; lretl\n");
SNIPPET(
    lret_imm,
    "mov %rsp,%rax; push $1; push $2; push $0x2b; push $1f; lretq $16; 1: sub %rsp,%rax\n" STOP);
SNIPPET(iretl,
	"mov %esp,%eax; sub $20,%rsp; movl $0x23,16(%rsp); mov %eax,12(%rsp); movl $0x246,8(%rsp)\n"
	"movl $0x2b,4(%rsp); movl $1f,(%rsp); iretl; 1:\n" STOP);
SNIPPET(lret_outer, "push $0x23; push $user_stack_top; push $0x2b; push $stop; lretq\n");
SNIPPET(lret_outer32, "push $0x23; push $user_stack_top; push $0x1b; push $stop32; lretq\n");
SNIPPET32(stop32, "int $0x40\n");
asm(".pushsection .data\ngate_pointer: .long 0x55555555; .word GATE+3\n"
    "jmp_pointer32: .long stop; .word 0x2b\njmp_pointer64: .quad stop; .word 0x2b\n"
    "call_pointer64: .quad far_callee64; .word 0x2b\ncall_pointer32: .long far_callee32; .word "
    "0x2b\n"
    ".popsection");

static void set_call_gate(unsigned sel, unsigned code, const void *target, unsigned type)
{
	u64 off = (ulong)target;

	gdt[sel >> 3] =
	    (off & 0xffff) | (u64)code << 16 | (u64)type << 40 | (off >> 16 & 0xffff) << 48;
	gdt[(sel >> 3) + 1] = off >> 32;
}

static void test_far(void)
{
	struct regs r = regs_user(call_gate);

	guest_run(&r);
	say_trap("call gate", &r);
	check("  rip", r.ax == (ulong)call_gate + 7);
	say("  cs", r.bx);
	check("  rsp", r.cx == (ulong)user_stack_top && r.r11 == r.cx);
	say("  ss", r.dx);
	say("  cs inside", r.r8);
	say("  ss inside", r.r9);
	check("  rsp0", r.r10 == tss.rsp[0] - 32);
	r = regs_kernel(call_gate_k);
	guest_run(&r);
	say_trap("call gate, same ring", &r);
	say("  ss inside", r.r9);
	check("  rsp", r.r10 == (ulong)snippet_stack_top - 16 && r.r11 == (ulong)snippet_stack_top);
	r = regs_user(jmp_m32);
	guest_run(&r);
	say_trap_kind("jmp m16:32", &r);
	/* REX.W: m16:64 is Intel's; others take m16:32, whose selector is 0. */
	r = regs_user(call_m32);
	guest_run(&r);
	say_trap("call m16:32", &r);
	check("  rip", r.ax == (ulong)call_m32 + 7);
	say("  cs", r.bx);
	r = regs_user(lret_imm);
	guest_run(&r);
	say_trap_kind("lretq imm", &r);
	say("  moved", r.ax);
	r = regs_user(iretl);
	guest_run(&r);
	say_trap_kind("iretl", &r);
	say("  flags", r.flags);
	check("  rsp", r.sp == (ulong)user_stack_top);
	r = regs_kernel(lret_outer);
	guest_run(&r);
	say_trap_kind("lretq outward", &r);
	say("  cs ss", r.cs << 16 | r.ss);
	check("  rsp", r.sp == (ulong)user_stack_top);
	r = regs_kernel(lret_outer32);
	guest_run(&r);
	say_trap_kind("lretq outward to 32-bit code", &r);
	say("  cs ss", r.cs << 16 | r.ss);
}

static void test_far_intel(void)
{
	struct regs r;
	struct cpuid id = cpuid(0, 0);

	if (id.b != 0x756e6547) { /* Genu */
		put("[intel] skipped\n");
		return;
	}
	r = regs_user(jmp_m64);
	guest_run(&r);
	say_trap_kind("[intel] jmp m16:64", &r);
	r = regs_user(call_m64);
	guest_run(&r);
	say_trap_kind("[intel] call m16:64", &r);
	check("[intel] rip", r.ax == (ulong)call_m64 + 8);
	say("[intel] cs", r.bx);
}

/* --- interrupts --- */

static ulong frame_at, seen_ss, seen_cs;

static void note(struct regs *r)
{
	frame_at = (ulong)(&r->ss + 1);
	ASM("mov %%ss,%0" : "=r"(seen_ss));
	ASM("mov %%cs,%0" : "=r"(seen_cs));
}

SNIPPET(int_44, "int $0x44\n" STOP);
SNIPPET(odd_stack, "sub $5,%rsp; mov %rsp,%rax; int $0x44; mov %rsp,%rbx\n" STOP);
SNIPPET(bad_stack, "mov $0x5000000000,%rsp; push %rax\n" STOP);
SNIPPET(bad_stack_ud, "mov $0x5000000000,%rsp; ud2\n" STOP);

static u8 ist_stacks[2][4096] ALIGNED(16);

static void use_ist(unsigned vector, unsigned ist)
{
	idt[2 * vector] = (idt[2 * vector] & ~(7ull << 32)) | (u64)ist << 32;
}

static void test_ist(void)
{
	struct regs r;

	handlers[0x44] = note;
	tss.ist[6] = (ulong)ist_stacks[1];
	set_gate(0x44, stub_of(0x44), KCODE, 0xee);
	use_ist(0x44, 7);
	r = regs_kernel(int_44);
	guest_run(&r);
	check("IST 7, same ring", frame_at == (ulong)ist_stacks[1]);
	r = regs_user(int_44);
	guest_run(&r);
	check("IST 7, from CPL 3", frame_at == (ulong)ist_stacks[1]);
	say("  ss", seen_ss);
	say("  cs", seen_cs);
	tss.ist[6] = (ulong)ist_stacks[1] - 3;
	r = regs_kernel(int_44);
	guest_run(&r);
	check("IST not aligned", frame_at == (ulong)ist_stacks[1] - 16);
	use_ist(0x44, 0);
	r = regs_kernel(odd_stack);
	guest_run(&r);
	check("no IST, aligned by 16", frame_at == ((ulong)snippet_stack_top - 5) / 16 * 16);
	check("and restored", r.ax == r.bx);
	r = regs_user(int_44);
	guest_run(&r);
	check("no IST, from CPL 3: RSP0", frame_at == tss.rsp[0]);
	/* A bad stack: #PF on its IST; without one, #DF on its. */
	r = regs_kernel(bad_stack);
	guest_run(&r);
	say_trap("push to a bad stack", &r);
	say("  cr2", r.cr2);
	use_ist(PF, 0);
	r = regs_kernel(bad_stack);
	guest_run(&r);
	say_trap("without IST", &r);
	use_ist(UD, 0);
	r = regs_kernel(bad_stack_ud);
	guest_run(&r);
	say_trap("#UD on a bad stack", &r);
	use_ist(PF, 1);
	r = regs_kernel(bad_stack_ud);
	guest_run(&r);
	say_trap("#UD on a bad stack, #PF with IST", &r);
	use_ist(UD, 1);
}

/* --- SYSCALL, SYSENTER --- */

SNIPPET(
    sys_user,
    "mov $0x123456789,%rsi; stc; syscall; mov %cs,%r12d; mov %ss,%r13d; pushf; pop %r14\n" STOP);
SNIPPET(sys_entry,
	"mov %cs,%eax; mov %ss,%ebx; pushf; pop %r8; mov %rcx,%rdx; mov %r11,%r9; mov %rsp,%r10\n"
	"sysretq\n");
SNIPPET(sys_entry32, "mov $sys_32,%ecx; sysretl\n");
SNIPPET32(sys_32, "mov %cs,%eax; mov %ss,%ebx; int $0x40\n");
SNIPPET(enter_user, "sysenter\n" STOP);
SNIPPET(enter_entry,
	"mov %cs,%eax; mov %ss,%ebx; pushf; pop %r8; mov %rsp,%r10; mov $enter_back,%edx\n"
	"mov %r9,%rcx; rex.W sysexit\n");
SNIPPET(enter_back, "mov %cs,%r12d; mov %ss,%r13d\n" STOP);

static void test_syscall(void)
{
	struct regs r = regs_user(sys_user);

	wrmsr(STAR, (u64)(UCODE32 & ~3u) << 48 | (u64)KCODE << 32);
	wrmsr(LSTAR, (ulong)sys_entry);
	wrmsr(FMASK, F_IF | F_DF | F_CF);
	r.flags |= F_DF;
	guest_run(&r);
	say_trap_kind("syscall", &r);
	say("  cs", r.ax);
	say("  ss", r.bx);
	say("  flags inside", r.r8);
	check("  rcx", r.dx == (ulong)sys_user + 13);
	say("  r11", r.r9);
	check("  rsp", r.r10 == (ulong)user_stack_top);
	say("  cs after", r.r12);
	say("  ss after", r.r13);
	say("  flags after", r.r14);
	wrmsr(LSTAR, (ulong)sys_entry32);
	r = regs_user(sys_user);
	guest_run(&r);
	say_trap_kind("sysretl", &r);
	say("  cs ss", r.ax << 16 | r.bx);
	wrmsr(EFER, rdmsr(EFER) & ~1ull);
	r = regs_user(sys_user);
	guest_run(&r);
	say_trap_kind("syscall without SCE", &r);
	wrmsr(EFER, rdmsr(EFER) | 1);
}

static void test_sysenter(void)
{
	struct regs r;
	struct cpuid id = cpuid(0, 0);

	if (id.b != 0x756e6547) {
		put("[sysenter] skipped\n");
		return;
	}
	wrmsr(0x174, 0);
	r = regs_user(enter_user);
	guest_run(&r);
	say_trap_kind("[sysenter] CS 0", &r);
	wrmsr(0x174, KCODE);
	wrmsr(0x175, (ulong)ist_stacks[1]);
	wrmsr(0x176, (ulong)enter_entry);
	r = regs_user(enter_user);
	r.r9 = (ulong)user_stack_top - 64;
	r.flags |= F_IF | F_CF;
	guest_run(&r);
	say_trap_kind("[sysenter] and sysexit", &r);
	say("[sysenter] cs", r.ax);
	say("[sysenter] ss", r.bx);
	say("[sysenter] flags inside", r.r8 & (F_IF | F_CF));
	check("[sysenter] rsp", r.r10 == (ulong)ist_stacks[1]);
	say("[sysenter] cs after", r.r12);
	say("[sysenter] ss after", r.r13);
	check("[sysenter] rsp after", r.sp == (ulong)user_stack_top - 64);
}

/* --- FS, GS, CR8 --- */

SNIPPET(read_bases, "mov %fs:0,%rax; mov %gs:8,%rbx; mov %gs:data-16,%rcx\n" STOP);
SNIPPET(swap_bases, "swapgs; mov %gs:0,%rax; swapgs; mov %gs:0,%rbx\n" STOP);
SNIPPET(fs_wrap, "mov $-8,%rcx; mov %fs:(%rcx),%rax; mov %fs:-16,%rbx\n" STOP);
SNIPPET(load_gs, "mov $0x23,%eax; mov %eax,%gs\n" STOP);
SNIPPET(fs_32, "addr32 mov %fs:8(%ecx),%rax\n" STOP);
SNIPPET(wrbase, "wrfsbase %rax; wrgsbase %rbx; rdfsbase %rcx; rdgsbase %rdx; wrfsbase %esi; "
		"rdfsbase %rdi\n" STOP);

static void test_bases(void)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(data); i++)
		data[i] = 0x1000 + i;
	wrmsr(FS_BASE, (ulong)data + 8);
	wrmsr(GS_BASE, (ulong)data + 16);
	wrmsr(KERNEL_GS, (ulong)data + 24);
	r = regs_user(read_bases);
	guest_run(&r);
	say("fs:0", r.ax);
	say("gs:8", r.bx);
	r = regs_kernel(swap_bases);
	guest_run(&r);
	say("gs:0 swapped", r.ax);
	say("gs:0 swapped back", r.bx);
	check("MSRs", rdmsr(GS_BASE) == (ulong)data + 16 && rdmsr(KERNEL_GS) == (ulong)data + 24);
	wrmsr(FS_BASE, (ulong)data + 64);
	r = regs_user(fs_wrap);
	guest_run(&r);
	say("negative offsets", r.ax << 32 | r.bx);
	r = regs_user(fs_32);
	r.cx = 0xffffffff00000000ul;
	guest_run(&r);
	say("32-bit offset, 64-bit base", r.ax);
	wrmsr(FS_BASE, 0xffffffffffffff00ul);
	r = regs_user(fs_32);
	r.cx = 0x100 + (ulong)data;
	guest_run(&r);
	say("base at the top", r.ax);
	r = regs_kernel(load_gs);
	guest_run(&r);
	say("GS base after a load", rdmsr(GS_BASE));
	r = regs_kernel(stop);
	guest_run(&r);
	if (!(cpuid(7, 0).b & 1)) {
		put("[fsgsbase] skipped\n");
		return;
	}
	r = regs_user(wrbase);
	guest_run(&r);
	say_trap_kind("[fsgsbase] without CR4.FSGSBASE", &r);
	write_cr4(read_cr4() | 0x10000);
	r = regs_user(wrbase);
	r.ax = 0x123456789abc;
	r.bx = 0xffff876543210fed;
	r.si = 0xffffffff12345678;
	guest_run(&r);
	say_trap_kind("[fsgsbase] with", &r);
	say("[fsgsbase] fs", r.cx);
	say("[fsgsbase] gs", r.dx);
	say("[fsgsbase] fs, 32-bit", r.di);
	write_cr4(read_cr4() & ~0x10000ul);
	wrmsr(GS_BASE, 0);
}

static volatile u32 ipis;

static void ipi(struct regs *r)
{
	(void)r;
	ipis++;
	*(volatile u32 *)0xfee000b0ul = 0;
}

static void write_cr8(ulong v)
{
	ASM("mov %0,%%cr8" : : "r"(v) : "memory");
}

static void test_cr8(void)
{
	volatile u32 *lapic = (u32 *)0xfee00000ul;
	ulong v;

	lapic[0xf0 / 4] = 0x1ff;
	handlers[0x61] = ipi;
	write_cr8(6);
	ASM("mov %%cr8,%0" : "=r"(v));
	say("cr8", v);
	say("TPR", lapic[0x80 / 4]);
	lapic[0x300 / 4] = 0x40061;
	ASM("sti; nop; nop; cli");
	say("held back", ipis);
	write_cr8(5);
	ASM("sti; nop; nop; cli");
	say("and let through", ipis);
	lapic[0x80 / 4] = 0x37;
	ASM("mov %%cr8,%0" : "=r"(v));
	say("cr8 of TPR 0x37", v);
	write_cr8(0);
	say("TPR of cr8 0", lapic[0x80 / 4]);
}

/* --- out of long mode and back --- */

SNIPPET32(leave_long,
	  "mov %cr0,%eax; and $0x7fffffff,%eax; mov %eax,%cr0; jmp 1f; 1:\n"
	  "mov $0xc0000080,%ecx; rdmsr; mov %eax,%esi\n"
	  "mov $0x5a5a5a5a,%ebp; push %ebp; pop %edi\n"
	  "mov %cr4,%eax; and $~0x20,%eax; mov %eax,%cr4; or $0x20,%eax; mov %eax,%cr4\n"
	  "mov %cr0,%eax; or $0x80000000,%eax; mov %eax,%cr0; jmp 1f; 1:\n"
	  "rdmsr; mov %eax,%ebx; int $0x40\n");

static void test_leave(void)
{
	struct regs r = compat_run("out of long mode and back", leave_long, KCODE32);

	say("  EFER outside", r.si & 0x500);
	say("  stack", r.di);
	say("  EFER again", r.bx & 0x500);
}

static void make_descriptors(void)
{
	static u64 ldt[2] ALIGNED(8);

	set_call_gate(GATE, KCODE, gate_target, 0xec);
	set_call_gate(GATE_32, KCODE32, stop32, 0xec);
	set_call_gate(GATE_K, KCODE, gate_target, 0x8c);
	set_gdt(LDT_SEL, (u32)(ulong)ldt, sizeof(ldt) - 1, 0x82);
	gdt[(LDT_SEL >> 3) + 1] = 0;
	set_gdt(CODE16, 0, 0xffff, D_CODE | D_DPL(3));
	ldt[1] = descriptor(0, 0xfffff, D_DATA | D_DPL(3) | D_BIG | D_PAGES);
	ASM("lldt %w0" : : "r"(LDT_SEL));
}

SNIPPET(use_ldt,
	"mov $0xf,%eax; mov %eax,%es; mov %es,%ebx; lsl %eax,%ecx; lar %eax,%edx; str %r8d\n"
	"lar %r8d,%r9d; lsl %r8d,%r10d\n" STOP);

static void test_ldt(void)
{
	struct regs r = regs_kernel(use_ldt);

	guest_run(&r);
	say_trap_kind("LDT", &r);
	say("  es", r.bx);
	say("  limit", r.cx);
	say("  rights", r.dx);
	say("  TSS rights", r.r9);
	check("  TSS limit", r.r10 == sizeof(tss) - 1);
}

void guest_main(void)
{
	make_descriptors();
	test_cases();
	test_faults();
	test_compat();
	test_far();
	test_far_intel();
	test_ldt();
	test_ist();
	test_syscall();
	test_sysenter();
	test_bases();
	test_cr8();
	test_leave();
}
