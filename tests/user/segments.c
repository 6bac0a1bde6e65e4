/* FS and GS: their bases, selectors, and the local descriptor table. */
#define _GNU_SOURCE
#include "user.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HAS_FSGSBASE 2u /* AT_HWCAP2 */

static int set_thread_area(struct user_desc *desc)
{
	int rc;
#ifdef __x86_64__
	/* There is no such call for 64-bit code, and the structure must be in reach of the other.
	 */
	static struct user_desc *low;

	if (!low)
		low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	*low = *desc;
	__asm__ volatile("int $0x80"
			 : "=a"(rc)
			 : "a"(243), "b"(low)
			 : "memory", "r8", "r9", "r10", "r11");
#else
	rc = syscall(SYS_set_thread_area, desc);
#endif
	return rc;
}

static bool have_modify_ldt(void)
{
	char none;

	return syscall(SYS_modify_ldt, 0, &none, 0) == 0;
}

#ifdef __x86_64__
static u64 rdgsbase(void)
{
	u64 base;

	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

void use_gs(unsigned id)
{
	bool direct = getauxval(AT_HWCAP2) & HAS_FSGSBASE;
	u64 *page = map_pages(2, PROT_READ | PROT_WRITE), got, base;
	double end = now() + state_seconds;
	unsigned i;

	page[0] = 0xa000 + id;
	page[512] = 0xb000 + id;
	for (i = 0; now() < end; i++) {
		u64 *there = page + i % 2 * 512;

		if (direct && i % 3)
			__asm__ volatile("wrgsbase %0" : : "r"(there));
		else
			CHECK(!syscall(SYS_arch_prctl, ARCH_SET_GS, there));
		if (i % 4 == 0)
			sched_yield();
		else
			for (volatile int spin = 0; spin < 20000; spin++)
				;
		__asm__ volatile("mov %%gs:0, %0" : "=r"(got));
		EQUAL(got, (i % 2 ? 0xb000 : 0xa000) + id);
		CHECK(!syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
		EQUAL(base, (unsigned long)there);
		if (direct)
			EQUAL(rdgsbase(), (unsigned long)there);
	}
}

void segment_bases(void)
{
	in_processes(6, use_gs);
}

SNIPPET(wrgsbase_arg, "", "wrgsbase %rdi", "");

void segment_bases_bad(void)
{
	u64 before, after;
	struct caught c;

	CHECK(!syscall(SYS_arch_prctl, ARCH_GET_GS, &before));
	EQUAL(syscall(SYS_arch_prctl, ARCH_SET_GS, 1ul << 47), -1);
	EQUAL(errno, EPERM);
	EQUAL(syscall(SYS_arch_prctl, ARCH_SET_FS, 0x8000000000000000ul), -1);
	if (getauxval(AT_HWCAP2) & HAS_FSGSBASE) {
		c = TRY(wrgsbase_arg, (void *)(1ul << 47));
		EQUAL(c.sig, SIGSEGV);
		EQUAL(c.trapno, 13);
		EQUAL(c.ip, (unsigned long)wrgsbase_arg_at);
		/* Canonical, though not a user's: allowed. */
		c = TRY(wrgsbase_arg, (void *)0xffff880000000000ul);
		EQUAL(c.sig, 0);
		EQUAL(rdgsbase(), 0xffff880000000000ul);
		__asm__ volatile("wrgsbase %0" : : "r"(before));
	}
	CHECK(!syscall(SYS_arch_prctl, ARCH_GET_GS, &after));
	EQUAL(after, before);
}
#endif

#ifdef __x86_64__
#define ARG16 "%di"
#else
#define ARG16 "%ax"
#endif
SNIPPET(load_ds, "", "mov " ARG16 ", %ds", "mov %ss, %cx; mov %cx, %ds");
SNIPPET(load_es, "", "mov " ARG16 ", %es", "mov %ss, %cx; mov %cx, %es");
SNIPPET(load_ss, "", "mov " ARG16 ", %ss", "");

void segment_selectors(void)
{
	struct caught c;
	u16 ss;

	__asm__("mov %%ss, %0" : "=r"(ss));
	EQUAL(ss, 0x2b);
	EQUAL(TRY(load_ds, (void *)0x2b).sig, 0);
	EQUAL(TRY(load_ds, (void *)0).sig, 0);
	EQUAL(TRY(load_es, (void *)3).sig, 0);
	c = TRY(load_es, (void *)0x1237); /* beyond the LDT */
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.trapno, 13);
	EQUAL(c.err, 0x1234);
	c = TRY(load_ds, (void *)0x18); /* the kernel's data: needs ring 0 */
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.err, 0x18);
	EQUAL(c.ip, (unsigned long)load_ds_at);
	c = TRY(load_ss, (void *)0); /* in ring 3 never */
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.err, 0);
}

static void use_ldt(unsigned id)
{
	u32 *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct user_desc desc = {.entry_number = 3, .limit = 0xfff, .seg_32bit = 1};
	double end = now() + 0.3;
	u32 got;

	CHECK(page != MAP_FAILED);
	page[5] = 0xc0de0000 + id;
	desc.base_addr = (u32)(unsigned long)page;
	if (syscall(SYS_modify_ldt, 1, &desc, sizeof(desc)) < 0 && errno == ENOSYS)
		skip("no modify_ldt");
	do {
		__asm__ volatile("mov %%fs, %%ecx; mov %1, %%fs; mov %%fs:20, %0; mov %%ecx, %%fs"
				 : "=&r"(got)
				 : "r"(3 << 3 | 7)
				 : "ecx", "memory");
		EQUAL(got, 0xc0de0000 + id);
	} while (now() < end);
}

