/*
 * Real mode: segments, the interrupt vector table, 16-bit strings and stacks, far transfers, 32-bit
 * operands and addresses, unreal mode, BCD instructions, long loops. SDM vol. 3, chapter 20.
 */
#include "real.h"

/* Text, flags that are defined after it, code. Prints AX BX CX DX SI DI and the flags. */
#define ALL  F_ARITH
#define NONE 0
#define CASES(X)                                                                                   \
	X(add8, "add", ALL, "mov $0x7f,%al; add $1,%al\n")                                         \
	X(sbb16, "sbb", ALL, "stc; mov $0x8000,%ax; sbb $0,%ax\n")                                 \
	X(add32, "add 32", ALL, "mov $0x7fffffff,%eax; add $1,%eax\n")                             \
	X(addr32, "32-bit address", NONE,                                                          \
	  "mov $words,%ebx; mov $2,%ecx; mov (%ebx,%ecx,4),%eax\n")                                \
	X(addr16, "bx+si", NONE, "mov $words,%bx; mov $4,%si; mov 2(%bx,%si),%ax\n")               \
	X(wrap, "offset wraps", NONE, "mov $words+2,%bx; mov $0xfffe,%si; mov (%bx,%si),%ax\n")    \
	X(bp_ss, "bp uses ss", NONE,                                                               \
	  "mov $0x10,%ax; mov %ax,%ss; mov $words-0x100,%bp\n"                                     \
	  "mov (%bp),%ax; xor %bx,%bx; mov %bx,%ss\n")                                             \
	X(seg, "segment base", NONE,                                                               \
	  "mov $words,%ax; shr $4,%ax; mov %ax,%es; mov $words,%bx\n"                              \
	  "and $15,%bx; mov %es:(%bx),%ax\n")                                                      \
	X(hma, "beyond 1 MiB", NONE, "mov $0xffff,%ax; mov %ax,%fs; mov %fs:0x10,%eax\n")          \
	X(les_, "les", NONE, "les far_pointer,%bx; mov %es,%ax\n")                                 \
	X(lds_, "lds 32", NONE, "ldsl far_pointer32,%ebx; mov %ds,%ax\n")                          \
	X(lss_, "lss", NONE,                                                                       \
	  "lss far_stack,%sp; push $0x1234; pop %ax; mov %sp,%bx; mov %ss,%cx\n"                   \
	  "lss old_stack,%sp\n")                                                                   \
	X(lfs_, "lfs lgs", NONE,                                                                   \
	  "lfs far_pointer,%bx; lgs far_pointer,%si; mov %fs,%ax; mov %gs,%cx\n")                  \
	X(push_seg, "push segments", NONE,                                                         \
	  "mov $0x1234,%ax; mov %ax,%es; push %es; pop %fs\n"                                      \
	  "push %fs; pop %gs; mov %gs,%bx; mov %sp,%cx\n")                                         \
	X(push32, "push 32", NONE,                                                                 \
	  "mov %sp,%cx; pushl $0x12345678; mov %sp,%dx; pop %ax; pop %bx\n")                       \
	X(push_imm, "push imm8", NONE, "push $-2; pop %ax; pushl $-3; pop %ebx\n")                 \
	X(push_sp, "push sp", NONE, "mov %sp,%bx; push %sp; pop %ax; sub %bx,%ax\n")               \
	X(pusha_, "pusha", NONE,                                                                   \
	  "mov $1,%ax; mov $2,%cx; mov $3,%dx; mov $4,%bx; mov $6,%si\n"                           \
	  "mov $7,%di; pusha; pop %di; pop %si; pop %ax; pop %cx\n"                                \
	  "add $8,%sp\n")                                                                          \
	X(pushal_, "pusha 32", NONE,                                                               \
	  "mov $0x11111111,%eax; mov $0x77777777,%edi; pushal\n"                                   \
	  "mov %sp,%cx; pop %ebx; add $24,%sp; pop %edx\n")                                        \
	X(popa_, "popa", NONE,                                                                     \
	  "mov %sp,%bp; push $1; push $2; push $3; push $4; push $5; push $6\n"                    \
	  "push $7; push $8; mov $9,%bp; popa\n")                                                  \
	X(enter0, "enter 0", NONE,                                                                 \
	  "mov %sp,%ax; enter $6,$0; mov %sp,%bx; mov %bp,%cx; sub %bx,%ax\n"                      \
	  "sub %bx,%cx; leave; xor %bx,%bx\n")                                                     \
	X(enter3, "enter 3", NONE,                                                                 \
	  "mov $0x6f00,%bp; movw $0x1111,-2(%bp); movw $0x2222,-4(%bp)\n"                          \
	  "mov %sp,%ax; enter $4,$3; mov %bp,%bx; sub %sp,%ax\n"                                   \
	  "mov -2(%bp),%cx; mov -4(%bp),%dx; mov -6(%bp),%si; leave\n")                            \
	X(jcxz_, "jcxz", NONE,                                                                     \
	  "mov $0x10000,%ecx; jcxz 1f; mov $1,%ax\n1: jecxz 2f; mov $2,%bx\n2:\n")                 \
	X(loop_, "loop", NONE, "mov $0x50003,%ecx\n1: inc %ax; loop 1b\n")                         \
	X(loopl, "loop, ecx", NONE, "mov $3,%ecx\n1: inc %ax; addr32 loop 1b\n")                   \
	X(loopne, "loopne", NONE, "mov $9,%cx; mov $4,%bx\n1: inc %ax; dec %bx; loopne 1b\n")      \
	X(loope, "loope", NONE, "mov $9,%cx; mov $4,%bx\n1: inc %ax; cmp %bx,%ax; loopne 1b\n")    \
	X(big, "a long loop", NONE,                                                                \
	  "mov $200000,%ecx; xor %eax,%eax\n1: add %ecx,%eax\n"                                    \
	  "addr32 loop 1b\n")                                                                      \
	X(nested, "nested loops", NONE,                                                            \
	  "mov $300,%dx\n2: mov $500,%cx\n1: inc %eax; loop 1b\n"                                  \
	  "dec %dx; jnz 2b\n")                                                                     \
	X(call_near, "call, ret imm", NONE, "push $5; push $6; call near_function; mov %sp,%bx\n") \
	X(call_ind, "call indirect", NONE,                                                         \
	  "mov $near_function0,%bx; call *%bx; mov %ax,%cx\n"                                      \
	  "call *near_pointer\n")                                                                  \
	X(call_far, "far call", NONE, "push $7; lcall $0,$far_function; mov %sp,%bx\n")            \
	X(call_far_seg, "far call to another segment", NONE,                                       \
	  "push $8; lcall $0x700,$far_function-0x7000; mov %sp,%bx\n")                             \
	X(call_far_mem, "far call through memory", NONE,                                           \
	  "push $9; lcall *far_call; mov %sp,%bx\n")                                               \
	X(call_far32, "far call 32", NONE, "pushl $10; lcalll $0,$far_function32; mov %sp,%bx\n")  \
	X(jmp_far, "far jmp", NONE,                                                                \
	  "ljmp $0x10,$1f-0x100\n1: mov %cs,%ax; ljmp $0,$1f\n"                                    \
	  "1: mov %cs,%bx\n")                                                                      \
	X(jmp_ind32, "jmp indirect 32", NONE, "mov $1f,%eax; jmpl *%eax; mov $1,%bx\n1:\n")        \
	X(iret_, "iret", ALL, "push $0x8d5; push $0; push $1f; iret\n1: nop\n")                    \
	X(iretl_, "iretl", ALL, "pushl $0x8d5; pushl $0; pushl $1f; iretl\n1: nop\n")              \
	X(popf_, "popf", NONE,                                                                     \
	  "push $0x7202; popf; pushf; pop %ax; push $2; popf; pushf; pop %bx\n")                   \
	X(popfl_, "popfl", NONE, "pushl $0x247202; popfl; pushfl; pop %eax; pushl $2; popfl\n")    \
	X(lahf_, "lahf sahf", ALL, "mov $0xff,%ah; sahf; lahf\n")                                  \
	X(xlat_, "xlat", NONE, "mov $words,%bx; mov $5,%al; xlat\n")                               \
	X(cbw_, "cbw cwd", NONE, "mov $0x80,%al; cbw; cwd; mov %ax,%bx; cwde; cdq\n")              \
	X(mul_, "mul", F_CF | F_OF, "mov $0x1234,%ax; mov $0x5678,%bx; mul %bx\n")                 \
	X(imul_, "imul 32", F_CF | F_OF, "mov $0x12345678,%eax; imul $0x11,%eax,%ebx\n")           \
	X(div_, "div", NONE, "mov $0x12,%dx; mov $0x3456,%ax; mov $0x789,%bx; div %bx\n")          \
	X(idiv_, "idiv", NONE, "mov $-100,%ax; mov $7,%bl; idiv %bl\n")                            \
	X(shld_, "shld", F_CF | F_ZF | F_SF | F_PF,                                                \
	  "mov $0x1234,%ax; mov $0xabcd,%bx\n"                                                     \
	  "shld $4,%bx,%ax\n")                                                                     \
	X(bt_, "bts memory", F_CF,                                                                 \
	  "mov $35,%ax; mov $words,%si; bts %ax,(%si); mov 4(%si),%bx\n"                           \
	  "btr %ax,(%si); mov 4(%si),%cx\n")                                                       \
	X(movzx_, "movzx movsx", NONE,                                                             \
	  "mov $0xff80,%ax; movzbl %al,%ebx; movsbw %al,%cx\n"                                     \
	  "movswl %ax,%edx\n")                                                                     \
	X(bswap_, "bswap", NONE, "mov $0x12345678,%eax; bswap %eax\n")                             \
	X(setcc, "setcc cmov", NONE,                                                               \
	  "cmp %ax,%ax; sete %al; setb %ah; mov $5,%bx; cmovne %bx,%cx\n")                         \
	X(smsw_, "smsw", NONE, "smsw %ax; and $1,%ax; mov %cr0,%ebx; and $1,%bx\n")                \
	X(sgdt_, "sgdt", NONE, "sgdtl scratch; mov scratch,%ax; sidtl scratch; mov scratch,%bx\n") \
	X(movs_, "rep movsw between segments", NONE,                                               \
	  "mov $0x300,%ax; mov %ax,%ds; mov $0x400,%ax; mov %ax,%es; mov $0x10,%si; mov "          \
	  "$0x20,%di\n"                                                                            \
	  "mov $0x55aa,%ax; mov %ax,(%si); mov %ax,6(%si); mov $4,%cx; rep movsw\n"                \
	  "mov %es:0x26,%bx\n")                                                                    \
	X(movs_override, "movs with override", NONE,                                               \
	  "mov $0x100,%ax; mov %ax,%fs\n"                                                          \
	  "movw $0x6677,%fs:0x20; mov $0x20,%si\n"                                                 \
	  "mov $0x1800,%di; fs movsw; mov 0x1800,%ax\n")                                           \
	X(scas_, "repne scasb", ALL, "mov $words,%di; mov $0x0c,%al; mov $20,%cx; repne scasb\n")  \
	X(lods_, "lodsd", NONE, "mov $words,%si; lodsl; mov %eax,%ebx; std; lodsw; cld\n")         \
	X(stos_wrap, "rep stosb wraps", NONE,                                                      \
	  "mov $0x2000,%ax; mov %ax,%es; mov $0xfffc,%di; mov $0x5a,%al; mov $8,%cx; rep stosb\n"  \
	  "mov %es:0xfffe,%bx; mov %es:2,%dx\n")                                                   \
	X(movs_a32, "rep movs, 32-bit address", NONE,                                              \
	  "mov $words,%esi; mov $0x1800,%edi\n"                                                    \
	  "mov $3,%ecx; addr32 rep movsl; mov 0x1804,%ax\n")                                       \
	X(port, "ports", NONE,                                                                     \
	  "mov $0xe7,%al; out %al,$0x21; xor %al,%al; in $0x21,%al\n"                              \
	  "mov $0x21,%dx; mov %ax,%bx; mov $0xff,%al; out %al,%dx\n")                              \
	X(mov_cr, "mov cr", NONE,                                                                  \
	  "mov %cr3,%eax; mov %eax,%cr3; mov %cr4,%ebx; mov %ebx,%cr4\n"                           \
	  "xor %ax,%ax; xor %bx,%bx\n")                                                            \
	X(lmsw_, "lmsw", NONE,                                                                     \
	  "smsw %ax; mov %ax,%bx; or $2,%ax; lmsw %ax; smsw %ax; xor %bx,%ax\n"                    \
	  "lmsw %bx; and $1,%bx\n")                                                                \
	X(cpuid_, "cpuid", NONE,                                                                   \
	  "mov $0x80000000,%eax; cpuid; shr $16,%eax; xor %ebx,%ebx\n"                             \
	  "xor %ecx,%ecx; xor %edx,%edx\n")                                                        \
	X(handler, "int with a handler", ALL, "stc; sti; int $0x60; cli\n")                        \
	X(far_handler, "int to another segment", NONE, "sti; int $0x61; cli\n")

