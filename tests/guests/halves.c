/*
 * Ring-0 code in both halves of the address space: the same snippets at their own addresses and at
 * the same addresses in the top 2 GiB, with data, stacks, GS bases and handlers in either half, and
 * transfers between them of every kind. Above 512 GiB, in the lower half, lie some pages, too. SDM
 * vol. 1, 3.3.7.1 (canonical addresses); vol. 3, 4.5 (4-level paging), 4.10.4 (invalidation).
 */
#include "lib.h"

#define HIGH    0xffffffff80000000ul /* physical 0 once more */
#define UPPER   0xffffa00000000000ul /* four pages by a table of their own */
#define BEYOND  0x0000123400000000ul /* the same table in the lower half */
#define NOWHERE 0x0000234500000000ul

#define GS_BASE        0xc0000101
#define KERNEL_GS_BASE 0xc0000102
#define EFER           0xc0000080
#define EFER_NXE       0x800
#define CR4_PGE        0x80ul
#define CR0_WP         0x10000ul

extern ulong boot_pml4[512];
extern ulong boot_pd[2048];
static ulong high_pdpt[512] ALIGNED(4096), other_pml4[512] ALIGNED(4096);
static ulong pdpt[512] ALIGNED(4096), pd[512] ALIGNED(4096), table[512] ALIGNED(4096);
static u8 frames[4][4096] ALIGNED(4096);
static ulong data[512] ALIGNED(4096);
static u8 stack[4096] ALIGNED(4096);

static const struct half {
	const char *name;
	ulong at;
} halves[] = {{"low", 0}, {"high", HIGH}};

static void put_half(const char *what, unsigned h)
{
	put(what);
	put(" ");
	put(halves[h].name);
	put(" ");
}

/* The data and the stack are what a run starts from. */
static void reset_data(void)
{
	unsigned i;

	for (i = 0; i < COUNT(data); i++)
		data[i] = i * 0x9e3779b97f4a7c15ul;
	memset(stack, 0x5a, sizeof(stack));
}

static void map_all(void)
{
	unsigned i;

	for (i = 0; i < COUNT(frames); i++) {
		table[i] = (ulong)frames[i] | PTE_W | PTE_P;
		memset(frames[i], 0x10 + i, sizeof(frames[i]));
	}
	pd[0] = (ulong)table | PTE_W | PTE_P;
	pdpt[(BEYOND >> 30) & 511] = pdpt[0] = (ulong)pd | PTE_W | PTE_P;
	boot_pml4[(UPPER >> 39) & 511] = boot_pml4[(BEYOND >> 39) & 511] =
	    (ulong)pdpt | PTE_W | PTE_P;
	high_pdpt[510] = (ulong)boot_pd | PTE_W | PTE_P;
	high_pdpt[511] = ((ulong)boot_pd + 4096) | PTE_W | PTE_P;
	boot_pml4[511] = (ulong)high_pdpt | PTE_W | PTE_P;
	memcpy(other_pml4, boot_pml4, sizeof(other_pml4));
	other_pml4[(UPPER >> 39) & 511] = other_pml4[(BEYOND >> 39) & 511] = 0;
	write_cr3(read_cr3());
}

/* --- one snippet, all places --- */

