/*
 * Paging: rights at every level, error codes and CR2, accessed and dirty bits, reserved bits,
 * CR0.WP, large pages, INVLPG, CR3 and CR4 flushes, accesses across pages, instructions that fault
 * half-way and are restarted. The 32-bit guest goes through two-level paging without and with PSE
 * and through PAE; compiled for 64-bit mode the same tests use 4-level paging. SDM vol. 3,
 * chapter 4.
 */
#include "lib.h"

#ifndef HARDWARE
#define HARDWARE 0
#endif

#define NX  (1ull << 63)
#define P   1ull
#define W   2ull
#define U   4ull
#define A   0x20ull
#define D   0x40ull
#define PS  0x80ull
#define G   0x100ull
#define PAT 0x1000ull /* of a large page */

#define CR0_WP  0x10000ul
#define CR0_PG  0x80000000ul
#define CR4_PSE 0x10ul
#define CR4_PAE 0x20ul
#define CR4_PGE 0x80ul
#define EFER    0xc0000080

/* Where the tests map, far from the identity map of the first 64 MiB. */
#ifdef GUEST64
#define T 0xffffc00000000000ul
#else
#define T 0x40000000ul
#endif
#define IDENTITY (64ul << 20)

struct format {
	const char *name;
	unsigned levels, bits, entry_size;
	bool large, nx;
};

static const struct format *f;
static u8 tables[48][4096] ALIGNED(4096);
static unsigned tables_used;
static u8 frames[4][4096] ALIGNED(4096);
/* Room for one page of 4 MiB, wherever it is aligned. */
static u8 big[8 << 20];

/* --- tables --- */

static u64 get(const void *e)
{
	return f->entry_size == 8 ? *(const u64 *)e : *(const u32 *)e;
}

static void set(void *e, u64 v)
{
	if (f->entry_size == 8)
		*(u64 *)e = v;
	else
		*(u32 *)e = v;
}

static u8 *new_table(void)
{
	u8 *t = tables[tables_used++];

	memset(t, 0, 4096);
	return t;
}

static unsigned shift_of(unsigned level)
{
	return 12 + level * f->bits;
}

/* The entry for va at a level (0: 4 KiB), tables made on the way. */
static void *entry(ulong va, unsigned level)
{
	unsigned at = f->levels - 1;
	u8 *t = tables[0];

	for (;;) {
		u8 *e = t + (va >> shift_of(at) & ((1u << f->bits) - 1)) * f->entry_size;

		if (at == level)
			return e;
		if (!(get(e) & P)) /* a PAE page-directory-pointer has no rights */
			set(e, (ulong)new_table() | P |
				   (f->bits == 9 && f->levels == 3 && at == 2 ? 0 : U | W));
		t = (u8 *)(ulong)(get(e) & ~NX & ~0xfffull);
		at--;
	}
}

static void flush(void)
{
	write_cr3(read_cr3());
}

static void put_entry(ulong va, unsigned level, u64 v)
{
	set(entry(va, level), v);
	flush();
}

static void build(void)
{
	ulong va;

	tables_used = 0;
	new_table();
	for (va = 0; va < IDENTITY; va += f->large ? 1ul << shift_of(1) : 4096)
		set(entry(va, f->large ? 1 : 0), va | (f->large ? PS : 0) | U | W | P);
	entry(T, 0);
}

/* --- accesses --- */

#ifdef GUEST64
#define BX "%rbx"
#define SP "%rsp"
#define BP "%rbp"
#else
#define BX "%ebx"
#define SP "%esp"
#define BP "%ebp"
#endif
SNIPPET(do_read, "mov (" BX "),%al\n" STOP);
SNIPPET(do_write, "mov %al,(" BX ")\n" STOP);
SNIPPET(do_exec, "jmp *" BX "\n" STOP);

static struct regs access(const u8 *code, ulong va, bool user)
{
	struct regs r = user ? regs_user(code) : regs_kernel(code);

