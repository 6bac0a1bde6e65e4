/*
 * The translator as the run loop sees it.
 */
#ifndef RINGSHIFT_BT_RUN_H
#define RINGSHIFT_BT_RUN_H

#include "cpu.h"

/* Does the host kernel let us write FS and GS bases? */
bool bt_host_can(void);

/* Make a translator for a CPU whose engine exists, in the thread that will run it (its GS base is
 * ours from then on); area: a fixed address below 2 GiB with room for 2 * BT_AREA_SIZE. Only if
 * bt_host_can. Negative errno: -EFAULT if the monitor does not live below 2 GiB. */
MUST_CHECK int bt_init(struct cpu *c, void *area);
void bt_free(struct cpu *c);

/* Testing aids. To be set before the guest runs, with nothing in the software TLB. */
#define BT_CACHE_MIN (64 * KIB)
struct bt_options {
	u64 cache_size;  /* bytes of code before everything is flushed; 0: all there is room for */
	u64 flush_every; /* blocks made before everything is flushed; 0: no limit */
	u64 lockstep;    /* executions of each block that are compared with stepping; 0: none */
	bool one_insn;   /* per block */
	bool no_chain;
	bool switch_freely;  /* between the halves of the address space, however often */
	bool check_recovery; /* of each block as it is made */
};
MUST_CHECK int bt_configure(struct cpu *c, const struct bt_options *o);

/* Translations of code pages may have changed (INVLPG, CR3, CR4): drop blocks that are no longer
 * where they were. va matters for BT_PAGE. */
enum bt_scope { BT_PAGE, BT_NON_GLOBAL, BT_ALL };
void bt_revalidate(struct cpu *c, gva_t va, enum bt_scope scope);

/* Something that translations rely on has changed (CR4.FSGSBASE): drop them all. */
void bt_forget(struct cpu *c);

/* Can the code at c->rip be translated as things stand? */
bool bt_eligible(const struct cpu *c);
/* Count the instructions stepped since the last call under the reason found then (STAT_stepped_*),
 * and find the reason for the next ones. */
void bt_attribute(struct cpu *c);
/* Run translated code until it is not, or attention is set. May raise. */
void bt_run(struct cpu *c);

#endif
