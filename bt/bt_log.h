/*
 * What `-d in_asm,out_asm,mmu,smc` prints about the translator, and names for addresses in all
 * logs. Callers look at log_items first; see bt_log.c.
 */
#ifndef RINGSHIFT_BT_LOG_H
#define RINGSHIFT_BT_LOG_H

#include "op.h"

struct block;
struct bt;

#define LOG_NAME_LEN 96

/* The symbol a guest address lies in, as " <name+0x10>"; "" if there is none or no symbols were
 * given. Async-signal-safe. Returns buf. */
const char *log_name(const struct cpu *c, u64 addr, char buf[LOG_NAME_LEN]);

static inline bool bt_log_wants(const struct cpu *c, unsigned items)
{
	return unlikely(c->engine->log_items & items);
}

/* in_asm: the guest instructions of a block just made from `code`; out_asm: beside each the host
 * code it became. */
void bt_log_block(struct bt *bt, const struct block *b, gpa_t gpa, const u8 *code);

/* smc: a block was dropped; why says the line that follows. */
void bt_log_dropped(const struct cpu *c, const struct block *b);
/* smc: a write to a marked page has emptied this many decoded slots and dropped blocks. */
void bt_log_code_write(const struct cpu *c, gpa_t gpa, u64 len, unsigned slots, u64 blocks);
/* smc: a page no longer counts as code. */
void bt_log_give_up(const struct cpu *c, gpa_t page);

/* mmu: the translations of a page were dropped: it is mapped elsewhere now. */
void bt_log_moved(const struct cpu *c, gva_t page, gpa_t gpa);
/* mmu: have the shadow report to the log, or not, as log_items says. */
void bt_log_watch_shadow(struct cpu *c);

#endif