	r.bx = va;
	r.ax = *(u8 *)frames[0]; /* a write changes nothing */
	guest_run(&r);
	return r;
}

static void put_access(const char *what, const u8 *code, ulong va, bool user)
{
	struct regs r = access(code, va, user);

	put(what);
	if (r.vector == STOP_VECTOR) {
		put("ok");
		return;
	}
	if (r.vector != PF) {
		put("vector ");
		put_hex(r.vector);
		return;
	}
	/* Bit 3 implies bit 0, but not in every emulator. */
	put_hex(r.error & (r.error & 8 && !HARDWARE ? ~1ul : ~0ul));
	if (r.cr2 != va)
		put(" CR2 WRONG");
	if (r.ip != (code == do_exec ? va : (ulong)code))
		put(" IP WRONG");
}

static void put_all_accesses(const char *name, ulong va)
{
	put(name);
	put_access(": kernel r ", do_read, va, false);
	put_access(" w ", do_write, va, false);
	put_access(" x ", do_exec, va, false);
	put_access("; user r ", do_read, va, true);
	put_access(" w ", do_write, va, true);
	put_access(" x ", do_exec, va, true);
	write_cr0(read_cr0() & ~CR0_WP);
	put_access("; no WP: w ", do_write, va, false);
	put_access(" user w ", do_write, va, true);
	write_cr0(read_cr0() | CR0_WP);
	put("\n");
}

static void put_flags(u64 v)
{
	put(v & P ? "P" : "-");
	put(v & W ? "W" : "-");
	put(v & U ? "U" : "-");
	if (v & NX)
		put("N");
}

static void code_in_frames(void)
{
	unsigned i;

	for (i = 0; i < COUNT(frames); i++) {
		memset(frames[i], 0x90, 4096);
		frames[i][0] = 0xcd;
		frames[i][1] = STOP_VECTOR;
	}
}

static void test_rights(void)
{
	static const u64 leaf[] = {0, W | U, P, P | W, P | U, P | W | U},
			 dir[] = {P | W | U, P | U, P | W, P, 0};
	u64 table = get(entry(T, 1)) & ~0xfffull & ~NX, nx;
	unsigned i, j;

	for (nx = 0; nx <= f->nx; nx++)
		for (i = 0; i < COUNT(dir); i++)
			for (j = 0; j < COUNT(leaf); j++) {
				if (i && !(leaf[j] & P))
					continue; /* nothing new */
				code_in_frames();
				set(entry(T, 1), table | P);
				set(entry(T, 0),
				    (ulong)frames[0] | leaf[j] | (nx && !(i & 1) ? NX : 0));
				put_entry(T, 1, table | dir[i] | (nx && (i & 1) ? NX : 0));
				put_flags(dir[i] | (nx && (i & 1) ? NX : 0));
				put("/");
				put_flags(leaf[j] | (nx && !(i & 1) ? NX : 0));
				put_all_accesses("", T);
				set(entry(T, 1), table | P | W | U);
			}
	put_entry(T, 1, table | P | W | U);
}

/* --- accessed and dirty --- */

static void put_ad(const char *what, u64 v)
{
	put(what);
	put(v & A ? "A" : "-");
	put(v & D ? "D" : "-");
}

static void accessed(const char *name, const u8 *code, u64 leaf, u64 dir_keep)
{
	u64 dir = get(entry(T, 1)) & ~(A | D);
	void *l, *d = entry(T, 1);

	set(d, dir | P | dir_keep);
	l = entry(T, 0);
	set(l, (ulong)frames[0] | leaf);
	flush();
	put(name);
	put_access(": ", code, T, false);
	put_ad(" leaf ", get(l));
	put_ad(" directory ", get(d));
	put("\n");
}

