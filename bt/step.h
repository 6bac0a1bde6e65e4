/*
 * The single-step engine: executes guest instructions one at a time in any mode. See step.c.
 */
#ifndef RINGSHIFT_STEP_H
#define RINGSHIFT_STEP_H

#include "cpu.h"

/* Make the engine's caches for a CPU whose mmu has been initialised. code_area: fixed host address
 * for thunks or NULL. Negative errno; engine_free undoes it. */
MUST_CHECK int engine_init(struct cpu *c, void *code_area);
void engine_free(struct cpu *c);
/* Forget all that was decoded (guest RAM is about to be rewritten). Not from within step_run. */
void engine_reset(struct cpu *c);

/* Run until something in enum cpu_exit; budget: instructions at most (~0: no limit). Delivers
 * pending interrupts and exceptions by itself. */
enum cpu_exit step_run(struct cpu *c, u64 budget);

/* Install the handler of KICK_SIGNAL (thunk.h) for this CPU's thread. Negative errno. */
MUST_CHECK int engine_catch_kick(struct cpu *c, void (*kick)(struct cpu *c));

/* For --stats: the instructions that translated code left to the engine, by name. */
void engine_print_callouts(const struct cpu *c, FILE *out);

/* State as text for reports: registers, segments, control registers, bytes at RIP. */
void cpu_dump(struct cpu *c, FILE *out);

/* What `-d` asks for. in_asm: each instruction's text as it is first decoded or translated; int:
 * exceptions and interrupts; cpu: registers before each instruction (slow); out_asm: what each
 * instruction became; mmu: the shadow's fills and flushes; smc: writes to code. 16 is the machine's
 * (cmdline.h). */
enum {
	LOG_IN_ASM = 1,
	LOG_INT = 2,
	LOG_CPU = 4,
	LOG_UNIMP = 8,
	LOG_OUT_ASM = 32,
	LOG_MMU = 64,
	LOG_SMC = 128,
};
/* After bt_init, if there is a translator. */
void engine_set_log(struct cpu *c, FILE *f, unsigned items);
/* Names for addresses in logs and reports: fn gives the symbol an address lies in and how far, or
 * NULL. Async-signal-safe. */
void engine_set_symbols(struct cpu *c, const char *(*fn)(void *opaque, u64 addr, u64 *off),
			void *opaque);

#endif
