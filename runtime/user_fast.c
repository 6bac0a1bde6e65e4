/*
 * Patching system calls (space_fast.c says what a patch is).
 *
 * A system call that has left by a signal HOT times is patched, if what stands before or behind it
 * allows that, in a copy of its guest-physical page. Spaces map the copy in place of the page
 * wherever the guest's tables give user code the right to read and execute it, and not to write.
 *
 *  - A copy is right as long as its page is: the page is marked as code (op_note_code), so nobody
 *    has it mapped writable, and whoever writes it says so (user_fast_code_gone). Before that
 *    returns, the copy is gone from all spaces.
 *  - What a slot stands for depends on where the copy is mapped, so a space maps each copy at one
 *    address only; other aliases show the page itself.
 *  - The shadow knows nothing of copies: it maps, protects and unmaps addresses, and the functions
 *    here put the one or the other there.
 * One thing is patched without being hot, since it never leaves: MOV of a selector and LSL of it,
 * by which Linux lets programs ask for the number of their processor (the vDSO's getcpu). The
 * host's segment has the host's number. It is looked for in each page of 64-bit code that is
 * mapped.
 *
 * What a guest could notice: a program that reads its own code as data finds the patch. A pair is
 * taken for one by its bytes, and by RAX being what they say: code that jumps into the middle of
 * the MOV would execute something else. -fast-syscalls off.
 */
#include "user_fast.h"

#include <string.h>
#include <sys/mman.h>

#include "op.h"
#include "user_desc.h"

#define HOT         64u
#define SITES_MAX   32u   /* in a page */
#define COUNTERS    1024u /* a power of two */
#define NR_MAX      0xfffu
#define READ_EXEC   (PROT_READ | PROT_EXEC)
#define LIMIT_FIRST (SPACE_TLS_FIRST + SPACE_TLS)

struct site {
	u16 slot, off; /* in the page: of the first byte patched */
	u16 next;      /* behind the system call, or the LSL */
	struct space_site what;
};

struct copy {
	bool used;
	gpa_t page;
	unsigned n_sites;
	struct site site[SITES_MAX];
};

/* How often a system call has left by a signal. */
struct counter {
	gva_t next;
	u64 cr3;
	u32 n;
};

struct user_fast {
	struct cpu *c;
	struct space_pool *pool;
	struct user_fast_space *spaces;
	u16 *copy_of;        /* by guest-physical page: its copy + 1 */
	unsigned used, next; /* copies in use; where to look for one that has to go */
	struct copy copy[SPACE_COPIES];
	u64 slots[SPACE_SLOTS_FAST / 64]; /* a bit for each that is taken */
	struct counter counter[COUNTERS];
};

struct user_fast *user_fast_new(struct cpu *c, struct space_pool *pool)
{
	struct user_fast *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->c = c;
	f->pool = pool;
	f->copy_of = ram_page_array(c->mmu.ram, sizeof(f->copy_of[0]));
	if (!f->copy_of) {
		free(f);
		return NULL;
	}
	return f;
}

void user_fast_free(struct user_fast *f)
{
	if (!f)
		return;
	ram_page_array_free(f->c->mmu.ram, f->copy_of, sizeof(f->copy_of[0]));
	free(f);
}

void user_fast_attach(struct user_fast *f, struct user_fast_space *s)
{
	if (!f || !space_fast_able(s->space))
		return;
	s->fast = f;
	s->next = f->spaces;
	f->spaces = s;
}

void user_fast_detach(struct user_fast_space *s)
{
	struct user_fast_space **p;

	if (!s->fast)
		return;
	for (p = &s->fast->spaces; *p != s; p = &(*p)->next)
		;
	*p = s->next;
	s->fast = NULL;
}

/* --- the number of the processor --- */

/* What may stand in front of B8 and make it part of something else: prefixes, and the opcodes of
 * LEA and of MOV, which might have it as their ModRM. */
