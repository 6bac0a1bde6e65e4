/*
 * Vector state stays what it is: several processes hold different values in all registers that
 * XSAVE knows, across preemption, system calls, page faults and signal handlers which overwrite
 * them all.
 */
#define _GNU_SOURCE
#include "user.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES 8
#define IMAGE     16384
#ifdef __x86_64__
#define REGISTERS 16
#else
#define REGISTERS 8
#endif

/* x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM. */
#ifdef __x86_64__
#define FEATURES 0xe7u
#else
#define FEATURES 0x67u
#endif

static u32 features; /* those that there are; 0: FXSAVE only */
static u32 place[8]; /* of each in the image */

static u8 mine[IMAGE] __attribute__((aligned(64)));
static u8 other[IMAGE] __attribute__((aligned(64)));
static u8 found[IMAGE] __attribute__((aligned(64)));
static volatile unsigned handled;
static volatile u8 *fresh; /* a page to be faulted in */

static void find_features(void)
{
	u32 a, b, c, d, xcr0, hi, i;

	CHECK(__get_cpuid(1, &a, &b, &c, &d));
	features = 0;
	if (!(c & bit_OSXSAVE))
		return;
	__asm__("xgetbv" : "=a"(xcr0), "=d"(hi) : "c"(0));
	features = xcr0 & FEATURES;
	for (i = 2; i < 8; i++) {
		if (features & 1u << i)
			__cpuid_count(0xd, i, a, place[i], c, d);
	}
}

static void fill(u8 *image, u64 seed)
{
	u32 mxcsr = 0x1f80 | (seed & 3) << 13 | (seed >> 2 & 0x3f) | (seed >> 8 & 1) << 15;
	u16 fcw = 0x37f | (seed >> 9 & 3) << 10;
	u64 r = seed * 0x9e3779b97f4a7c15ull + 1;
	unsigned i;

	for (i = 0; i < IMAGE; i += 8)
		memcpy(image + i, (u64[]){next_random(&r)}, 8);
	memset(image, 0, 32);
	memcpy(image, &fcw, 2);
	image[4] = 0xff; /* the abridged tag word: all in use */
	memcpy(image + 24, &mxcsr, 4);
	for (i = 0; i < 8; i++)
		memset(image + 32 + i * 16 + 10, 0, 6);
	memset(image + 512, 0, 64);
	memcpy(image + 512, &features, 4);
}

static void load(const u8 *image)
{
	if (features)
		__asm__ volatile("xrstor %0"
				 :
				 : "m"(*(const u8(*)[IMAGE])image), "a"(features), "d"(0));
	else
		__asm__ volatile("fxrstor %0" : : "m"(*(const u8(*)[IMAGE])image));
}

/*
 * Load, let something happen, save. Between the two only assembly runs: the compiler and libc use
 * vector registers as they like.
 */
#define HOLD(what, ...)                                                                            \
	do {                                                                                       \
		if (features)                                                                      \
			__asm__ volatile("xrstor %2; " what "; mov %3, %%eax; xor %%edx, %%edx; "  \
					 "xsave %1"                                                \
					 : "+a"(a), "=m"(found)                                    \
					 : "m"(mine), "m"(features), "d"(0), ##__VA_ARGS__         \
					 : "rcx", "r11", "cc", "memory");                          \
		else                                                                               \
			__asm__ volatile("fxrstor %2; " what "; fxsave %1"                         \
					 : "+a"(a), "=m"(found)                                    \
					 : "m"(mine), "m"(features), "d"(0), ##__VA_ARGS__         \
					 : "rcx", "r11", "cc", "memory");                          \
	} while (0)

#ifndef __x86_64__
#undef HOLD
#define HOLD(what, ...)                                                                            \
	do {                                                                                       \
		if (features)                                                                      \
			__asm__ volatile("xrstor %2; " what "; mov %3, %%eax; xor %%edx, %%edx; "  \
					 "xsave %1"                                                \
					 : "+a"(a), "=m"(found)                                    \
					 : "m"(mine), "m"(features), "d"(0), ##__VA_ARGS__         \
					 : "ecx", "cc", "memory");                                 \
		else                                                                               \
			__asm__ volatile("fxrstor %2; " what "; fxsave %1"                         \
					 : "+a"(a), "=m"(found)                                    \
					 : "m"(mine), "m"(features), "d"(0), ##__VA_ARGS__         \
					 : "ecx", "cc", "memory");                                 \
	} while (0)
