/*
 * Lowland, the part that runs in main.
 *
 * A 64-bit guest kernel lives in the upper half of its address space, which a host process cannot
 * map; ringshift keeps the host's lower half free for it, all but the first 8 TiB, which mirror a
 * range that Linux leaves unused. Everything of ours has to be in those: the image is static and
 * non-PIE at 4 MiB, the heap is brk and follows it (random, but within 1 GiB), the stack was moved
 * before libc started (lowland.S, lowland_early.c), thread stacks, guest RAM and the code area are
 * mapped at the fixed addresses of lowland.h.
 *
 * What is left in the upper part when main begins was put there by the kernel: the old stack, the
 * vDSO and its data. lowland_enter unmaps it, and then reads the map once more: a kernel that
 * refuses, or a library that mapped something behind our back, ends the start-up with one line.
 *
 * malloc must not mmap: a chunk of M_MMAP_THRESHOLD or more, or a second arena, would land right
 * under the top of the address space. So M_MMAP_MAX is 0 and there is one arena. If the heap
 * cannot grow, glibc falls back to mmap nevertheless; lowland_check asks that there be room.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "lowland.h"
#include "lowland_early.h"

#define LOWER_HALF_END (1ull << 47)
#define HEAP_ROOM      (256 * MIB)

bool lowland_active(void)
{
	return lowland_started;
}

void *lowland_at(u64 addr)
{
	return lowland_started ? (void *)addr : NULL;
}

/* One line of /proc/self/maps. */
struct area {
	u64 start, end;
	char perms[8], name[64];
};

/* Call fn for each mapping, in the order of addresses, until it gives non-zero; that, 0, or
 * negative errno. No stdio here: it would use the heap while we look. */
static int maps_walk(int (*fn)(void *opaque, const struct area *a), void *opaque)
{
	char buf[8192];
	size_t have = 0;
	ssize_t n;
	int ret = 0, fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (!ret && (n = read(fd, buf + have, sizeof(buf) - 1 - have)) != 0) {
		char *line = buf, *end;

		if (n < 0) {
			ret = -errno;
			break;
		}
		have += n;
		buf[have] = 0;
		for (; !ret && (end = strchr(line, '\n')); line = end + 1) {
			struct area a = {0};

			*end = 0;
			if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %*s %63s", &a.start,
				   &a.end, a.perms, a.name) < 3)
				ret = -EIO;
			else
				ret = fn(opaque, &a);
		}
		have -= line - buf;
		memmove(buf, line, have);
		if (have == sizeof(buf) - 1)
			ret = -EIO;
	}
	close(fd);
	return ret;
}

static bool is_foreign(const struct area *a)
{
	return a->end > LOWLAND_END && a->start < LOWER_HALF_END;
}

struct foreign {
	struct area area[32];
	unsigned n;
};

static int foreign_add(void *opaque, const struct area *a)
{
	struct foreign *f = opaque;

	if (!is_foreign(a))
		return 0;
	if (f->n == ARRAY_LEN(f->area))
		return -E2BIG;
	f->area[f->n++] = *a;
	return 0;
}

static int check_one(void *opaque, const struct area *a)
{
	struct area *bad = opaque;

	if (!is_foreign(a))
		return 0;
	*bad = *a;
	return 1;
}

int lowland_check(char *err, size_t err_size)
{
	struct area bad;
	int ret;

	if (!lowland_started)
		return 0;
	ret = maps_walk(check_one, &bad);
	if (ret < 0) {
		snprintf(err, err_size, "cannot read /proc/self/maps: %s", strerror(-ret));
		return ret;
	}
	if (ret) {
		snprintf(err, err_size, "the address space is not free: %s lies at %#" PRIx64,
			 bad.name[0] ? bad.name : "a mapping", bad.start);
		return -EFAULT;
	}
	if ((u64)sbrk(0) > LOWLAND_CODE - HEAP_ROOM) {
		snprintf(err, err_size, "the heap ends at %p, too near to the code area at %#llx",
			 sbrk(0), LOWLAND_CODE);
		return -EFAULT;
	}
	return 0;
}

/* Fields of /proc/self/stat, counted from 1 as in proc(5). */
enum {
	STAT_STARTCODE = 26,
	STAT_ENDCODE = 27,
	STAT_START_DATA = 45,
	STAT_END_DATA,
	STAT_START_BRK,
	STAT_ARG_START,
	STAT_ARG_END,
	STAT_ENV_START,
	STAT_ENV_END,
	STAT_FIELDS
};

static int read_stat(u64 field[STAT_FIELDS])
{
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC), i;
	char buf[2048], *p;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[MAX(n, 0)] = 0;
	p = strrchr(buf, ')'); /* the name may hold anything */
	if (!p || !p[1])
		return -EIO;
	p += 3; /* field 3, the state, a letter */
	for (i = 4; i < STAT_FIELDS; i++) {
		p = strchr(p, ' ');
		if (!p)
			return -EIO;
		field[i] = strtoull(++p, NULL, 10);
	}
	return 0;
}

/*
 * Tell the kernel where the arguments and the environment are now, for /proc/PID/cmdline, hence ps
 * and pgrep. PR_SET_MM_MAP needs no privilege as long as it leaves the executable alone. A kernel
 * that does not have it gives us an empty command line, and that is all.
 */