static void test_accessed(void)
{
	u64 v;

	code_in_frames();
	accessed("read", do_read, P | W | U, 0);
	accessed("write", do_write, P | W | U, 0);
	accessed("exec", do_exec, P | W | U, 0);
	accessed("read of dirty", do_read, P | W | D, 0);
	/* A write after a read: the read must not have been enough. */
	put_entry(T, 0, (ulong)frames[0] | P | W);
	access(do_read, T, false);
	v = get(entry(T, 0));
	access(do_write, T, false);
	put_ad("read, then write: ", v);
	put_ad(" ", get(entry(T, 0)));
	put("\n");
	/* Cleared and flushed, they are set again. */
	set(entry(T, 0), (ulong)frames[0] | P | W);
	invlpg((void *)T);
	access(do_write, T, false);
	put_ad("after clearing: ", get(entry(T, 0)));
	put("\n");
}

/* --- which translation is used --- */

static u8 read_byte(ulong va)
{
	return *(volatile u8 *)va;
}

static void test_flush(void)
{
	bool good = true;
	unsigned i;

	for (i = 0; i < COUNT(frames); i++)
		frames[i][8] = 0x10 + i;
	for (i = 0; i < 12; i++) {
		set(entry(T, 0), (ulong)frames[i & 3] | P | W);
		invlpg((void *)(T + 0x123));
		good &= read_byte(T + 8) == 0x10 + (i & 3);
	}
	check("invlpg", good);
	for (i = 0; i < 12; i++) {
		set(entry(T, 0), (ulong)frames[i & 3] | P | W);
		flush();
		good &= read_byte(T + 8) == 0x10 + (i & 3);
	}
	check("cr3", good);
	write_cr4(read_cr4() | CR4_PGE);
	for (i = 0; i < 12; i++) {
		set(entry(T, 0), (ulong)frames[i & 3] | P | W | G);
		invlpg((void *)T);
		good &= read_byte(T + 8) == 0x10 + (i & 3);
	}
	check("global, invlpg", good);
	for (i = 0; i < 12; i++) {
		set(entry(T, 0), (ulong)frames[i & 3] | P | W | G);
		write_cr4(read_cr4() ^ CR4_PGE);
		good &= read_byte(T + 8) == 0x10 + (i & 3);
	}
	check("global, CR4.PGE", good);
	invlpg((void *)T);
	for (i = 0; i < 12; i++) {
		set(entry(T, 0), (ulong)frames[i & 3] | P | W);
		flush();
		good &= read_byte(T + 8) == 0x10 + (i & 3);
	}
	check("not global, cr3", good);
	write_cr4(read_cr4() & ~CR4_PGE);
	/* A page that was absent needs no flush. */
	set(entry(T, 0), 0);
	flush();
	access(do_read, T, false);
	set(entry(T, 0), (ulong)frames[2] | P);
	check("present without a flush", read_byte(T + 8) == 0x12);
	/* Nor does one that gained rights, once it has faulted. */
	access(do_write, T, false);
	set(entry(T, 0), (ulong)frames[2] | P | W);
	access(do_write, T, false);
	check("writable without a flush", access(do_write, T, false).vector == STOP_VECTOR);
	/* Another table. */
	put_entry(T, 0, (ulong)frames[0] | P);
	read_byte(T);
	{
		u8 *table = new_table();
		u64 old = get(entry(T, 1));

		set(table, (ulong)frames[3] | P);
		put_entry(T, 1, (ulong)table | P | W);
		check("another table", read_byte(T + 8) == 0x13);
		put_entry(T, 1, old);
		check("and back", read_byte(T + 8) == 0x10);
	}
	/* Paging off and on. Not from 64-bit mode. */
#ifndef GUEST64
	set(entry(T, 0), (ulong)frames[1] | P);
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr0(read_cr0() | CR0_PG);
	check("CR0.PG", read_byte(T + 8) == 0x11);
#endif
}

/* --- large pages --- */

