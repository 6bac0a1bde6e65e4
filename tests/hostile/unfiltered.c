/*
 * The seccomp filters with one of them taken out, in the place of runtime/space_seccomp.c: a test
 * of hostile_space.c that does not fail with this in it is no test of that filter. UNFILTERED:
 * which.
 */
#include "space_impl.h"

#define space_seccomp_guest  intact_guest
#define space_seccomp_mapper intact_mapper
unsigned intact_guest(struct sock_filter *f, u64 base);
unsigned intact_mapper(struct sock_filter *f, u64 base);
#include "space_seccomp.c"
#undef space_seccomp_guest
#undef space_seccomp_mapper

#define GUEST  1
#define MAPPER 2

static unsigned nothing(struct sock_filter *f)
{
	struct filter p = {.f = f};

	verdict(&p, SECCOMP_RET_ALLOW);
	return p.n;
}

unsigned space_seccomp_guest(struct sock_filter *f, u64 base)
{
	return UNFILTERED == GUEST ? nothing(f) : intact_guest(f, base);
}

unsigned space_seccomp_mapper(struct sock_filter *f, u64 base)
{
	return UNFILTERED == MAPPER ? nothing(f) : intact_mapper(f, base);
}
