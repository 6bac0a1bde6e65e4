/* The guests' runtime: see lib.h. Compiled once for 32-bit and once for 64-bit guests. */
#include "lib.h"

struct table_reg {
	u16 limit;
	ulong base;
} __attribute__((packed));

u64 gdt[GDT_SLOTS] ALIGNED(16);
u64 idt[512] ALIGNED(16);
struct tss tss ALIGNED(16);
ulong boot_magic, boot_info;
handler_fn *handlers[256];
struct regs run_state;
static bool running;

extern u8 trap_stubs[], low_end[], low_image[];
#ifdef GUEST64
extern u8 ist_stack_top[];
#endif
void load_segments(const struct table_reg *gdtr);
void run_enter(void);
void run_leave(void) __attribute__((noreturn));
void trap(struct regs *r);
void lib_init(void);

/* --- output --- */

void put_char(char c)
{
	while (!(inb(0x3fd) & 0x20))
		;
	outb(0x3f8, c);
}

void put(const char *s)
{
	while (*s)
		put_char(*s++);
}

void put_hex(u64 v)
{
	bool started = false;
	int i;

	put("0x");
	for (i = 60; i >= 0; i -= 4) {
		unsigned digit = v >> i & 15;

		if (digit || started || !i) {
			put_char("0123456789abcdef"[digit]);
			started = true;
		}
	}
}

void put_dec(u32 v)
{
	if (v >= 10)
		put_dec(v / 10);
	put_char('0' + v % 10);
}

void say_str(const char *name, const char *s)
{
	put(name);
	put(": ");
	put(s);
	put_char('\n');
}

void say(const char *name, u64 v)
{
	put(name);
	put(": ");
	put_hex(v);
	put_char('\n');
}

void say_dec(const char *name, u32 v)
{
	put(name);
	put(": ");
	put_dec(v);
	put_char('\n');
}

void check(const char *name, bool ok)
{
	say_str(name, ok ? "ok" : "FAIL");
}

static void put_trap(const struct regs *r)
{
	static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
					    "#NM", "#DF", "9",   "#TS", "#NP", "#SS", "#GP",
					    "#PF", "15",  "#MF", "#AC", "#MC", "#XM"};

	if (r->vector == STOP_VECTOR)
		put("stop");
	else if (r->vector < COUNT(names))
		put(names[r->vector]);
	else
		put_hex(r->vector);
	if (r->vector == DF || (r->vector >= TS && r->vector <= PF) || r->vector == AC) {
		put_char('(');
		put_hex(r->error);
		put_char(')');
	}
}

void say_trap_kind(const char *name, const struct regs *r)
{
	put(name);
	put(": ");
	put_trap(r);
	put_char('\n');
}

void say_trap(const char *name, const struct regs *r)
{
	put(name);
	put(": ");
	put_trap(r);
	put(" at +");
	put_hex(r->ip - r->start);
	put_char('\n');
}

void finish(u32 code)
{
	put("done\n");
	/* Let the transmitter drain before the machine ends. */
	while (!(inb(0x3fd) & 0x40))
		;
	for (;;)
		outl(0xf4, code);
}

/* --- memory --- */

void *memset(void *p, int c, ulong n)
{
	u8 *b = p;

	while (n--)
		*b++ = c;
	return p;
}

void *memcpy(void *d, const void *s, ulong n)
{
	const u8 *from = s;
	u8 *to = d;

	while (n--)
		*to++ = *from++;
	return d;
}

