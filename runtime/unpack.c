/*
 * Each format is one function that unpacks its stream to out and returns the number of bytes made,
 * or a negative errno. What follows the stream (the size that Linux's build appends) is left alone,
 * except by LZ4, whose legacy frame has no end mark: Documentation/arch/x86/boot.rst and
 * lz4_Frame_format.md, "Legacy frame".
 */
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "unpack.h"

/* Dictionaries of xz and lzma go onto the heap; kernels are packed with 128 MiB at most. */
#define LZMA_MEMORY (192 * MIB)
#define LZ4_BLOCK   (8 * MIB)
#define TRAILER     4

static u32 le32(const u8 *p)
{
	return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static s64 unpack_gzip(const u8 *in, u64 len, u8 *out, u64 cap)
{
	z_stream z = {.next_in = (u8 *)in,
		      .avail_in = (uInt)MIN(len, UINT32_MAX),
		      .next_out = out,
		      .avail_out = (uInt)MIN(cap, UINT32_MAX)};
	int r = inflateInit2(&z, 16 + MAX_WBITS); /* 16: gzip header and checks */
	s64 made;

	if (r == Z_OK) {
		r = inflate(&z, Z_FINISH);
		made = (s64)z.total_out;
		inflateEnd(&z);
		if (r == Z_STREAM_END)
			return made;
	}
	return r == Z_MEM_ERROR ? -ENOMEM : -EBADMSG;
}

static s64 lzma_result(lzma_ret r, u64 made)
{
	if (r == LZMA_STREAM_END)
		return (s64)made;
	return r == LZMA_MEM_ERROR || r == LZMA_MEMLIMIT_ERROR ? -ENOMEM : -EBADMSG;
}

static s64 run_lzma(lzma_stream *s, lzma_ret r, const u8 *in, u64 len, u8 *out, u64 cap)
{
	u64 made;

	s->next_in = in;
	s->avail_in = len;
	s->next_out = out;
	s->avail_out = cap;
	if (r == LZMA_OK)
		r = lzma_code(s, LZMA_FINISH);
	made = s->total_out;
	lzma_end(s);
	return lzma_result(r, made);
}

static s64 unpack_xz(const u8 *in, u64 len, u8 *out, u64 cap)
{
	lzma_stream s = LZMA_STREAM_INIT;

	return run_lzma(&s, lzma_stream_decoder(&s, LZMA_MEMORY, 0), in, len, out, cap);
}

static s64 unpack_lzma(const u8 *in, u64 len, u8 *out, u64 cap)
{
	lzma_stream s = LZMA_STREAM_INIT;

	return run_lzma(&s, lzma_alone_decoder(&s, LZMA_MEMORY), in, len, out, cap);
}

static s64 unpack_zstd(const u8 *in, u64 len, u8 *out, u64 cap)
{
	size_t frame = ZSTD_findFrameCompressedSize(in, len);
	size_t made;

	if (ZSTD_isError(frame))
		return -EBADMSG;
	made = ZSTD_decompress(out, cap, in, frame);
	if (ZSTD_isError(made))
		return ZSTD_getErrorCode(made) == ZSTD_error_memory_allocation ? -ENOMEM : -EBADMSG;
	return (s64)made;
}

static s64 unpack_lz4(const u8 *in, u64 len, u8 *out, u64 cap)
{
	u64 pos = 4, made = 0;

	/* The trailer could be taken for the size of a block, so stop in front of it. */
	while (len - pos > TRAILER) {
		u32 block = le32(in + pos);
		int n;

		pos += 4;
		if (block > len - pos || block > LZ4_COMPRESSBOUND(LZ4_BLOCK))
			return -EBADMSG;
		n = LZ4_decompress_safe((const char *)in + pos, (char *)out + made, (int)block,
					(int)MIN(cap - made, LZ4_BLOCK));
		if (n < 0)
			return -EBADMSG;
		made += (u64)n;
		pos += block;
	}
	return len - pos == TRAILER ? (s64)made : -EBADMSG;
}

static s64 unpack_raw(const u8 *in, u64 len, u8 *out, u64 cap)
{
	memcpy(out, in, MIN(len, cap));
	return (s64)len;
}

struct format {
	u8 magic_len;
	u8 magic[6];
	s64 (*unpack)(const u8 *in, u64 len, u8 *out, u64 cap);
	const char *corrupt;
};

static const struct format formats[] = {
    {2, {0x1f, 0x8b}, unpack_gzip, "is corrupt gzip data"},
    {6, {0xfd, '7', 'z', 'X', 'Z', 0}, unpack_xz, "is corrupt xz data"},
    {3, {0x5d, 0, 0}, unpack_lzma, "is corrupt lzma data"},
    {4, {0x02, 0x21, 0x4c, 0x18}, unpack_lz4, "is corrupt LZ4 data"},
    {4, {0x28, 0xb5, 0x2f, 0xfd}, unpack_zstd, "is corrupt zstd data"},
    {4, {0x7f, 'E', 'L', 'F'}, unpack_raw, "is cut short"},
    {3, {'B', 'Z', 'h'}, NULL, "is packed with bzip2, which is not supported (try -boot stub)"},
    {4, {0x89, 'L', 'Z', 'O'}, NULL, "is packed with lzo, which is not supported (try -boot stub)"},
};

static const struct format *find_format(const u8 *in, u64 len)
{
	for (size_t i = 0; i < ARRAY_LEN(formats); i++)
		if (len >= formats[i].magic_len &&
		    !memcmp(in, formats[i].magic, formats[i].magic_len))
			return &formats[i];
	return NULL;
}

u64 unpack_size(const u8 *in, u64 len)
{
	const struct format *f = find_format(in, len);

	if (f && f->unpack == unpack_raw)
		return len;
	return len < TRAILER ? 0 : le32(in + len - TRAILER);
}

int unpack_payload(const u8 *in, u64 len, u8 *out, u64 out_len, const char **why)
{
	const struct format *f = find_format(in, len);
	s64 made;

	if (!f) {
		*why = "is packed in a way we do not know";
		return -ENOTSUP;
	}
	*why = f->corrupt;
	if (!f->unpack)
		return -ENOTSUP;
	/* No stream is shorter than that, and it lets the formats subtract. */
	if (len < 4 + TRAILER)
		return -EBADMSG;
	made = f->unpack(in, len, out, out_len);
	if (made == -ENOMEM)
		*why = "needs more memory to unpack than we allow";
	if (made < 0)
		return (int)made;
	return (u64)made == out_len ? 0 : -EBADMSG;
}
