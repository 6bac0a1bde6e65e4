/*
 * Self-modifying code: the next instruction, the instruction itself, further ahead; across a page
 * boundary; through an alias; by string instructions, pushes, locked and x87 writes; pages that mix
 * code and data; code replaced by a change of the page tables. SDM vol. 3, 8.1.3 and 11.6.
 */
#include "lib.h"

#define ALIAS 0x3000000ul

static u8 page[2 * 4096] ALIGNED(4096), other[4096] ALIGNED(4096);

/* mov $imm,%eax; int $0x40 */
static void put_mov(u8 *at, u32 imm)
{
	at[0] = 0xb8;
	memcpy(at + 1, &imm, 4);
	at[5] = 0xcd;
	at[6] = STOP_VECTOR;
}

static u32 call_at(const void *code)
{
	struct regs r = regs_kernel(code);

	guest_run(&r);
	return r.vector == STOP_VECTOR ? r.ax : 0xdeadbeef;
}

static void test_rewrite(void)
{
	bool good = true;
	u32 i;

	for (i = 0; i < 300; i++) {
		put_mov(page + 16, i * 0x01010101);
		good &= call_at(page + 16) == i * 0x01010101;
	}
	check("rewritten 300 times", good);
	for (i = 0, good = true; i < 300; i++) {
		page[17 + i % 4] = i;
		good &= (call_at(page + 16) >> 8 * (i % 4) & 0xff) == (u8)i;
	}
	check("byte by byte", good);
}

/* Each gives its answer in EAX. */
#define CASES(X)                                                                                   \
	X(next, "the next instruction", "movb $0x42,1f+1\n1: mov $0x11111111,%eax\n")              \
	X(ahead, "further ahead",                                                                  \
	  "movl $0x42424242,1f+1\nnop\nadd $1,%ecx\nnop\n1: mov $0x11111111,%eax\n")               \
	X(opcode, "opcode of the next", "movb $0x48,1f\nmov $7,%eax\n1: inc %eax\n") /* dec */     \
	X(length, "length of the next",                                                            \
	  "xor %eax,%eax\nmovw $0x00b0,1f\n1: inc %eax; inc %eax; inc %eax\n") /* mov $0,%al */    \
	X(branch, "a branch to come", "mov $1,%eax\nmovb $0xeb,1f\n1: je 2f\ninc %eax\n2:\n")      \
	X(self, "itself",                                                                          \
	  "mov $2,%ecx\nxor %eax,%eax\n1: inc %eax\n"                                              \
	  "2: movb $0x77,2b+6\nloop 1b\nmov 2b+6,%al\n")                                           \
	X(counter, "a loop's immediate",                                                           \
	  "xor %eax,%eax\nmov $100,%ecx\n"                                                         \
	  "1: add $1,%eax\n2: incb 1b+2\nloop 1b\n")                                               \
	X(locked, "locked", "mov $0x22,%edx\nlock xaddb %dl,1f+1\n1: mov $0x11,%eax\n")            \
	X(xchg, "xchg", "mov $0x33,%edx\nxchg %dl,1f+1\n1: mov $0x11,%eax\n")                      \
	X(cmpxchg8b, "cmpxchg8b",                                                                  \
	  "mov 1f,%eax\nmov 1f+4,%edx\nmov %eax,%ebx\nmov %edx,%ecx\n"                             \
	  "mov $0x99,%bh\nlock cmpxchg8b 1f\n"                                                     \
	  "1: mov $0x11,%eax\nnop; nop; nop; nop\n")                                               \
	X(x87, "x87 store",                                                                        \
	  "fninit\npush $0x44\nfildl (%esp)\npop %edx\nfistpl 1f+1\n"                              \
	  "1: mov $0x11,%eax\n")                                                                   \
	X(stack, "push",                                                                           \
	  "mov %esp,%ebp\nmov $1f+5,%esp\npush $0x55\n1: mov $0x11,%eax\n"                         \
	  "mov %ebp,%esp\n")                                                                       \
	X(call, "call",                                                                            \
	  "mov %esp,%ebp\nmov $1f+5,%esp\ncall 2f\n2: cld\n1: mov $0,%eax\n"                       \
	  "mov %ebp,%esp\nsub $2b,%eax\n")                                                         \
	X(setcc, "setcc", "mov $3,%eax\nstc\nsetc 1f+2\n1: add $0x10,%eax\n")                      \
	X(movs, "rep movs ahead",                                                                  \
	  "mov $3f,%esi\nmov $1f,%edi\nmov $5,%ecx\nrep movsb\n"                                   \
	  "1: mov $0x11,%eax\njmp 2f\n3: mov $0x66,%eax\n2:\n")                                    \
	X(stos, "stos ahead",                                                                      \
	  "mov $1f,%edi\nmov $0x90,%al\nmov $2,%ecx\nrep stosb\n"                                  \
	  "xor %eax,%eax\n1: inc %eax\ninc %eax\ninc %eax\n")                                      \
	X(stosd, "stosd ahead", "mov $1f+1,%edi\nmov $0x12345678,%eax\nstosl\n1: mov $1,%eax\n")   \
	X(mixed, "data among code",                                                                \
	  "jmp 1f\n2: .long 0\n1: mov $1000,%ecx\n"                                                \
	  "3: add %ecx,2b\nloop 3b\nmov 2b,%eax\n")                                                \
	X(middle, "into the middle",                                                               \
	  "xor %eax,%eax\nmov $2,%ecx\njmp 1f+1\n"                                                 \
	  "1: .byte 0x3d; inc %eax; jmp 2f; nop\n"                                                 \
	  "2: loop 1b\n")                                                                          \
	X(back, "an instruction gone by",                                                          \
	  "mov $2,%ecx\n1: mov $0x11,%eax\nmovb $0x77,1b+1\n"                                      \
	  "loop 1b\n")                                                                             \
	X(twice, "there and back", "movb $0x99,1f+1\nmovb $0x22,1f+1\n1: mov $0x11,%eax\n")        \
	X(same, "the same value", "movb $0x11,1f+1\n1: mov $0x11,%eax\n")                          \
	X(popm, "pop to memory", "push $0x88\npop 1f+1\n1: mov $0x11,%eax\n")                      \
	X(fnstcw, "fnstcw", "fninit\nfnstcw 1f+1\n1: mov $0x110000,%eax\n")