#define PLACES(X)                                                                                  \
	X(sum, "sum",                                                                              \
	  "mov $64,%ecx\nxor %eax,%eax\n1: add (%rbx,%rcx,8),%rax\nadcq $3,8(%rbx)\n"              \
	  "xor %rax,-8(%rbx,%rcx,8)\nloop 1b\n")                                                   \
	X(moves, "sizes",                                                                          \
	  "mov (%rbx),%al\nmovzwl 3(%rbx),%ecx\nmovslq 5(%rbx),%rdx\n"                             \
	  "mov %ah,9(%rbx)\nlock incl 11(%rbx)\nbts $77,(%rbx)\n"                                  \
	  "cmpxchg %rdx,24(%rbx)\nxchg %rcx,32(%rbx)\nsete 40(%rbx)\n")                            \
	X(stack1, "pushes",                                                                        \
	  "push %rbx\npush $-5\npushq 8(%rbx)\npop %rax\npopq 16(%rbx)\n"                          \
	  "pop %rcx\nsub %rbx,%rcx\npush %rsp\npop %rdx\nsub %rsp,%rdx\n")                         \
	X(stack2, "frames",                                                                        \
	  "call 1f\nmov %rax,%rcx\njmp 2f\n1: push %rbp\nmov %rsp,%rbp\n"                          \
	  "sub $32,%rsp\nmov %rbx,(%rsp)\nmov 8(%rbp),%rax\nsub (%rsp),%rax\n"                     \
	  "leave\nret $0\n2: enter $16,$0\npushf\npopf\nleave\nxor %eax,%eax\n"                    \
	  "xor %ecx,%ecx\nxor %ebp,%ebp\n")                                                        \
	X(indirect, "indirect",                                                                    \
	  "lea 1f(%rip),%rax\nmov %rax,(%rbx)\nmov $3,%ecx\n"                                      \
	  "2: call *(%rbx)\ndec %ecx\njnz 2b\nlea 3f(%rip),%rax\njmp *%rax\n"                      \
	  "1: inc %edx\nret\n3: xor %eax,%eax\nmov %rax,(%rbx)\n")                                 \
	X(strings, "strings",                                                                      \
	  "lea 1024(%rbx),%rdi\nmov %rbx,%rsi\nmov $100,%ecx\nrep movsb\n"                         \
	  "mov $20,%ecx\nxor %eax,%eax\nrep stosq\nmov %rbx,%rsi\n"                                \
	  "lea 1024(%rbx),%rdi\nmov $200,%ecx\nrepe cmpsb\nlodsw\n"                                \
	  "sub %rbx,%rsi\nsub %rbx,%rdi\n")                                                        \
	X(flags, "iret",                                                                           \
	  "mov %rsp,%rax\nmov %ss,%ecx\npush %rcx\npush %rax\npush $0x8d7\n"                       \
	  "mov %cs,%ecx\npush %rcx\nlea 1f(%rip),%rax\npush %rax\niretq\n"                         \
	  "1: pushf\npop %rdx\nxor %eax,%eax\n")                                                   \
	X(far, "far",                                                                              \
	  "mov %cs,%ecx\npush %rcx\nlea 1f(%rip),%rax\npush %rax\nlretq\n"                         \
	  "1: lea 2f(%rip),%rax\nmov %rax,(%rbx)\nmov %cx,8(%rbx)\nrex.W ljmp *(%rbx)\n"           \
	  "2: xor %eax,%eax\nmov %rax,(%rbx)\n")

PLACES(CASE_SNIPPET)
static const struct test_case places[] = {PLACES(CASE_ENTRY)};

/* Code, data and stack in either half. */
static void test_places(void)
{
	unsigned i, k;

	for (i = 0; i < COUNT(places); i++)
		for (k = 0; k < 8; k++) {
			const u8 *code = places[i].code + halves[k & 1].at;
			struct regs r = regs_kernel(code);

			reset_data();
			r.bx = (ulong)data + halves[k >> 1 & 1].at;
			r.sp = (ulong)stack + sizeof(stack) + halves[k >> 2].at;
			r.ax = r.si = r.di = 0;
			guest_run(&r);
			put(places[i].text);
			put_half(": code", k & 1);
			put_half("data", k >> 1 & 1);
			put_half("stack", k >> 2);
			if (r.vector != STOP_VECTOR)
				say_trap_kind("trap", &r);
			put_hex(r.ax);
			put(" ");
			put_hex(r.cx);
			put(" ");
			put_hex(r.dx);
			put(" ");
			put_hex(r.flags);
			say(" sum", checksum(data, sizeof(data)));
		}
}

/* --- from one half to the other --- */

/* RBX: the distance to the other half; RDX counts. */
#define GO(how)                                                                                    \
	"mov $50,%ecx\n1: lea 2f(%rip),%rax\nadd %rbx,%rax\n" how                                  \
	"2: inc %edx\nneg %rbx\ndec %ecx\njnz 1b\n"
#define CROSSINGS(X)                                                                               \
	X(by_jump, "jmp", GO("jmp *%rax\n"))                                                       \
	X(by_ret, "ret", GO("push %rax\nret\n"))                                                   \
	X(by_call, "call", GO("call *%rax\n") "add $400,%rsp\n")                                   \
	X(by_lret, "lret", GO("mov %cs,%esi\npush %rsi\npush %rax\nlretq\n"))                      \
	X(by_iret, "iret",                                                                         \
	  GO("mov %rsp,%rdi\nmov %ss,%esi\npush %rsi\npush %rdi\npushf\n"                          \
	     "mov %cs,%esi\npush %rsi\npush %rax\niretq\n"))

