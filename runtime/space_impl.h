/*
 * The inside of the space mechanism, shared by space_*.c. space_layout.h has what the space itself
 * sees.
 */
#ifndef RINGSHIFT_SPACE_IMPL_H
#define RINGSHIFT_SPACE_IMPL_H

#include <linux/filter.h>
#include <sched.h>
#include <sys/types.h>

#include "space.h"
#include "space_layout.h"

#define SPACE_SLOTS 512 /* the first is the zygote's */
#define SPACE_QUEUE                                                                                \
	63 /* with a wake at most half a ring: it never wraps onto unfinished records              \
	    */
#define SPACE_USER_END  0x7ffffffff000ull
#define SPACE_HINT_BITS 10

/* Descriptors in the zygote and, but for the last, the mappers; guest tasks have none. */
#define SPACE_RAM_FD    0
#define SPACE_COPIES_FD 1
#define SPACE_POOL_FD   2

#define LDT_WRITE   0x11 /* modify_ldt's function */
#define LDT_ENTRIES 8192

/* The first three add. */
enum space_command_kind {
	COMMAND_MAP,
	COMMAND_COPY,
	COMMAND_WIDEN,
	COMMAND_PROTECT,
	COMMAND_UNMAP
};

struct space_command {
	enum space_command_kind kind;
	int prot;
	u64 va, len, offset; /* in the memfd of RAM, or of copies */
};

struct space {
	struct space_pool *pool;
	struct space *next; /* in the list of free ones */
	u8 *slot;           /* its pages as we see them: slot + SPACE_CTL and so on */
	unsigned index;     /* of the slot */
	unsigned place;
	u64 base; /* where the stub lies in the space */
	pid_t guest, mapper;
	bool dead;
	bool moved;   /* sleeps where nobody will wake it, unless a kick is under way */
	bool parked;  /* so it does, for certain */
	bool stopped; /* by SIGSTOP */
	bool used;    /* has been handed out */
	bool asked;   /* for its vector state, since the last run */
	struct space_habit {
		u8 past; /* did it happen before the last two runs? */
		u8 n[4]; /* by that: 2 and more, it will before the next */
	} parks, asks;
	int cpu;   /* the monitor's, when they were last told where to run; -1: not yet */
	u32 apart; /* and how: WAIT_FAR.. */

	u32 tail;     /* records given to the mapper, ever */
	u32 proven;   /* of these, certainly executed */
	bool unwoken; /* it has been given some without a wake, because it says that it is awake */
	bool chained; /* nothing but additions has been asked for lately */
	bool left;    /* the mapper was given records for whose end nobody has waited */
	bool wakes;   /* one of them was to wake G, and may not have been executed */
	bool alone;   /* nobody else has tried to */
	unsigned commands;
	struct space_command queue[SPACE_QUEUE];

	u32 run;        /* number of the last run */
	u32 spin;       /* TSC ticks worth waiting for an exit before we sleep */
	u32 guest_spin; /* and, in G, for the next run */
	u64 xsave_off;  /* in the slot: where the vector state is, unless it is live */
	bool live;      /* it is in G's registers */
	u16 fast_hint[BIT(
	    SPACE_HINT_BITS)];        /* by the address behind a system call: its slot, perhaps */
	bool serialize;               /* code has changed: the next way in is to be an IRETQ */
	u64 tls[TLS_DESCRIPTORS];     /* as guest code is to see them, 0: none */
	u64 has_tls[TLS_DESCRIPTORS]; /* as it does; ~0: unknown */
	bool tls_refused;             /* the host has no such thing */
	u64 *ldt;                     /* of LDT_ENTRIES, as guest code sees them; NULL: none */
	bool ldt_refused;
	bool knows; /* G still has in its STATE what it reported with a fast system call: */
	u64 told[16];
	struct space_entry {
		u64 rax, rcx, r11, rip;
		u32 order, flags;
	} entry;       /* what goes with the next run */
	bool segments; /* G has in its segment registers what it had when it left: */
	struct {
		u64 fs_base, gs_base;
		u16 ds, es, fs, gs;
	} has;
	_Atomic bool running;
	_Atomic bool kicked; /* a signal may be on its way to G */
};

