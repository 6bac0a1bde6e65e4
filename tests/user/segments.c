/* FS and GS: their bases, selectors, and the local descriptor table. */
#define _GNU_SOURCE
#include "user.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HAS_FSGSBASE 2u /* AT_HWCAP2 */

#ifdef __x86_64__
static u64 rdgsbase(void)
{
	u64 base;

	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static void use_gs(unsigned id)
{
	bool direct = getauxval(AT_HWCAP2) & HAS_FSGSBASE;
	u64 *page = map_pages(2, PROT_READ | PROT_WRITE), got, base;
	double end = now() + 1;
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