#define CASE16(name, text, flags, code)  SNIPPET16(name, code STOP);
#define ENTRY16(name, text, flags, code) {{text, name}, flags},
CASES(CASE16)
static const struct {
	struct test_case t;
	u32 flags;
} cases[] = {CASES(ENTRY16)};

SNIPPET16(helpers,
	  "near_function: push %bp; mov %sp,%bp; mov 4(%bp),%ax; shl $4,%ax\n"
	  "add 6(%bp),%ax; pop %bp; ret $4\n"
	  "near_function0: inc %ax; ret\n"
	  "far_function: push %bp; mov %sp,%bp; mov 6(%bp),%ax; mov 4(%bp),%cx; mov %cs,%dx\n"
	  "pop %bp; lret $2\n"
	  "far_function32: push %bp; mov %sp,%bp; mov 10(%bp),%ax; mov 6(%bp),%cx\n"
	  "pop %bp; lretl $4\n"
	  "int_handler: push %bp; mov %sp,%bp; mov 6(%bp),%ax; pushf; pop %bx; and $0x301,%bx\n"
	  "and $0x301,%ax; mov %sp,%dx; orw $0x40,6(%bp); pop %bp; iret\n"
	  "far_int_handler: mov %cs,%ax; iret\n"
	  ".balign 16\n"
	  "words: .word 0x0100,0x0302,0x0504,0x0706,0x0908,0x0b0a,0x0d0c,0x0f0e\n"
	  "far_pointer: .word 0x4321,0x1234\n"
	  "far_pointer32: .long 0x87654321; .word 0x5678\n"
	  "far_stack: .word 0x100,0x200\nold_stack: .word 0x6ff0,0\n"
	  "near_pointer: .word near_function0\n"
	  "far_call: .word far_function-0x6000,0x600\n"
	  ".globl int_handler, far_int_handler\nscratch: .skip 8\n");