int memcmp(const void *a, const void *b, ulong n)
{
	const u8 *x = a, *y = b;

	for (; n--; x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

u32 checksum(const void *p, ulong n)
{
	const u8 *b = p;
	u32 h = 2166136261u;

	while (n--)
		h = (h ^ *b++) * 16777619u;
	return h;
}

/* --- descriptors --- */

u64 descriptor(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 |
	       (u64)(limit >> 16 & 15) << 48 | (u64)(base >> 24) << 56;
}

void set_gdt(unsigned sel, u32 base, u32 limit, u32 attr)
{
	gdt[sel >> 3] = descriptor(base, limit, attr);
}

void set_gate(unsigned vector, void *handler, unsigned sel, unsigned attr)
{
	u64 off = (ulong)handler;
	u64 low = (off & 0xffff) | (u64)sel << 16 | (u64)attr << 40 | (off & 0xffff0000) << 32;

#ifdef GUEST64
	low |= idt[2 * vector] & (7ull << 32); /* IST stays */
	idt[2 * vector] = low;
	idt[2 * vector + 1] = off >> 32;
#else
	idt[vector] = low;
#endif
}

void *stub_of(unsigned vector)
{
	return trap_stubs + 16 * vector;
}

static void make_tables(void)
{
	const struct table_reg gdtr = {sizeof(gdt) - 1, (ulong)gdt};
	struct table_reg idtr = {0, (ulong)idt};
	unsigned i;

#ifdef GUEST64
	set_gdt(KCODE, 0, 0xfffff, D_CODE | D_LONG | D_PAGES);
	set_gdt(KCODE32, 0, 0xfffff, D_CODE | D_BIG | D_PAGES);
	set_gdt(UCODE, 0, 0xfffff, D_CODE | D_DPL(3) | D_LONG | D_PAGES);
	set_gdt(UCODE32, 0, 0xfffff, D_CODE | D_DPL(3) | D_BIG | D_PAGES);
	tss.ist[0] = (ulong)ist_stack_top;
	tss.rsp[0] = (ulong)ist_stack_top;
	tss.iomap = sizeof(tss);
	for (i = 0; i < 256; i++)
		idt[2 * i] = 1ull << 32;
	idtr.limit = 4095;
#else
	set_gdt(KCODE, 0, 0xfffff, D_CODE | D_BIG | D_PAGES);
	set_gdt(UCODE, 0, 0xfffff, D_CODE | D_DPL(3) | D_BIG | D_PAGES);
	tss.ss0 = KDATA;
	tss.esp0 = (ulong)kernel_stack_top - 4096;
	tss.iomap = __builtin_offsetof(struct tss, bits);
	memset(tss.bits, 0xff, sizeof(tss.bits));
	idtr.limit = 2047;
#endif
	set_gdt(KDATA, 0, 0xfffff, D_DATA | D_BIG | D_PAGES);
	set_gdt(UDATA, 0, 0xfffff, D_DATA | D_DPL(3) | D_BIG | D_PAGES);
	set_gdt(TSS_SEL, (ulong)&tss, sizeof(tss) - 1, 0x89);
	for (i = 0; i < 256; i++)
		set_gate(i, stub_of(i), KCODE,
			 i == BP || i == OF || i == STOP_VECTOR ? 0xee : 0x8e);
	load_segments(&gdtr);
	ASM("lidt %0" : : "m"(idtr));
	ASM("ltr %w0" : : "r"(TSS_SEL));
}

void lib_init(void)
{
	memcpy((void *)low_start, low_image, low_end - low_start);
	/* 115200 8N1, FIFOs on. */
	outb(0x3f9, 0);
	outb(0x3fb, 0x83);
	outb(0x3f8, 1);
	outb(0x3f9, 0);
	outb(0x3fb, 3);
	outb(0x3fa, 7);
	outb(0x3fc, 3);
	/* Both 8259s at vectors 0x20 and 0x28, everything masked. */
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, 0x20);
	outb(0xa1, 0x28);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	make_tables();
	put("\n== guest\n"); /* firmware may have printed before us */
}

/* --- running --- */

void trap(struct regs *r)
{
	if (handlers[r->vector]) {
		handlers[r->vector](r);
		return;
	}
	if (!running) {
		r->start = 0;
		say_trap("unexpected trap", r);
		finish(0x7f);
	}
	running = false;
#ifdef GUEST64
	memcpy(&run_state, r, __builtin_offsetof(struct regs, cr2));
#else
	{
		bool v86 = r->flags & F_VM, outer = v86 || (r->cs & 3);
		ulong stack = (ulong)&r->sp;

		memcpy(&run_state, r, __builtin_offsetof(struct regs, sp));
		if (outer)
			memcpy(&run_state.sp, &r->sp, 2 * sizeof(ulong));
		else
			run_state.sp = stack;
		if (v86)
			memcpy(&run_state.v_es, &r->v_es, 4 * sizeof(ulong));
		/* A processor may push a segment register as a word and leave the rest. */
		run_state.ds = (u16)run_state.ds;
		run_state.es = (u16)run_state.es;
		run_state.fs = (u16)run_state.fs;
		run_state.gs = (u16)run_state.gs;
	}
#endif
	run_state.cr2 = read_cr2();
	run_leave();
}

void guest_run(struct regs *r)
{
	run_state = *r;
	run_state.start = r->ip;
	running = true;
	run_enter();
	*r = run_state;
}

struct regs regs_kernel(const void *code)
{
	struct regs r;

	memset(&r, 0, sizeof(r));
	r.ip = (ulong)code;
	r.cs = KCODE;
	r.ss = r.ds = r.es = KDATA;
#ifndef GUEST64
	r.fs = r.gs = KDATA;
#endif
	r.sp = (ulong)snippet_stack_top;
	r.flags = 2;
	return r;
}

struct regs regs_user(const void *code)
{
	struct regs r = regs_kernel(code);

	r.cs = UCODE;
	r.ss = r.ds = r.es = UDATA;
#ifndef GUEST64
	r.fs = r.gs = UDATA;
#endif
	r.sp = (ulong)user_stack_top;
	return r;
}

struct regs try_kernel(const char *name, const void *code)
{
	struct regs r = regs_kernel(code);

	guest_run(&r);
	say_trap(name, &r);
	return r;
}

struct regs try_user(const char *name, const void *code)
{
	struct regs r = regs_user(code);

	guest_run(&r);
	say_trap(name, &r);
	return r;
}

/* --- paging --- */

#define POOL 16
static ulong pool[POOL][4096 / sizeof(ulong)] ALIGNED(4096);
static unsigned pool_used;
#ifdef GUEST64
extern ulong boot_pd[2048];
#define LARGE_SHIFT 21
#define ENTRIES     512
#else
static ulong boot_pd[1024] ALIGNED(4096);
#define LARGE_SHIFT 22
#define ENTRIES     1024
#endif

void paging_on(void)
{
#ifndef GUEST64
	unsigned i;

	for (i = 0; i < 1024; i++)
		boot_pd[i] = i << LARGE_SHIFT | PTE_PS | PTE_U | PTE_W | PTE_P;
	write_cr4(read_cr4() | 0x10);
	write_cr3((ulong)boot_pd);
	write_cr0(read_cr0() | 0x80010000); /* PG, WP */
#endif
}

ulong *pte_of(ulong va)
{
	ulong *large = &boot_pd[va >> LARGE_SHIFT], *table;
	unsigned i;

	if (*large & PTE_PS) {
		table = pool[pool_used++ % POOL];
		for (i = 0; i < ENTRIES; i++)
			table[i] = (*large & ~0xffful) + ((ulong)i << 12) + (PTE_U | PTE_W | PTE_P);
		*large = (ulong)table | PTE_U | PTE_W | PTE_P;
		write_cr3(read_cr3());
	}
	return (ulong *)(*large & ~0xffful) + (va >> 12) % ENTRIES;
}

void set_pte(ulong va, ulong entry)
{
	*pte_of(va) = entry;
	invlpg((void *)va);
}