static void announce_arguments(void)
{
	struct prctl_mm_map map = {.exe_fd = (u32)-1};
	u64 field[STAT_FIELDS];

	if (read_stat(field))
		return;
	map.start_code = field[STAT_STARTCODE];
	map.end_code = field[STAT_ENDCODE];
	map.start_data = field[STAT_START_DATA];
	map.end_data = field[STAT_END_DATA];
	map.start_brk = field[STAT_START_BRK];
	map.brk = (u64)sbrk(0);
	map.start_stack = LOWLAND_STACK + LOWLAND_STACK_SIZE;
	map.arg_start = field[STAT_ARG_START] - lowland_stack_moved;
	map.arg_end = field[STAT_ARG_END] - lowland_stack_moved;
	map.env_start = field[STAT_ENV_START] - lowland_stack_moved;
	map.env_end = field[STAT_ENV_END] - lowland_stack_moved;
	prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0);
}

int lowland_enter(char *err, size_t err_size)
{
	struct foreign f = {.n = 0};
	int ret;

	if (!RINGSHIFT_LOWLAND)
		return 0;
	if (!lowland_started) {
		snprintf(err, err_size, "not started at its own entry point");
		return -ENOEXEC;
	}
	if (!mallopt(M_MMAP_MAX, 0) || !mallopt(M_ARENA_MAX, 1) ||
	    !mallopt(M_TRIM_THRESHOLD, 64 * MIB)) {
		snprintf(err, err_size, "the C library's malloc cannot be kept on the heap");
		return -ENOSYS;
	}
	ret = maps_walk(foreign_add, &f);
	if (ret < 0) {
		snprintf(err, err_size, "cannot read /proc/self/maps: %s", strerror(-ret));
		return ret;
	}
	announce_arguments();
	/* A failure shows in the check. */
	for (unsigned i = 0; i < f.n; i++)
		munmap((void *)f.area[i].start, f.area[i].end - f.area[i].start);
	return lowland_check(err, err_size);
}

/* Where in lowland.h's layout an address lies. */
static const char *area_role(u64 a)
{
	if (a >= LOWER_HALF_END)
		return "kernel's half";
	if (a >= LOWLAND_END)
		return "NOT IN LOWLAND";
	if (a >= LOWLAND_RAM)
		return a < LOWLAND_RAM_END ? "guest RAM" : "other";
	if (a >= LOWLAND_SPACES)
		return "spaces";
	if (a >= LOWLAND_THREADS)
		return "thread stacks";
	if (a >= LOWLAND_STACK)
		return a < LOWLAND_STACK + LOWLAND_STACK_SIZE ? "stack" : "other";
	if (a >= LOWLAND_CODE)
		return a < LOWLAND_CODE + LOWLAND_CODE_SIZE ? "code" : "other";
	return "image and heap";
}

static int report_one(void *opaque, const struct area *a)
{
	fprintf(opaque, "%016" PRIx64 "-%016" PRIx64 " %s %-14s %s\n", a->start, a->end, a->perms,
		area_role(a->start), a->name);
	return 0;
}

int lowland_report(FILE *out)
{
	char err[160] = "built without lowland";
	int ret = maps_walk(report_one, out);

	if (!ret && lowland_started)
		ret = lowland_check(err, sizeof(err));
	if (ret || !lowland_started) {
		fprintf(out, "lowland: no: %s\n",
			ret < 0 && !lowland_started ? strerror(-ret) : err);
		return 1;
	}
	fprintf(out, "lowland: yes: nothing between %#llx and %#llx\n", LOWLAND_END,
		LOWER_HALF_END);
	return 0;
}

/* Slots of LOWLAND_THREADS in use. */
static _Atomic u64 slots_used;
_Static_assert(LOWLAND_THREAD_SLOTS <= 64, "slots_used is one word");

static int slot_take(void)
{
	u64 used = atomic_load(&slots_used);
	int slot;

	do {
		slot = ~used ? __builtin_ctzll(~used) : 64;
		if (slot >= LOWLAND_THREAD_SLOTS)
			return -EAGAIN;
	} while (!atomic_compare_exchange_weak(&slots_used, &used, used | BIT(slot)));
	return slot;
}

static u8 *slot_stack(int slot)
{
	return (u8 *)(LOWLAND_THREADS + (slot + 1ull) * LOWLAND_THREAD_SLOT - LOWLAND_THREAD_SIZE);
}

static void slot_give(int slot)
{
	munmap(slot_stack(slot), LOWLAND_THREAD_SIZE);
	atomic_fetch_and(&slots_used, ~BIT(slot));
}

/* The guard is what lies unmapped between two slots. */
static int slot_map(pthread_attr_t *attr)
{
	int slot = slot_take();
	void *p;

	if (slot < 0)
		return slot;
	p = mmap(slot_stack(slot), LOWLAND_THREAD_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p == MAP_FAILED) {
		int ret = -errno;

		atomic_fetch_and(&slots_used, ~BIT(slot));
		return ret;
	}
	pthread_attr_setstack(attr, p, LOWLAND_THREAD_SIZE);
	return slot;
}

int lowland_thread_create(struct lowland_thread *t, void *(*fn)(void *), void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	sigset_t all, old;
	pthread_attr_t attr;
	int ret = pthread_attr_init(&attr);

	if (ret)
		return -ret;
	t->slot = -1;
	if (lowland_started) {
		t->slot = ret = slot_map(&attr);
		if (ret < 0)
			goto out;
	}
	sigfillset(&all);
	for (unsigned i = 0; i < ARRAY_LEN(faults); i++)
		sigdelset(&all, faults[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&t->id, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret && t->slot >= 0)
		slot_give(t->slot);
out:
	pthread_attr_destroy(&attr);
	return ret;
}

void lowland_thread_join(struct lowland_thread *t)
{
	BUG_ON(pthread_join(t->id, NULL));
	if (t->slot >= 0)
		slot_give(t->slot);
}
