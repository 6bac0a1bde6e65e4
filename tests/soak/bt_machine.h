/*
 * The machines of bt_step and their guest: page tables, GDT, IDT, handlers, and the places in the
 * address space where sequences run.
 */
#ifndef RINGSHIFT_TESTS_BT_MACHINE_H
#define RINGSHIFT_TESTS_BT_MACHINE_H

#include "cpu.h"

#define PT_GPA   0x10000ull
#define AREA_GPA 0x100000ull /* all that the two machines are compared by */

/* Pages of the area. */
enum {
	CODE,
	CODE2,
	DATA,
	DATA2,
	READONLY,
	USER,
	USER2,
	USER_READONLY,
	PERCPU,
	STACK,
	STACK2,
	SYSTEM,
	HANDLERS,
	KSTACK,
	PAGES
};
/* Where a sequence runs and what it uses. */
struct half {
	u64 code, alias; /* two pages each */
	u64 data;        /* two pages, a read-only one, an absent one; RIP-relative from code */
	u64 other;       /* the same beyond the reach of this half: checked sites */
	u64 percpu;
	u64 stack;     /* two pages, absent ones around them */
	u64 beyond;    /* the code in the other half */
	u64 far_stack; /* and the stack */
};
#define HALVES 5
extern const struct half halves[HALVES];

struct machine {
	struct cpu *c;
	struct ram ram;
	struct stats stats;
};

/* ram_at, code_at: where its RAM's window and the engine's thunks go. */
void machine_init(struct machine *m, u64 ram_at, u64 code_at);
/* A page of the area. */
u8 *page(struct machine *m, unsigned i);
gpa_t tables_end(struct machine *m);
/* The processor as after a boot. */
void reset_guest(struct machine *m);

#endif
