/*
 * Spaces: sandboxed child processes in which guest ring-3 code runs natively. This is the whole
 * interface; docs/spaces.md is the tour, docs/security.md the argument why guest code cannot get
 * out, space_layout.h what lies where in a space.
 *
 * A space is an address space that holds a stub of ours and whatever space_map put there. It has
 * no registers of its own: the caller brings them to every space_run and gets them back. Only the
 * vector state stays behind, where space_xsave_read and space_xsave_write reach it.
 *
 * One thread at a time may use a pool and its spaces; space_kick may come from anywhere, signal
 * handlers included. A space is a cache: it can die (SPACE_DEAD, -EIO), by itself or because guest
 * code tampered with the stub; whoever owns it gets another one and maps again.
 */
#ifndef RINGSHIFT_SPACE_H
#define RINGSHIFT_SPACE_H

#include <stdatomic.h>

#include "base.h"

struct space_pool;
struct space;

/*
 * Fork the zygote. Before there are threads, and before guest RAM is mapped (a fork copies page
 * tables); the calling thread has to live as long as the pool, since spaces die with it. ram_fd is
 * the memfd of guest RAM, which may still grow. Negative errno and a line of text in err: -ENOTSUP
 * if this host cannot do it.
 */
MUST_CHECK int space_pool_new(struct space_pool **out, int ram_fd, struct stats *stats, char *err,
			      size_t err_size);
void space_pool_free(struct space_pool *pool);

/*
 * A space with no guest page mapped. The stub lies at one of SPACE_PLACES places; avoid is a mask
 * of those that will not do, because space_map said -EBUSY there. NULL: the host is out of
 * processes or memory, or no place is left.
 */
#define SPACE_PLACES 4
struct space *space_get(struct space_pool *pool, unsigned avoid);
unsigned space_place(const struct space *sp);
/* The places, as a mask, whose stub would meet a range. */
unsigned space_places_met(u64 va, u64 len);
/* Empty it and give it back. A space that does not let itself be emptied is killed. */
void space_put(struct space *sp);

/*
 * Queue a change; it takes effect at the next space_run or space_sync, in order. va, len and
 * ram_off are multiples of the page size, prot is PROT_READ, PROT_WRITE, PROT_EXEC. Neighbours are
 * merged. What space_map covers must not be mapped to something else at that time unless guest
 * code may keep using the old page until the new one is there: unmap first.
 * -EBUSY: the range meets the stub (space_unmap leaves the stub alone and says nothing). -EINVAL:
 * not a user range. Else what space_sync says, when the queue had to be emptied to make room.
 */
MUST_CHECK int space_map(struct space *sp, u64 va, u64 len, int prot, u64 ram_off);
MUST_CHECK int space_protect(struct space *sp, u64 va, u64 len, int prot);
/* The same where no right is taken: guest code may go on with what it has until then. */
MUST_CHECK int space_widen(struct space *sp, u64 va, u64 len, int prot);
MUST_CHECK int space_unmap(struct space *sp, u64 va, u64 len);

/* Is anything queued that may take something from guest code: anything but more rights? */
bool space_takes(const struct space *sp);

/*
 * Patched code (space_fast.c): SPACE_PATCH_LEN bytes are replaced in a copy of their page by a jump
 * through a slot; each space that maps the copy says what the slot stands for there. So system
 * calls leave without a signal, and what would show the host shows the guest. Code that is entered
 * at the second instruction of a site leaves with #UD or #GP there.
 *
 * Copies are pages of the pool; space_copy is where to write one. space_map_copy is as space_map,
 * for reading and executing. Slots are to be set before guest code can see a copy that names them,
 * and unset when the space no longer maps it.
 */
#define SPACE_COPIES      256
#define SPACE_SLOTS_FAST  512
#define SPACE_PATCH_LEN   7
#define SPACE_SYSCALL_LEN 2
enum space_site_kind {
	SPACE_SITE_PAIR,    /* MOV imm32 to EAX or RAX, of 5 or 7 bytes, and SYSCALL */
	SPACE_SITE_SYSCALL, /* SYSCALL and an instruction of at least 5 bytes */
	SPACE_SITE_LIMIT,   /* MOV imm32 to a register and LSL of it, SPACE_LIMIT_LEN bytes */
};
#define SPACE_LIMIT_LEN 8
struct space_site {
	enum space_site_kind kind;
	u32 nr;      /* of a pair; what LSL is to find */
	u8 len;      /* of a pair's MOV; of the instruction behind a SYSCALL */
	u8 insn[15]; /* that instruction, the same wherever it is executed; MOV and LSL */
};
/* Can patched code work in this space? It depends on the place. */
bool space_fast_able(const struct space *sp);
u8 *space_copy(struct space_pool *pool, unsigned copy);
void space_fast_patch(u8 site[SPACE_PATCH_LEN], unsigned slot);
/* next: the address behind the system call, or the LSL. */
void space_fast_set(struct space *sp, unsigned slot, const struct space_site *site, u64 next);
void space_fast_unset(struct space *sp, unsigned slot);
MUST_CHECK int space_map_copy(struct space *sp, u64 va, unsigned copy);

