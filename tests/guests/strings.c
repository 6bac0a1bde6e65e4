/*
 * String instructions: every one in every operand and address size, both directions, all repeat
 * prefixes; overlaps; elements and runs that cross pages; faults in the middle and resumption.
 * Compiled for 32-bit and for 64-bit mode. SDM vol. 2, the instructions and REP.
 */
#include "lib.h"

#define SOURCE 0x3000ul /* below 64 KiB, for 16-bit addresses */
#define DEST   0x4000ul
#define MIDDLE 0x800 /* where runs begin */
#define WINDOW 0x1000

#ifdef GUEST64
#define SIZES 4
/* A 32-bit address ignores the upper half of a register, and writing it clears that half. */
#define JUNK 0x1234567800000000ul
#else
#define SIZES 3
#define JUNK  0x5a5a0000ul
#endif

static u8 code[32];

static struct regs start_state(void)
{
	struct regs r = regs_kernel(code);

	r.si = SOURCE + MIDDLE;
	r.di = DEST + MIDDLE;
	r.ax = 0x0d0c0b0a;
	return r;
}

/* prefix: 0, 0xf2, 0xf3. */
static void assemble(u8 opcode, unsigned size, u8 prefix, bool other_address)
{
	u8 *p = code;

	if (other_address)
		*p++ = 0x67;
	if (size == 1)
		*p++ = 0x66;
	if (prefix)
		*p++ = prefix;
	if (size == 3)
		*p++ = 0x48;
	*p++ = opcode | (size == 0 ? 0 : 1);
	*p++ = 0xcd;
	*p++ = STOP_VECTOR;
}

static void fill(bool same)
{
	u8 *s = (u8 *)SOURCE, *d = (u8 *)DEST;
	unsigned i;

	for (i = 0; i < WINDOW; i++) {
		s[i] = i * 7 + (i >> 5);
		d[i] = same ? s[i] : 0xee;
	}
	/* Where CMPS and SCAS find what they look for. */
	d[MIDDLE + 26] ^= 0x40;
	d[MIDDLE - 26] ^= 0x40;
}

static void put_state(const struct regs *r, ulong si, ulong di)
{
	put(" si ");
	put_hex(r->si - si);
	put(" di ");
	put_hex(r->di - di);
	put(" cx ");
	put_hex(r->cx);
}

static void one(const char *name, u8 opcode, unsigned size, u8 prefix, bool down, bool other)
{
	struct regs r = start_state();
	bool compares = opcode == 0xa6 || opcode == 0xae;

	fill(opcode == 0xa6);
	assemble(opcode, size, prefix, other);
	r.flags |= down ? F_DF : 0;
	r.cx = 20;
	if (other) {
		r.si |= JUNK;
		r.di |= JUNK;
		r.cx |= JUNK;
	}
	if (opcode == 0xae) {
		/* REPE runs while equal, REPNE until equal. */
		memset((void *)(DEST + MIDDLE - 80), 0x33, 160);
		memset((void *)(DEST + MIDDLE + 40), 0x44, 8);
		memset((void *)(DEST + MIDDLE - 40), 0x44, 8);
		r.ax = prefix == 0xf2 ? 0x44444444 : 0x33333333;
		if (size == 3)
			r.ax |= (u64)r.ax << 16 << 16;
	} else if (opcode == 0xa6 && prefix == 0xf2) {
		/* Nothing is equal but one place. */
		unsigned i;

		for (i = 0; i < WINDOW; i++)
			((u8 *)DEST)[i] = ~((u8 *)SOURCE)[i];
		memcpy((void *)(DEST + MIDDLE + 40), (void *)(SOURCE + MIDDLE + 40), 8);
		memcpy((void *)(DEST + MIDDLE - 40), (void *)(SOURCE + MIDDLE - 40), 8);
	}
	guest_run(&r);
	put(name);
	put_char("bwdq"[size]);
	put(prefix == 0xf3 ? " repe" : prefix ? " repne" : "");
	put(down ? " down" : "");
	put(other ? " other" : "");
	put(":");
	put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
	if (opcode == 0xac) {
		put(" ax ");
		put_hex(r.ax);
	}
	if (compares) {
		put(" flags ");
		put_hex(r.flags & F_ARITH);
	} else {
		put(" sum ");
		put_hex(checksum((void *)DEST, WINDOW));
	}
	if (r.vector != STOP_VECTOR)
		put(" TRAP");
	put("\n");
}