CROSSINGS(CASE_SNIPPET)
static const struct test_case crossings[] = {CROSSINGS(CASE_ENTRY)};

static void test_crossings(void)
{
	unsigned i, k;

	for (i = 0; i < COUNT(crossings); i++)
		for (k = 0; k < 4; k++) {
			struct regs r = regs_kernel(crossings[i].code + halves[k & 1].at);

			r.bx = k & 1 ? -HIGH : HIGH;
			r.sp += halves[k >> 1].at;
			guest_run(&r);
			put(crossings[i].text);
			put_half(": from", k & 1);
			put_half("stack", k >> 1);
			say_trap_kind("end", &r);
			say(" crossings", r.dx);
			check(" ends where it began", (r.ip >> 63) == (k & 1));
			check(" stack", r.sp == (ulong)snippet_stack_top + halves[k >> 1].at);
		}
}

/* --- interrupts and their handlers --- */

SNIPPET(interrupted, "mov $40,%ecx\n1: int $0x80\ninc %edx\nloop 1b\n" STOP);
SNIPPET(handler, "add $1,%rax\nincq (%rbx)\niretq\n");
SNIPPET(divides, "mov $20,%esi\nxor %ecx,%ecx\n1: div %ecx\ndec %esi\njnz 1b\n" STOP);
SNIPPET(skips, "addq $2,(%rsp)\ninc %edi\niretq\n");

static void test_handlers(void)
{
	unsigned k;

	for (k = 0; k < 4; k++) {
		struct regs r = regs_kernel(interrupted + halves[k & 1].at);

		reset_data();
		set_gate(0x80, handler + halves[k >> 1].at, KCODE, 0x8e);
		set_gate(DE, skips + halves[k >> 1].at, KCODE, 0x8e);
		r.bx = (ulong)data;
		guest_run(&r);
		put_half("int: code", k & 1);
		put_half("handler", k >> 1);
		say("count", r.ax);
		check(" memory", data[0] == r.ax && r.dx == r.ax);
		r = regs_kernel(divides + halves[k & 1].at);
		guest_run(&r);
		say(" divide faults", r.di);
	}
	set_gate(DE, stub_of(DE), KCODE, 0x8e);
}

/* --- GS --- */

SNIPPET(uses_gs, "mov %gs:0,%rax\nmov %gs:8(%rbx),%rcx\nincq %gs:16\nswapgs\nmov %gs:0,%rdx\n"
		 "addq $2,%gs:24\nmov $16,%ebx\nlea (%rbx,%rbx),%rsi\nlods %gs:(%rsi),%rax\n"
		 "swapgs\nmov %gs:(%rbx),%rdi\n" STOP);

static void test_gs(void)
{
	const ulong bases[] = {(ulong)data, (ulong)data + HIGH, UPPER, BEYOND};
	unsigned i, k;

	for (i = 0; i < 2 * COUNT(bases); i++)
		for (k = 0; k < COUNT(bases); k++) {
			struct regs r = regs_kernel(uses_gs + halves[i & 1].at);

			reset_data();
			memset(frames[0], 0x11, 64);
			wrmsr(GS_BASE, bases[i / 2]);
			wrmsr(KERNEL_GS_BASE, bases[k]);
			guest_run(&r);
			wrmsr(GS_BASE, 0);
			wrmsr(KERNEL_GS_BASE, 0);
			put_half("gs: code", i & 1);
			put_dec(i / 2);
			put_dec(k);
			put(" ");
			put_hex(r.ax);
			put(" ");
			put_hex(r.cx);
			put(" ");
			put_hex(r.dx);
			put(" ");
			put_hex(r.di);
			say(" sum", checksum(data, 64) ^ checksum(frames[0], 64));
		}
}

/* --- addresses that are not there --- */