static void test_large(void)
{
	ulong size = 1ul << shift_of(1), at = ((ulong)big + size - 1) & ~(size - 1);
	u64 old = get(entry(T, 1));

	if (!f->large) {
		/* Without PSE bit 7 means nothing: this is a table. */
		set(entry(T, 0), (ulong)frames[1] | P | W);
		put_entry(T, 1, old | PS);
		check("PS ignored", read_byte(T + 8) == 0x11);
		put_entry(T, 1, old);
		return;
	}
	memset((void *)at, 0x90, 4096);
	*(u8 *)at = 0xcd;
	*(u8 *)(at + 1) = STOP_VECTOR;
	*(u8 *)(at + size - 1) = 0x77;
	put_entry(T, 1, at | PS | P | W | U);
	put_all_accesses("large PWU", T);
	put_entry(T, 1, at | PS | P);
	put_all_accesses("large P--", T);
	put_entry(T, 1, at | PS | P | U);
	put_all_accesses("large P-U", T);
	put_entry(T, 1, at | PS | P | W);
	put_all_accesses("large PW-", T);
	put_entry(T, 1, at | PS | W | U);
	put_all_accesses("large -WU", T);
	if (f->nx) {
		put_entry(T, 1, at | PS | P | W | U | NX);
		put_all_accesses("large PWUN", T);
	}
	put_entry(T, 1, at | PS | P | W);
	access(do_read, T, false);
	put_ad("large, read: ", get(entry(T, 1)));
	access(do_write, T + 0x1000, false);
	put_ad("; written: ", get(entry(T, 1)));
	put("\n");
	check("large, last byte", read_byte(T + size - 1) == 0x77);
	put_entry(T, 1, at | PS | P | W | PAT);
	check("large, PAT bit", read_byte(T + size - 1) == 0x77);
	/* A reserved address bit. Bits 13 to 20 hold high address bits where PSE-36 is. */
	put_entry(T, 1, at | PS | P | W | (f->entry_size == 8 ? 1ull << 13 : 1ull << 21));
	put_access("large, reserved: r ", do_read, T, false);
	put_access(" w ", do_write, T, false);
	put_access(" user r ", do_read, T, true);
	put_access(" user w ", do_write, T, true);
	put("\n");
	/* INVLPG anywhere in it. */
	put_entry(T, 1, at | PS | P | W);
	read_byte(T);
	set(entry(T, 1), 0);
	invlpg((void *)(T + 0x100000));
	check("large, invlpg", access(do_read, T, false).vector == PF);
	put_entry(T, 1, old);
}

#ifdef GUEST64
static void test_huge(void)
{
	u64 old = get(entry(T, 2));

	if (!(cpuid(0x80000001, 0).d & 1u << 26)) {
		put("[1g] skipped\n");
		return;
	}
	/* Physical 0 to 1 GiB. */
	put_entry(T, 2, PS | P | W | U);
	check("[1g] same memory", read_byte(T + (ulong)frames[1] + 8) == 0x11);
	put_access("[1g] PWU: w ", do_write, T + 0x3000, true);
	put_ad(" ", get(entry(T, 2)));
	put("\n");
	put_entry(T, 2, PS | P | U);
	put_access("[1g] P-U: w ", do_write, T + 0x3000, true);
	put("\n");
	put_entry(T, 2, PS | P | W);
	put_access("[1g] PW-: r ", do_read, T + 0x3000, true);
	put("\n");
	put_entry(T, 2, PS | P | W | U | 1ull << 20);
	put_access("[1g] reserved: r ", do_read, T + 0x3000, true);
	put("\n");
	put_entry(T, 2, old);
	/* PS is reserved in the top level. */
	old = get(entry(T, 3));
	put_entry(T, 3, old | PS);
	put_access("PS in PML4: r ", do_read, T, false);
	put("\n");
	put_entry(T, 3, old);
}
#endif

/* --- reserved bits and NX off --- */

