/* Payloads packed by each library, whole and damaged. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>

#include "loader_rig.h"
#include "unpack.h"

static const char *const names[PACK_COUNT] = {"raw", "gzip", "xz", "lzma", "lz4", "zstd"};

/* Compresses, but not to nothing; begins like an ELF file, so that raw is known by it. */
static struct blob sample(size_t n)
{
	struct blob b = rig_alloc(n);
	u32 x = 1;

	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		b.p[i] = x >> 28;
	}
	memcpy(b.p, "\177ELF", 4);
	return b;
}

static int unpack(const struct blob *in, struct blob *out, const char **why)
{
	*out = rig_alloc(unpack_size(in->p, in->n) + 1);
	out->n--;
	out->p[out->n] = 0x5a;
	*why = "";
	int r = unpack_payload(in->p, in->n, out->p, out->n, why);
	cr_expect_eq(out->p[out->n], 0x5a, "wrote past the end");
	return r;
}

static void expect_error(const struct blob *in, int error, const char *text)
{
	struct blob out;
	const char *why;

	cr_expect_eq(unpack(in, &out, &why), error, "%s", text);
	cr_expect(strstr(why, text), "'%s' lacks '%s'", why, text);
}

Test(unpack, round_trip)
{
	struct blob in = sample(300001);

	for (int kind = 0; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, in.p, in.n), out;
		const char *why;

		cr_expect_eq(unpack_size(packed.p, packed.n), in.n, "%s", names[kind]);
		cr_expect_eq(unpack(&packed, &out, &why), 0, "%s: %s", names[kind], why);
		cr_expect_eq(memcmp(out.p, in.p, in.n), 0, "%s", names[kind]);
	}
}

Test(unpack, lz4_of_several_blocks)
{
	struct blob in = sample(17 * MIB + 5), packed = rig_pack(PACK_LZ4, in.p, in.n), out;
	const char *why;

	cr_assert_eq(unpack(&packed, &out, &why), 0, "%s", why);
	cr_expect_eq(memcmp(out.p, in.p, in.n), 0);
}

Test(unpack, size_at_the_end_must_be_right)
{
	struct blob in = sample(5000);

	for (int kind = PACK_GZIP; kind < PACK_COUNT; kind++)
		for (int d = -1; d <= 1; d += 2) {
			struct blob packed = rig_pack(kind, in.p, in.n);
			u32 size = (u32)((int)in.n + d);

			memcpy(packed.p + packed.n - 4, &size, 4);
			expect_error(&packed, -EBADMSG, "corrupt");
		}
}

/* A bomb: megabytes in a few bytes, which say that they are few. */
Test(unpack, more_than_announced)
{
	struct blob in = rig_alloc(16 * MIB);

	for (int kind = PACK_GZIP; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, in.p, in.n);
		u32 size = 4096;

		memcpy(packed.p + packed.n - 4, &size, 4);
		expect_error(&packed, -EBADMSG, "corrupt");
	}
}

Test(unpack, truncated)
{
	struct blob in = sample(20000);

	for (int kind = PACK_GZIP; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, in.p, in.n);
		u32 size = (u32)in.n;

		for (size_t n = 0; n < packed.n; n += n < 64 ? 1 : 997) {
			/* A copy, so that the sanitizer sees reads past the end. */
			struct blob cut = rig_alloc(n), out;
			const char *why;

			memcpy(cut.p, packed.p, n);
			if (n >= 4)
				memcpy(cut.p + n - 4, &size, 4);
			cr_expect_lt(unpack(&cut, &out, &why), 0, "%s cut to %zu", names[kind], n);
			cr_expect(*why);
		}
	}
}

/* Formats with a checksum notice every change; the others must at least stay in bounds. */
Test(unpack, flipped_bits)
{
	struct blob in = sample(20000);
	unsigned seed = 7;

	for (int kind = PACK_GZIP; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, in.p, in.n), out;
		bool checked = kind == PACK_XZ;
		const char *why;

		for (int i = 0; i < 300; i++) {
			size_t at = (size_t)rand_r(&seed) % (packed.n - 4);
			u8 bit = (u8)(1u << (rand_r(&seed) % 8));

			packed.p[at] ^= bit;
			int r = unpack(&packed, &out, &why);
			cr_expect(r < 0 || !checked, "%s: byte %zu changed", names[kind], at);
			packed.p[at] ^= bit;
		}
	}
}

Test(unpack, lz4_hostile_blocks)
{
	u8 huge[] = {2, 0x21, 0x4c, 0x18, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 16, 0, 0, 0};
	u8 odd[] = {2, 0x21, 0x4c, 0x18, 1, 0, 0, 0, 0, 0, 0};
	u8 none[] = {2, 0x21, 0x4c, 0x18, 0, 0, 0, 0};

	expect_error(&(struct blob){huge, sizeof(huge)}, -EBADMSG, "LZ4");
	expect_error(&(struct blob){odd, sizeof(odd)}, -EBADMSG, "LZ4");
	/* No block and a size of 0: empty, but well formed. */
	struct blob out, in = {none, sizeof(none)};
	const char *why;
	cr_expect_eq(unpack(&in, &out, &why), 0);
}

Test(unpack, dictionary_too_large)
{
	struct blob in = sample(5000), packed = rig_pack(PACK_LZMA, in.p, in.n);
	u32 dict = 1u << 31;

	memcpy(packed.p + 1, &dict, 4);
	packed.p[1] = packed.p[2] = 0;
	expect_error(&packed, -ENOMEM, "memory");
}

Test(unpack, unsupported)
{
	u8 bzip2[16] = "BZh91AY&SY", lzo[16] = "\x89LZO\r\n\x1a\n", noise[16] = "hello", none[1];

	expect_error(&(struct blob){bzip2, 12}, -ENOTSUP, "bzip2");
	expect_error(&(struct blob){lzo, 12}, -ENOTSUP, "lzo");
	expect_error(&(struct blob){noise, 12}, -ENOTSUP, "do not know");
	expect_error(&(struct blob){none, 0}, -ENOTSUP, "do not know");
}