#define CODE(name, text, code) SNIPPET(name, code STOP "1:\n");
CASES(CODE)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};

/* Copies run, at different places of the page, so that a case may be run again. */
static void run_copies(const char *name, const u8 *code, unsigned len)
{
	static u8 saved[128];
	struct regs r;
	unsigned i;

	memcpy(saved, code, len);
	for (i = 0; i < 3; i++) {
		r = regs_kernel(code);
		guest_run(&r);
		if (!i)
			put(name);
		put(i ? " " : ": ");
		if (r.vector == STOP_VECTOR)
			put_hex(r.ax);
		else
			put("TRAP");
		memcpy((u8 *)code, saved, len);
	}
	put("\n");
}

static void test_cases(void)
{
	unsigned i;

	for (i = 0; i < COUNT(cases); i++)
		run_copies(cases[i].text, cases[i].code, 64);
}

/* --- page boundaries --- */

static void test_boundary(void)
{
	bool good = true;
	unsigned split;
	u32 v;

	/* An instruction with `split` bytes in the first page. */
	for (split = 1; split < 5; split++) {
		u8 *at = page + 4096 - split;

		put_mov(at, 0x44332211);
		v = call_at(at);
		good &= v == 0x44332211;
		at[1] = 0xaa;
		good &= call_at(at) == 0x443322aa;
		at[4] = 0xbb;
		good &= call_at(at) == 0xbb3322aa;
		/* A write across the boundary. */
		*(volatile u32 *)(at + 1) = 0x01020304;
		good &= call_at(at) == 0x01020304;
		at[0] = 0x05; /* add $imm,%eax */
		good &= call_at(at) == 0x01020304;
	}
	check("instruction across pages", good);
	/* The second page is exchanged. */
	put_mov(page + 4094, 0x44332211);
	memcpy(other, page + 4096, 4096);
	other[0] = 0x55;
	v = call_at(page + 4094);
	set_pte((ulong)page + 4096, (ulong)other | PTE_W | PTE_P);
	check("second page exchanged", v == 0x44332211 && call_at(page + 4094) == 0x44335511);
	other[0] = 0x66;
	check("and written", call_at(page + 4094) == 0x44336611);
	set_pte((ulong)page + 4096, ((ulong)page + 4096) | PTE_W | PTE_P);
	check("and restored", call_at(page + 4094) == 0x44332211);
}

