/* Packed recovery records: what goes in comes out, and a host offset finds the one that holds. */
#include <criterion/criterion.h>

#include "records.h"

#define N 64u

static u32 next(u32 *rng)
{
	return *rng = *rng * 1664525 + 1013904223;
}

/* Small steps as of copied instructions, and now and then any other. */
static void fill(struct recovery *r, u32 *rng)
{
	u32 host = 0, guest = 0;

	for (u32 i = 0; i < N; i++) {
		u32 way = next(rng) >> 28;

		r[i] = (struct recovery){.host = host, .guest = guest};
		if (way < 4)
			r[i].spills = next(rng) >> 21;
		host += way == 5   ? next(rng) >> 23
			: way == 6 ? 254 + (next(rng) >> 31)
				   : next(rng) >> 28;
		guest = way == 7 ? 0 : way == 8 ? next(rng) >> 16 : guest + (next(rng) >> 28);
	}
}

Test(records, come_out_as_they_went_in)
{
	u8 packed[N * RECORD_PACKED];
	struct recovery r[N];
	u32 rng = 1;

	for (unsigned round = 0; round < 1000; round++) {
		struct records s = {.p = packed};

		fill(r, &rng);
		s.end = packed + records_pack(r, N, packed);
		cr_assert_leq(s.end, packed + sizeof(packed));
		for (u32 i = 0; i < N; i++) {
			cr_assert(records_next(&s));
			cr_assert_eq(s.at.host, r[i].host, "%u: %u, not %u", i, s.at.host,
				     r[i].host);
			cr_assert_eq(s.at.guest, (u16)r[i].guest);
			cr_assert_eq(s.at.spills, r[i].spills);
		}
		cr_assert_not(records_next(&s));
	}
}

Test(records, of_copied_instructions_take_a_byte)
{
	static const struct recovery r[] = {{0, 0, 0}, {4, 3, 0}, {11, 10, 0}, {33, 25, 0}};
	u8 packed[ARRAY_LEN(r) * RECORD_PACKED];

	cr_assert_eq(records_pack(r, ARRAY_LEN(r), packed), ARRAY_LEN(r));
}

Test(records, the_last_one_not_behind_an_offset_holds)
{
	static const struct recovery r[] = {
	    {0, 0, 0}, {4, 0, 5}, {9, 3, 0}, {9, 3, 128}, {300, 0, 1}};
	static const u16 wanted[][2] = {{0, 0},   {3, 0},     {4, 5},   {8, 5},
					{9, 128}, {299, 128}, {300, 1}, {65535, 1}};
	u8 packed[ARRAY_LEN(r) * RECORD_PACKED];
	struct records s = {.p = packed, .end = packed + records_pack(r, ARRAY_LEN(r), packed)};

	for (unsigned i = 0; i < ARRAY_LEN(wanted); i++)
		cr_expect_eq(records_find(s, wanted[i][0]).spills, wanted[i][1], "at %u",
			     wanted[i][0]);
}
