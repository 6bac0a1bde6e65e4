/*
 * What the rows of nano.c that need no privilege cost on the bare host, and, for the rows that end
 * in one, what the host kernel takes for the services the monitor uses: a system call, a signal, a
 * page mapped and unmapped. Same output as the guest's: "name cycles".
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

#include "loops.h"

#define BATCHES     15
#define BATCH_TICKS 3000000

static uint64_t percpu; /* at the GS base */

struct host {
	struct loops loops;
	int fd;          /* a memfd of one page */
	uint8_t *window; /* where it is mapped */
};

#define ROW_LOOP(id)                                                                               \
	static void row_##id(struct host *h, uint64_t n)                                           \
	{                                                                                          \
		loop_##id(&h->loops, n);                                                           \
	}

ROW_LOOP(integer)
ROW_LOOP(memory)
ROW_LOOP(chase)
ROW_LOOP(call)
ROW_LOOP(call_indirect)
ROW_LOOP(rep_movsb)

/* As a kernel does it, through a segment base that is not 0. */
static void row_percpu(struct host *h, uint64_t n)
{
	(void)h;
	LOOP(n, "incq %%gs:0", "i"(0));
}

static void row_syscall(struct host *h, uint64_t n)
{
	(void)h;
	while (n--)
		syscall(SYS_getppid);
}

/* Skip the two-byte DIV. */
static void on_sigfpe(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	uc->uc_mcontext.gregs[REG_RIP] += 2;
}

static void row_signal(struct host *h, uint64_t n)
{
	(void)h;
	while (n--)
		__asm__ volatile("xor %%ecx, %%ecx\n\tdiv %%ecx" : : : "rax", "rcx", "rdx", "cc");
}

static void row_map(struct host *h, uint64_t n)
{
	while (n--) {
		void *p =
		    mmap(h->window, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, h->fd, 0);

		if (p == MAP_FAILED)
			abort();
		*(volatile uint8_t *)p = 1;
		munmap(p, 4096);
	}
}

static const struct row {
	const char *name;
	void (*run)(struct host *h, uint64_t n);
	uint32_t unit;
} rows[] = {
    {"integer_loop", row_integer, 1},     {"memory_loop", row_memory, MEM_WORDS},
    {"pointer_chase", row_chase, UNROLL}, {"rep_movsb_4k", row_rep_movsb, 1},
    {"call_ret", row_call, UNROLL},       {"call_indirect", row_call_indirect, UNROLL},
    {"percpu_inc", row_percpu, UNROLL},   {"host_syscall", row_syscall, 1},
    {"host_signal", row_signal, 1},       {"host_map_touch_unmap", row_map, 1},
};

static uint64_t batch(struct host *h, const struct row *r, uint64_t n)
{
	uint64_t start = __rdtsc();

	r->run(h, n);
	return __rdtsc() - start;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void measure(struct host *h, const struct row *r)
{
	uint64_t n = r->unit, ticks[BATCHES];

	while (batch(h, r, n) < BATCH_TICKS)
		n *= 2;
	for (unsigned i = 0; i < BATCHES; i++)
		ticks[i] = batch(h, r, n);
	qsort(ticks, BATCHES, sizeof(ticks[0]), by_value);
	printf("%s %.2f\n", r->name, (double)ticks[BATCHES / 2] / n);
}

static int host_init(struct host *h)
{
	struct sigaction act = {.sa_sigaction = on_sigfpe, .sa_flags = SA_SIGINFO};
	uint8_t *copy = aligned_alloc(4096, 2 * COPY_BYTES);

	h->loops = (struct loops){.words = aligned_alloc(4096, MEM_WORDS * 8),
				  .chase = aligned_alloc(4096, CHASE_NODES * 64),
				  .copy_from = copy,
				  .copy_to = copy + COPY_BYTES};
	h->fd = memfd_create("nano", MFD_CLOEXEC);
	h->window = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!h->loops.words || !h->loops.chase || !copy || h->fd < 0 || h->window == MAP_FAILED ||
	    ftruncate(h->fd, 4096) || sigaction(SIGFPE, &act, NULL) ||
	    syscall(SYS_arch_prctl, ARCH_SET_GS, &percpu))
		return -1;
	/* Large pages if there are any: the guest's are 2 MiB, too. */
	madvise(h->loops.words, MEM_WORDS * 8, MADV_HUGEPAGE);
	for (unsigned i = 0; i < MEM_WORDS; i++)
		h->loops.words[i] = 0;
	loops_init(&h->loops);
	return 0;
}

int main(void)
{
	struct host h = {0};

	if (host_init(&h)) {
		perror("native");
		return 1;
	}
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		measure(&h, &rows[i]);
	return 0;
}