SNIPPET(reads, "mov (%rbx),%rax\n" STOP);
SNIPPET(writes, "mov %rax,(%rbx)\n" STOP);
SNIPPET(pushes, "mov %rbx,%rsp\npush %rax\n" STOP);
SNIPPET(copies, "mov $24,%ecx\nlea data(%rip),%rsi\nmov %rbx,%rdi\nrep movsb\n" STOP);
SNIPPET(jumps, "jmp *%rbx\n" STOP);

static void test_faults(void)
{
	static const ulong at[] = {NOWHERE,
				   BEYOND + 0x3ff8, /* the last quadword */
				   BEYOND + 0x3ffc,
				   UPPER + 0x3ffc,
				   BEYOND + 0x4000,
				   0x8000000000,
				   0x7ffffffff8,
				   0x7fffffffff,
				   0x7ffffffffff8,
				   0x800000000000,
				   0xfffe000000000000,
				   0xffff7fffffffffff,
				   0xffff900000000000,
				   ~0ul};
	static const struct test_case how[] = {
	    {"read", reads}, {"write", writes}, {"copy", copies}, {"jump", jumps}};
	unsigned i, k, n;

	for (i = 0; i < COUNT(at); i++)
		for (n = 0; n < COUNT(how); n++)
			for (k = 0; k < 2; k++) {
				struct regs r = regs_kernel(how[n].code + halves[k].at);

				/* Running into the page of a table is another test's. */
				if (how[n].code == jumps && at[i] - BEYOND < 0x4000)
					continue;
				r.bx = at[i];
				guest_run(&r);
				put_hex(at[i]);
				put_half(" from", k);
				put(how[n].text);
				if (r.vector == PF)
					say(", cr2", r.cr2);
				say_trap_kind("", &r);
			}
}

/* --- code that changes --- */

SNIPPET(patched, "1: mov $0x1111,%eax\nmov $0x2222,%ecx\n" STOP);
SNIPPET(patches, "lea 1f+1(%rip),%rdi\nadd %rbx,%rdi\nmovl $0x4444,(%rdi)\n"
		 "1: mov $0x3333,%eax\n" STOP);

/* Both places write the same code; both must see it. */
static void test_code(void)
{
	unsigned k, n;

	for (n = 0; n < 8; n++)
		for (k = 0; k < 2; k++) {
			struct regs r;

			*(volatile u32 *)(patched + 1 + halves[n & 1].at) = 0x1000 * n + k;
			r = regs_kernel(patched + halves[k].at);
			guest_run(&r);
			check("patched", r.ax == 0x1000 * n + k && r.cx == 0x2222);
		}
	for (n = 0; n < 4; n++) {
		struct regs r = regs_kernel(patches + halves[n & 1].at);

		r.bx = (n & 1 ? HIGH : 0) == (n & 2 ? HIGH : 0) ? 0 : n & 1 ? -HIGH : HIGH;
		guest_run(&r);
		put_half("patches itself: code", n & 1);
		say("value", r.ax);
		/* mov $0x3333, %eax again */
		*(volatile u32 *)((ulong)patches + 17) = 0x3333;
	}
}

/* A page of code that moves: mov $n, %eax; int $0x40 in each frame. */
static void test_moving_code(void)
{
	static const ulong at[] = {BEYOND, UPPER, 0x3fe00000, HIGH + 0x3fe00000};
	unsigned i, n;

	for (i = 0; i < COUNT(frames); i++) {
		memcpy(frames[i], "\xb8\x00\x00\x00\x00\xcd\x40", 7);
		frames[i][1] = (u8)(0x50 + i);
	}
	for (i = 0; i < COUNT(at); i++)
		for (n = 0; n < 8; n++) {
			ulong e = (ulong)frames[n & 3] | PTE_W | PTE_P;
			struct regs r = regs_kernel((void *)at[i]);

			if (i < 2)
				table[0] = e;
			else
				*pte_of(0x3fe00000) = e;
			if (n < 4)
				invlpg((void *)at[i]);
			else
				write_cr3(read_cr3());
			guest_run(&r);
			check("moved", r.ax == 0x50 + (n & 3));
		}
	table[0] = (ulong)frames[0] | PTE_W | PTE_P;
	set_pte(0x3fe00000, 0x3fe00000 | PTE_W | PTE_P);
	write_cr3(read_cr3());
}

/* --- data that moves --- */

#define LOW_PAGE 0x4000000000ul /* the table once more, within the first 512 GiB */
#define RW       (PTE_W | PTE_P)

