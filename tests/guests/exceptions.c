/*
 * Exceptions: every vector an instruction can raise, where the saved EIP points, nested faults,
 * single-stepping, breakpoints on instructions, data and ports, and RF. SDM vol. 3, chapters 6
 * and 17.
 *
 * What QEMU TCG does not model (alignment checks, EXT bits, SIMD exceptions, RF in frames...) is in
 * exceptions_hw.
 */
#include "lib.h"

#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_NE 0x20ul
#define CR4_DE 8ul

/* --- vectors --- */

#define VECTORS(X)                                                                                 \
	X(de, "divide by 0", "xor %ebx,%ebx; div %ebx\n")                                          \
	X(de8, "divide overflow", "mov $0x1000,%eax; mov $2,%bl; div %bl\n")                       \
	X(de64, "64/32 overflow", "mov $5,%edx; mov $5,%ebx; div %ebx\n")                          \
	X(idiv8, "idiv -128/-1", "mov $-128,%ax; mov $-1,%bl; idiv %bl\n")                         \
	X(idiv32, "idiv overflow", "mov $0x80000000,%eax; cltd; mov $-1,%ebx; idiv %ebx\n")        \
	X(idiv_ok, "idiv -127", "mov $-127*3,%ax; mov $3,%bl; idiv %bl\n")                         \
	X(aam0, "aam 0", "aam $0\n")                                                               \
	X(int3, "int3", "int3\n")                                                                  \
	X(int_3, "int 3", ".byte 0xcd,3\n")                                                        \
	X(into, "into", "mov $0x7f,%al; inc %al; into\n")                                          \
	X(into_no, "into, not taken", "xor %eax,%eax; into\n")                                     \
	X(int_4, "int 4", "int $4\n")                                                              \
	X(bound, "bound below", "mov $5,%eax; bound %eax,bounds\n")                                \
	X(bound_up, "bound above", "mov $21,%eax; bound %eax,bounds\n")                            \
	X(bound_ok, "bound inside", "mov $20,%eax; bound %eax,bounds\n")                           \
	X(bound16, "bound 16", "mov $-5,%ax; bound %ax,bounds16\n")                                \
	X(ud2, "ud2", "ud2\n")                                                                     \
	X(gp, "general protection", "mov $0x18,%eax; ltr %ax\n")                                   \
	X(np, "segment not present", "mov $0x48,%eax; mov %eax,%ds\n")                             \
	X(ss, "stack segment", "mov $0x48,%eax; mov %eax,%ss\n")                                   \
	X(int_k, "int 13", "int $13\n")
VECTORS(CASE_SNIPPET)
static const struct test_case vectors[] = {VECTORS(CASE_ENTRY)};
asm(".pushsection .data\nbounds: .long 10,20\nbounds16: .word -4,4\n.popsection");

static void test_vectors(void)
{
	unsigned i;

	set_gdt(FREE_SEL, 0, 0xfffff, 0x12 | D_BIG | D_PAGES); /* absent */
	for (i = 0; i < COUNT(vectors); i++)
		if (vectors[i].code != int_k) /* it would push no error code */
			try_kernel(vectors[i].text, vectors[i].code);
	say_str("at CPL", "3");
	for (i = 0; i < COUNT(vectors); i++)
		try_user(vectors[i].text, vectors[i].code);
}

/* --- undefined encodings --- */

static const struct {
	const char *text;
	u8 bytes[8];
} undefined[] = {
    {"ud1", {0x0f, 0xb9, 0xc0}},
    {"0f ff", {0x0f, 0xff, 0xc0}},
    {"mov to cs", {0x8e, 0xc8}},
    {"mov to segment 6", {0x8e, 0xf0}},
    {"mov from segment 7", {0x8c, 0xf8}},
    {"les register", {0xc4, 0xc0}},
    {"lea register", {0x8d, 0xc0}},
    {"far call register", {0xff, 0xd8}},
    {"far jmp register", {0xff, 0xe8}},
    {"ff /7", {0xff, 0xf8}},
    {"fe /2", {0xfe, 0xd0}},
    {"cmpxchg8b register", {0x0f, 0xc7, 0xc8}},
    {"mov to cr1", {0x0f, 0x22, 0xc8}},
    {"mov from cr5", {0x0f, 0x20, 0xe8}},
    {"rsm", {0x0f, 0xaa}},
    {"0f 0a", {0x0f, 0x0a}},
    {"0f 24", {0x0f, 0x24, 0xc0}},
    {"bt imm /0", {0x0f, 0xba, 0xc0, 1}},
    {"lidt register", {0x0f, 0x01, 0xd8 + 0x06}}, /* SVM without SVME */
    {"lock add register", {0xf0, 0x01, 0xc0}},
    {"lock inc register", {0xf0, 0xff, 0xc0}},
    {"lock nop", {0xf0, 0x90}},
};