/* --- aliases and page tables --- */

static void test_alias(void)
{
	u8 *alias = (u8 *)ALIAS;
	bool good = true;
	unsigned i;

	set_pte(ALIAS, (ulong)page | PTE_W | PTE_P);
	for (i = 0; i < 50; i++) {
		put_mov(alias + 64, i * 3);
		cpuid(0, 0);
		good &= call_at(page + 64) == i * 3;
		put_mov(page + 64, i * 5);
		cpuid(0, 0);
		good &= call_at(alias + 64) == i * 5;
	}
	check("written through an alias", good);
	put_mov(page + 64, 1);
	put_mov(other + 64, 2);
	good = true;
	for (i = 0; i < 20; i++) {
		set_pte(ALIAS, (i & 1 ? (ulong)other : (ulong)page) | PTE_P);
		good &= call_at(alias + 64) == 1 + (i & 1);
	}
	check("page exchanged by INVLPG", good);
	good = true;
	for (i = 0; i < 20; i++) {
		*pte_of(ALIAS) = (i & 1 ? (ulong)other : (ulong)page) | PTE_P;
		write_cr3(read_cr3());
		good &= call_at(alias + 64) == 1 + (i & 1);
	}
	check("page exchanged by CR3", good);
}

/* Writes through the alias of the page that runs: a jump makes them visible. */
SNIPPET(alias_next, "movb $0x42,(%ebx)\nmov $0,%eax; cpuid\n1: mov $0x11,%eax\n" STOP);

static void test_alias_next(void)
{
	struct regs r = regs_kernel(page + 128);
	unsigned len = 32, i;

	memcpy(page + 128, alias_next, len);
	set_pte(ALIAS, (ulong)page | PTE_W | PTE_P);
	for (i = 0; page[128 + i] != 0x11; i++)
		;
	r.bx = ALIAS + 128 + i;
	guest_run(&r);
	say("through an alias, ahead", r.ax);
}

/* --- code and data in one page, many times --- */

static void test_hot(void)
{
	volatile u32 *data = (u32 *)(page + 512);
	bool good = true;
	u32 i, sum = 0;

	put_mov(page + 256, 7);
	*data = 0;
	for (i = 0; i < 3000; i++) {
		*data += i;
		sum += call_at(page + 256);
	}
	check("data beside code, 3000 times", sum == 21000 && *data == 2999 * 1500);
	for (i = 0; i < 500; i++) {
		put_mov(page + 256, i);
		*data = i;
		good &= call_at(page + 256) == i;
		put_mov(page + 1024 + i, i);
		good &= call_at(page + 1024 + i) == i;
	}
	check("many places in one page", good);
}

/* At CPL 3, and with the page read-only but for a while. */
SNIPPET(user_code, "movb $0x42,1f+1\n1: mov $0x11111111,%eax\n" STOP);

static void test_protected(void)
{
	struct regs r = regs_user(user_code);

	guest_run(&r);
	say("next instruction, user", r.ax);
	put_mov(page + 64, 5);
	set_pte((ulong)page, (ulong)page | PTE_P);
	check("read-only code", call_at(page + 64) == 5);
	set_pte((ulong)page, (ulong)page | PTE_P | PTE_W);
	put_mov(page + 64, 6);
	check("written again", call_at(page + 64) == 6);
	write_cr0(read_cr0() & ~0x10000ul);
	set_pte((ulong)page, (ulong)page | PTE_P);
	put_mov(page + 64, 9);
	check("written with WP off", call_at(page + 64) == 9);
}

void guest_main(void)
{
	memset(page, 0x90, sizeof(page));
	test_rewrite();
	test_cases();
	paging_on();
	test_boundary();
	test_alias();
	test_alias_next();
	test_hot();
	test_protected();
}
