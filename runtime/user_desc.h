/*
 * Descriptors of user code that runs in a space: the guest's own where Linux has some of a
 * program's own, the host's otherwise, which are the same with a guest that has Linux's selectors.
 */
#ifndef RINGSHIFT_USER_DESC_H
#define RINGSHIFT_USER_DESC_H

#include "cpu.h"
#include "space.h"

/* What a space has been given. */
struct user_desc {
	bool tls;
	unsigned ldt; /* entries */
};

/*
 * Give it what the guest's tables hold now. quick: the space has only made a fast system call since
 * the last time. Errors as space_sync's.
 */
MUST_CHECK int user_desc_update(struct user_desc *d, const struct cpu *c, struct space *sp,
				bool quick);
/* Do DS, ES, FS and GS hold what loading their selectors in the space gives (bases of FS and GS
 * aside)? */
bool user_desc_fits(const struct cpu *c, const struct space *sp);
/* What LSL of a selector of the GDT finds; false: nothing. */
bool user_desc_limit(const struct cpu *c, u16 sel, u32 *limit);
/* A segment register guest code has loaded itself in the space. */
struct seg_reg user_desc_loaded(const struct cpu *c, const struct space *sp, unsigned seg, u16 sel);

#endif
