/*
 * A guest that measures, by RDTSC, what single operations of a kernel cost: each row is a function
 * that performs its operation n times, called in batches of about BATCH_TICKS; the median of the
 * batches goes to the first serial port as "name cycles". It is 64-bit ring-0 code in the top 2 GiB
 * with a kernel GS base, as Linux would run it, on 2 MiB pages with a window of 4 KiB pages; built
 * with NANO_LOW, the same at its physical addresses.
 *
 * It ends by isa-debug-exit at port 0xf4, with 0x10 if all went well. With "row=NAME" on its
 * command line it measures that row alone, again and again, for a profiler; 0x11 if there is no
 * such row.
 */
#include "nano.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loops.h"

#define BATCHES     15
#define BATCH_TICKS 3000000 /* about a millisecond */

#define MULTIBOOT_CMDLINE 4 /* flag: there is a command line */

#define PORT_COM1 0x3f8
#define PORT_EXIT 0xf4

#define WINDOW_PAGES 512

#define TIMER_TICKS     300000   /* of the TSC, about a tenth of a millisecond */
#define CALIBRATE_TICKS 10000000 /* to find out how fast the local APIC counts */
#define CALIBRATIONS    5
#define TIMERS          50 /* timers a batch */

typedef uint64_t u64;

struct percpu {
	u64 syscall_stack, user_rsp, saved_rsp;
	u64 counter;
};
_Static_assert(offsetof(struct percpu, syscall_stack) == PERCPU_SYSCALL_STACK, "nano.h");
_Static_assert(offsetof(struct percpu, user_rsp) == PERCPU_USER_RSP, "nano.h");
_Static_assert(offsetof(struct percpu, saved_rsp) == PERCPU_SAVED_RSP, "nano.h");

/* entry.S */
extern u64 gdt[], pml4[], pml4_other[], window_table[WINDOW_PAGES];
extern char stack_top[], syscall_stack_top[], trap_stubs[], user_count_offset[];
void page_fault(void);
void divide_error(void);
void software_interrupt(void);
void ipi(void);
void timer_interrupt(void);
void syscall_entry(void);
void user_run(u64 n, u64 entry);

/* What a bare-metal program has instead of a process: state at file level. */
static struct percpu percpu = {.syscall_stack = (u64)syscall_stack_top};
static uint32_t tss[26];
static u64 idt[256][2];
static u64 words[MEM_WORDS] __attribute__((aligned(4096)));
static u64 chase[CHASE_NODES * 8] __attribute__((aligned(4096)));
static char copy[2 * COPY_BYTES] __attribute__((aligned(4096)));
static struct loops loops = {words, chase, copy, copy + COPY_BYTES, 0};
volatile u64 ipis, timer_came;
static uint32_t timer_count; /* what the local APIC counts in TIMER_TICKS of the TSC */

void nano_main(uint32_t info);
void nano_unexpected(u64 vector, u64 error, u64 rip);

/* --- output --- */

static void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void put(char ch)
{
	while (!(inb(PORT_COM1 + 5) & 0x20))
		;
	outb(PORT_COM1, ch);
}

static void puts(const char *s)
{
	while (*s)
		put(*s++);
}

static void put_decimal(u64 v, unsigned digits)
{
	if (v >= 10 || digits > 1)
		put_decimal(v / 10, digits ? digits - 1 : 0);
	put('0' + v % 10);
}

static void put_hex(u64 v)
{
	for (int i = 60; i >= 0; i -= 4)
		put("0123456789abcdef"[v >> i & 15]);
}

static void __attribute__((noreturn)) finish(uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"((uint16_t)PORT_EXIT));
	for (;;)
		__asm__ volatile("cli; hlt");
}

void nano_unexpected(u64 vector, u64 error, u64 rip)
{
	u64 cr2;

	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	puts("unexpected exception ");
	put_decimal(vector, 1);
	puts(" error ");
	put_hex(error);
	puts(" rip ");
	put_hex(rip);
	puts(" cr2 ");
	put_hex(cr2);
	puts("\n");
	finish(0x20);
}

