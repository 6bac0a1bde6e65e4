/*
 * The part of the start-up that runs before libc: nothing here may use thread-local storage, a
 * libc function (memcpy and its kin are resolved later) or the stack protector.
 *
 * The initial stack is one piece: argc, argv, envp, the auxiliary vector, then the bytes and
 * strings they point to. It is copied as it is, by a multiple of a page, and every pointer into it
 * is moved by the same distance. AT_SYSINFO_EHDR becomes AT_IGNORE, so that libc never calls into
 * the vDSO, which lowland_enter is going to unmap.
 */
#include <elf.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lowland_early.h"

/* Set once, here; read by lowland.c. */
bool lowland_started;
u64 lowland_stack_moved;

static long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static NORETURN void die(const char *text, u64 len)
{
	syscall6(SYS_write, 2, (long)text, len, 0, 0, 0);
	for (;;)
		syscall6(SYS_exit_group, 1, 0, 0, 0, 0, 0);
}
#define DIE(text) die(text, sizeof(text) - 1)

/* The region [start, end) of the old stack that is in use. */
struct span {
	u64 start, end;
};

static void span_add(struct span *s, u64 p, u64 len)
{
	if (p >= s->start && p + len > s->end)
		s->end = p + len;
}

static void span_add_string(struct span *s, u64 p)
{
	const char *c = (const char *)p;

	if (p < s->start)
		return;
	while (*c)
		c++;
	span_add(s, p, c + 1 - (const char *)p);
}

static bool aux_is_string(u64 type)
{
	return type == AT_EXECFN || type == AT_PLATFORM || type == AT_BASE_PLATFORM;
}

#define AT_RANDOM_LEN 16

/* Find the end of what is to be copied, and where the auxiliary vector begins (an index). */
static u64 measure(u64 *sp, struct span *s)
{
	u64 i = 1, aux;

	for (int list = 0; list < 2; list++) { /* argv, envp */
		while (sp[i])
			span_add_string(s, sp[i++]);
		i++;
	}
	aux = i;
	for (; sp[i] != AT_NULL; i += 2) {
		if (aux_is_string(sp[i]))
			span_add_string(s, sp[i + 1]);
		else if (sp[i] == AT_RANDOM)
			span_add(s, sp[i + 1], AT_RANDOM_LEN);
	}
	span_add(s, (u64)&sp[i + 2], 0);
	return aux;
}

static void move_pointer(u64 *p, const struct span *old, u64 distance)
{
	if (*p >= old->start && *p < old->end)
		*p -= distance;
}

/* The copy's pointers still point into the old stack: move them. */
static void patch(u64 *sp, u64 aux, const struct span *old, u64 distance)
{
	u64 i;

	for (i = 1; i < aux; i++)
		move_pointer(&sp[i], old, distance);
	for (i = aux; sp[i] != AT_NULL; i += 2) {
		if (aux_is_string(sp[i]) || sp[i] == AT_RANDOM)
			move_pointer(&sp[i + 1], old, distance);
		else if (sp[i] == AT_SYSINFO_EHDR)
			sp[i] = AT_IGNORE;
	}
}

u64 lowland_early(u64 *sp)
{
	const u64 stack = LOWLAND_STACK, top = LOWLAND_STACK + LOWLAND_STACK_SIZE;
	struct span old = {.start = (u64)sp, .end = (u64)sp};
	u64 aux = measure(sp, &old);
	u64 distance = ALIGN_UP(old.end, PAGE_SIZE) - top;
	u64 count = old.end - old.start, from = old.start, to = old.start - distance;
	long ret;

	if (count > LOWLAND_STACK_SIZE / 2)
		DIE("ringshift: arguments and environment are too long\n");
	ret = syscall6(SYS_mmap, stack, LOWLAND_STACK_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (ret != (long)stack ||
	    syscall6(SYS_mprotect, stack, LOWLAND_STACK_GUARD, PROT_NONE, 0, 0, 0))
		DIE("ringshift: no memory for the stack at its fixed address\n");
	__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
	sp = (u64 *)(old.start - distance);
	patch(sp, aux, &old, distance);
	lowland_stack_moved = distance;
	lowland_started = true;
	return (u64)sp;
}