static void test_reserved(void)
{
	unsigned width = cpuid(0x80000008, 0).a & 0xff, level;

	if (f->entry_size != 8)
		return;
	for (level = 0; level < 2; level++) {
		void *e = entry(T, level);
		u64 old = get(e);

		if (!level)
			old = (ulong)frames[0] | P | W | U;
		set(e, old | 1ull << width);
		flush();
		put(level ? "reserved bit, directory: r " : "reserved bit, leaf: r ");
		put_access("", do_read, T, false);
		put_access(" w ", do_write, T, false);
		put_access(" user r ", do_read, T, true);
		put_access(" x ", do_exec, T, false);
		set(e, old);
		flush();
		put_access(" then ", do_read, T, false);
		put("\n");
	}
	if (!f->nx)
		return;
	set(entry(T, 0), (ulong)frames[0] | P | W | U | NX);
	wrmsr(EFER, rdmsr(EFER) & ~0x800ull);
	flush();
	put_access("NX without NXE: r ", do_read, T, false);
	put_access(" x ", do_exec, T, false);
	put_access(" user x ", do_exec, T, true);
	set(entry(T, 0), W);
	flush();
	put_access(" absent x ", do_exec, T, false);
	put("\n");
	wrmsr(EFER, rdmsr(EFER) | 0x800ull);
	flush();
}

/* --- across pages, and restarts --- */

enum {
	PLAIN,
	RMW,      /* absent: some emulators report a read, so bit 1 of the error is not shown */
	PUSHES,   /* the stack begins in the second page and grows into the first */
	POPS,     /* from the first page and the second */
	FAR_POPS, /* the same; some emulators report a kernel access */
	JUMPS,    /* where is of no interest */
};

/*
 * EBX or RBX: 2 bytes before the end of the first of two pages. Each instruction faults, then is
 * restarted. A few want the stack there, too.
 */
#define CASES(X)                                                                                   \
	X(c_mov, PLAIN, "mov r,m", "mov (" BX "),%eax\n")                                          \
	X(c_movw, PLAIN, "mov m,r", "mov %eax,(" BX ")\n")                                         \
	X(c_add, RMW, "add m,r", "add %eax,(" BX ")\n")                                            \
	X(c_cmp, PLAIN, "cmp m,imm", "cmpl $5,(" BX ")\n")                                         \
	X(c_inc, RMW, "inc m", "incl (" BX ")\n")                                                  \
	X(c_xchg, RMW, "xchg", "xchg %eax,(" BX ")\n")                                             \
	X(c_lock, RMW, "lock add", "lock addl $7,(" BX ")\n")                                      \
	X(c_xadd, RMW, "xadd", "xadd %eax,(" BX ")\n")                                             \
	X(c_cmpxchg, RMW, "cmpxchg", "cmpxchg %ecx,(" BX ")\n")                                    \
	X(c_cmpxchg8, RMW, "cmpxchg8b", "cmpxchg8b (" BX ")\n")                                    \
	X(c_bts, RMW, "bts", "mov $40,%ecx; lea -5(" BX ")," BX "; bts %ecx,(" BX ")\n")           \
	X(c_shl, RMW, "shl m", "shll $1,(" BX ")\n")                                               \
	X(c_shld, RMW, "shld m", "shldl $4,%eax,(" BX ")\n")                                       \
	X(c_mul, PLAIN, "mul m", "mull (" BX ")\n")                                                \
	X(c_div, PLAIN, "div m", "xor %edx,%edx; divl (" BX ")\n")                                 \
	X(c_fld, PLAIN, "fldt", "fninit; fldt -4(" BX ")\n")                                       \
	X(c_fst, PLAIN, "fstpt", "fninit; fld1; fstpt -4(" BX ")\n")                               \
	X(c_fnstcw, PLAIN, "fnstcw", "fnstcw 1(" BX ")\n")                                         \
	X(c_fnsave, PLAIN, "fnsave", "fninit; fnsave -50(" BX ")\n")                               \
	X(c_sidt, PLAIN, "sidt", "sidt (" BX ")\n")                                                \
	X(c_push_m, PLAIN, "push m", "push (" BX ")\n")                                            \
	X(c_pop_m, PLAIN, "pop m", "pop (" BX ")\n")                                               \
	X(c_call_m, JUMPS, "call m", "call *(" BX ")\n")                                           \
	X(c_ljmp_m, JUMPS, "far jmp m", "ljmp *-2(" BX ")\n")                                      \
	X(c_movs, PLAIN, "movs", "mov " BX ",%" R "si; mov " BX ",%" R "di; movsl\n")              \
	X(c_setcc, PLAIN, "setcc", "setc 2(" BX ")\n")                                             \
	X(c_push, PUSHES, "push", "push %" R "ax\n")                                               \
	X(c_pushf, PUSHES, "pushf", "pushf\n")                                                     \
	X(c_call, PUSHES, "call", "call 1f\n1:\n")                                                 \
	X(c_enter, PUSHES, "enter", "enter $16,$0\n")                                              \
	X(c_enter3, PUSHES, "enter nested", "mov " BX "," BP "; enter $8,$3\n")                    \
	X(c_pop, POPS, "pop", "pop %" R "ax\n")                                                    \
	X(c_popf, POPS, "popf", "popf\n")                                                          \
	X(c_ret, POPS, "ret", "ret\n")                                                             \
	X(c_leave, POPS, "leave", "mov " BX "," BP "; leave\n")                                    \
	X(c_lret, FAR_POPS, "far ret", LRET)                                                       \
	X(c_iret, FAR_POPS, "iret", IRET)