void segment_ldt(void)
{
#ifdef __x86_64__
	/* FS is libc's, and a selector load changes its base: so in one piece of code, by GS. */
	u32 *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct user_desc desc = {.entry_number = 3, .limit = 0xfff, .seg_32bit = 1};
	unsigned i;
	u32 got;

	(void)use_ldt;
	CHECK(page != MAP_FAILED);
	page[5] = 0xc0de0005;
	desc.base_addr = (u32)(unsigned long)page;
	if (syscall(SYS_modify_ldt, 1, &desc, sizeof(desc)) < 0 && errno == ENOSYS)
		skip("no modify_ldt");
	__asm__ volatile("mov %0, %%gs" : : "r"(3 << 3 | 7));
	for (i = 0; i < 100; i++) {
		__asm__ volatile("mov %%gs:20, %0" : "=r"(got));
		EQUAL(got, 0xc0de0005);
		sched_yield();
	}
	__asm__ volatile("mov %0, %%gs" : : "r"(0));
#else
	in_processes(3, use_ldt);
#endif
}

/* --- what tells user code the number of its processor --- */

#ifdef __x86_64__
/* A function of the vDSO, by the dynamic symbol table; the image is linked at 0. */
static void *vdso_symbol(const char *name)
{
	const u8 *base = (const u8 *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *e = (const Elf64_Ehdr *)base;
	const Elf64_Shdr *s = (const Elf64_Shdr *)(base + e->e_shoff);
	unsigned i, k;

	for (i = 0; i < e->e_shnum; i++) {
		const Elf64_Sym *sym = (const Elf64_Sym *)(base + s[i].sh_offset);
		const char *names = (const char *)base + s[s[i].sh_link].sh_offset;

		for (k = 0; s[i].sh_type == SHT_DYNSYM && k < s[i].sh_size / sizeof(*sym); k++)
			if (!strcmp(names + sym[k].st_name, name))
				return (void *)(base + sym[k].st_value);
	}
	return NULL;
}

static unsigned lsl_cpu(void)
{
	unsigned got;

	__asm__ volatile("mov $0x7b, %0; lsl %w0, %0" : "=d"(got) : : "cc");
	return got & 0xfff;
}

/* The same as the kernel says, the vDSO and Linux's descriptor in the GDT; the first processor we
 * may run on, so that it does not change. */
void segment_getcpu(void)
{
	long (*getcpu)(unsigned *, unsigned *, void *) =
	    (long (*)(unsigned *, unsigned *, void *))vdso_symbol("__vdso_getcpu");
	unsigned i, cpu, first, vdso;
	cpu_set_t set;

	CHECK(!sched_getaffinity(0, sizeof(set), &set));
	for (first = 0; !CPU_ISSET(first, &set); first++)
		;
	CPU_ZERO(&set);
	CPU_SET(first, &set);
	CHECK(!sched_setaffinity(0, sizeof(set), &set));
	CHECK(getcpu);
	for (i = 0; i < 3000; i++) {
		CHECK(!syscall(SYS_getcpu, &cpu, NULL, NULL));
		EQUAL(cpu, first);
		CHECK(!getcpu(&vdso, NULL, NULL));
		EQUAL(vdso, first);
		EQUAL(lsl_cpu(), first);
		if (i % 500 == 0)
			usleep(2000);
	}
}
#endif

/* --- descriptors of our own, as LAR and LSL show them --- */

static void set_descriptor(bool local, const struct user_desc *desc)
{
	struct user_desc d = *desc;

	if (local)
		CHECK(!syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)));
	else
		CHECK(!set_thread_area(&d));
}

static void expect_descriptor(u16 sel, const struct user_desc *d)
{
	u32 ar = 0, limit = 0;
	bool valid;

	__asm__ volatile("lar %3, %0; lsl %3, %1; setz %2"
			 : "=&r"(ar), "=&r"(limit), "=&q"(valid)
			 : "r"((u32)sel)
			 : "cc");
	EQUAL(valid, !d->seg_not_present);
	if (!valid)
		return;
	EQUAL(ar & 0xd0ff00, 0xf100u | (u32)d->contents << 10 | (d->read_exec_only ? 0 : 0x200) |
				 (u32)d->seg_32bit << 22 | (u32)d->limit_in_pages << 23 |
				 (u32)d->useable << 20);
	EQUAL(limit, d->limit_in_pages ? d->limit << 12 | 0xfff : d->limit);
}

static void show_descriptors(unsigned id)
{
	struct user_desc d = {.entry_number = 13, .seg_32bit = 1};
	double end = now() + 0.5;
	unsigned i;

	for (i = 0; now() < end; i++) {
		bool local = i & 1 && have_modify_ldt();

		d.entry_number = local ? (i * 7 + id) % 600 : 13;
		d.base_addr = i * 4096;
		d.limit = (i * 31 + id) & 0xfffff;
		d.limit_in_pages = i >> 1 & 1;
		d.contents = i >> 2 & 1;
		d.read_exec_only = i >> 3 & 1;
		d.useable = i >> 4 & 1;
		set_descriptor(local, &d);
		if (i % 5 == 0)
			sched_yield();
		expect_descriptor(d.entry_number * 8 + (local ? 7 : 3), &d);
	}
}

void segment_descriptors(void)
{
	in_processes(4, show_descriptors);
}