/* An entry changes places with a word, and what it maps is used. */
SNIPPET(remaps, "1: mov (%rdi),%rax\nxchg (%rsi),%rax\nmov %rax,(%rdi)\ninvlpg (%r8)\n"
		"add (%rbx),%rdx\nincq (%rbx)\nloop 1b\n" STOP);

static u8 pages[4][4096] ALIGNED(4096);

struct moving {
	ulong va, at; /* the page; what is to be added to addresses: the half */
};

static struct regs run_moving(const struct moving *m, ulong entry, ulong rounds, ulong off)
{
	struct regs r = regs_kernel(remaps + m->at);

	data[0] = entry;
	r.dx = 0;
	r.cx = rounds;
	r.bx = m->va + off;
	r.r8 = m->va;
	r.si = (ulong)table + m->at;
	r.di = (ulong)data + m->at;
	guest_run(&r);
	return r;
}

static void put_ad(void)
{
	put(table[0] & PTE_A ? " A" : " -");
	put(table[0] & PTE_D ? "D" : "-");
}

/* As often as it takes a translator to see it. */
static void moving_loop(const struct moving *m)
{
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(pages); i++)
		*(ulong *)pages[i] = 0;
	table[0] = (ulong)pages[0] | RW;
	r = run_moving(m, (ulong)pages[1] | RW, 10000, 0);
	say(" sum", r.dx);
	say(" first", *(ulong *)pages[0]);
	say(" second", *(ulong *)pages[1]);
}

/* What INVLPG and CR3 must not leave behind, and what they need not. */
static void moving_rights(const struct moving *m)
{
	struct regs r = run_moving(m, (ulong)pages[1] | RW, 1, 0);

	put_ad();
	r = run_moving(m, (ulong)pages[1] | PTE_P, 1, 0);
	say_trap_kind(" read-only", &r);
	check(" cr2", r.cr2 == m->va);
	put_ad();
	r = run_moving(m, 0, 1, 0);
	say_trap_kind(" away", &r);
	check(" cr2", r.cr2 == m->va);
	r = run_moving(m, (ulong)pages[2] | RW, 1, 0xffc);
	say_trap_kind(" across", &r);
	put_ad();
	*(ulong *)pages[3] = 77;
	table[0] = (ulong)pages[3] | RW;
	write_cr3(read_cr3());
	r = regs_kernel(remaps + 13 + m->at); /* add, without INVLPG */
	r.dx = 0;
	r.cx = 1;
	r.bx = m->va;
	guest_run(&r);
	say(" by CR3", r.dx);
}

/* The page moves to where code is, and changes it. */
static void moving_onto_code(const struct moving *m)
{
	unsigned i;

	memcpy(pages[2], "\xb8\x00\x00\x00\x00\xcd\x40\x90\x90", 9);
	for (i = 0; i < 20; i++) {
		struct regs r = regs_kernel(pages[2]);

		guest_run(&r);
		check(" code", r.ax == i);
		run_moving(m, (ulong)pages[1] | RW, 1, 1);
		run_moving(m, (ulong)pages[2] | RW, 1, 1);
	}
}

SNIPPET(touches, "mov (%rbx),%rax\nincq (%rbx)\nmov (%rbx),%rdx\n" STOP);

/* One place faults, and what it needs is put there: absent, read-only, both. A fault needs no
 * INVLPG behind it. */
static void mended(const struct moving *m)
{
	unsigned i, faults = 0, good = 0;

	*(ulong *)pages[1] = 0;
	for (i = 0; i < 60; i++) {
		struct regs r = regs_kernel(touches + m->at);
		unsigned error = i % 3 ? 3 : 0;

		table[0] = i % 3 ? (ulong)pages[1] | PTE_P : 0;
		invlpg((void *)m->va);
		r.bx = m->va;
		guest_run(&r);
		faults += r.vector == PF && r.error == error && r.cr2 == m->va &&
			  r.ip == (ulong)touches + m->at + (error ? 3 : 0);
		table[0] = (ulong)pages[1] | RW;
		r.vector = 0;
		guest_run(&r);
		good += r.vector == STOP_VECTOR && r.dx == i + 1 && r.ax == i;
	}
	say(" faults", faults);
	say(" mended", good);
	put_ad();
	put("\n");
}