static u8 scratch_code[64];

static void test_undefined(void)
{
	unsigned i;

	for (i = 0; i < COUNT(undefined); i++) {
		memset(scratch_code, 0xcc, sizeof(scratch_code));
		memcpy(scratch_code, undefined[i].bytes, sizeof(undefined[i].bytes));
		try_kernel(undefined[i].text, scratch_code);
	}
	/* 15 bytes are an instruction, 16 are too many. */
	memset(scratch_code, 0x66, sizeof(scratch_code));
	scratch_code[14] = 0x90;
	scratch_code[15] = 0xcd;
	scratch_code[16] = STOP_VECTOR;
	try_kernel("15 bytes", scratch_code);
	scratch_code[14] = 0x66;
	scratch_code[15] = 0x90;
	try_kernel("16 bytes", scratch_code);
}

/* --- the x87 and its switches --- */

#define FPU_CASES(X)                                                                               \
	X(fnop, "fnop", "fnop\n")                                                                  \
	X(fld, "fld1", "fld1\n")                                                                   \
	X(fwait_, "fwait", "fwait\n")                                                              \
	X(movd_, "movd mm", "movd %eax,%mm0\n")                                                    \
	X(xorps_, "xorps", "xorps %xmm0,%xmm0\n")                                                  \
	X(fxsave_, "fxsave", "fxsave fx_area\n")                                                   \
	X(ldmxcsr_, "stmxcsr", "stmxcsr fx_area\n")
FPU_CASES(CASE_SNIPPET)
static const struct test_case fpu_cases[] = {FPU_CASES(CASE_ENTRY)};
asm(".pushsection .bss\n.balign 16\nfx_area: .skip 512\n.popsection");

static void test_fpu(void)
{
	static const struct {
		const char *name;
		ulong cr0, cr4;
	} modes[] = {{"none", CR0_NE, 0x200},
		     {"TS", CR0_NE | CR0_TS, 0x200},
		     {"TS MP", CR0_NE | CR0_TS | CR0_MP, 0x200},
		     {"MP", CR0_NE | CR0_MP, 0x200},
		     {"EM", CR0_NE | CR0_EM, 0x200},
		     {"no OSFXSR", CR0_NE, 0}};
	ulong cr0 = read_cr0() & ~(CR0_TS | CR0_MP | CR0_EM), cr4 = read_cr4();
	struct regs r;
	unsigned i, m;

	for (m = 0; m < COUNT(modes); m++) {
		say_str("x87 and SSE with", modes[m].name);
		for (i = 0; i < COUNT(fpu_cases); i++) {
			ASM("fninit");
			r = regs_kernel(fpu_cases[i].code);
			write_cr4(modes[m].cr4);
			write_cr0(cr0 | modes[m].cr0);
			guest_run(&r);
			write_cr0(cr0);
			write_cr4(cr4);
			say_trap(fpu_cases[i].text, &r);
		}
	}
}

SNIPPET(mf_fwait, "fninit; fnstcw -4(%esp); andw $~4,-4(%esp); fldcw -4(%esp)\n"
		  "fld1; fldz; fdivrp; fwait\n" STOP);
SNIPPET(mf_clear, "fninit; fnstcw -4(%esp); andw $~4,-4(%esp); fldcw -4(%esp)\n"
		  "fld1; fldz; fdivrp; fnclex; fwait; fnstsw %ax\n" STOP);