/* space_place.c */
struct space_retry {
	u64 at, pause; /* not before; TSC ticks */
};
struct space_placement {
	cpu_set_t allowed; /* as we were started */
	bool near;         /* all tasks on one processor */
	bool beside;       /* else: the mapper is with G, not with the monitor */
	bool calm;         /* nobody else wants it: to yield is to let the right one run */
	bool easy;         /* this run counts as short if it is */
	bool leaves;       /* it is left to the mapper to begin */
	bool timed;        /* G notes how long it takes */
	int cpu;           /* the monitor runs there only; -1: anywhere */
	u64 fixed_at, started, ended;
	const struct space *last;
	unsigned runs, shorts; /* since the last choice */
	unsigned left;         /* of these, left to the mapper to begin; and short ones of that */
	unsigned left_shorts;
	u64 since, counted; /* last judged; runs since then */
	u64 delays;         /* and the time their hand-overs took */
	u64 window;         /* the same since the last choice, each of them YIELD_TICKS at most */
	u64 near_cost;      /* of one, near, before we went far */
	struct space_retry far, aside, yield; /* aside: far, with the mapper beside G */
};

struct space_pool {
	struct stats *stats;
	u8 *slots; /* the pool's memfd */
	int fd;
	u8 *copies; /* of code pages, with patches; copies_fd cannot be mapped writable again */
	int copies_fd;
	pid_t monitor;
	struct space zygote; /* a slot, a mapper and nothing else */
	struct space *space[SPACE_SLOTS];
	struct space *free;
	struct space *making; /* asked for, not yet seen to be ready */
	u64 xsave_mask;
	u32 xsave_size, mxcsr_mask;
	struct {
		u32 offset, size;
	} component[64];
	u32 spin_max; /* 0 with a single processor */
	struct space_placement place;
};

static inline struct space_ctl *space_ctl(const struct space *sp)
{
	return (struct space_ctl *)(sp->slot + SPACE_CTL);
}
static inline struct space_state *space_state(const struct space *sp)
{
	return (struct space_state *)(sp->slot + SPACE_STATE);
}
#define SPACE_COUNT(sp, id) ((sp)->pool->stats->n[STAT_##id]++)

#define SPACE_YIELD_TICKS                                                                          \
	300000u /* some 0.1 ms: as long as whoever waits yields before it sleeps */

/* A word that the other side has read costs much more to write than to look at. */
static inline void space_set_word(_Atomic u32 *word, u32 value)
{
	if (atomic_load_explicit(word, memory_order_relaxed) != value)
		atomic_store(word, value);
}

/* space_wait.c: futexes, spinning, CPU time. */
int space_futex_wake(_Atomic u32 *word);
/* Sleep while *word is value, at most ms; early returns are possible. */
void space_futex_wait(_Atomic u32 *word, u32 value, unsigned ms);
/* Move a sleeper from one word to the other; true: there was one, and it sleeps there now. */
bool space_futex_move(_Atomic u32 *from, u32 value, u32 *to);
u64 space_ticks(void);
u64 space_now_ms(void);
/* CPU time of another process, in microseconds. */
u64 space_cpu_us(pid_t pid);
/* Has a child of ours ended? It stays a zombie, so that its pid stays its own. */
bool space_gone(pid_t pid);
/* How long to spin for something on another processor: 0 if there is none. */
u32 space_spin_limit(void);

/* space_place.c: who runs on which processor. */
void space_place_init(struct space_pool *pool);
void space_place_free(struct space_pool *pool);
/* Before and after each run. quiet: nothing but a run was asked of the space since the last one;
 * leaves: the mapper is left to begin it. */
void space_place_run(struct space *sp, bool quiet, bool leaves);
bool space_place_timed(const struct space *sp);
void space_place_exit(struct space *sp);
void space_place_forget(const struct space *sp);
/* How to wait for another: whether it is on the same processor, so that spinning is no use; whether
 * it gets that processor if we yield. */
bool space_place_near(const struct space *sp);
/* With whom G shares its processor: WAIT_FAR.. */
u32 space_place_sharing(const struct space *sp);
bool space_place_calm(const struct space *sp);

/* space_script.c: what the tasks of a space do before they are one. */
#define SPACE_FILTER_MAX 112
struct space_setup {
	struct space_record zygote_child[8]; /* the zygote's slot: what a new space does first */
	struct space_record mapper[8], guest[16];
	struct sock_filter mapper_filter[SPACE_FILTER_MAX], guest_filter[SPACE_FILTER_MAX];
	struct sock_fprog mapper_program, guest_program;
	struct {
		u64 handler, flags, restorer, mask;
	} action; /* the kernel's struct sigaction */
	struct {
		u64 sp;
		u32 flags, pad;
		u64 size;
	} stack;
};
_Static_assert(sizeof(struct space_setup) <= SPACE_STATE - SPACE_SETUP, "setup");
void space_script_zygote(struct space *zygote);
void space_script_space(struct space *sp);
/* The zygote's record that starts sp, and the script it names. */
struct space_record space_script_clone(struct space *sp);

