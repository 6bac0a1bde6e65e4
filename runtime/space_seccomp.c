/*
 * The seccomp filters, one per kind of task. A filter sees the call number and the six arguments,
 * never memory; addresses of the stub are constants in it, so each space has its own.
 *
 *     zygote   what setting up a space takes, and what the others allow, which inherit it; it too
 *              must trap what the guest's filter traps: for a task without a handler that is the
 *              end as well
 *     mapper   map guest RAM, and copies of code executable, unmap, protect, anywhere but over the
 *              stub; set an LDT descriptor that stands in a record; wait and wake
 *     guest    wait for the monitor on one word, wake it on another; set the thread's descriptors
 * to what the monitor has written; everything else is the guest's own system call and traps
 *
 * All stub addresses are below 4 GiB, which the 32-bit arithmetic of a filter relies on.
 */
#include <asm/unistd_64.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>

#include "space_impl.h"

#define NR      offsetof(struct seccomp_data, nr)
#define ARCH    offsetof(struct seccomp_data, arch)
#define IP      offsetof(struct seccomp_data, instruction_pointer)
#define LO(arg) (offsetof(struct seccomp_data, args) + 8 * (arg))
#define HI(arg) (LO(arg) + 4)

#define NR32_SET_THREAD_AREA 243

/* A program being written. Jumps are to the next "else" that is closed. */
struct filter {
	struct sock_filter *f;
	unsigned n;
	u32 otherwise; /* the verdict of what is not allowed */
};

static void put(struct filter *p, u16 code, u8 jt, u8 jf, u32 k)
{
	BUG_ON(p->n == SPACE_FILTER_MAX);
	p->f[p->n++] = (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void verdict(struct filter *p, u32 k)
{
	put(p, BPF_RET | BPF_K, 0, 0, k);
}

static void load(struct filter *p, u32 off)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, off);
}

/* Unless the word is k, it ends here. */
static void require(struct filter *p, u32 off, u32 k)
{
	load(p, off);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, k);
	verdict(p, p->otherwise);
}

static void begin(struct filter *p)
{
	require(p, ARCH, AUDIT_ARCH_X86_64);
	load(p, NR);
}

/* If the number in the accumulator is nr, what follows up to end_call; else on after it. */
static unsigned call(struct filter *p, u32 nr)
{
	put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, nr);
	return p->n - 1;
}

static void end_call(struct filter *p, unsigned at)
{
	verdict(p, SECCOMP_RET_ALLOW);
	p->f[at].jf = p->n - at - 1;
}

/* The word must be one of these. */
static void require_one_of(struct filter *p, u32 off, const u32 *k, unsigned n)
{
	load(p, off);
	for (unsigned i = 0; i < n; i++)
		put(p, BPF_JMP | BPF_JEQ | BPF_K, (u8)(n - i), 0, k[i]);
	verdict(p, p->otherwise);
}

/* FUTEX_WAIT without a timeout on wait, FUTEX_WAKE on one of n words. from: the only place for the
 * first, if not 0. */
static void allow_futex(struct filter *p, u64 wait, u64 from, const u32 *wake, unsigned n)
{
	unsigned nr = call(p, __NR_futex), op;

	require(p, HI(0), 0);
	load(p, LO(1));
	op = call(p, FUTEX_WAKE);
	require_one_of(p, LO(0), wake, n);
	end_call(p, op);
	require(p, LO(1), FUTEX_WAIT);
	require(p, LO(0), wait);
	require(p, LO(3), 0);
	require(p, HI(3), 0);
	if (from) {
		require(p, IP + 4, 0);
		require(p, IP, (u32)from);
	}
	end_call(p, nr);
}

/*
 * Unless [arg 0, arg 0 + arg 1) keeps clear of the stub, it ends here. Clear is what starts at or
 * after its end, or ends at or before its base: len <= base - start, when both are 32 bits.
 */
static void require_clear(struct filter *p, u64 base)
{
	u32 from = (u32)base, to = (u32)base + SPACE_SIZE;

	load(p, HI(0));
	put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 11, 0); /* above 4 GiB: clear */
	load(p, LO(0));
	put(p, BPF_JMP | BPF_JGE | BPF_K, 9, 0, to);
	put(p, BPF_JMP | BPF_JGT | BPF_K, 7, 0, from);
	put(p, BPF_ALU | BPF_NEG, 0, 0, 0);
	put(p, BPF_ALU | BPF_ADD | BPF_K, 0, 0, from);
	put(p, BPF_MISC | BPF_TAX, 0, 0, 0); /* X: the room below the stub */
	load(p, HI(1));
	put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0);
	load(p, LO(1));
	put(p, BPF_JMP | BPF_JGT | BPF_X, 0, 1, 0);
	verdict(p, p->otherwise);
}

