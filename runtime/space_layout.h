/*
 * What lies where in a space: shared by the stub (space_stub.S) and the monitor (space_*.c).
 *
 * A space's own pages, from its base (one of the places):
 *
 *     CODE    r-x  the stub's instructions, one page for all spaces
 *     CTL     r--  words the monitor writes
 *     RING    r--  records for the mapper
 *     SETUP   r--  scripts, filters and structures of the start
 *     STATE   rw-  words the space writes; a vector state
 *     STACK   rw-  the alternate signal stack
 *     FAST    r-x  where patched system calls jump to: a table of pointers, the trampolines
 *
 * All but CODE come from the space's slot in the pool's memfd, which the monitor has mapped too,
 * writable. Guest code may read all of it and write STATE and STACK: what the monitor finds there
 * is input, not fact.
 */
#ifndef RINGSHIFT_SPACE_LAYOUT_H
#define RINGSHIFT_SPACE_LAYOUT_H

#define SPACE_CODE       0x0000
#define SPACE_CODE_SIZE  0x1000
#define SPACE_CTL        0x1000
#define SPACE_RING       0x2000
#define SPACE_RING_SIZE  0x2000
#define SPACE_SETUP      0x4000
#define SPACE_STATE      0x5000
#define SPACE_STACK      0x6000
#define SPACE_STACK_SIZE 0x8000
#define SPACE_FAST       0xe000
#define SPACE_FAST_CODE  0xf000
#define SPACE_SIZE       0x17000

/* Patched system calls: a slot each, of a pointer and a trampoline. space_fast.c */
#define SPACE_FAST_SLOTS 512 /* SPACE_SLOTS_FAST of space.h */
#define TRAMPOLINE_SIZE  64

/* A signal frame at the top of the stack fits; below it the registers for the entry; a signal that
 * comes while the stub runs goes further below, and some more can before their handlers begin. */
#define SPACE_FRAME_MAX 0x1000
#define SPACE_STACK_TOP (SPACE_STACK + SPACE_STACK_SIZE)
#define SPACE_IMAGE     (SPACE_STACK_TOP - SPACE_FRAME_MAX - 0x100)
#define IMAGE_RIP       128 /* in struct space_image */

/* struct space_record */
#define RECORD_SIZE  64
#define RECORD_COUNT (SPACE_RING_SIZE / RECORD_SIZE)
#define RECORD_JUMP  (-1) /* instead of a system call: to a0, with a1 as base, a2 as script */

#define CHECK_NONE 0 /* whatever it returned */
#define CHECK_OK   1 /* no error */
#define CHECK_EQ   2 /* the same as a5 */
#define CHECK_FORK 3 /* no error; the child goes on with the script at a5 */
#define CHECK_STOP 4 /* no error, or the mapper dies: it is not to go on */

/*
 * struct space_ctl and struct space_state: what a hand-over is made of fills one cache line each
 * way, with the word that is waited for at its beginning; what seldom changes is elsewhere, and
 * written only if it does. A line that has to travel costs as much as the rest of a hand-over.
 */
#define CTL_GO     (SPACE_CTL + 0x00)
#define CTL_ORDER  (SPACE_CTL + 0x04)
#define CTL_RAX    (SPACE_CTL + 0x08)
#define CTL_RCX    (SPACE_CTL + 0x10)
#define CTL_R11    (SPACE_CTL + 0x18)
#define CTL_RIP    (SPACE_CTL + 0x20)
#define CTL_FLAGS  (SPACE_CTL + 0x28)
#define CTL_PARK   (SPACE_CTL + 0x40)
#define CTL_TAIL   (SPACE_CTL + 0x80)
#define CTL_KICK   (SPACE_CTL + 0xc0)
#define CTL_SPIN   (SPACE_CTL + 0xc4)
#define CTL_XSAVE  (SPACE_CTL + 0x100)
#define CTL_RFBM   (SPACE_CTL + 0x108)
#define CTL_FSBASE (SPACE_CTL + 0x110)
#define CTL_GSBASE (SPACE_CTL + 0x118)
#define CTL_DS     (SPACE_CTL + 0x120)
#define CTL_ES     (SPACE_CTL + 0x122)
#define CTL_FS     (SPACE_CTL + 0x124)
#define CTL_GS     (SPACE_CTL + 0x126)
#define CTL_TLS    (SPACE_CTL + 0x130)
#define CTL_YIELD  (SPACE_CTL + 0xc8)
#define CTL_WANT   (SPACE_CTL + 0xcc)
#define CTL_M_SPIN (SPACE_CTL + 0xd0)