static bool may_belong(u8 before)
{
	static const u8 these[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66,
				   0x67, 0x8b, 0x8d, 0xf0, 0xf2, 0xf3};

	return (before & 0xf0) == 0x40 || memchr(these, before, sizeof(these));
}

/* MOV imm32, a selector of the GDT that is no thread's own, and LSL of it. */
static bool is_limit(const u8 *p)
{
	return (p[0] & 0xf8) == 0xb8 && (p[1] & 7) == 3 && p[1] >> 3 >= LIMIT_FIRST &&
	       memcmp(p + 2, "\0\0\0\x0f\x03", 5) == 0 && p[7] >= 0xc0 &&
	       (p[7] & 7) == (p[0] & 7) && (p[7] & 7) != GPR_RSP && (p[7] >> 3 & 7) != GPR_RSP;
}

/* Where in a page such a pair begins, from `from` on; -1: nowhere. Not with its first byte, where
 * what is in front of it cannot be seen. */
static int find_limit(const u8 *page, unsigned from)
{
	const unsigned rare = 6; /* 03 */
	const u8 *p = page + from + 1 + rare,
		 *end = page + PAGE_SIZE - (SPACE_LIMIT_LEN - rare) + 1;

	while (p < end && (p = memchr(p, 0x03, (size_t)(end - p)))) {
		const u8 *at = p++ - rare;

		if (is_limit(at) && !may_belong(at[-1]))
			return (int)(at - page);
	}
	return -1;
}

/* --- mappings --- */

static gpa_t page_at(const struct ram *ram, u64 ram_off)
{
	return ram_off < ram->low_end ? ram_off : ram_off - ram->low_end + RAM_HIGH_START;
}

/* A copy will no longer be mapped. */
static void forget_copy(struct user_fast_space *s, unsigned i)
{
	const struct copy *p = &s->fast->copy[i];

	s->va[i] = 0;
	s->mapped--;
	for (unsigned k = 0; k < p->n_sites; k++)
		space_fast_unset(s->space, p->site[k].slot);
}

/* The range will show something else. */
static void forget(struct user_fast_space *s, gva_t va, u64 len)
{
	for (unsigned i = 0; s->mapped && i < SPACE_COPIES; i++)
		if (s->va[i] && s->va[i] - va < len)
			forget_copy(s, i);
}

static void set_slot(const struct user_fast_space *s, unsigned copy, const struct site *site)
{
	space_fast_set(s->space, site->slot, &site->what, s->va[copy] + site->next);
}

static int map_copy(struct user_fast_space *s, gva_t va, unsigned copy)
{
	const struct copy *p = &s->fast->copy[copy];

	s->va[copy] = va;
	s->mapped++;
	for (unsigned i = 0; i < p->n_sites; i++)
		set_slot(s, copy, &p->site[i]);
	return space_map_copy(s->space, va, copy);
}

/* Its copy, if the page is to be shown by one at va. -1: by itself. */
static int copy_for(const struct user_fast_space *s, gva_t va, u64 ram_off)
{
	int copy = s->fast->copy_of[page_at(s->fast->c->mmu.ram, ram_off) >> 12] - 1;

	return copy >= 0 && va && !s->va[copy] ? copy : -1;
}

/* Patching changes the page's mapping: not while the shadow makes it. */
static void note_limit(struct user_fast_space *s, gva_t va, u64 ram_off)
{
	const struct user_fast *f = s->fast;
	gpa_t page = page_at(f->c->mmu.ram, ram_off);

	if (f->copy_of[page >> 12] || f->c->mode != INSN_MODE_64 || s->found == USER_FAST_FOUND ||
	    find_limit(f->c->mmu.ram->window + page, 0) < 0)
		return;
	s->at[s->found++] = va;
}