static void test_mf(void)
{
	struct regs r;

	write_cr0(read_cr0() | CR0_NE);
	try_kernel("#MF at fwait", mf_fwait);
	r = try_kernel("cleared", mf_clear);
	say("  status", r.ax & 0xff);
	ASM("fninit");
}

/* --- double fault --- */

SNIPPET(raise_gp, "mov $0x1000,%eax; mov %eax,%ds\n" STOP);
SNIPPET(raise_ud, "ud2\n" STOP);
SNIPPET(raise_pf, "mov 0x50000000,%eax\n" STOP);
SNIPPET(raise_de, "xor %ebx,%ebx; div %ebx\n" STOP);

static void without_gate(const char *name, const u8 *code, unsigned vector)
{
	u64 gate = idt[vector];
	struct regs r = regs_user(code);

	idt[vector] &= ~(0x80ull << 40);
	guest_run(&r);
	idt[vector] = gate;
	say_trap(name, &r);
}

static void test_double(void)
{
	u64 gp = idt[GP];
	struct regs r;

	without_gate("#GP without its gate", raise_gp, GP);
	without_gate("#DE without its gate", raise_de, DE);
	/* The #GP gate is no gate at all: #GP upon #GP. */
	idt[GP] = 0;
	try_user("#GP with an empty gate", raise_gp);
	idt[GP] = gp;
	/* #DE, then #GP: #DF. Its handler is well. */
	set_gate(DE, stub_of(DE), UCODE, 0x8e);
	try_kernel("#DE with an outer handler", raise_de);
	set_gate(DE, stub_of(DE), KCODE, 0x8e);
	paging_on();
	set_pte(0x50000000, 0);
	r = try_user("#PF", raise_pf);
	say("  cr2", r.cr2);
	without_gate("#PF without its gate", raise_pf, PF);
	r = regs_user(raise_ud);
	guest_run(&r);
	say_trap("#UD", &r);
	say("  cr2 stays", r.cr2);
	/* #PF while delivering #PF: the IDT entry lies on an absent page. */
	{
		static u64 other_idt[1024] ALIGNED(4096);
		struct {
			u16 limit;
			u32 base;
		} __attribute__((packed)) idtr = {2047, 0}, whole = {2047, (u32)idt};

		/* Vectors up to 13 on the second page, 14 on: the third, or the other way round. */
		idtr.base = (u32)other_idt + 4096 - 14 * 8;
		memcpy((void *)idtr.base, idt, 2048);
		set_pte((ulong)other_idt + 4096, 0);
		ASM("lidt %0" : : "m"(idtr));
		r = regs_user(raise_pf);
		guest_run(&r);
		ASM("lidt %0" : : "m"(whole));
		set_pte((ulong)other_idt + 4096, ((ulong)other_idt + 4096) | PTE_P | PTE_W);
		say_trap("#PF with its gate on an absent page", &r);
		check("  cr2", r.cr2 == (ulong)other_idt + 4096);
	}
}

/* --- single step --- */

static u8 steps[64];
static unsigned steps_used;
static ulong steps_base, dr6_seen;

static void note_step(struct regs *r)
{
	if (steps_used < sizeof(steps))
		steps[steps_used++] = r->ip - steps_base;
	dr6_seen |= read_dr6();
	write_dr6(0xffff0ff0);
}