/* CTL_YIELD: with whom G shares its processor. */
#define WAIT_FAR    0 /* nobody: it spins */
#define WAIT_NEAR   1 /* all: it yields */
#define WAIT_BESIDE 2 /* the mapper: it yields to that only */

/* CTL_ORDER: what the run is to begin with. */
#define ORDER_LOAD     1  /* the vector state from CTL_XSAVE; else it is in the registers */
#define ORDER_SEGMENTS 2  /* selectors and bases */
#define ORDER_IRET     4  /* go by IRETQ, not by a jump */
#define ORDER_SAVE     8  /* do not go: the vector state to ST_XSAVE */
#define ORDER_TIME     16 /* note when guest code begins and when it ends */
#define ORDER_SAME     32 /* registers as of the fast system call, but for those beside CTL_GO */
#define ORDER_KEEP     64 /* save the vector state, too, when leaving by a fast system call */
#define ORDER_TLS      7 /* the number of the first of these bits: set the descriptors in CTL_TLS */

/* Linux has three descriptors in the GDT for each task to set, with set_thread_area. */
#define TLS_DESCRIPTORS 3 /* SPACE_TLS, SPACE_TLS_FIRST of space.h */
#define TLS_FIRST       12
#define USER_DESC_SIZE  16

/* struct space_state */
#define ST_EXITED   (SPACE_STATE + 0x00)
#define ST_KIND     (SPACE_STATE + 0x04)
#define ST_RAX      (SPACE_STATE + 0x08)
#define ST_RCX      (SPACE_STATE + 0x10)
#define ST_RDX      (SPACE_STATE + 0x18)
#define ST_RSI      (SPACE_STATE + 0x20)
#define ST_RDI      (SPACE_STATE + 0x28)
#define ST_R10      (SPACE_STATE + 0x30)
#define ST_RSP      (SPACE_STATE + 0x38)
#define ST_G_SLEEPS (SPACE_STATE + 0x40)
#define ST_K_SLEEPS (SPACE_STATE + 0x80)
#define ST_ACK      (SPACE_STATE + 0xc0)
#define ST_K_WAITS  (SPACE_STATE + 0xc4)
#define ST_M_ERROR  (SPACE_STATE + 0xc8)
#define ST_M_SLEEPS (SPACE_STATE + 0xd0)
#define ST_FRAME    (SPACE_STATE + 0x100)
#define ST_FSBASE   (SPACE_STATE + 0x110)
#define ST_GSBASE   (SPACE_STATE + 0x118)
#define ST_DS       (SPACE_STATE + 0x120)
#define ST_ES       (SPACE_STATE + 0x122)
#define ST_FS       (SPACE_STATE + 0x124)
#define ST_GS       (SPACE_STATE + 0x126)
#define ST_FLAGS    (SPACE_STATE + 0x128)
#define ST_G_PID    (SPACE_STATE + 0x140)
#define ST_FAIL     (SPACE_STATE + 0x148)
#define ST_FAIL_RAX (SPACE_STATE + 0x150)
#define ST_CHILD    (SPACE_STATE + 0x158)
#define ST_LIVE     (SPACE_STATE + 0x15c)
#define ST_SCRATCH  (SPACE_STATE + 0x160)
#define ST_ENTERED  (SPACE_STATE + 0x168)
#define ST_LEFT     (SPACE_STATE + 0x16c)
#define ST_RBX      (SPACE_STATE + 0x180)
#define ST_RBP      (SPACE_STATE + 0x188)
#define ST_R8       (SPACE_STATE + 0x190)
#define ST_R9       (SPACE_STATE + 0x198)
#define ST_R12      (SPACE_STATE + 0x1a0)
#define ST_R13      (SPACE_STATE + 0x1a8)
#define ST_R14      (SPACE_STATE + 0x1b0)
#define ST_R15      (SPACE_STATE + 0x1b8)
#define ST_XSAVE    (SPACE_STATE + 0x200)

