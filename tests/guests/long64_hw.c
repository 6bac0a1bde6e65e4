/*
 * What long64.c leaves out because QEMU TCG does otherwise: canonical checks of stacks and targets,
 * checks of control and debug registers and MSRs, REX in the wrong place, ignored segment bases, SS
 * after an IST switch, descriptors with reserved contents. SDM vol. 2, the instructions' 64-bit
 * mode exceptions; vol. 3, 2.5, 3.3.7.1, 6.14.
 */
#include "lib.h"

enum {
	LD_CODE = FREE_SEL,         /* both L and D: reserved */
	BASED = FREE_SEL + 8,       /* base 0x1000, limit 15 */
	BAD_TSS = FREE_SEL + 0x10,  /* the upper half has a type */
	FAR_GATE = FREE_SEL + 0x20, /* leads to an address that is not canonical */
};
asm(".set LD_CODE, 0x48; .set BASED, 0x50; .set BAD_TSS, 0x58; .set FAR_GATE, 0x68\n");

SNIPPET(stop, STOP);
#define NC "movabs $0x800000000000,%rbx; "
#define CASES(X)                                                                                   \
	X(rex_66, "REX before 66 is void",                                                         \
	  ".byte 0x48,0x66,0xb8,0x34,0x12; cmp $0x1234,%rax; jne 1f\n" STOP "1: ud2\n")            \
	X(es_base, "ES base ignored",                                                              \
	  "mov $BASED,%eax; mov %eax,%es; mov $1,%ecx\n"                                           \
	  "cmpq $0,%es:zero; je 1f; ud2; 1: mov $0x10,%eax; mov %eax,%es\n")                       \
	X(s_rsp, "read through rsp", "mov %rsp,%rbp; " NC "mov %rbx,%rsp; mov (%rsp),%al\n")       \
	X(s_rbp, "read through rbp", "movabs $0x800000000000,%rbp; mov (%rbp),%al\n")              \
	X(s_push, "push", NC "mov %rbx,%rsp; add $4,%rsp; push %rax\n")                            \
	X(s_pop, "pop", NC "mov %rbx,%rsp; pop %rax\n")                                            \
	X(s_call, "call on such a stack", NC "mov %rbx,%rsp; add $8,%rsp; call stop\n")            \
	X(s_ret, "ret on such a stack", NC "mov %rbx,%rsp; ret\n")                                 \
	X(s_fs_rbp, "fs: rbp is not", "movabs $0x800000000000,%rbp; mov %fs:(%rbp),%al\n")         \
	X(cross, "across the canonical end", "movabs $0x7fffffffffff,%rbx; mov (%rbx),%ax\n")      \
	X(j_jmp, "jmp", NC "jmp *%rbx\n")                                                          \
	X(j_call, "call", NC "call *%rbx\n")                                                       \
	X(j_ret, "ret", NC "push %rbx; ret\n")                                                     \
	X(j_lret, "lretq", NC "push $8; push %rbx; lretq\n")                                       \
	X(j_iret, "iretq",                                                                         \
	  NC "mov %rsp,%rax; push $0x10; push %rax; push $2; push $8; push %rbx\n"                 \
	     "iretq\n")                                                                            \
	X(j_gate, "call gate", "lcall *gate_pointer\n")                                            \
	X(m_lstar, "LSTAR", "mov $0xc0000082,%ecx; mov $0x8000,%edx; xor %eax,%eax; wrmsr\n")      \
	X(m_fs, "FS base", "mov $0xc0000100,%ecx; mov $0x8000,%edx; xor %eax,%eax; wrmsr\n")       \
	X(m_kgs, "KERNEL_GS base",                                                                 \
	  "mov $0xc0000102,%ecx; mov $0x8000,%edx; xor %eax,%eax; wrmsr\n")                        \
	X(m_enter, "SYSENTER_EIP", "mov $0x176,%ecx; mov $0x8000,%edx; xor %eax,%eax; wrmsr\n")    \
	X(m_lme, "EFER.LME", "mov $0xc0000080,%ecx; rdmsr; and $~0x100,%eax; wrmsr\n")             \
	X(c_cr8, "16 to CR8", "mov $16,%eax; mov %rax,%cr8\n")                                     \
	X(c_cr0_high, "CR0 bit 32", "mov %cr0,%rax; bts $32,%rax; mov %rax,%cr0\n")                \
	X(c_cr0_pg, "CR0.PG in 64-bit mode", "mov %cr0,%rax; btr $31,%rax; mov %rax,%cr0\n")       \
	X(c_cr0_pe, "CR0.PE with PG", "mov %cr0,%rax; btr $0,%rax; mov %rax,%cr0\n")               \
	X(c_cr4_pae, "CR4.PAE", "mov %cr4,%rax; btr $5,%rax; mov %rax,%cr4\n")                     \
	X(c_cr4_high, "CR4 bit 40", "mov %cr4,%rax; bts $40,%rax; mov %rax,%cr4\n")                \
	X(c_cr3, "CR3 beyond MAXPHYADDR", "mov %cr3,%rax; bts $52,%rax; mov %rax,%cr3\n")          \
	X(c_dr7, "DR7 bit 32", "mov $1,%eax; shl $32,%rax; mov %rax,%dr7\n")                       \
	X(c_dr6, "DR6 bit 32", "mov $1,%eax; shl $32,%rax; mov %rax,%dr6\n")                       \
	X(c_dr0, "DR0 takes 64 bits",                                                              \
	  NC "mov %rbx,%dr0; mov %dr0,%rax; cmp %rax,%rbx; je 1f; ud2; 1:\n")                      \
	X(g_ss_null3, "ss null with RPL 3", "mov $3,%eax; mov %eax,%ss\n")                         \
	X(g_ld, "jmp to code with L and D", "ljmpl *ld_pointer\n")                                 \
	X(g_ltr, "ltr of a bad upper half", "mov $BAD_TSS,%eax; ltr %ax\n")                        \
	X(g_lgdt, "lgdt", "lgdt far_table\n")                                                      \
	X(g_lidt, "lidt", "lidt far_table\n")                                                      \
	X(g_int, "handler not canonical", "int $0x45\n")                                           \
	X(g_invlpg, "invlpg", NC "invlpg (%rbx)\n")                                                \
	X(g_prefetch, "prefetch", NC "prefetcht0 (%rbx)\n")                                        \
	X(g_lea, "lea", NC "lea (%rbx),%rax\n")                                                    \
	X(g_clflush, "clflush", NC "clflush (%rbx)\n")                                             \
	X(g_sysret, "[intel] sysret", NC "mov %rbx,%rcx; mov $2,%r11d; sysretq\n")