extern u8 int_handler[], far_int_handler[];

static void put_registers(const struct regs *r)
{
	static const char *const names[] = {" ax ", " bx ", " cx ", " dx ", " si ", " di "};
	const ulong values[] = {r->ax, r->bx, r->cx, r->dx, r->si, r->di};
	unsigned i;

	for (i = 0; i < COUNT(values); i++)
		if (values[i]) {
			put(names[i]);
			put_hex(values[i]);
		}
}

static void test_cases(void)
{
	struct regs r;
	unsigned i;

	real_ivt[0x60] = (u32)int_handler;
	real_ivt[0x61] = 0x07000000 | ((u32)far_int_handler - 0x7000);
	for (i = 0; i < COUNT(cases); i++) {
		r = regs_real(cases[i].t.code);
		real_run(&r);
		put(cases[i].t.text);
		put(":");
		put_registers(&r);
		if (cases[i].flags) {
			put(" flags ");
			put_hex(r.flags & cases[i].flags);
		}
		put(r.vector == STOP_VECTOR ? "\n" : " TRAP\n");
	}
}

/* --- exceptions through the vector table --- */

#define TRAPS(X)                                                                                   \
	X(t_int3, "int3", "int3\n")                                                                \
	X(t_int, "int", "int $0x4e\n")                                                             \
	X(t_into, "into", "mov $0x7f,%al; inc %al; into\n")                                        \
	X(t_into_no, "into, no overflow", "xor %al,%al; into\n")                                   \
	X(t_de, "divide by 0", "xor %bl,%bl; div %bl\n")                                           \
	X(t_de_over, "divide overflow", "mov $0x200,%ax; mov $2,%bl; div %bl\n")                   \
	X(t_idiv, "idiv overflow", "mov $0x8000,%ax; mov $-1,%bl; cwd; mov $-1,%bx; idiv %bx\n")   \
	X(t_aam, "aam 0", "aam $0\n")                                                              \
	X(t_bound, "bound", "mov $5,%ax; bound %ax,t_bounds; mov $11,%ax; bound %ax,t_bounds\n")   \
	X(t_ud, "ud2", "ud2\n")                                                                    \
	X(t_lldt, "lldt", "lldt %ax\n")                                                            \
	X(t_str, "str", "str %ax\n")                                                               \
	X(t_lar, "lar", "lar %ax,%bx\n")                                                           \
	X(t_verr, "verr", "verr %ax\n")                                                            \
	X(t_arpl, "arpl", "arpl %ax,%bx\n")                                                        \
	X(t_lock_reg, "lock add register", ".byte 0xf0; add %ax,%bx\n")                            \
	X(t_les_reg, "les of a register", ".byte 0xc4,0xc0\n")                                     \
	X(t_cs, "mov to cs", ".byte 0x8e,0xc8\n")                                                  \
	X(t_cr1, "mov to cr1", ".byte 0x0f,0x22,0xc8\n")                                           \
	X(t_tf, "single step", "pushf; orw $0x100,%ss:(0x6ffe); popf; nop; nop\n")                 \
	X(t_nm, "x87 with TS", "mov %cr0,%eax; or $8,%al; mov %eax,%cr0; fnop\n")                  \
	X(t_wait, "fwait with TS and MP", "mov %cr0,%eax; or $10,%al; mov %eax,%cr0; fwait\n")