#ifdef GUEST64
#define R    "r"
#define LRET "lretq\n"
#define IRET "iretq\n"
#else
#define R    "e"
#define LRET "lret\n"
#define IRET "iret\n"
#define CASES32(X)                                                                                 \
	X(c_pusha, PUSHES, "pusha", "pusha\n")                                                     \
	X(c_popa, POPS, "popa", "popa\n")                                                          \
	X(c_les, PLAIN, "les", "les (%ebx),%eax\n")                                                \
	X(c_bound, PLAIN, "bound", "bound %eax,-2(%ebx)\n")                                        \
	X(c_push_seg, PUSHES, "push ds", "push %ds\n")                                             \
	X(c_pop_seg, POPS, "pop ds", "pop %ds\n")                                                  \
	X(c_arpl, RMW, "arpl", "arpl %ax,1(%ebx)\n")
#endif
#define CASE_CODE(name, stack, text, code) SNIPPET(name, code STOP);
#define CASE_LIST(name, stack, text, code) {{text, name}, stack},
CASES(CASE_CODE)
#ifndef GUEST64
CASES32(CASE_CODE)
#endif
static const struct {
	struct test_case t;
	unsigned kind;
} cases[] = {CASES(CASE_LIST)
#ifndef GUEST64
		 CASES32(CASE_LIST)
#endif
};

/* Registers that an instruction may not have changed when it faults. */
static bool unchanged(const struct regs *a, const struct regs *b, const u8 *code)
{
	bool same = a->ax == b->ax && a->dx == b->dx && a->sp == b->sp;

	/* Some cases set up these before the instruction that faults. */
	if (code != c_bts)
		same &= a->cx == b->cx && a->bx == b->bx;
	if (code != c_enter3 && code != c_leave)
		same &= a->bp == b->bp;
	if (code != c_div)
		same &= (a->flags & F_ARITH) == (b->flags & F_ARITH);
	return same;
}

/* What lies around the boundary of the two pages. */
#define AROUND 64

static void fill(void)
{
	unsigned i;

	for (i = 0; i < AROUND; i++) {
		frames[0][4096 - AROUND + i] = 0x11 + i;
		frames[1][i] = 0x21 + i * 3;
	}
	frames[0][4094] = 2;
	frames[0][4095] = 0;
	frames[1][0] = frames[1][1] = frames[1][3] = 0;
	frames[1][2] = UDATA; /* of a far pointer */
}