int user_fast_map(struct user_fast_space *s, gva_t va, u64 len, int prot, u64 ram_off)
{
	u64 from = 0;
	int rc = 0;

	if (!s->fast)
		return space_map(s->space, va, len, prot, ram_off);
	forget(s, va, len);
	for (u64 at = 0; prot == READ_EXEC && at < len && !rc; at += PAGE_SIZE) {
		int copy = copy_for(s, va + at, ram_off + at);

		if (copy < 0)
			note_limit(s, va + at, ram_off + at);
		if (copy < 0)
			continue;
		if (at > from)
			rc = space_map(s->space, va + from, at - from, prot, ram_off + from);
		if (!rc)
			rc = map_copy(s, va + at, (unsigned)copy);
		from = at + PAGE_SIZE;
	}
	if (!rc && from < len)
		rc = space_map(s->space, va + from, len - from, prot, ram_off + from);
	return rc;
}

int user_fast_protect(struct user_fast_space *s, gva_t va, u64 len, int prot)
{
	struct user_fast *f = s->fast;
	int rc = 0;

	for (unsigned i = 0; s->mapped && prot != READ_EXEC && i < SPACE_COPIES && !rc; i++) {
		if (!s->va[i] || s->va[i] - va >= len)
			continue;
		rc = space_map(s->space, s->va[i], PAGE_SIZE, prot,
			       ram_offset(f->c->mmu.ram, f->copy[i].page));
		forget_copy(s, i);
	}
	return rc ? rc : space_protect(s->space, va, len, prot);
}

int user_fast_unmap(struct user_fast_space *s, gva_t va, u64 len)
{
	forget(s, va, len);
	return space_unmap(s->space, va, len);
}

/* --- the end of a patch --- */

static void drop(struct user_fast *f, unsigned i)
{
	struct copy *p = &f->copy[i];
	struct user_fast_space *s;

	for (s = f->spaces; s; s = s->next) {
		gva_t va = s->va[i];
		int rc;

		if (!va)
			continue;
		forget_copy(s, i);
		rc = space_unmap(s->space, va, PAGE_SIZE);
		rc = rc ? rc
			: space_map(s->space, va, PAGE_SIZE, READ_EXEC,
				    ram_offset(f->c->mmu.ram, p->page));
		/* Now: the copy may soon be another page's. */
		rc = rc ? rc : space_sync(s->space);
		s->broken |= rc != 0;
	}
	for (unsigned k = 0; k < p->n_sites; k++)
		f->slots[p->site[k].slot / 64] &= ~BIT(p->site[k].slot % 64);
	f->copy_of[p->page >> 12] = 0;
	p->used = false;
	f->used--;
	f->c->stats->n[STAT_user_copies_dropped]++;
}

/* --- patching --- */

/* Is there a MOV in front of a SYSCALL, at off, that has just been executed together with it? */
static bool find_mov(const u8 *page, unsigned off, u64 rax, const char *opcode, struct site *s)
{
	unsigned n = (unsigned)strlen(opcode), len = n + sizeof(u32), at = off - len;
	u32 nr;

	if (off <= len) /* what is in front of it counts, too */
		return false;
	memcpy(&nr, page + at + n, sizeof(nr));
	if (memcmp(page + at, opcode, n) || nr != rax || nr > NR_MAX || may_belong(page[at - 1]))
		return false;
	*s = (struct site){.off = (u16)at,
			   .next = (u16)(off + SPACE_SYSCALL_LEN),
			   .what = {.kind = SPACE_SITE_PAIR, .nr = nr, .len = (u8)len}};
	return true;
}

static bool find_pair(const u8 *page, unsigned off, u64 rax, struct site *s)
{
	return find_mov(page, off, rax, "\xb8", s) || find_mov(page, off, rax, "\x48\xc7\xc0", s);
}

/* Is the instruction behind a SYSCALL, at off, one that can be executed elsewhere, and as long as
 * must be? */