/* ST_KIND: what the frame is. */
#define KIND_NONE        0
#define KIND_GUEST       1 /* guest code was interrupted */
#define KIND_STUB        2 /* a fault in the stub: guest code jumped there */
#define KIND_NOT_ENTERED 3 /* kicked before guest code began */
#define KIND_FAST        4 /* no frame: a patched system call */
#define KIND_SAVED       5 /* no frame: ORDER_SAVE has been obeyed */
#define KIND_REFUSED     6 /* the host does not take a descriptor */
#define KIND_KEPT        7 /* as KIND_FAST, with the vector state in ST_XSAVE: ORDER_KEEP */

/* In the kernel's struct ucontext, which the third argument of a handler points to. */
#define UC_MCONTEXT 40
#define UC_RDX      (UC_MCONTEXT + 96)
#define UC_RIP      (UC_MCONTEXT + 128)
#define UC_CS       (UC_MCONTEXT + 144)
#define UC_FPSTATE  (UC_MCONTEXT + 184)
#define UC_SIGNO    304 /* the siginfo follows in the frame */

#define SPACE_KICK_SIGNAL 10 /* SIGUSR1 */

#ifndef __ASSEMBLER__
#include "base.h"

struct space_record {
	u64 nr, a[6];
	u32 check, unused;
};

/* The kernel's struct user_desc, for set_thread_area and modify_ldt. */
struct space_user_desc {
	u32 entry, base, limit, flags;
};

struct space_ctl {
	_Atomic u32 go; /* number of the run G is to make; G waits for it to change */
	u32 order;
	u64 rax, rcx, r11, rip; /* ORDER_SAME */
	u32 flags;              /* for ADD $0x7f to AL, and SAHF */
	u8 pad0[0x14];
	u32 park; /* never changes: where a parked G sleeps */
	u8 pad1[0x3c];
	_Atomic u32 tail; /* records given to M, ever; M waits for it to change */
	u8 pad2[0x3c];
	_Atomic u32 kick;   /* do not enter */
	_Atomic u32 spin;   /* TSC ticks G may spin before it sleeps */
	_Atomic u32 yield;  /* and who is to run meanwhile: WAIT_FAR.. */
	_Atomic u32 want;   /* records M is to have executed before G enters guest code */
	_Atomic u32 m_spin; /* as spin, for M; it always lets others run */
	u8 pad3[0x2c];
	u64 xsave, rfbm, fs_base, gs_base;
	u16 ds, es, fs, gs;
	u64 unused;
	struct space_user_desc tls[TLS_DESCRIPTORS];
};