/* How far behind the boundary a stack is that grows across it. */
static unsigned pushes_begin(const u8 *code)
{
	if (code == c_enter3)
		return 2;
#ifndef GUEST64
	if (code == c_pusha)
		return 9;
	if (code == c_push_seg)
		return 0; /* what is pushed may be a word or a dword */
#endif
	return 1;
}

/* PUSHA may write its words in any order. */
static bool any_order(const u8 *code)
{
	return *code == 0x60 && !HARDWARE;
}

static void run_case(unsigned i, bool user, u64 lost, bool second)
{
	const u8 *code = cases[i].t.code;
	const u64 rights[2] = {P | W | U, P | W | U};
	struct regs start = user ? regs_user(code) : regs_kernel(code), r;
	unsigned page;

	fill();
	for (page = 0; page < 2; page++)
		set(entry(T + 4096 * page, 0),
		    (ulong)frames[page] | (rights[page] & (page == second ? ~lost : ~0ull)));
	flush();
	start.ax = 0x12345678;
	start.cx = 0x3;
	start.dx = 0;
	start.bp = 0x77777777;
	start.bx = T + 4094;
	start.flags |= F_CF;
	start.sp -= 16;
	memset((void *)start.sp, 0x33, 16);
	if (cases[i].kind == PUSHES)
		start.sp = T + 4096 + pushes_begin(code);
	else if (cases[i].kind == POPS || cases[i].kind == FAR_POPS)
		start.sp = T + 4096 - (code == c_lret || code == c_iret ? 6 : 1);
	r = start;
	guest_run(&r);
	put(cases[i].t.text);
	put(user ? ", user" : "");
	put(lost & P ? " absent" : " read-only");
	put(second ? " 2nd: " : " 1st: ");
	if (r.vector == PF) {
		put_hex(r.error & (cases[i].kind == RMW && !HARDWARE && (lost & P) ? ~2ul : ~0ul));
		put(" cr2 ");
		put_hex((r.cr2 - T) & (any_order(code) ? ~0xffful : ~0ul));
		put(" ip +");
		put_hex(r.ip - r.start);
		put(unchanged(&start, &r, code) ? "" : " CHANGED");
	} else {
		put("none");
	}
	if (r.vector != PF || cases[i].kind >= PUSHES) {
		put("\n");
		return;
	}
	set(entry(T, 0), (ulong)frames[0] | P | W | U);
	set(entry(T + 4096, 0), (ulong)frames[1] | P | W | U);
	flush();
	guest_run(&r);
	/* What these write is not the same everywhere. */
	if (code == c_sidt || code == c_push_m || code == c_fnsave)
		put(r.vector == STOP_VECTOR ? "; resumed" : "; TRAP");
	else {
		put("; ax ");
		put_hex(r.ax);
		put(" dx ");
		put_hex(r.dx);
		put(r.vector == STOP_VECTOR ? " sum "
		    : r.vector == BR        ? " #BR sum "
					    : " TRAP sum ");
		put_hex(checksum(frames[1] - AROUND, 2 * AROUND));
	}
	put("\n");
}

static void test_across(void)
{
	unsigned i;

	for (i = 0; i < COUNT(cases); i++) {
		if (cases[i].kind == FAR_POPS && !HARDWARE)
			continue;
#ifndef GUEST64
		if (cases[i].t.code == c_arpl && HARDWARE)
			continue; /* how it reads is not told */
#endif
		run_case(i, true, P, false);
		run_case(i, true, P, true);
		if (cases[i].kind <= PUSHES) {
			run_case(i, true, W, false);
			run_case(i, true, W, true);
		}
		if (cases[i].kind < PUSHES) {
			run_case(i, false, P, true);
			run_case(i, false, W, true);
		}
	}
}

/* --- code across pages --- */