#define STEPS(X)                                                                                   \
	X(st_plain, "plain", "nop; inc %eax; nop\n")                                               \
	X(st_branch, "branches", "xor %eax,%eax; je 1f; nop\n1: jne 2f; jmp 2f; nop\n2: nop\n")    \
	X(st_call, "call and ret", "call 1f; nop; jmp 2f\n1: ret\n2: nop\n")                       \
	X(st_loop, "loop", "mov $3,%ecx\n1: loop 1b\nnop\n")                                       \
	X(st_rep, "rep movs", "mov $stepped,%esi; mov %esi,%edi; mov $3,%ecx; rep movsb; nop\n")   \
	X(st_rep0, "rep movs of nothing", "xor %ecx,%ecx; rep movsb; nop\n")                       \
	X(st_repe, "repe cmps",                                                                    \
	  "mov $stepped,%esi; mov $stepped+1,%edi; mov $9,%ecx\n"                                  \
	  "repe cmpsb; nop\n")                                                                     \
	X(st_ss, "mov ss", "mov %ss,%eax; mov %eax,%ss; nop; nop\n")                               \
	X(st_pop_ss, "pop ss", "push %ss; pop %ss; nop; nop\n")                                    \
	X(st_ds, "mov ds", "mov %ds,%eax; mov %eax,%ds; nop\n")                                    \
	X(st_popf, "popf clears", "push $2; popf; nop; nop\n")                                     \
	X(st_pushf, "pushf", "pushf; pop %ebx; nop\n")                                             \
	X(st_iret, "iret keeps", "pushf; push %cs; push $1f; iret; nop\n1: nop; nop\n")            \
	X(st_cli, "cli sti", "cli; cld; nop\n")                                                    \
	X(st_int, "int with a handler", "int $0x44; nop; nop\n")                                   \
	X(st_cpuid, "cpuid", "cpuid; nop\n")                                                       \
	X(st_in, "in", "in $0x21,%al; nop\n")                                                      \
	X(st_mov_cr, "mov cr", "mov %cr0,%eax; mov %eax,%cr0; nop\n")                              \
	X(st_lret, "far transfers", "ljmp $8,$1f\n1: push %cs; push $2f; lret\n2: nop\n")
STEPS(CASE_SNIPPET)
static const struct test_case step_cases[] = {STEPS(CASE_ENTRY)};
asm(".pushsection .data\nstepped: .ascii \"aaaaabcd\"\n.popsection");

static void nothing(struct regs *r)
{
	(void)r;
}

static void put_steps(const char *name)
{
	unsigned i;

	put(name);
	put(":");
	for (i = 0; i < steps_used; i++) {
		put_char(' ');
		put_hex(steps[i]);
	}
	put("; dr6 ");
	put_hex(dr6_seen & 0xe00f);
	put("\n");
}

static void begin_steps(const struct regs *r)
{
	steps_used = 0;
	dr6_seen = 0;
	steps_base = r->ip;
	write_dr6(0xffff0ff0);
}

SNIPPET(popf_sets, "pushf; orl $0x100,(%esp); popf; nop; inc %eax\n" STOP);

static void test_steps(void)
{
	struct regs r;
	unsigned i;

	handlers[DB] = note_step;
	handlers[0x44] = nothing;
	for (i = 0; i < COUNT(step_cases); i++) {
		r = regs_kernel(step_cases[i].code);
		r.flags |= F_TF;
		begin_steps(&r);
		guest_run(&r);
		put_steps(step_cases[i].text);
		if (step_cases[i].code == st_pushf)
			say("  pushed TF", r.bx & F_TF);
	}
	/* POPF sets TF: the trap comes after the next instruction. */
	r = regs_kernel(popf_sets);
	begin_steps(&r);
	guest_run(&r);
	put_steps("popf sets");
	/* A fault is a fault, stepped or not. */
	r = regs_kernel(raise_de);
	r.flags |= F_TF;
	begin_steps(&r);
	guest_run(&r);
	put_steps("a fault");
	say_trap("  it", &r);
	r = regs_user(st_plain);
	r.flags |= F_TF;
	begin_steps(&r);
	guest_run(&r);
	put_steps("plain, user");
	handlers[DB] = NULL;
	r = regs_user(st_plain);
	r.flags |= F_TF;
	guest_run(&r);
	say_trap("stepped frame", &r);
	say("  TF in it", r.flags & F_TF);
}

/* --- breakpoints --- */

static u32 watched[8] ALIGNED(32);

#define BREAKS(X)                                                                                  \
	X(b_write, "write", "nop; movl $1,watched; nop\n")                                         \
	X(b_read, "read", "nop; mov watched,%eax; nop\n")                                          \
	X(b_rmw, "read-modify-write", "nop; incl watched; nop\n")                                  \
	X(b_byte, "byte 1 of it", "nop; movb $1,watched+1; nop\n")                                 \
	X(b_byte4, "the byte behind", "nop; movb $1,watched+4; nop\n")                             \
	X(b_before, "dword just before", "nop; movl $1,watched-4; nop\n")                          \
	X(b_overlap, "dword overlapping", "nop; movl $1,watched-2; nop\n")                         \
	X(b_push, "push", "mov %esp,%ebp; mov $watched+4,%esp; push $1; mov %ebp,%esp; nop\n")     \
	X(b_stos, "rep stos", "mov $watched-3,%edi; mov $9,%ecx; rep stosb; nop\n")                \
	X(b_out, "out", "nop; out %al,$0x80; nop\n")                                               \
	X(b_exec, "exec", "nop; nop; nop; nop\n")
