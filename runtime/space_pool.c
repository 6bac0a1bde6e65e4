/*
 * Making, keeping and ending spaces.
 *
 * A space is made by the zygote while we do something else: space_get hands out a ready one and
 * orders the next. One is in the making at a time, since its first steps are a script in the
 * zygote's pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lowland.h"
#include "space_impl.h"

#define POOL_SIZE           (SPACE_SLOTS * (u64)SPACE_SIZE)
#define START_MS            10000
#define HWCAP2_FSGSBASE_BIT BIT(1)

/* Where stubs lie: below 2 GiB, away from where programs are linked and from the zygote. The first
 * is the one where patched system calls work (space_fast.c). */
static const u64 places[SPACE_PLACES] = {0x001e0000, 0x7fe00000, 0x3ff00000, 0x5fe00000};

unsigned space_place(const struct space *sp)
{
	return sp->place;
}

unsigned space_places_met(u64 va, u64 len)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < SPACE_PLACES; i++)
		if (va < places[i] + SPACE_SIZE && va + len > places[i])
			mask |= 1u << i;
	return mask;
}

static void reap_for_good(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

void space_kill(struct space *sp)
{
	if (sp->dead)
		return;
	sp->dead = true;
	sp->commands = 0;
	reap_for_good(sp->guest);
	reap_for_good(sp->mapper);
	SPACE_COUNT(sp, space_killed);
}

static void space_free(struct space *sp)
{
	if (!sp)
		return;
	if (!sp->dead) {
		reap_for_good(sp->guest);
		reap_for_good(sp->mapper);
	}
	sp->pool->space[sp->index] = NULL;
	space_place_forget(sp);
	free(sp->ldt);
	free(sp);
}

/* Nothing of a former owner's registers may be left for the next. */
static void forget_owner(struct space *sp)
{
	struct space_state *st = space_state(sp);
	struct space_ctl *c = space_ctl(sp);

	memset(sp->slot + SPACE_STACK, 0, SPACE_STACK_SIZE);
	memset(&st->rax, 0,
	       offsetof(struct space_state, g_sleeps) - offsetof(struct space_state, rax));
	memset(&st->rbx, 0, offsetof(struct space_state, pad8) - offsetof(struct space_state, rbx));
	st->flags = st->scratch = 0;
	memset(&c->rax, 0, offsetof(struct space_ctl, pad0) - offsetof(struct space_ctl, rax));
	memset(sp->told, 0, sizeof(sp->told));
	sp->knows = false;
	memset(sp->tls, 0, sizeof(sp->tls));
	space_fast_clear(sp);
	space_xsave_reset(sp);
}

static struct space *space_alloc(struct space_pool *pool, unsigned place)
{
	struct space *sp;
	unsigned i = 1;

	while (i < SPACE_SLOTS && pool->space[i])
		i++;
	if (i == SPACE_SLOTS)
		return NULL;
	sp = calloc(1, sizeof(*sp));
	if (!sp)
		return NULL;
	sp->pool = pool;
	sp->index = i;
	sp->slot = pool->slots + i * (u64)SPACE_SIZE;
	sp->place = place;
	sp->cpu = -1;
	sp->base = places[place];
	sp->spin = sp->guest_spin = pool->spin_max;
	pool->space[i] = sp;
	return sp;
}

/* Order a space; it will be ready some time later. */
static void start_making(struct space_pool *pool, unsigned place)
{
	struct space_state *zs = space_state(&pool->zygote), *st;
	struct space *sp = space_alloc(pool, place);
	struct space_record r;

	if (!sp)
		return;
	st = space_state(sp);
	memset(sp->slot + SPACE_CTL, 0, SPACE_RING - SPACE_CTL);
	memset(st, 0, sizeof(*st));
	forget_owner(sp);
	sp->run = 1;
	atomic_store(&st->ack, ~0u);
	atomic_store(&space_ctl(sp)->go, sp->run);
	space_script_space(sp);
	r = space_script_clone(sp);
	atomic_store(&zs->child, 0);
	atomic_store(&zs->m_error, 0);
	atomic_store(&zs->fail, 0);
	pool->making = sp;
	space_post(&pool->zygote, &r, 1);
}

/* Has what was ordered come to life? 0: not yet; 1; negative errno: it never will. */
static int check_making(struct space *sp)
{
	struct space_state *zs = space_state(&sp->pool->zygote), *st = space_state(sp);

	if (atomic_load(&zs->m_error))
		return -(int)-(s64)atomic_load(&zs->m_error);
	sp->mapper = atomic_load(&zs->child);
	sp->guest = atomic_load(&st->g_pid);
	if (atomic_load(&st->exited) == sp->run && atomic_load(&st->ack) == 0)
		return 1;
	if (atomic_load(&zs->fail) || atomic_load(&st->fail))
		return -ENOTSUP;
	return 0;
}

/* One of those who are to make it, or of what there is of it, has died. */
static bool making_died(struct space *sp)
{
	if (space_gone(sp->pool->zygote.mapper))
		sp->pool->zygote.dead = true;
	return sp->pool->zygote.dead || (sp->mapper > 0 && space_gone(sp->mapper)) ||
	       (sp->guest > 0 && space_gone(sp->guest));
}

/* Wait for what was ordered; NULL if it came to nothing. */
static struct space *finish_making(struct space_pool *pool)
{
	struct space *sp = pool->making;
	u64 end = space_now_ms() + START_MS;
	int ret;

	pool->making = NULL;
	while ((ret = check_making(sp)) == 0 && !making_died(sp) && space_now_ms() < end)
		usleep(20);
	if (ret == 1) {
		SPACE_COUNT(sp, space_created);
		return sp;
	}
	space_free(sp);
	return NULL;
}

/* Take one from the free ones that lives, and does not lie at one of the places to avoid. */
static struct space *take_free(struct space_pool *pool, unsigned avoid)
{
	struct space **p = &pool->free, *sp;

	while ((sp = *p)) {
		if (avoid & BIT(sp->place)) {
			p = &sp->next;
			continue;
		}
		*p = sp->next;
		if (!space_gone(sp->guest) && !space_gone(sp->mapper))
			return sp;
		space_kill(sp);
		space_free(sp);
	}
	return NULL;
}

static void give_back(struct space *sp)
{
	sp->next = sp->pool->free;
	sp->pool->free = sp;
}

static void collect(struct space_pool *pool)
{
	struct space *sp = pool->making ? finish_making(pool) : NULL;

	if (sp)
		give_back(sp);
}

struct space *space_get(struct space_pool *pool, unsigned avoid)
{
	unsigned place = 0;
	struct space *sp;

	while (place < SPACE_PLACES && avoid & BIT(place))
		place++;
	/* The first place is the best one: not what somebody left who could not have it. */
	sp = take_free(pool, ~BIT(place));
	if (!sp) {
		collect(pool);
		sp = take_free(pool, ~BIT(place));
	}
	if (!sp)
		sp = take_free(pool, avoid);
	if (!sp && place < SPACE_PLACES && !pool->zygote.dead) {
		start_making(pool, place);
		collect(pool);
		sp = take_free(pool, avoid);
	}
	if (!sp)
		return NULL;
	if (!pool->free && !pool->making && !pool->zygote.dead)
		start_making(pool, 0);
	if (sp->used)
		SPACE_COUNT(sp, space_reused);
	sp->used = true;
	return sp;
}

/* Stopped, G may be about to handle a kick, from a frame on the stack that is to be wiped: have it
 * come back to where it waits. False: the space is dead. */
static bool come_to_rest(struct space *sp)
{
	return !sp->stopped || (space_save_vec(sp) && space_park(sp) == 0);
}

void space_put(struct space *sp)
{
	if (!sp)
		return;
	/* An LDT is rare, and a new space is cheaper to have than to think about. */
	if (!sp->dead && (sp->ldt || space_park(sp) || space_empty(sp) || !come_to_rest(sp)))
		space_kill(sp);
	if (sp->dead) {
		space_free(sp);
		return;
	}
	forget_owner(sp);
	give_back(sp);
}

/* The memory shared with the zygote and the spaces. */
static int map_slots(struct space_pool *pool)
{
	void *at = lowland_at(LOWLAND_SPACES), *p;

	pool->fd = memfd_create("ringshift-spaces", MFD_CLOEXEC);
	if (pool->fd < 0 || ftruncate(pool->fd, POOL_SIZE))
		return -errno;
	p = mmap(at, POOL_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), pool->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	pool->slots = p;
	memcpy(p, space_stub, space_stub_end - space_stub);
	return mprotect(p, SPACE_CODE_SIZE, PROT_READ) ? -errno : 0;
}

static int probe(struct space_pool *pool, char *err, size_t err_size)
{
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT)) {
		snprintf(err, err_size, "this host does not let user code write FS and GS base");
		return -ENOTSUP;
	}
	if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0) {
		snprintf(err, err_size, "this host has no seccomp");
		return -ENOTSUP;
	}
	return space_xsave_probe(pool, err, err_size);
}