#define TRAP16(name, text, code) SNIPPET16(name, code STOP);
TRAPS(TRAP16)
static const struct test_case traps[] = {TRAPS(CASE_ENTRY)};
SNIPPET16(t_data, "t_bounds: .word 1,10\n");

static void test_traps(void)
{
	ulong cr0 = read_cr0();
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(traps); i++) {
		r = regs_real(traps[i].code);
		real_run(&r);
		write_cr0(cr0);
		put(traps[i].text);
		put(": vector ");
		put_hex(r.vector);
		put(" at +");
		put_hex(r.ip - r.start);
		put(" sp ");
		put_hex(r.sp);
		put("\n");
	}
	real_ivt_limit = 0x4f * 4 + 3;
	r = regs_real(t_int);
	real_run(&r);
	say("inside the table's limit", r.vector);
	real_ivt_limit = 0x4e * 4 + 2;
	r = regs_real(t_int);
	real_run(&r);
	say("beyond the table's limit", r.vector);
	real_ivt_limit = 1023;
}

/* --- unreal mode --- */

SNIPPET16(unreal, "mov $0x100000,%ebx; mov (%ebx),%eax; mov $0x400000,%esi\n"
		  "movl $0x600d600d,(%esi); xor %cx,%cx; mov %cx,%ds; mov (%esi),%edx\n"
		  "mov $0x1000,%cx; mov %cx,%ds; addr32 mov -0x10000(%esi),%ecx\n" STOP);