struct space_state {
	_Atomic u32 exited; /* the run that ended last; the host clears it when G dies */
	_Atomic u32 kind;
	/* Of a fast system call; RCX is where it returns to. */
	u64 rax, rcx, rdx, rsi, rdi, r10, rsp;
	_Atomic u32 g_sleeps;
	u8 pad1[0x3c];
	_Atomic u32 k_sleeps; /* wake me when you change exited */
	u8 pad2[0x3c];
	_Atomic u32 ack;     /* records M has executed, ever */
	_Atomic u32 k_waits; /* wake me when you change ack */
	_Atomic u64 m_error; /* what a record returned that failed */
	_Atomic u32 m_sleeps;
	u8 pad3[0x2c];
	_Atomic u64 frame;
	u64 pad4;
	u64 fs_base, gs_base;
	u16 ds, es, fs, gs;
	u64 flags; /* of a fast system call */
	u8 pad5[0x10];
	_Atomic u32 g_pid;
	u32 pad6;
	_Atomic u64 fail, fail_rax; /* the record of a script that failed, and how */
	_Atomic u32 child;          /* the zygote's: pid of what it cloned */
	_Atomic u32 live;           /* the vector state is in G's registers and nowhere else */
	u64 scratch;                /* a stack of one word: the flags, on the way into the stub */
	_Atomic u32 entered, left;  /* TSC, low half: G began with guest code, and left it */
	u8 pad7[0x10];
	u64 rbx, rbp, r8, r9, r12, r13, r14, r15; /* the others of a fast system call */
	u8 pad8[0x40];
	u8 xsave[0xe00]; /* the vector state when it is not in a signal frame */
};

/* What the stub pops before it leaves by IRETQ. */
struct space_image {
	u64 clean_flags;
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 rip, cs, rflags, rsp, ss;
};