/* space_seccomp.c: number of instructions written to f. */
unsigned space_seccomp_zygote(struct sock_filter *f, u64 base);
unsigned space_seccomp_mapper(struct sock_filter *f, u64 base);
unsigned space_seccomp_guest(struct sock_filter *f, u64 base);

/* space_zygote.c */
MUST_CHECK int space_zygote_start(struct space_pool *pool, int ram_fd, char *err, size_t err_size);

/* space_map.c */
/* Give records to the mapper without waiting; there must be room. */
void space_post(struct space *sp, const struct space_record *r, unsigned n);
/* Wait until it has executed all; -EIO if it died, -ETIMEDOUT. The word is the mapper's only if
 * guest code cannot write it now. */
MUST_CHECK int space_await(struct space *sp);
/* See for certain that it has executed all, whatever the space says. -EIO: the space is dead. */
MUST_CHECK int space_settle(struct space *sp);
/* Can what is queued be left to the mapper, who then releases G? If so G has been moved now. */
bool space_leave_able(struct space *sp);
/* Do so: false if that failed, and the space is dead. */
bool space_leave_queue(struct space *sp);
/* G has reported the run. */
void space_leave_done(struct space *sp);
/* Can what is queued be given to the mapper while G waits for its report? Do so: -EIO if the space
 * is dead. */
bool space_chain_able(const struct space *sp);
MUST_CHECK int space_chain_queue(struct space *sp);
/* -ENOMEM: what was left the last time has failed. */
MUST_CHECK int space_check_left(struct space *sp);
MUST_CHECK int space_empty(struct space *sp);
/* Does [va, va + len) meet the stub? */
bool space_meets_stub(const struct space *sp, u64 va, u64 len);

/* Have the mapper execute records, at most half a ring, and wait. -EIO: the space is dead. -ENOMEM:
 * one of them failed. */
MUST_CHECK int space_execute(struct space *sp, const struct space_record *r, unsigned n);

/* space_desc.c */
/* What of the next run's order the descriptors of sp->tls take. */
u32 space_order_tls(struct space *sp);
/* It has begun, or may have been given up on the way. */
void space_tls_done(struct space *sp, bool entered);
void space_tls_refused(struct space *sp);
/* Is it one of code that guest code may have gone to by itself? */
bool space_code_selector(const struct space *sp, u16 sel);

/* space_run.c */
/* Move it where nobody will wake it if it sleeps. No proof while a kick may be under way. */
bool space_move_asleep(struct space *sp);

/* space_pool.c */
void space_kill(struct space *sp);

/* space_fast.c */
MUST_CHECK int space_fast_init(struct space_pool *pool);
void space_fast_free(struct space_pool *pool);
void space_fast_clear(struct space *sp);
/* The exit a patched system call reported, and its registers. */
void space_fast_decode(struct space *sp, struct space_regs *regs, struct space_exit *ex);
/* Guest code was interrupted on its way into the stub: make the registers those it had. False: RIP
 * is nowhere on that way. */
bool space_fast_undo(const struct space *sp, struct space_regs *regs);
/* A single-step trap came with the first instruction of a patched site: what it stands for has been
 * executed. False: RIP is not behind that. */
bool space_fast_trap(const struct space *sp, struct space_regs *regs, struct space_exit *ex);
/* Can G take registers from its report of the last system call? */
bool space_fast_same(const struct space *sp, const struct space_regs *regs);
/* Where to enter guest code that is to go on at rip. */
u64 space_fast_resume(struct space *sp, u64 rip);

/* space_run.c */
/* Have G put its vector state where xsave_off says. False: it is lost with the space. */
bool space_save_vec(struct space *sp);

/* space_xsave.c */
MUST_CHECK int space_xsave_probe(struct space_pool *pool, char *err, size_t err_size);
void space_xsave_reset(struct space *sp);
/* Make the image in the slot one that XRSTOR takes. */
void space_xsave_clean(struct space *sp);

/* space_exit.c */
#define SPACE_USER_FLAGS  0x254dd5ull /* CF PF AF ZF SF TF DF OF NT RF AC ID */
#define SPACE_FLAGS_FIXED 0x202ull
/* What it is to execute at an address of the stub: a page the guest has not mapped. */
struct space_exit space_exit_stub(u64 rip);
/* The exit the space's state describes, and its registers. False: it describes none. */
bool space_exit_decode(struct space *sp, struct space_regs *regs, struct space_exit *ex);

#endif