#define SYSCALL_GETPPID "mov $64, %%eax; int $0x80"
#else
#define SYSCALL_GETPPID "mov $110, %%eax; syscall"
#endif

static void hold(unsigned how)
{
	u32 a = features;

	memset(found, 0, sizeof(found));
	switch (how % 4) {
	case 0: HOLD("mov $20000, %%ecx; 1: dec %%ecx; jnz 1b"); break;
	case 1: HOLD("mov $1000000, %%ecx; 1: dec %%ecx; jnz 1b"); break;
	case 2: HOLD(SYSCALL_GETPPID); break;
	case 3:
		madvise((void *)fresh, PAGE, MADV_DONTNEED);
		HOLD("movb $1, (%5)", "D"(fresh));
		break;
	}
}

static void compare(const u8 *image, const char *when)
{
	static const unsigned size[8] = {
	    [2] = REGISTERS * 16, [5] = 64, [6] = REGISTERS * 32, [7] = 1024};
	unsigned i;

	if (features && (found[512] & features) != features)
		fail(__FILE__, __LINE__, "%s: XSTATE_BV %#x, not %#x", when, found[512], features);
	if (memcmp(found, image, 2) || found[4] != image[4])
		fail(__FILE__, __LINE__, "%s: x87 control or tag word", when);
	if (memcmp(found + 24, image + 24, 4))
		fail(__FILE__, __LINE__, "%s: MXCSR %#x, not %#x", when, *(u32 *)(found + 24),
		     *(const u32 *)(image + 24));
	for (i = 0; i < 8; i++) {
		if (memcmp(found + 32 + i * 16, image + 32 + i * 16, 10))
			fail(__FILE__, __LINE__, "%s: st(%u)", when, i);
	}
	for (i = 0; i < REGISTERS; i++) {
		if (memcmp(found + 160 + i * 16, image + 160 + i * 16, 16))
			fail(__FILE__, __LINE__, "%s: xmm%u", when, i);
	}
	for (i = 2; i < 8; i++) {
		if (features & 1u << i && memcmp(found + place[i], image + place[i], size[i]))
			fail(__FILE__, __LINE__, "%s: component %u", when, i);
	}
}

/* A handler that spoils everything: the return from it must bring all back. */
static void spoil(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	load(other);
	handled++;
}

static const u32 plain_mxcsr = 0x1f80;

static void plain(void)
{
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(plain_mxcsr));
}

static void keep_registers(unsigned id, unsigned timer)
{
	double end = now() + state_seconds;
	u64 seed = id + 1;
	unsigned n = 0;

	fresh = map_pages(1, PROT_READ | PROT_WRITE);
	fill(other, ~(u64)id);
	on_signal(SIGALRM, spoil, SA_RESTART);
	if (timer)
		set_timer(timer);
	while (now() < end || n < 8 || (timer && handled <= 10)) {
		fill(mine, next_random(&seed));
		hold(n++);
		plain();
		compare(mine, "registers");
	}
	set_timer(0);
}

static void without_signals(unsigned id)
{
	keep_registers(id, 0);
}

static void with_signals(unsigned id)
{
	keep_registers(id, 3000 + id * 100);
}

double state_seconds = 3;

/* All at once: all registers with handlers that spoil them, at timers and at calls; segment bases.
 */
static void any_state(unsigned id)
{
	if (id < PROCESSES)
		with_signals(id);
#ifdef __x86_64__
	else
		use_gs(id);
#else
	else
		without_signals(id);
#endif
}

void state_storm(double seconds)
{
	state_seconds = seconds;
	find_features();
	in_processes(PROCESSES + PROCESSES / 2, any_state);
}

void vector_registers(void)
{
	find_features();
	in_processes(PROCESSES, without_signals);
}

void vector_handlers(void)
{
	find_features();
	in_processes(PROCESSES, with_signals);
}

/* What a handler writes into the context is what the program goes on with. */
static void change_context(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
#ifdef __x86_64__
	memset(&uc->uc_mcontext.fpregs->_xmm[3], 0xa7, 16);
#else
	memset((u8 *)uc->uc_mcontext.fpregs + 112 + 160 + 3 * 16, 0xa7, 16);
#endif
	handled++;
}

void vector_in_context(void)
{
	u32 a;

	find_features();
	a = features;
	fill(mine, 99);
	on_signal(SIGTRAP, change_context, 0);
	HOLD("int3");
	plain();
	EQUAL(handled, 1);
	memset(mine + 160 + 3 * 16, 0xa7, 16);
	compare(mine, "after the handler");
}