/*
 * Apply what is queued. If there is an unmap or protect among it, guest code is parked first and
 * the change is complete when this returns. -ENOMEM: the host is out of mappings or memory and the
 * space is in an unknown state: space_put it. -EIO: it is dead.
 */
MUST_CHECK int space_sync(struct space *sp);

/*
 * After this guest code of the space cannot run, whatever it did, until the next space_run. -EIO:
 * the space is dead; its registers and vector state are not lost.
 */
MUST_CHECK int space_park(struct space *sp);

/*
 * Descriptors of its own that guest code is to find at the places where Linux has them: 12 to 14 of
 * the GDT, and the LDT. raw: as in memory; what the host does not let user code have (system
 * segments, other privilege levels, 64-bit code, none accessed) is not there. A change of the first
 * takes effect with the next run, of the LDT at once; there errors are as space_sync's.
 */
#define SPACE_TLS_FIRST 12
#define SPACE_TLS       3
void space_set_tls(struct space *sp, const u64 raw[SPACE_TLS]);
MUST_CHECK int space_set_ldt(struct space *sp, unsigned from, const u64 *raw, unsigned n);
/* What guest code finds there, 0: nothing. */
u64 space_descriptor(const struct space *sp, u16 sel);
/* Can space_run load DS, ES, FS and GS with it? */
bool space_selector_valid(const struct space *sp, u16 sel);

struct space_regs {
	u64 gpr[16]; /* the manual's order: rax rcx rdx rbx rsp rbp rsi rdi r8.. */
	u64 rip, rflags, fs_base, gs_base;
	u16 cs, ss, ds, es, fs, gs;
};
#define SPACE_CS32 0x23
#define SPACE_CS64 0x33

enum space_exit_kind {
	SPACE_SYSCALL, /* SYSCALL; RIP, RCX and R11 as that instruction leaves them */
	SPACE_INT80,   /* INT 0x80, or SYSCALL in 32-bit code; RIP after it, RAX low half */
	SPACE_FAULT,   /* an exception: vector, error, cr2, dr6 */
	SPACE_KICKED,  /* space_kick or *stop; now and then for no reason at all */
	SPACE_DEAD /* it is gone: the registers are those of the entry; how far it got is unknown */
};

struct space_exit {
	enum space_exit_kind kind;
	bool fast; /* SPACE_SYSCALL: by patched code */
	u8 vector;
	u32 error; /* as the processor pushes it; 0 where it pushes none */
	u64 cr2;   /* page faults */
	u64 dr6;   /* #DB: BS or nothing */
};

/*
 * Run guest code until it leaves. Ends with SPACE_KICKED soon after *stop becomes non-zero, at once
 * when whoever sets it also calls space_kick, otherwise within 10 ms; not a guest instruction runs
 * if it was non-zero before.
 *
 * 0 and *ex, or negative errno: -EINVAL if cs is neither code segment, a selector is not valid, RIP
 * or a base is not canonical (nothing ran), -EIO if the space was dead before it began, else as
 * space_sync. RFLAGS: only what user code can
 * change counts. SS is the host's flat data segment. All come back as guest code had them: CS can
 * be one of the LDT then.
 */
MUST_CHECK int space_run(struct space *sp, struct space_regs *regs, const _Atomic u32 *stop,
			 struct space_exit *ex);

/* Make the space_run under way return, if there is one. Async-signal-safe. */
void space_kick(struct space *sp);

/*
 * The guest's vector state: an XSAVE image in standard format, of the components space_xsave_mask.
 * Read gives an image that XRSTOR takes, whatever guest code did. Write takes any image: bits that
 * would make XRSTOR fault are dropped. Both only between runs. After a fast system call the state
 * is in the space's registers: reading it costs a hand-over, and if the space is dead it is lost:
 * false, and what is read is the initial state.
 */
size_t space_xsave_size(const struct space_pool *pool);
u64 space_xsave_mask(const struct space_pool *pool);
bool space_xsave_read(struct space *sp, void *image);
void space_xsave_write(struct space *sp, const void *image);

#endif