CASES(CASE_SNIPPET)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};
asm(".pushsection .data\nzero: .quad 0; .skip 0xff8; .quad 1\ngate_pointer: .long 0; .word "
    "FAR_GATE\n"
    "ld_pointer: .long stop; .word LD_CODE\nfar_table: .word 255; .quad 0x800000000000\n"
    ".popsection\n");

SNIPPET(int_dpl, "int $0x20\n" STOP);
SNIPPET(int_44, "int $0x44\n" STOP);
SNIPPET(wrbase, "wrfsbase %rax\n" STOP);
SNIPPET32(compat_syscall, "syscall; int $0x40\n");
SNIPPET32(compat_sysret, ".byte 0x0f,0x07; int $0x40\n");
SNIPPET32(compat_swapgs, ".byte 0x0f,0x01,0xf8; int $0x40\n");

static bool intel(void)
{
	return cpuid(0, 0).b == 0x756e6547;
}

static void test_cases(void)
{
	unsigned i;

	for (i = 0; i < COUNT(cases); i++) {
		if (cases[i].code == g_sysret && !intel()) {
			put("[intel] skipped\n");
			continue;
		}
		try_kernel(cases[i].text, cases[i].code);
	}
}

static ulong seen_ss;

static void note(struct regs *r)
{
	(void)r;
	ASM("mov %%ss,%0" : "=r"(seen_ss));
}

static void test_others(void)
{
	struct regs r;

	try_user("int to DPL 0", int_dpl);
	idt[2 * 0x44] |= 1ull << 32;
	handlers[0x44] = note;
	try_kernel("IST, same ring", int_44);
	say("  ss", seen_ss);
	set_gate(0x44, stub_of(0x44), KCODE, 0xee);
	try_user("IST, from CPL 3", int_44);
	say("  ss", seen_ss);
	if (intel()) {
		r = regs_user(compat_syscall);
		r.cs = UCODE32;
		guest_run(&r);
		say_trap("[intel] syscall in compatibility mode", &r);
		r = regs_kernel(compat_sysret);
		r.cs = KCODE32;
		guest_run(&r);
		say_trap("[intel] sysret in compatibility mode", &r);
	}
	r = regs_kernel(compat_swapgs);
	r.cs = KCODE32;
	guest_run(&r);
	say_trap("swapgs in compatibility mode", &r);
	if (!(cpuid(7, 0).b & 1)) {
		put("[fsgsbase] skipped\n");
		return;
	}
	write_cr4(read_cr4() | 0x10000);
	r = regs_user(wrbase);
	r.ax = 0x800000000000;
	guest_run(&r);
	say_trap("[fsgsbase] not canonical", &r);
}

void guest_main(void)
{
	const u64 target = 0x800000000000;

	set_gdt(LD_CODE, 0, 0xfffff, D_CODE | D_LONG | D_BIG | D_PAGES);
	set_gdt(BASED, 0x1000, 0xf, D_DATA | D_DPL(3));
	set_gdt(BAD_TSS, (u32)(ulong)&tss, 103, 0x89);
	gdt[(BAD_TSS >> 3) + 1] = 0x0000090000000000;
	gdt[FAR_GATE >> 3] =
	    (target & 0xffff) | (u64)KCODE << 16 | 0xecull << 40 | (target >> 16 & 0xffff) << 48;
	gdt[(FAR_GATE >> 3) + 1] = target >> 32;
	set_gate(0x45, (void *)target, KCODE, 0xee);
	test_cases();
	test_others();
}
