/*
 * Compressed clusters: raw deflate or zstd, read only. A cluster that is written is stored plainly.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "qcow2.h"

static int inflate_cluster(const void *in, u64 in_len, void *out, u64 out_len)
{
	z_stream z = {.next_in = (void *)in,
		      .avail_in = (uInt)in_len,
		      .next_out = out,
		      .avail_out = (uInt)out_len};
	int rc;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* What follows in the last sector is another cluster's. */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(const void *in, u64 in_len, void *out, u64 out_len)
{
	ZSTD_inBuffer src = {in, in_len, 0};
	ZSTD_outBuffer dst = {out, out_len, 0};
	ZSTD_DCtx *z = ZSTD_createDCtx();

	if (!z)
		return -ENOMEM;
	while (dst.pos < dst.size) {
		size_t before_in = src.pos, before_out = dst.pos;
		size_t rc = ZSTD_decompressStream(z, &dst, &src);

		if (ZSTD_isError(rc) || (src.pos == before_in && dst.pos == before_out))
			break;
	}
	ZSTD_freeDCtx(z);
	return dst.pos == dst.size ? 0 : -EIO;
}

int qcow2_unpack(struct qcow2 *q, u64 entry, void *cluster)
{
	u64 offset, len;
	void *in;
	int rc;

	qcow2_compressed_place(q, entry, &offset, &len);
	in = malloc(len);
	if (!in)
		return -ENOMEM;
	rc = hostfile_pread(q->file, in, len, offset);
	if (!rc && q->zstd)
		rc = unzstd_cluster(in, len, cluster, q->cluster_size);
	else if (!rc)
		rc = inflate_cluster(in, len, cluster, q->cluster_size);
	free(in);
	return rc;
}