/* clang-format off */
#define LAYOUT(type, field, base, offset) \
	_Static_assert(offsetof(struct type, field) + (base) == (offset), #field)
LAYOUT(space_ctl, go, SPACE_CTL, CTL_GO);
LAYOUT(space_ctl, order, SPACE_CTL, CTL_ORDER);
LAYOUT(space_ctl, rax, SPACE_CTL, CTL_RAX);
LAYOUT(space_ctl, rcx, SPACE_CTL, CTL_RCX);
LAYOUT(space_ctl, r11, SPACE_CTL, CTL_R11);
LAYOUT(space_ctl, rip, SPACE_CTL, CTL_RIP);
LAYOUT(space_ctl, flags, SPACE_CTL, CTL_FLAGS);
LAYOUT(space_ctl, park, SPACE_CTL, CTL_PARK);
LAYOUT(space_ctl, tail, SPACE_CTL, CTL_TAIL);
LAYOUT(space_ctl, kick, SPACE_CTL, CTL_KICK);
LAYOUT(space_ctl, spin, SPACE_CTL, CTL_SPIN);
LAYOUT(space_ctl, yield, SPACE_CTL, CTL_YIELD);
LAYOUT(space_ctl, want, SPACE_CTL, CTL_WANT);
LAYOUT(space_ctl, m_spin, SPACE_CTL, CTL_M_SPIN);
LAYOUT(space_ctl, xsave, SPACE_CTL, CTL_XSAVE);
LAYOUT(space_ctl, rfbm, SPACE_CTL, CTL_RFBM);
LAYOUT(space_ctl, fs_base, SPACE_CTL, CTL_FSBASE);
LAYOUT(space_ctl, gs_base, SPACE_CTL, CTL_GSBASE);
LAYOUT(space_ctl, ds, SPACE_CTL, CTL_DS);
LAYOUT(space_ctl, es, SPACE_CTL, CTL_ES);
LAYOUT(space_ctl, fs, SPACE_CTL, CTL_FS);
LAYOUT(space_ctl, gs, SPACE_CTL, CTL_GS);
LAYOUT(space_ctl, tls, SPACE_CTL, CTL_TLS);
LAYOUT(space_state, exited, SPACE_STATE, ST_EXITED);
LAYOUT(space_state, kind, SPACE_STATE, ST_KIND);
LAYOUT(space_state, rax, SPACE_STATE, ST_RAX);
LAYOUT(space_state, rcx, SPACE_STATE, ST_RCX);
LAYOUT(space_state, rdx, SPACE_STATE, ST_RDX);
LAYOUT(space_state, rsi, SPACE_STATE, ST_RSI);
LAYOUT(space_state, rdi, SPACE_STATE, ST_RDI);
LAYOUT(space_state, r10, SPACE_STATE, ST_R10);
LAYOUT(space_state, rsp, SPACE_STATE, ST_RSP);
LAYOUT(space_state, g_sleeps, SPACE_STATE, ST_G_SLEEPS);
LAYOUT(space_state, k_sleeps, SPACE_STATE, ST_K_SLEEPS);
LAYOUT(space_state, ack, SPACE_STATE, ST_ACK);
LAYOUT(space_state, k_waits, SPACE_STATE, ST_K_WAITS);
LAYOUT(space_state, m_error, SPACE_STATE, ST_M_ERROR);
LAYOUT(space_state, m_sleeps, SPACE_STATE, ST_M_SLEEPS);
LAYOUT(space_state, frame, SPACE_STATE, ST_FRAME);
LAYOUT(space_state, fs_base, SPACE_STATE, ST_FSBASE);
LAYOUT(space_state, gs_base, SPACE_STATE, ST_GSBASE);
LAYOUT(space_state, ds, SPACE_STATE, ST_DS);
LAYOUT(space_state, es, SPACE_STATE, ST_ES);
LAYOUT(space_state, fs, SPACE_STATE, ST_FS);
LAYOUT(space_state, gs, SPACE_STATE, ST_GS);
LAYOUT(space_state, flags, SPACE_STATE, ST_FLAGS);
LAYOUT(space_state, g_pid, SPACE_STATE, ST_G_PID);
LAYOUT(space_state, fail, SPACE_STATE, ST_FAIL);
LAYOUT(space_state, fail_rax, SPACE_STATE, ST_FAIL_RAX);
LAYOUT(space_state, child, SPACE_STATE, ST_CHILD);
LAYOUT(space_state, live, SPACE_STATE, ST_LIVE);
LAYOUT(space_state, scratch, SPACE_STATE, ST_SCRATCH);
LAYOUT(space_state, entered, SPACE_STATE, ST_ENTERED);
LAYOUT(space_state, left, SPACE_STATE, ST_LEFT);
LAYOUT(space_state, rbx, SPACE_STATE, ST_RBX);
LAYOUT(space_state, rbp, SPACE_STATE, ST_RBP);
LAYOUT(space_state, r8, SPACE_STATE, ST_R8);
LAYOUT(space_state, r9, SPACE_STATE, ST_R9);
LAYOUT(space_state, r12, SPACE_STATE, ST_R12);
LAYOUT(space_state, r13, SPACE_STATE, ST_R13);
LAYOUT(space_state, r14, SPACE_STATE, ST_R14);
LAYOUT(space_state, r15, SPACE_STATE, ST_R15);
LAYOUT(space_state, xsave, SPACE_STATE, ST_XSAVE);
LAYOUT(space_image, rip, 0, IMAGE_RIP);
#undef LAYOUT
/* clang-format on */
_Static_assert(sizeof(struct space_record) == RECORD_SIZE, "record");
_Static_assert(sizeof(struct space_user_desc) == USER_DESC_SIZE, "descriptor");
_Static_assert(sizeof(struct space_state) <= SPACE_STACK - SPACE_STATE, "state");
_Static_assert(sizeof(struct space_image) <= 0x100, "image");
_Static_assert(SPACE_FAST_CODE - SPACE_FAST == SPACE_FAST_SLOTS * sizeof(u64), "table");
_Static_assert(SPACE_SIZE - SPACE_FAST_CODE == SPACE_FAST_SLOTS * TRAMPOLINE_SIZE, "trampolines");

/* The stub, to be copied, and places in it. */
extern const u8 space_stub[], space_stub_end[];
extern const u8 space_stub_script[], space_stub_mapper[], space_stub_first[], space_stub_handler[];
extern const u8 space_stub_restorer[], space_stub_tls[];
extern const u8 space_stub_yielded[], space_stub_yielded_again[], space_stub_slept[];
extern const u8 space_stub_fast[], space_stub_fast_switched[], space_stub_fast_flagged[];
extern const u8 space_stub_fast_saved[];
#endif
#endif