static void test_fetch(void)
{
	struct regs r;
	unsigned n;

	for (n = 1; n < 5; n++) {
		u8 *at = frames[0] + 4096 - n;
		const u8 code[7] = {0xb8, 1, 2, 3, 4, 0xcd, STOP_VECTOR};

		memcpy(at, code, n);
		memcpy(frames[1], code + n, sizeof(code) - n);
		set(entry(T, 0), (ulong)frames[0] | P | U);
		set(entry(T + 4096, 0), (ulong)frames[1] | U);
		flush();
		r = regs_user((void *)(T + 4096 - n));
		guest_run(&r);
		put("fetch across: ");
		put_hex(r.vector);
		put(" error ");
		put_hex(r.error);
		put(" cr2 ");
		put_hex(r.cr2 - T);
		put(" ip ");
		put_hex(r.ip - T);
		set(entry(T + 4096, 0), (ulong)frames[1] | P | U);
		guest_run(&r);
		say("; then ax", r.ax);
	}
	/* The one fault comes before the other. */
	set(entry(T, 0), 0);
	set(entry(T + 4096, 0), 0);
	flush();
	r = access(do_write, T + 0xfff, true);
	put_access("both absent: ", do_write, T + 0xfff, true);
	put("\n");
}

/* --- PAE page-directory pointers --- */

#ifndef GUEST64
SNIPPET(load_cr3, "mov %eax,%cr3\n" STOP);

static void test_pdpte(void)
{
	static u64 bad[4] ALIGNED(32);
	struct regs r = regs_kernel(load_cr3);

	if (f->levels != 3)
		return;
	memcpy(bad, tables[0], sizeof(bad));
	bad[3] = (u32)tables[0] | P | W; /* bit 1 is reserved */
	r.ax = (u32)bad;
	if (HARDWARE) {
		guest_run(&r);
		say_trap("reserved bit in a PDPTE", &r);
	}
	bad[3] = 0;
	r = regs_kernel(load_cr3);
	r.ax = (u32)bad;
	guest_run(&r);
	say_trap("table of pointers not on a page", &r);
	write_cr3((ulong)tables[0]);
	/* Pointers are read when CR3 is loaded, not before. */
	put_entry(T, 0, (ulong)frames[0] | P | W);
	set(tables[0] + 8 * (T >> 30), 0);
	flush();
	put_access("pointer gone: r ", do_read, T, false);
	put_access(" user w ", do_write, T, true);
	put("\n");
}
#else
static void test_pdpte(void)
{
}
#endif

static void test_format(const struct format *format)
{
	say_str("format", format->name);
	f = format;
#ifndef GUEST64
	write_cr0(read_cr0() & ~CR0_PG);
#endif
	build();
#ifndef GUEST64
	write_cr4((read_cr4() & ~(CR4_PSE | CR4_PAE)) | (f->large ? CR4_PSE : 0) |
		  (f->entry_size == 8 ? CR4_PAE : 0));
#endif
	if (f->nx)
		wrmsr(EFER, rdmsr(EFER) | 0x800);
	write_cr3((ulong)tables[0]);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
	if (HARDWARE) {
		code_in_frames();
		frames[1][8] = 0x11;
		test_large();
		test_reserved();
		test_across();
		test_pdpte();
		return;
	}
	test_rights();
	test_accessed();
	test_flush();
	test_large();
#ifdef GUEST64
	test_huge();
#endif
	test_reserved();
	test_across();
	test_fetch();
	test_pdpte();
}

void guest_main(void)
{
#ifdef GUEST64
	static const struct format formats[] = {{"4-level", 4, 9, 8, true, true}};
#else
	static const struct format formats[] = {{"two-level", 2, 10, 4, false, false},
						{"two-level, PSE", 2, 10, 4, true, false},
						{"PAE", 3, 9, 8, true, true}};
#endif
	unsigned i;

	for (i = 0; i < COUNT(formats); i++)
		test_format(&formats[i]);
}