static bool find_syscall(struct user_fast *f, const u8 *page, unsigned off, struct site *s)
{
	unsigned next = off + SPACE_SYSCALL_LEN;
	struct insn in;
	int len;

	if (next >= PAGE_SIZE)
		return false;
	len = decoder_decode(f->c->engine->decoder, page + next,
			     MIN((size_t)INSN_MAX_LEN, PAGE_SIZE - next), INSN_MODE_64, &in);
	if (len < SPACE_PATCH_LEN - SPACE_SYSCALL_LEN || in.class != CLASS_IDENTICAL)
		return false;
	*s = (struct site){.off = (u16)off,
			   .next = (u16)next,
			   .what = {.kind = SPACE_SITE_SYSCALL, .len = (u8)len}};
	memcpy(s->what.insn, page + next, (size_t)len);
	return true;
}

/* The oldest copy goes, but keep, and what was patched in it may become hot again. */
static unsigned evict(struct user_fast *f, unsigned keep)
{
	unsigned i;

	do {
		i = f->next++ % SPACE_COPIES;
	} while (i == keep || !f->copy[i].used);
	drop(f, i);
	memset(f->counter, 0, sizeof(f->counter));
	f->c->stats->n[STAT_user_copies_evicted]++;
	return i;
}

static int free_slot(const struct user_fast *f)
{
	for (unsigned i = 0; i < SPACE_SLOTS_FAST; i++)
		if (!(f->slots[i / 64] >> i % 64 & 1))
			return (int)i;
	return -1;
}

/* A slot for a site in that copy. */
static unsigned take_slot(struct user_fast *f, unsigned copy)
{
	int i;

	while ((i = free_slot(f)) < 0)
		evict(f, copy);
	f->slots[i / 64] |= BIT(i % 64);
	return (unsigned)i;
}

/* The copy of a page, made if there is none. */
static unsigned copy_of(struct user_fast *f, gpa_t page)
{
	unsigned i = f->copy_of[page >> 12];
	struct cpu *c = f->c;

	if (i)
		return i - 1;
	while (i < SPACE_COPIES && f->copy[i].used)
		i++;
	if (i == SPACE_COPIES)
		i = evict(f, SPACE_COPIES);
	op_note_code(c, page);
	memcpy(space_copy(f->pool, i), c->mmu.ram->window + page, PAGE_SIZE);
	f->copy[i] = (struct copy){.used = true, .page = page};
	f->copy_of[page >> 12] = (u16)(i + 1);
	f->used++;
	return i;
}

static bool overlaps(const struct copy *p, const struct site *site)
{
	for (unsigned i = 0; i < p->n_sites; i++)
		if (site->off < p->site[i].off + SPACE_LIMIT_LEN &&
		    p->site[i].off < site->off + SPACE_LIMIT_LEN)
			return true;
	return false;
}

/* Is there room for another copy with a site, without taking it from others? */
static bool has_room(const struct user_fast *f)
{
	return f->used < SPACE_COPIES && free_slot(f) >= 0;
}

/* Patch a site that is not patched. False: that page is full. */
static bool patch(struct user_fast *f, gpa_t page, const struct site *found)
{
	unsigned copy = copy_of(f, page), slot;
	struct user_fast_space *s;
	struct site *site;

	if (f->copy[copy].n_sites == SITES_MAX || overlaps(&f->copy[copy], found))
		return false;
	slot = take_slot(f, copy);
	site = &f->copy[copy].site[f->copy[copy].n_sites++];
	*site = *found;
	site->slot = (u16)slot;
	for (s = f->spaces; s; s = s->next)
		if (s->va[copy])
			set_slot(s, copy, site);
	space_fast_patch(space_copy(f->pool, copy) + site->off, slot);
	f->c->stats->n[STAT_user_sites_patched]++;
	return true;
}

static bool is_patched(const struct user_fast *f, gpa_t page, unsigned next)
{
	int copy = f->copy_of[page >> 12] - 1;

	for (unsigned i = 0; copy >= 0 && i < f->copy[copy].n_sites; i++)
		if (f->copy[copy].site[i].next == next)
			return true;
	return false;
}