/* A 32-bit system call, which is the only way to this one. */
static void allow_set_thread_area(struct filter *p, u64 base)
{
	u32 from[TLS_DESCRIPTORS];
	unsigned nr;

	for (unsigned i = 0; i < TLS_DESCRIPTORS; i++)
		from[i] = (u32)base + CTL_TLS + i * USER_DESC_SIZE;
	load(p, ARCH);
	nr = call(p, AUDIT_ARCH_I386);
	require(p, NR, NR32_SET_THREAD_AREA);
	require_one_of(p, LO(0), from, TLS_DESCRIPTORS);
	end_call(p, nr);
}

/* Only where the stub makes it: guest code's own is for the guest's kernel. */
static void allow_yield(struct filter *p, u64 base)
{
	const u32 from[] = {(u32)(base + (u64)(space_stub_yielded - space_stub)),
			    (u32)(base + (u64)(space_stub_yielded_again - space_stub))};
	unsigned nr = call(p, __NR_sched_yield);

	require(p, IP + 4, 0);
	require_one_of(p, IP, from, ARRAY_LEN(from));
	end_call(p, nr);
}

unsigned space_seccomp_guest(struct sock_filter *f, u64 base)
{
	const u64 slept = base + (u64)(space_stub_slept - space_stub);
	const u32 wake[] = {(u32)base + ST_EXITED};
	struct filter p = {.f = f, .otherwise = SECCOMP_RET_TRAP};

	allow_set_thread_area(&p, base);
	begin(&p);
	allow_futex(&p, base + CTL_GO, slept, wake, ARRAY_LEN(wake));
	allow_yield(&p, base);
	verdict(&p, p.otherwise);
	return p.n;
}

/* One entry, from the ring, which the mapper alone executes and guest code cannot write. */
static void allow_modify_ldt(struct filter *p, u64 base)
{
	unsigned nr = call(p, __NR_modify_ldt);

	require(p, LO(0), LDT_WRITE);
	require(p, LO(2), USER_DESC_SIZE);
	require(p, HI(1), 0);
	load(p, LO(1));
	put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, (u32)base + SPACE_RING);
	put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1,
	    (u32)base + SPACE_RING + SPACE_RING_SIZE - USER_DESC_SIZE + 1);
	verdict(p, p->otherwise);
	end_call(p, nr);
}

unsigned space_seccomp_mapper(struct sock_filter *f, u64 base)
{
	const u32 wake[] = {(u32)base + ST_ACK, (u32)base + CTL_PARK};
	struct filter p = {.f = f, .otherwise = SECCOMP_RET_KILL_PROCESS};
	unsigned nr, copies;

	begin(&p);
	allow_futex(&p, base + CTL_TAIL, 0, wake, ARRAY_LEN(wake));
	allow_modify_ldt(&p, base);
	end_call(&p, call(&p, __NR_sched_yield));
	nr = call(&p, __NR_mmap);
	load(&p, LO(3));
	put(&p, BPF_ALU | BPF_AND | BPF_K, 0, 0, ~(u32)MAP_POPULATE);
	put(&p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, MAP_SHARED | MAP_FIXED);
	verdict(&p, p.otherwise);
	load(&p, LO(4));
	copies = call(&p, SPACE_COPIES_FD);
	require(&p, LO(2), PROT_READ | PROT_EXEC);
	require_clear(&p, base);
	end_call(&p, copies);
	require(&p, LO(4), SPACE_RAM_FD);
	require_clear(&p, base);
	end_call(&p, nr);
	load(&p, NR);
	put(&p, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, __NR_munmap);
	put(&p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, __NR_mprotect);
	verdict(&p, p.otherwise);
	require_clear(&p, base);
	verdict(&p, SECCOMP_RET_ALLOW);
	return p.n;
}

unsigned space_seccomp_zygote(struct sock_filter *f, u64 base)
{
	static const u32 allowed[] = {
	    __NR_mmap,        __NR_munmap,      __NR_mprotect,     __NR_futex,
	    __NR_sched_yield, __NR_clone,       __NR_prctl,        __NR_getppid,
	    __NR_close_range, __NR_sigaltstack, __NR_rt_sigaction, __NR_set_tid_address,
	    __NR_seccomp,     __NR_exit_group,  __NR_modify_ldt,   462 /* mseal */};
	struct filter p = {.f = f, .otherwise = SECCOMP_RET_TRAP};
	unsigned nr;

	(void)base;
	load(&p, ARCH);
	nr = call(&p, AUDIT_ARCH_I386);
	require(&p, NR, NR32_SET_THREAD_AREA);
	end_call(&p, nr);
	begin(&p);
	for (unsigned i = 0; i < ARRAY_LEN(allowed); i++)
		put(&p, BPF_JMP | BPF_JEQ | BPF_K, ARRAY_LEN(allowed) - i, 0, allowed[i]);
	verdict(&p, p.otherwise);
	verdict(&p, SECCOMP_RET_ALLOW);
	return p.n;
}
