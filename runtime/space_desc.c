/*
 * What user code finds in descriptor tables. Linux lets programs have descriptors of their own:
 * three in the GDT for each thread, where 32-bit code keeps its thread-local storage, and an LDT.
 * Selectors are visible (MOV from GS, LAR, LSL), and loading one takes base and limit from its
 * descriptor; so a space gets the guest's own descriptors at the same places. The host lets G set
 * the three in its GDT by set_thread_area, and M the LDT, which belongs to the address space, by
 * modify_ldt.
 *
 * Both take data (and the LDT code) segments of privilege level 3 that have been accessed, and
 * nothing else. Whatever else the guest has there is not there for a space.
 *
 * G sets its own as part of a run (space_stub.S); the LDT changes at once, with G parked. SDM
 * vol. 3, 3.4.5.
 */
#include <asm/unistd_64.h>
#include <errno.h>
#include <string.h>

#include "space_impl.h"

#define SELECTOR_DATA 0x2b

/* In a descriptor. */
#define DESC_A    BIT(40)
#define DESC_W    BIT(41) /* data: writable; code: readable */
#define DESC_CODE BIT(43)
#define DESC_S    BIT(44)
#define DESC_DPL3 (3ull << 45)
#define DESC_P    BIT(47)
#define DESC_AVL  BIT(52)
#define DESC_L    BIT(53)
#define DESC_DB   BIT(54)
#define DESC_G    BIT(55)

/* In the flags of struct user_desc. */
#define USER_32BIT       BIT(0)
#define USER_CONTENTS(c) ((u32)(c) << 1)
#define USER_NO_WRITE    BIT(3)
#define USER_PAGES       BIT(4)
#define USER_NOT_PRESENT BIT(5)
#define USER_USEABLE     BIT(6)
#define CONFORMING       3u /* contents */

static unsigned contents(u64 raw)
{
	return raw >> 42 & 3;
}

static bool fits_ldt(u64 raw)
{
	const u64 must = DESC_A | DESC_S | DESC_DPL3;

	return (raw & (must | DESC_L)) == must && !(contents(raw) == CONFORMING && (raw & DESC_P));
}

static bool fits_tls(u64 raw)
{
	const u64 must = DESC_P | DESC_DB;

	return fits_ldt(raw) && (raw & (must | DESC_CODE)) == must;
}

static struct space_user_desc user_desc(unsigned entry, u64 raw)
{
	struct space_user_desc d = {.entry = entry};

	if (!raw) {
		d.flags = USER_NO_WRITE | USER_NOT_PRESENT;
		return d;
	}
	d.base = (u32)(raw >> 16 & 0xffffff) | (u32)(raw >> 32 & 0xff000000);
	d.limit = (u32)(raw & 0xffff) | (u32)(raw >> 32 & 0xf0000);
	d.flags = (raw & DESC_DB ? USER_32BIT : 0) | USER_CONTENTS(contents(raw)) |
		  (raw & DESC_W ? 0 : USER_NO_WRITE) | (raw & DESC_G ? USER_PAGES : 0) |
		  (raw & DESC_P ? 0 : USER_NOT_PRESENT) | (raw & DESC_AVL ? USER_USEABLE : 0);
	return d;
}

/* --- the GDT's --- */

void space_set_tls(struct space *sp, const u64 raw[TLS_DESCRIPTORS])
{
	for (unsigned i = 0; i < TLS_DESCRIPTORS; i++)
		sp->tls[i] = !sp->tls_refused && fits_tls(raw[i]) ? raw[i] : 0;
}

u32 space_order_tls(struct space *sp)
{
	u32 order = 0;

	for (unsigned i = 0; i < TLS_DESCRIPTORS; i++) {
		if (sp->tls[i] == sp->has_tls[i])
			continue;
		space_ctl(sp)->tls[i] = user_desc(TLS_FIRST + i, sp->tls[i]);
		order |= 1u << (ORDER_TLS + i);
	}
	return order;
}

void space_tls_done(struct space *sp, bool entered)
{
	if (entered)
		memcpy(sp->has_tls, sp->tls, sizeof(sp->has_tls));
	else if (space_ctl(sp)->order >> ORDER_TLS)
		memset(sp->has_tls, 0xff, sizeof(sp->has_tls));
}

void space_tls_refused(struct space *sp)
{
	sp->tls_refused = true;
	memset(sp->tls, 0, sizeof(sp->tls));
	memset(sp->has_tls, 0, sizeof(sp->has_tls));
}

/* --- the LDT --- */

static int write_ldt(struct space *sp, unsigned entry, u64 raw)
{
	struct space_user_desc d = user_desc(entry, raw);
	struct space_record r = {
	    .nr = __NR_modify_ldt, .check = CHECK_OK, .a = {LDT_WRITE, 0, sizeof(d)}};
	int ret;

	memcpy(&r.a[3], &d, sizeof(d));
	ret = space_execute(sp, &r, 1);
	if (!ret)
		sp->ldt[entry] = raw;
	return ret;
}

int space_set_ldt(struct space *sp, unsigned from, const u64 *raw, unsigned n)
{
	int ret = 0;

	if (sp->ldt_refused)
		return 0;
	BUG_ON(from > LDT_ENTRIES || n > LDT_ENTRIES - from);
	for (unsigned i = 0; i < n && !ret; i++) {
		u64 want = fits_ldt(raw[i]) ? raw[i] : 0;

		if (want == (sp->ldt ? sp->ldt[from + i] : 0))
			continue;
		if (!sp->ldt)
			sp->ldt = calloc(LDT_ENTRIES, sizeof(*sp->ldt));
		ret = sp->ldt ? space_park(sp) : -ENOMEM;
		ret = ret ? ret : space_sync(sp);
		ret = ret ? ret : write_ldt(sp, from + i, want);
		sp->segments = false;
		if (ret == -ENOMEM) {
			sp->ldt_refused = true;
			return 0;
		}
	}
	return ret;
}

/* --- selectors --- */

u64 space_descriptor(const struct space *sp, u16 sel)
{
	unsigned i = sel >> 3;

	if (sel & 4)
		return sp->ldt ? sp->ldt[i] : 0;
	return i >= TLS_FIRST && i < TLS_FIRST + TLS_DESCRIPTORS ? sp->tls[i - TLS_FIRST] : 0;
}

bool space_code_selector(const struct space *sp, u16 sel)
{
	return (space_descriptor(sp, sel) & (DESC_P | DESC_CODE)) == (DESC_P | DESC_CODE) &&
	       (sel & 3) == 3;
}

bool space_selector_valid(const struct space *sp, u16 sel)
{
	u64 raw;

	if (!(sel & ~3u) || (sel | 3u) == SELECTOR_DATA)
		return true;
	raw = space_descriptor(sp, sel);
	return (raw & DESC_P) && (raw & (DESC_CODE | DESC_W)) != DESC_CODE;
}