static void test_all(void)
{
	static const struct {
		const char *name;
		u8 opcode;
	} ops[] = {{"movs", 0xa4}, {"cmps", 0xa6}, {"stos", 0xaa}, {"lods", 0xac}, {"scas", 0xae}};
	static const u8 prefixes[] = {0, 0xf3, 0xf2};
	unsigned op, size, prefix, variant;

	for (op = 0; op < COUNT(ops); op++)
		for (size = 0; size < SIZES; size++)
			for (prefix = 0; prefix < 3; prefix++)
				for (variant = 0; variant < 4; variant++) {
					/* REPNE is defined for CMPS and SCAS only. */
					if (prefix == 2 && ops[op].opcode != 0xa6 &&
					    ops[op].opcode != 0xae)
						continue;
					one(ops[op].name, ops[op].opcode, size, prefixes[prefix],
					    variant & 1, variant & 2);
				}
}

/* --- counts of zero, flags left alone --- */

static void test_zero(void)
{
	static const u8 ops[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
	struct regs r;
	unsigned i;

	for (i = 0; i < COUNT(ops); i++) {
		r = start_state();
		assemble(ops[i], 0, 0xf3, false);
		r.flags |= F_CF | F_OF | F_AF;
		guest_run(&r);
		put("count 0, opcode ");
		put_hex(ops[i]);
		put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
		put(" flags ");
		put_hex(r.flags & F_ARITH);
		put(" ax ");
		put_hex(r.ax);
		put("\n");
	}
#ifndef GUEST64
	/* 16-bit address: CX is the counter, the upper half of ECX is nothing to it. */
	r = start_state();
	assemble(0xa4, 0, 0xf3, true);
	r.cx = 0x70000;
	guest_run(&r);
	put("CX 0, ECX not:");
	put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
	put("\n");
	/* SI and DI wrap at 64 KiB. */
	memset((void *)0, 0, 0x10);
	memset((void *)0xfff0, 0x11, 0x10);
	r = start_state();
	assemble(0xaa, 0, 0xf3, true);
	r.di = 0xabcdfff8;
	r.cx = 0x10;
	r.ax = 0x77;
	guest_run(&r);
	put("DI wraps:");
	put_state(&r, SOURCE + MIDDLE, 0);
	say(" sum", checksum((void *)0, 0x10) ^ checksum((void *)0xfff0, 0x10));
#endif
}

/* --- overlaps --- */

static void overlap(unsigned size, int distance, bool down)
{
	struct regs r = start_state();

	fill(true);
	assemble(0xa4, size, 0xf3, false);
	r.si = DEST + MIDDLE;
	r.di = r.si + distance;
	r.cx = 50;
	r.flags |= down ? F_DF : 0;
	guest_run(&r);
	put("overlap ");
	put_char("bwdq"[size]);
	put(distance < 0 ? " -" : " +");
	put_dec(distance < 0 ? -distance : distance);
	put(down ? " down" : " up");
	put_state(&r, DEST + MIDDLE, DEST + MIDDLE);
	say(" sum", checksum((void *)DEST, WINDOW));
}

static void test_overlap(void)
{
	static const int distances[] = {1, -1, 2, 3, -3, 4, 7, 0, 16};
	unsigned size, i;

	for (size = 0; size < SIZES; size++)
		for (i = 0; i < COUNT(distances); i++) {
			overlap(size, distances[i], false);
			overlap(size, distances[i], true);
		}
}

/* --- ports --- */

static void test_ports(void)
{
	static const u8 masks[] = {0x5a, 0xa5, 0xf3};
	struct regs r = start_state();

	assemble(0x6e, 0, 0xf3, false);
	memcpy((void *)(SOURCE + MIDDLE), masks, sizeof(masks));
	r.dx = 0x21;
	r.cx = 3;
	guest_run(&r);
	put("rep outsb:");
	put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
	say(" mask", inb(0x21));
	r = start_state();
	assemble(0x6c, 0, 0xf3, false);
	fill(false);
	r.dx = 0x21;
	r.cx = 5;
	r.flags |= F_DF;
	guest_run(&r);
	put("rep insb down:");
	put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
	say(" sum", checksum((void *)DEST, WINDOW));
	r = start_state();
	assemble(0x6c, 0, 0, false);
	r.dx = 0x21;
	guest_run(&r);
	put("insb:");
	put_state(&r, SOURCE + MIDDLE, DEST + MIDDLE);
	say(" byte", *(u8 *)(DEST + MIDDLE));
	outb(0x21, 0xff);
}

/* --- faults --- */

/* Two pairs of pages; the second of each pair is taken away. */
static u8 from[2 * 4096] ALIGNED(4096), to[2 * 4096] ALIGNED(4096);

static void put_fault(const struct regs *r, const void *base)
{
	put(" fault ");
	put_hex(r->error);
	put(" cr2 ");
	put_hex(r->cr2 - (ulong)base);
	put_state(r, (ulong)from, (ulong)to);
	put(" restart ");
	put(r->ip == r->start ? "ok" : "FAIL");
}

/*
 * Run until the fault, put the page back, resume, report both. `missing` is taken away or, when
 * read_only, write-protected.
 */
static void resume(const char *name, struct regs r, u8 *missing, const void *base, bool read_only)
{
	ulong entry = (ulong)missing | PTE_U | PTE_W | PTE_P;

	set_pte((ulong)missing, read_only ? entry & ~PTE_W : 0);
	guest_run(&r);
	put(name);
	put(":");
	if (r.vector == PF)
		put_fault(&r, base);
	else
		put(" no fault");
	set_pte((ulong)missing, entry);
	if (r.vector == PF)
		guest_run(&r);
	put("; end");
	put_state(&r, (ulong)from, (ulong)to);
	put(" flags ");
	put_hex(r.flags & (F_ARITH | F_DF));
	put(" sum ");
	put_hex(checksum(to, sizeof(to)));
	put(r.vector == STOP_VECTOR ? "\n" : " TRAP\n");
}

static struct regs faulting(u8 opcode, unsigned size, bool user, ulong si, ulong di, ulong cx)
{
	struct regs r = user ? regs_user(code) : regs_kernel(code);
	unsigned i;

	assemble(opcode, size, 0xf3, false);
	for (i = 0; i < sizeof(from); i++) {
		from[i] = i * 5 + (i >> 8);
		to[i] = opcode == 0xa6 ? from[i] : 0;
	}
	r.si = (ulong)from + si;
	r.di = (ulong)to + di;
	r.cx = cx;
	r.ax = 0x61626364;
	return r;
}

static struct regs backward(struct regs r)
{
	r.flags |= F_DF;
	return r;
}

static void test_faults(void)
{
	u8 *from2 = from + 4096, *to2 = to + 4096;

	paging_on();
	resume("movsb, source", faulting(0xa4, 0, false, 4000, 0, 200), from2, from, false);
	resume("movsb, destination", faulting(0xa4, 0, false, 0, 4000, 200), to2, to, false);
	resume("movsb, user", faulting(0xa4, 0, true, 0, 4000, 200), to2, to, false);
	resume("movsb, read-only", faulting(0xa4, 0, true, 0, 4000, 200), to2, to, true);
	resume("movsb, first byte", faulting(0xa4, 0, false, 0, 4096, 200), to2, to, false);
	resume("movsd, source across", faulting(0xa4, 2, false, 4001, 0, 50), from2, from, false);
	resume("movsd, destination across", faulting(0xa4, 2, false, 0, 4003, 50), to2, to, false);
	resume("movsd, both across", faulting(0xa4, 2, false, 4002, 4003, 50), to2, to, false);
	resume("movsw, across", faulting(0xa4, 1, true, 0, 4095, 50), to2, to, true);
	resume("movsb down", backward(faulting(0xa4, 0, false, 4200, 4300, 200)), from, from,
	       false);
	resume("movsd down, across", backward(faulting(0xa4, 2, false, 4201, 4303, 90)), to, to,
	       false);
	resume("stosb", faulting(0xaa, 0, false, 0, 4090, 100), to2, to, false);
	resume("stosd across", faulting(0xaa, 2, true, 0, 4090, 100), to2, to, false);
	resume("stosw down", backward(faulting(0xaa, 1, true, 0, 4101, 10)), to, to, true);
	resume("lodsb", faulting(0xac, 0, false, 4090, 0, 10), from2, from, false);
	resume("lodsd across", faulting(0xac, 2, true, 4090, 0, 10), from2, from, false);
	resume("cmpsb, source", faulting(0xa6, 0, false, 4000, 4000, 150), from2, from, false);
	resume("cmpsd, destination across", faulting(0xa6, 2, true, 3998, 3998, 40), to2, to,
	       false);
	{
		struct regs r = faulting(0xae, 0, false, 0, 4000, 200);

		r.ax = 0;
		resume("scasb", r, to2, to, false);
		r = faulting(0xae, 2, true, 0, 4002, 50);
		r.ax = 0;
		resume("scasd across", r, to2, to, false);
	}
	/* No fault: the run ends just before, or is empty. */
	resume("movsb, ends before", faulting(0xa4, 0, false, 0, 4000, 96), to2, to, false);
	resume("movsb, empty", faulting(0xa4, 0, false, 4096, 4096, 0), to2, to, false);
	/* Long runs over many pages. */
	{
		struct regs r = faulting(0xa4, 0, false, 0, 0, 8192);

		guest_run(&r);
		put("two pages:");
		put_state(&r, (ulong)from, (ulong)to);
		check(" same", !memcmp(from, to, sizeof(to)));
		r = faulting(0xaa, 2, false, 0, 1, 2047);
		guest_run(&r);
		put("two pages, stosd:");
		put_state(&r, (ulong)from, (ulong)to);
		say(" sum", checksum(to, sizeof(to)));
	}
}

void guest_main(void)
{
	test_all();
	test_zero();
	test_overlap();
	test_ports();
	test_faults();
}
