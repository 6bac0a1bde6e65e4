/*
 * A pool with some memory to play guest RAM, and pieces of machine code to run in a space. Tests
 * skip where the host cannot have spaces.
 */
#ifndef RINGSHIFT_TESTS_SPACE_RIG_H
#define RINGSHIFT_TESTS_SPACE_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "space.h"

#define RIG_RAM   (16 * MIB)
#define RIG_CODE  0x400000ull /* RAM 0: a page, read and execute */
#define RIG_DATA  0x500000ull /* RAM 1 MiB: 64 KiB, read and write */
#define RIG_STACK (RIG_DATA + 0xf000)

struct rig {
	struct space_pool *pool;
	struct space *sp;
	struct stats stats;
	int fd;
	u8 *ram;
	struct space_regs r;
	struct space_exit ex;
	_Atomic u32 stop;
};

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Machine code by name: CODE(name, "assembler text"), then rig_code(x, name). */
#define CODE(name, text)                                                                           \
	extern const u8 code_##name[], code_##name##_end[];                                        \
	asm(".pushsection .rodata\ncode_" #name ":\n" text "\ncode_" #name "_end:\n.popsection")
#define rig_code(x, name) rig_put_code(x, code_##name, code_##name##_end - code_##name)

/* False if there can be no spaces here; the test then returns. */
static inline bool rig_open(struct rig *x)
{
	char err[200] = "";
	int ret;

	memset(x, 0, sizeof(*x));
	x->fd = memfd_create("test-ram", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(x->fd, RIG_RAM), 0);
	x->ram = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, 0);
	cr_assert_neq(x->ram, MAP_FAILED);
	ret = space_pool_new(&x->pool, x->fd, &x->stats, err, sizeof(err));
	if (ret == -ENOTSUP && !getenv("RINGSHIFT_NEED_SPACES")) {
		cr_log_warn("skipped: %s", err);
		return false;
	}
	cr_assert_eq(ret, 0, "%d: %s", ret, err);
	x->sp = space_get(x->pool, 0);
	cr_assert_not_null(x->sp);
	return true;
}

static inline void rig_close(struct rig *x)
{
	space_put(x->sp);
	space_pool_free(x->pool);
	munmap(x->ram, RIG_RAM);
	close(x->fd);
}

static inline void rig_map_standard(struct rig *x)
{
	cr_assert_eq(space_map(x->sp, RIG_CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, 0), 0);
	cr_assert_eq(space_map(x->sp, RIG_DATA, 0x10000, PROT_READ | PROT_WRITE, MIB), 0);
}

/* Code at RIG_CODE, standard mappings, registers to start it. */
static inline void rig_put_code(struct rig *x, const u8 *code, size_t n)
{
	cr_assert_leq(n, PAGE_SIZE);
	memset(x->ram, 0xcc, PAGE_SIZE);
	memcpy(x->ram, code, n);
	rig_map_standard(x);
	memset(&x->r, 0, sizeof(x->r));
	x->r.cs = SPACE_CS64;
	x->r.ss = 0x2b;
	x->r.rip = RIG_CODE;
	x->r.rflags = 0x202;
	x->r.gpr[RSP] = RIG_STACK;
}

#define rig_run(x, k)                                                                              \
	do {                                                                                       \
		cr_assert_eq(space_run((x)->sp, &(x)->r, &(x)->stop, &(x)->ex), 0);                \
		cr_assert_eq((x)->ex.kind, k, "kind %d vector %d error %x cr2 %llx rip %llx",      \
			     (x)->ex.kind, (x)->ex.vector, (x)->ex.error,                          \
			     (unsigned long long)(x)->ex.cr2, (unsigned long long)(x)->r.rip);     \
	} while (0)

/* Run on; what the code does next must be this system call. */
#define rig_syscall(x, nr)                                                                         \
	do {                                                                                       \
		rig_run(x, SPACE_SYSCALL);                                                         \
		cr_assert_eq((x)->r.gpr[RAX], (u64)(nr));                                          \
	} while (0)

#endif