/* Patch the SYSCALL at off, unless that has been done. */
static bool patch_syscall(struct user_fast *f, gpa_t page, unsigned off)
{
	const u8 *code = f->c->mmu.ram->window + page;
	struct site site;

	if (is_patched(f, page, off + SPACE_SYSCALL_LEN))
		return true;
	if (code[off] != 0x0f || code[off + 1] != 0x05)
		return false;
	return (find_syscall(f, code, off, &site) ||
		find_pair(code, off, f->c->gpr[GPR_RAX], &site)) &&
	       patch(f, page, &site);
}

/* The page of code at va, if it may be patched. */
static bool code_page(struct cpu *c, gva_t va, gpa_t *page)
{
	struct walk w;

	if (mmu_probe(c->mmu.ram, &c->mmu.pg, va, MMU_EXEC, true, &w) || w.writable ||
	    !ram_contains(c->mmu.ram, w.gpa))
		return false;
	*page = w.gpa & PAGE_MASK;
	return true;
}

/* Patch what asks for the limit of a segment, in a page that has no copy yet. It has left us no
 * count of how often it runs, so nothing that is hot goes for it. */
static bool patch_limits(struct user_fast *f, gpa_t page)
{
	const u8 *code = f->c->mmu.ram->window + page;
	bool any = false;
	int off = 0;

	while (has_room(f) && (off = find_limit(code, (unsigned)off)) >= 0) {
		struct site site = {.off = (u16)off,
				    .next = (u16)(off + SPACE_LIMIT_LEN),
				    .what = {.kind = SPACE_SITE_LIMIT}};

		memcpy(site.what.insn, code + off, SPACE_LIMIT_LEN);
		any |= user_desc_limit(f->c, code[off + 1], &site.what.nr) && patch(f, page, &site);
	}
	return any;
}

void user_fast_settle(struct user_fast_space *s)
{
	unsigned n = s->found;
	gpa_t page;

	s->found = 0;
	for (unsigned i = 0; i < n; i++)
		if (code_page(s->fast->c, s->at[i], &page) && !s->fast->copy_of[page >> 12] &&
		    patch_limits(s->fast, page))
			shadow_fill(s->shadow, &s->fast->c->mmu.pg, s->at[i], MMU_EXEC, NULL);
}

/* The SYSCALL before next is hot. */
static void consider(struct user_fast_space *s, gva_t next)
{
	struct user_fast *f = s->fast;
	struct cpu *c = f->c;
	gva_t at = next - SPACE_SYSCALL_LEN;
	unsigned off = at & ~PAGE_MASK;
	gpa_t page;

	if (off + SPACE_SYSCALL_LEN > PAGE_SIZE || !code_page(c, at, &page))
		return;
	if (!patch_syscall(f, page, off)) {
		c->stats->n[STAT_user_sites_refused]++;
		return;
	}
	/* Maps the page anew, as a copy now, in the shadow's knowledge. If it fails, it is as if
	 * nothing were mapped there. */
	shadow_fill(s->shadow, &c->mmu.pg, at, MMU_EXEC, NULL);
}

void user_fast_note(struct user_fast_space *s)
{
	struct cpu *c;
	struct counter *n;

	if (!s->fast)
		return;
	c = s->fast->c;
	n = &s->fast->counter[(c->rip ^ c->rip >> 10 ^ c->cr3 >> 12) & (COUNTERS - 1)];
	if (n->next != c->rip || n->cr3 != c->cr3)
		*n = (struct counter){.next = c->rip, .cr3 = c->cr3};
	if (++n->n == HOT)
		consider(s, c->rip);
}

void user_fast_code_gone(struct user_fast *f, gpa_t page)
{
	if (!f || !f->used || (page != ~0ull && !f->copy_of[page >> 12]))
		return;
	for (unsigned i = 0; i < SPACE_COPIES; i++)
		if (f->copy[i].used && (page == ~0ull || f->copy[i].page == page))
			drop(f, i);
	memset(f->counter, 0, sizeof(f->counter));
}