int space_pool_new(struct space_pool **out, int ram_fd, struct stats *stats, char *err,
		   size_t err_size)
{
	struct space_pool *pool = calloc(1, sizeof(*pool));
	struct space *first;
	int ret;

	*out = NULL;
	if (!pool)
		return -ENOMEM;
	pool->fd = pool->copies_fd = -1;
	pool->stats = stats;
	pool->monitor = getpid();
	pool->spin_max = space_spin_limit();
	space_place_init(pool);
	ret = probe(pool, err, err_size);
	if (ret)
		goto fail;
	ret = map_slots(pool);
	ret = ret ? ret : space_fast_init(pool);
	if (ret) {
		snprintf(err, err_size, "no memory to share with user spaces: %s", strerror(-ret));
		goto fail;
	}
	pool->zygote.pool = pool;
	pool->zygote.slot = pool->slots;
	ret = space_zygote_start(pool, ram_fd, err, err_size);
	if (ret)
		goto fail;
	first = space_get(pool, 0);
	if (!first) {
		snprintf(err, err_size, "user spaces cannot be set up on this host");
		ret = -ENOTSUP;
		goto fail;
	}
	give_back(first);
	*out = pool;
	return 0;
fail:
	space_pool_free(pool);
	return ret;
}

void space_pool_free(struct space_pool *pool)
{
	if (!pool)
		return;
	space_place_free(pool);
	collect(pool);
	for (unsigned i = 1; i < SPACE_SLOTS; i++)
		space_free(pool->space[i]);
	if (!pool->zygote.dead)
		reap_for_good(pool->zygote.mapper);
	if (pool->slots)
		munmap(pool->slots, POOL_SIZE);
	if (pool->fd >= 0)
		close(pool->fd);
	space_fast_free(pool);
	free(pool);
}