static void test_unreal(void)
{
	struct regs r = regs_real(unreal);

	real_data = KDATA;
	real_run(&r);
	real_data = DATA16;
	put("unreal: vector ");
	put_hex(r.vector);
	put_registers(&r);
	put("\n");
}

/* --- BCD: all of AL, CF and AF --- */

/* DI: results. EBP: the instruction. For AH:AL, flags: the result and flags masked with BX. */
#define BCD(name, code)                                                                            \
	SNIPPET16(bcd_##name, "xor %cx,%cx\n"                                                      \
			      "1: mov $0x1100,%dx; mov %cl,%dl; mov %cx,%si; and $0x300,%si\n"     \
			      "shr $8,%si; mov %si,%ax; and $1,%al; mov %si,%bp; and $2,%bp\n"     \
			      "shl $3,%bp; or %bp,%ax; mov %al,%ah; sahf; mov %dx,%ax\n" code      \
			      "\nstosw; pushf; pop %ax; and %bx,%ax; stosw\n"                      \
			      "inc %cx; cmp $0x400,%cx; jne 1b\n" STOP)
BCD(daa, "daa");
BCD(das, "das");
BCD(aaa, "aaa");
BCD(aas, "aas");
BCD(aam, "aam");
BCD(aad, "aad");
BCD(aam7, "aam $7");
BCD(aad16, "aad $16");

static void bcd(const char *name, const u8 *code, u32 flags)
{
	struct regs r = regs_real(code);

	r.v_es = 0x2000;
	r.bx = flags;
	real_run(&r);
	put(name);
	if (r.vector != STOP_VECTOR)
		put(" TRAP");
	say("", checksum((void *)0x20000, 4096));
}

static void test_bcd(void)
{
	const u32 decimal = F_CF | F_AF | F_ZF | F_SF | F_PF, adjust = F_ZF | F_SF | F_PF;

	bcd("daa", bcd_daa, decimal);
	bcd("das", bcd_das, decimal);
	bcd("aaa", bcd_aaa, F_CF | F_AF);
	bcd("aas", bcd_aas, F_CF | F_AF);
	bcd("aam", bcd_aam, adjust);
	bcd("aad", bcd_aad, adjust);
	bcd("aam 7", bcd_aam7, adjust);
	bcd("aad 16", bcd_aad16, adjust);
}

void guest_main(void)
{
	real_init();
	test_cases();
	test_traps();
	test_unreal();
	test_bcd();
}