/* First those of one half, before their code has met the other. */
static void test_moving_data(void)
{
	static const struct moving all[] = {{UPPER, HIGH},    {LOW_PAGE, 0}, {UPPER, 0},
					    {LOW_PAGE, HIGH}, {BEYOND, 0},   {BEYOND, HIGH}};
	ulong *pdpt_low = (ulong *)(boot_pml4[0] & ~0xffful);
	unsigned i;

	pdpt_low[LOW_PAGE >> 30] = (ulong)pd | RW;
	write_cr3(read_cr3());
	write_cr0(read_cr0() | CR0_WP);
	for (i = 0; i < COUNT(all); i++) {
		put_hex(all[i].va);
		put_half(" moving: code", all[i].at != 0);
		put("\n");
		mended(&all[i]);
		moving_loop(&all[i]);
		moving_rights(&all[i]);
		moving_onto_code(&all[i]);
	}
	table[0] = (ulong)frames[0] | RW;
	pdpt_low[LOW_PAGE >> 30] = 0;
	write_cr0(read_cr0() & ~CR0_WP);
	write_cr3(read_cr3());
}

/* --- page tables --- */

/* A and D of a page that is read, then written, from both halves. */
static void test_accessed(void)
{
	static const ulong at[] = {BEYOND + 0x1000, UPPER + 0x1000, 0x3fe00000, HIGH + 0x3fe00000};
	unsigned i, k, n;

	for (i = 0; i < COUNT(at); i++)
		for (k = 0; k < 2; k++)
			for (n = 0; n < 3; n++) {
				ulong *e = i < 2 ? &table[1] : pte_of(0x3fe00000);
				struct regs r =
				    regs_kernel((n & 1 ? writes : reads) + halves[k].at);

				if (n != 1)
					*e &= ~(PTE_A | PTE_D);
				if (n == 2)
					*e |= PTE_D;
				invlpg((void *)at[i]);
				r.bx = at[i];
				guest_run(&r);
				put_hex(at[i]);
				put_half(n & 1 ? " written" : " read", k);
				put(*e & PTE_A ? "A" : "-");
				put(*e & PTE_D ? "D\n" : "-\n");
			}
}

SNIPPET(under_other, "mov %rax,%cr3\nmov (%rdx),%ecx\nmov (%rbx),%esi\n1: mov %rdi,%cr3\n" STOP);

/* CR3 with other tables, CR4.PGE, EFER.NXE: what was mapped must go. */
static void test_flushes(void)
{
	unsigned k, n;

	for (k = 0; k < 2; k++)
		for (n = 0; n < 4; n++) {
			struct regs r = regs_kernel(under_other + halves[k].at);

			r.ax = n & 1 ? (ulong)other_pml4 : (ulong)boot_pml4;
			r.di = (ulong)boot_pml4;
			r.dx = (ulong)data + halves[!k].at;
			r.bx = n & 2 ? UPPER + 0x2000 : BEYOND + 0x2000;
			guest_run(&r);
			put_half("other tables: code", k);
			if (r.vector == PF)
				say("cr2", r.cr2);
			say_trap_kind("end", &r);
			write_cr3((ulong)boot_pml4);
		}
	for (k = 0; k < 4; k++) {
		struct regs r = regs_kernel(reads + halves[k & 1].at);

		table[2] = (ulong)frames[k] | PTE_G | PTE_W | PTE_P;
		if (k & 2)
			write_cr4(read_cr4() ^ CR4_PGE);
		else
			wrmsr(EFER, rdmsr(EFER) ^ EFER_NXE);
		write_cr3(read_cr3());
		invlpg((void *)(UPPER + 0x2000));
		invlpg((void *)(BEYOND + 0x2000));
		r.bx = k & 2 ? UPPER + 0x2010 : BEYOND + 0x2010;
		guest_run(&r);
		say("flushed", r.ax);
	}
	write_cr4(read_cr4() & ~CR4_PGE);
	wrmsr(EFER, rdmsr(EFER) & ~(u64)EFER_NXE);
}

void guest_main(void)
{
	map_all();
	test_places();
	test_crossings();
	test_handlers();
	test_gs();
	test_faults();
	test_code();
	test_moving_code();
	test_moving_data();
	test_accessed();
	test_flushes();
}
