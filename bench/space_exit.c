/*
 * What leaving a space and coming back costs: a system call, a fault with the mapping that cures
 * it, a kick, a switch between two spaces. Numbers are nanoseconds per round, best of several.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "space.h"

#define CODE   0x400000ull
#define DATA   0x10000000ull
#define RAM    (64 * MIB)
#define ROUNDS 15

static struct stats stats;
static _Atomic u32 stop;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void run(struct space *sp, struct space_regs *r, enum space_exit_kind kind)
{
	struct space_exit ex;
	int ret = space_run(sp, r, &stop, &ex);

	if (ret || ex.kind != kind) {
		fprintf(stderr, "space_exit: %d, kind %d, vector %d at %#llx\n", ret, ex.kind,
			ex.vector, (unsigned long long)r->rip);
		exit(1);
	}
}

static void check(int ret)
{
	if (ret) {
		fprintf(stderr, "space_exit: %s\n", strerror(-ret));
		exit(1);
	}
}

static struct space_regs start(u64 off)
{
	return (struct space_regs){.cs = SPACE_CS64, .rip = CODE + off, .rflags = 0x202};
}

static double syscalls(struct space *sp, unsigned n)
{
	struct space_regs r = start(0);
	double t = now();

	for (unsigned i = 0; i < n; i++)
		run(sp, &r, SPACE_SYSCALL);
	return (now() - t) / n;
}

/* The same with a patched pair, in a copy of the page. */
static double fast_syscalls(struct space_pool *pool, struct space *sp, unsigned n)
{
	static const u8 loop[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7};
	struct space_regs r = start(0);
	u8 *copy = space_copy(pool, 0);
	double t;

	memcpy(copy, loop, sizeof(loop));
	space_fast_patch(copy, 0);
	space_fast_set(sp, 0, &(struct space_site){.kind = SPACE_SITE_PAIR, .nr = 39, .len = 5},
		       CODE + SPACE_PATCH_LEN);
	check(space_map_copy(sp, CODE, 0));
	t = now();
	for (unsigned i = 0; i < n; i++)
		run(sp, &r, SPACE_SYSCALL);
	t = (now() - t) / n;
	check(space_map(sp, CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, 0));
	return t;
}

/* Touch a page, map it, go on: 16 pages at a time if around is set. */
static double faults(struct space *sp, unsigned n, unsigned around)
{
	struct space_regs r = start(16);
	double t;

	check(space_unmap(sp, DATA, 32 * MIB));
	check(space_sync(sp));
	t = now();
	for (unsigned i = 0; i < n; i++) {
		u64 off = i * around * PAGE_SIZE;

		r.gpr[3] = DATA + off; /* RBX */
		r.rip = CODE + 16;
		run(sp, &r, SPACE_FAULT);
		check(space_map(sp, DATA + off, around * PAGE_SIZE, PROT_READ | PROT_WRITE,
				MIB + off));
		run(sp, &r, SPACE_SYSCALL);
	}
	return (now() - t) / n;
}

static double switches(struct space *a, struct space *b, unsigned n, bool park)
{
	struct space_regs r = start(0), q = start(0);
	double t = now();

	for (unsigned i = 0; i < n; i++) {
		run(a, &r, SPACE_SYSCALL);
		if (park)
			check(space_park(a));
		run(b, &q, SPACE_SYSCALL);
		if (park)
			check(space_park(b));
	}
	return (now() - t) / n / 2;
}

static double get_put(struct space_pool *pool, unsigned n)
{
	double t = now();

	for (unsigned i = 0; i < n; i++)
		space_put(space_get(pool, 0));
	return (now() - t) / n;
}

static double creations(struct space_pool *pool)
{
	struct space *sp[64];
	double t = now();

	for (unsigned i = 0; i < ARRAY_LEN(sp); i++)
		sp[i] = space_get(pool, 0);
	t = (now() - t) / ARRAY_LEN(sp);
	for (unsigned i = 0; i < ARRAY_LEN(sp); i++)
		space_put(sp[i]);
	return t;
}

#define BEST(what, ...)                                                                            \
	do {                                                                                       \
		double best_ = 1e99;                                                               \
		for (unsigned i_ = 0; i_ < ROUNDS; i_++) {                                         \
			double d_ = __VA_ARGS__;                                                   \
			best_ = MIN(best_, d_);                                                    \
		}                                                                                  \
		printf("%-40s %8.0f ns\n", what, best_);                                           \
		fflush(stdout);                                                                    \
	} while (0)

int main(void)
{
	static const u8 code[] = {0x0f, 0x05, 0xeb, 0xfc};  /* 1: syscall; jmp 1b */
	static const u8 touch[] = {0x88, 0x03, 0x0f, 0x05}; /* mov %al,(%rbx); syscall */
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct space_pool *pool;
	struct space *sp, *other;
	char err[200] = "";
	u8 *ram;

	check(ftruncate(fd, RAM));
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(ram, 0xcc, RAM);
	memcpy(ram, code, sizeof(code));
	memcpy(ram + 16, touch, sizeof(touch));
	if (space_pool_new(&pool, fd, &stats, err, sizeof(err))) {
		fprintf(stderr, "space_exit: %s\n", err);
		return 1;
	}
	sp = space_get(pool, 0);
	other = space_get(pool, 0);
	check(space_map(sp, CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, 0));
	check(space_map(other, CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, 0));
	BEST("system call", syscalls(sp, 5000));
	BEST("patched system call", fast_syscalls(pool, sp, 5000));
	BEST("page fault, map, system call", faults(sp, 500, 1));
	BEST("the same, 16 pages mapped", faults(sp, 400, 16));
	BEST("switch of spaces and system call", switches(sp, other, 500, false));
	BEST("switch, parked, and system call", switches(sp, other, 500, true));
	BEST("empty and reuse", get_put(pool, 500));
	printf("%-40s %8.0f ns\n", "create (64 in a row, once)", creations(pool));
#define STAT(id, help)                                                                             \
	if (!strncmp(#id, "space_", 6))                                                            \
		printf("%-40s %8llu\n", #id, (unsigned long long)stats.n[STAT_##id]);
#include "stats.def"
	space_put(sp);
	space_put(other);
	space_pool_free(pool);
	return 0;
}