BREAKS(CASE_SNIPPET)
static const struct test_case break_cases[] = {BREAKS(CASE_ENTRY)};

#define DR7_LEN(n) ((n == 4 ? 3u : n == 2 ? 1u : 0u) << 18)
#define DR7_EXEC   0u
#define DR7_WRITE  (1u << 16)
#define DR7_IO     (2u << 16)
#define DR7_RW     (3u << 16)
#define DR7_L0     1u

static void break_at(const char *name, const u8 *code, ulong dr0, u32 dr7)
{
	struct regs r = regs_kernel(code);

	write_dr0(dr0);
	write_dr7(dr7 | 0x400);
	begin_steps(&r);
	guest_run(&r);
	write_dr7(0x400);
	put_steps(name);
}

/* An instruction breakpoint is a fault: go on with RF, or it would come back. */
static void note_and_resume(struct regs *r)
{
	note_step(r);
	r->flags |= F_RF;
}

static void test_breaks(void)
{
	unsigned i;

	for (i = 0; i < 9; i++) {
		const u8 *code = break_cases[i].code;

		handlers[DB] = note_step;
		put("on writes, 4 bytes: ");
		break_at(break_cases[i].text, code, (ulong)watched,
			 DR7_L0 | DR7_WRITE | DR7_LEN(4));
		put("on reads and writes, 4: ");
		break_at(break_cases[i].text, code, (ulong)watched, DR7_L0 | DR7_RW | DR7_LEN(4));
	}
	break_at("2 bytes, the second", b_byte, (ulong)watched, DR7_L0 | DR7_WRITE | DR7_LEN(2));
	break_at("1 byte, the second", b_byte, (ulong)watched, DR7_L0 | DR7_WRITE | DR7_LEN(1));
	break_at("enabled by G0", b_write, (ulong)watched, 2 | DR7_WRITE | DR7_LEN(4));
	break_at("disabled", b_write, (ulong)watched, DR7_WRITE | DR7_LEN(4));
	write_cr4(read_cr4() | CR4_DE);
	break_at("port", b_out, 0x80, DR7_L0 | DR7_IO);
	break_at("other port", b_out, 0x81, DR7_L0 | DR7_IO);
	write_cr4(read_cr4() & ~CR4_DE);
	handlers[DB] = note_and_resume;
	break_at("execution", b_exec, (ulong)b_exec + 2, DR7_L0);
	/* Four at once. */
	write_dr1((ulong)b_exec + 1);
	write_dr2((ulong)b_exec);
	write_dr3((ulong)b_exec + 3);
	break_at("four", b_exec, (ulong)b_exec + 2, 0x55);
	handlers[DB] = NULL;
}

SNIPPET(mov_dr4, "mov %dr4,%eax\n" STOP);

static void test_debug_registers(void)
{
	struct regs r;

	write_dr0(0x12345678);
	write_dr3(0x87654321);
	say("dr0", read_dr0());
	say("dr3", read_dr3());
	write_dr6(0);
	say("dr6 fixed bits", read_dr6());
	write_dr7(0);
	say("dr7 fixed bits", read_dr7());
	r = try_kernel("dr4 is dr6", mov_dr4);
	check("  it is", r.ax == read_dr6());
	write_cr4(read_cr4() | CR4_DE);
	try_kernel("dr4 with CR4.DE", mov_dr4);
	write_cr4(read_cr4() & ~CR4_DE);
	/* A real exception leaves CR2 and the B bits alone. */
	write_dr7(0x400);
}

void guest_main(void)
{
	test_vectors();
	test_undefined();
	test_fpu();
	test_mf();
	test_steps();
	test_breaks();
	test_debug_registers();
	test_double();
}