/* --- the machine --- */

static u64 rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

static void wrmsr(uint32_t msr, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static u64 rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static volatile uint32_t *lapic(unsigned reg)
{
	return (volatile uint32_t *)((u64)LAPIC + reg);
}

static void flush_all(void)
{
	u64 cr4;

	/* CR4.PGE off and on drops global entries, too. */
	__asm__ volatile("mov %%cr4, %0\n\t"
			 "xor $0x80, %0\n\t"
			 "mov %0, %%cr4\n\t"
			 "xor $0x80, %0\n\t"
			 "mov %0, %%cr4"
			 : "=&r"(cr4)
			 :
			 : "memory", "cc");
}

static void set_gate(unsigned vector, u64 handler, unsigned dpl)
{
	idt[vector][0] = (handler & 0xffff) | KERNEL_CS << 16 | (u64)(0x8e00 | dpl << 13) << 32 |
			 (handler >> 16 & 0xffff) << 48;
	idt[vector][1] = handler >> 32;
}

static void load_tables(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		u64 base;
	} idtr = {sizeof(idt) - 1, (u64)idt};
	u64 base = (u64)tss, rsp0 = (u64)stack_top;

	for (unsigned i = 0; i < 32; i++)
		set_gate(i, (u64)trap_stubs + 16 * i, 0);
	set_gate(0, (u64)divide_error, 0);
	set_gate(14, (u64)page_fault, 0);
	set_gate(0x80, (u64)software_interrupt, 0);
	set_gate(IPI_VECTOR, (u64)ipi, 0);
	set_gate(TIMER_VECTOR, (u64)timer_interrupt, 0);
	__asm__ volatile("lidt %0" : : "m"(idtr));
	tss[1] = (uint32_t)rsp0;
	tss[2] = (uint32_t)(rsp0 >> 32);
	gdt[TSS_SEL / 8] =
	    (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[TSS_SEL / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
}

static void map_window(void)
{
	for (u64 i = 0; i < WINDOW_PAGES; i++)
		window_table[i] = (WINDOW_PHYS + i * 4096) | PTE_KERNEL;
	flush_all();
}

static void unmap_window(void)
{
	for (u64 i = 0; i < WINDOW_PAGES; i++)
		window_table[i] = 0;
	flush_all();
}

static void machine_init(void)
{
	load_tables();
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, (u64)&percpu);
	wrmsr(MSR_KERNEL_GS_BASE, 0);
	wrmsr(0xc0000081, (u64)KERNEL_CS << 32 | (u64)(USER_SS - 8) << 48); /* STAR */
	wrmsr(0xc0000082, (u64)syscall_entry);                              /* LSTAR */
	wrmsr(0xc0000084, 0x47700);                                         /* FMASK */
	*lapic(0xf0) = 0x1ff;                                               /* SVR: enable */
	map_window();
	loops_init(&loops);
}

/* --- rows --- */

#define ROW(id) static void row_##id(u64 n)
#define ROW_LOOP(id)                                                                               \
	ROW(id)                                                                                    \
	{                                                                                          \
		loop_##id(&loops, n);                                                              \
	}

ROW_LOOP(integer)
ROW_LOOP(memory)
ROW_LOOP(chase)
ROW_LOOP(call)
ROW_LOOP(call_indirect)
ROW_LOOP(rep_movsb)

ROW(percpu)
{
	LOOP(n, "incq %%gs:%c[at]", [at] "i"(offsetof(struct percpu, counter)));
}

ROW(cli_sti)
{
	LOOP(n, "sti\n\tcli", "i"(0));
}

ROW(pushf_popf)
{
	LOOP(n, "pushf\n\tpopf", "i"(0));
}

ROW(irq_save)
{
	LOOP(n, "pushf\n\tpop %%rax\n\tcli\n\tpush %%rax\n\tpopf", "i"(0));
}

ROW(swapgs)
{
	LOOP(n, "swapgs\n\tswapgs", "i"(0));
}

ROW(rdtsc)
{
	LOOP(n, "rdtsc", "i"(0));
}

ROW(cpuid)
{
	LOOP(n, "xor %%eax, %%eax\n\tcpuid", "i"(0));
}

ROW(rdmsr)
{
	LOOP(n, "mov %[msr], %%ecx\n\trdmsr", [msr] "i"(MSR_FS_BASE));
}

ROW(wrmsr)
{
	LOOP(n, "mov %[msr], %%ecx\n\txor %%eax, %%eax\n\txor %%edx, %%edx\n\twrmsr",
	     [msr] "i"(MSR_FS_BASE));
}

ROW(cr3_read)
{
	LOOP(n, "mov %%cr3, %%rax", "i"(0));
}

ROW(cr3_write)
{
	LOOP(n, "mov %[cr3], %%cr3", [cr3] "r"((u64)pml4 - KERNEL_BASE));
}

ROW(cr3_switch)
{
	LOOP(n, "mov %[one], %%cr3\n\tmov %[two], %%cr3", [one] "r"((u64)pml4_other - KERNEL_BASE),
	     [two] "r"((u64)pml4 - KERNEL_BASE));
}

ROW(cr8_write)
{
	LOOP(n, "mov %[tpr], %%cr8", [tpr] "r"(0ul));
}

ROW(port_in)
{
	LOOP(n, "in $0x61, %%al", "i"(0));
}

ROW(port_out)
{
	LOOP(n, "out %%al, $0x80", "i"(0));
}

ROW(mmio_read)
{
	LOOP(n, "mov 0x30(%[lapic]), %%eax", [lapic] "r"(LAPIC));
}

/* What get_user and put_user do: a read and a write of the user half. */
ROW(user_access)
{
	LOOP(n, "mov (%[at]), %%rax\n\tmov %%rax, 8(%[at])", [at] "r"((u64)USER_STACK));
}

/* What copy_to_user does with a short string. */
ROW(copy_to_user)
{
	while (n--) {
		void *to = (void *)USER_STACK, *from = copy;
		u64 len = 64;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
	}
}

ROW(int_iret)
{
	LOOP(n, "int $0x80", "i"(0));
}

ROW(divide_fault)
{
	LOOP(n, "xor %%ecx, %%ecx\n\tdiv %%ecx", "i"(0));
}

/* A whole system call of ring 3; what the ring-3 loop costs beside is user_loop. */
ROW(syscall)
{
	user_run(n, USER_CODE);
}

ROW(user_loop)
{
	user_run(n, USER_CODE + (u64)user_count_offset);
}

ROW(self_ipi)
{
	__asm__ volatile("sti");
	while (n--) {
		u64 before = ipis;

		*lapic(0x300) = 0x44000 | IPI_VECTOR;
		while (ipis == before)
			;
	}
	__asm__ volatile("cli");
}

ROW(apic_eoi)
{
	LOOP(n, "movl $0, 0xb0(%[lapic])", [lapic] "r"(LAPIC));
}

ROW(x2apic_eoi)
{
	LOOP(n, "mov %[msr], %%ecx\n\txor %%eax, %%eax\n\txor %%edx, %%edx\n\twrmsr",
	     [msr] "i"(MSR_X2APIC_EOI));
}

/* The row's registers are gone from memory afterwards: it comes last. */
static bool enter_x2apic(void)
{
	uint32_t a = 1, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (!(c >> 21 & 1))
		return false;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
	return true;
}

/* What the local APIC's timer, one shot, counts in TIMER_TICKS of the TSC. */
static uint32_t calibrate_timer(void)
{
	u64 start, ticks;

	start = rdtsc();
	*lapic(0x380) = ~0u;
	while ((ticks = rdtsc() - start) < CALIBRATE_TICKS)
		;
	return (u64)(~0u - *lapic(0x390)) * TIMER_TICKS / ticks;
}

/* The median of some calibrations: the host may have had other work in the middle of one. */
static bool start_timer(void)
{
	uint32_t counts[CALIBRATIONS];

	*lapic(0x320) = 0x10000 | TIMER_VECTOR; /* masked */
	*lapic(0x3e0) = 0xb;                    /* divide by 1 */
	for (unsigned i = 0, j; i < CALIBRATIONS; i++) {
		uint32_t count = calibrate_timer();

		for (j = i; j > 0 && counts[j - 1] > count; j--)
			counts[j] = counts[j - 1];
		counts[j] = count;
	}
	timer_count = counts[CALIBRATIONS / 2];
	*lapic(0x380) = 0;
	*lapic(0x320) = TIMER_VECTOR;
	return timer_count > 0;
}

/* How much later than due the timer's handler runs, n times. */
static u64 lateness(u64 n, bool halted)
{
	u64 late = 0;

	while (n--) {
		u64 due = rdtsc() + TIMER_TICKS;

		timer_came = 0;
		*lapic(0x380) = timer_count;
		while (!timer_came)
			if (halted)
				__asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
			else
				__asm__ volatile("sti\n\tnop\n\tcli" : : : "memory");
		late += timer_came > due ? timer_came - due : 0;
	}
	return late;
}

static u64 timer_running(u64 n)
{
	return lateness(n, false);
}

static u64 timer_halted(u64 n)
{
	return lateness(n, true);
}

static void touch_window(u64 n)
{
	volatile u64 *p = (volatile u64 *)WINDOW;

	for (; n--; p += 512)
		*p = n;
}

ROW(page_fault)
{
	touch_window(n);
}

ROW(tlb_refill)
{
	touch_window(n);
}

/* One entry goes to and fro between two pages. */
ROW(pte_change)
{
	volatile u64 *p = (volatile u64 *)WINDOW;

	while (n--) {
		window_table[0] = (WINDOW_PHYS + (n & 1) * 4096) | PTE_KERNEL;
		__asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
		*p = n;
	}
}

/* One entry that stays as it is. */
ROW(invlpg)
{
	LOOP(n, "invlpg (%[at])", [at] "r"(WINDOW));
}

/* n is a multiple of unit; with prepare, which comes before each batch, it is unit. */
static const struct row {
	const char *name;
	void (*run)(u64 n);
	uint32_t unit;
	void (*prepare)(void);
	bool (*begin)(void);    /* once, before the first batch; false: this machine cannot */
	u64 (*timed)(u64 unit); /* in place of run: the ticks that count */
} rows[] = {
    {"integer_loop", row_integer, 1, NULL},
    {"memory_loop", row_memory, MEM_WORDS, NULL},
    {"pointer_chase", row_chase, UNROLL, NULL},
    {"rep_movsb_4k", row_rep_movsb, 1, NULL},
    {"call_ret", row_call, UNROLL, NULL},
    {"call_indirect", row_call_indirect, UNROLL, NULL},
    {"percpu_inc", row_percpu, UNROLL, NULL},
    {"sti_cli", row_cli_sti, UNROLL, NULL},
    {"pushf_popf", row_pushf_popf, UNROLL, NULL},
    {"irq_save_restore", row_irq_save, UNROLL, NULL},
    {"swapgs_pair", row_swapgs, UNROLL, NULL},
    {"rdtsc", row_rdtsc, UNROLL, NULL},
    {"cpuid", row_cpuid, UNROLL, NULL},
    {"rdmsr", row_rdmsr, UNROLL, NULL},
    {"wrmsr", row_wrmsr, UNROLL, NULL},
    {"cr3_read", row_cr3_read, UNROLL, NULL},
    {"cr3_write", row_cr3_write, UNROLL, NULL},
    {"cr3_switch_pair", row_cr3_switch, UNROLL, NULL},
    {"cr8_write", row_cr8_write, UNROLL, NULL},
    {"port_in", row_port_in, UNROLL, NULL},
    {"port_out", row_port_out, UNROLL, NULL},
    {"mmio_read", row_mmio_read, UNROLL, NULL},
    {"user_access", row_user_access, UNROLL, NULL},
    {"copy_to_user_64", row_copy_to_user, 1, NULL},
    {"int_iret", row_int_iret, UNROLL, NULL},
    {"divide_fault", row_divide_fault, UNROLL, NULL},
    {"user_loop", row_user_loop, 1, NULL},
    {"syscall_sysret", row_syscall, 1, NULL},
    {"self_ipi", row_self_ipi, 1, NULL},
    {"page_fault", row_page_fault, WINDOW_PAGES, unmap_window},
    {"tlb_refill", row_tlb_refill, WINDOW_PAGES, map_window},
    {"pte_change", row_pte_change, 1, NULL},
    {"invlpg", row_invlpg, UNROLL, NULL},
    {"apic_eoi", row_apic_eoi, UNROLL, NULL},
    {"timer_irq_running", .unit = TIMERS, .begin = start_timer, .timed = timer_running},
    {"timer_irq_halted", .unit = TIMERS, .begin = start_timer, .timed = timer_halted},
    {"x2apic_eoi", row_x2apic_eoi, UNROLL, .begin = enter_x2apic},
};

/* --- measuring --- */

static u64 batch(const struct row *r, u64 n)
{
	u64 start;

	if (r->prepare)
		r->prepare();
	if (r->timed)
		return r->timed(n);
	start = rdtsc();
	r->run(n);
	return rdtsc() - start;
}

/* The least n with a long enough batch; what runs on the way warms up. Once does not count: the
 * first batch, or one in the middle of which the host had other work, may be long for other
 * reasons. */
static u64 calibrate(const struct row *r)
{
	u64 n = r->unit;

	batch(r, n);
	batch(r, n);
	if (r->prepare || r->timed)
		return n;
	while (batch(r, n) < BATCH_TICKS || batch(r, n) < BATCH_TICKS)
		n *= 2;
	return n;
}

static void measure(const struct row *r)
{
	u64 n, ticks[BATCHES], hundredths;

	if (r->begin && !r->begin())
		return;
	n = calibrate(r);
	for (unsigned i = 0, j; i < BATCHES; i++) {
		u64 t = batch(r, n);

		for (j = i; j > 0 && ticks[j - 1] > t; j--)
			ticks[j] = ticks[j - 1];
		ticks[j] = t;
	}
	hundredths = ticks[BATCHES / 2] * 100 / n;
	puts(r->name);
	put(' ');
	put_decimal(hundredths / 100, 1);
	put('.');
	put_decimal(hundredths % 100, 2);
	put('\n');
}

/* What follows a word that text begins with; NULL if it does not. */
static const char *after(const char *text, const char *word)
{
	while (*word)
		if (*text++ != *word++)
			return NULL;
	return text;
}

/* Memory at a physical address, of which the compiler shall think nothing. */
static const void *physical(uint32_t address)
{
	u64 at = KERNEL_BASE + address;

	__asm__("" : "+r"(at));
	return (const void *)at;
}

/* What follows "row=" on the command line, NULL if nothing does. info: where the loader has put
 * what it tells (Multiboot specification 0.6.96, 3.3). */
static const char *wanted_row(uint32_t info)
{
	const uint32_t *said = physical(info);

	if (info >= RAM_MAPPED || !(said[0] & MULTIBOOT_CMDLINE) || said[4] >= RAM_MAPPED)
		return NULL;
	for (const char *line = physical(said[4]); *line; line++)
		if (after(line, "row="))
			return after(line, "row=");
	return NULL;
}

static bool is_word(const char *text, const char *word)
{
	const char *rest = after(text, word);

	return rest && (!*rest || *rest == ' ');
}

void nano_main(uint32_t info)
{
	const char *only = wanted_row(info);

	machine_init();
	puts("nano\n");
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (only && !is_word(only, rows[i].name))
			continue;
		do
			measure(&rows[i]);
		while (only);
	}
	finish(only ? 0x11 : 0x10);
}
