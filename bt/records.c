/*
 * See records.h. Records are packed as differences from the one before (of the first, from zeros):
 *
 *	0 gggg hhh			nothing is spilled; guest grows by g, host by g + h: an
 *					instruction that was copied, perhaps with a prefix
 *	1 sss gggg, h, s		s: spills, 11 bits, the upper ones first; g: guest grows by
 *					it; h: host does
 *		g = 15			the guest offset itself follows, two bytes
 *		h = 255			the host offset itself does, behind that
 */
#include "records.h"

#include <string.h>

#define WIDE       0x80u
#define GUEST_HERE 15u
#define HOST_HERE  255u

static u8 *put_wide(u8 *p, const struct recovery *r, unsigned guest, unsigned host)
{
	*p++ = WIDE | r->spills >> 8 << 4 | guest;
	*p++ = host;
	*p++ = r->spills & 0xff;
	if (guest == GUEST_HERE) {
		memcpy(p, &r->guest, 2);
		p += 2;
	}
	if (host == HOST_HERE) {
		memcpy(p, &r->host, 2);
		p += 2;
	}
	return p;
}

unsigned records_pack(const struct recovery *r, unsigned n, u8 *out)
{
	struct recovery last = {.host = 0};
	u8 *p = out;
	unsigned i;

	for (i = 0; i < n; i++) {
		unsigned host = r[i].host - last.host, guest = (u16)(r[i].guest - last.guest);

		BUG_ON(r[i].host < last.host || r[i].spills >= 2048);
		if (!r[i].spills && guest < 16 && host >= guest && host - guest < 8)
			*p++ = guest << 3 | (host - guest);
		else
			p = put_wide(p, &r[i], MIN(guest, GUEST_HERE), MIN(host, HOST_HERE));
		last = r[i];
	}
	return p - out;
}

static void take_wide(struct records *s, unsigned first)
{
	unsigned host = *s->p++;

	s->at.spills = (first >> 4 & 7) << 8 | *s->p++;
	s->at.guest += first & 15;
	if ((first & 15) == GUEST_HERE) {
		memcpy(&s->at.guest, s->p, 2);
		s->p += 2;
	}
	s->at.host += host;
	if (host == HOST_HERE) {
		memcpy(&s->at.host, s->p, 2);
		s->p += 2;
	}
}

bool records_next(struct records *s)
{
	unsigned first;

	if (s->p == s->end)
		return false;
	first = *s->p++;
	if (first & WIDE) {
		take_wide(s, first);
		return true;
	}
	s->at.spills = 0;
	s->at.guest += first >> 3;
	s->at.host += (first >> 3) + (first & 7);
	return true;
}

struct recovery records_find(struct records s, u32 host)
{
	struct recovery found = {.host = 0};

	while (records_next(&s) && s.at.host <= host)
		found = s.at;
	return found;
}
