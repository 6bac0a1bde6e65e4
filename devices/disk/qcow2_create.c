/*
 * A new image: header, refcount table, one refcount block, L1 table; all in the first clusters.
 */
#include <errno.h>
#include <string.h>

#include "qcow2.h"

#define CLUSTER_BITS 16
#define CLUSTER      BIT(CLUSTER_BITS)

/* As software that does not know a feature would call it. */
static const struct {
	u8 type, bit;
	const char *name;
} features[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

static u8 *put_extension(u8 *at, u32 type, const void *data, u64 len)
{
	put_be(at, 4, type);
	put_be(at + 4, 4, len);
	memcpy(at + 8, data, len);
	return at + 8 + ALIGN_UP(len, 8);
}

static u8 *put_features(u8 *at)
{
	u8 table[ARRAY_LEN(features)][48] = {0};

	for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
		table[i][0] = features[i].type;
		table[i][1] = features[i].bit;
		memcpy(table[i] + 2, features[i].name, strlen(features[i].name));
	}
	return put_extension(at, QCOW2_EXT_FEATURES, table, sizeof(table));
}

static void put_header(u8 *h, u64 size, u64 l1_size, const char *backing, const char *format)
{
	u8 *at = h + QCOW2_H_V3_LENGTH + 8;

	put_be(h + QCOW2_H_MAGIC, 4, QCOW2_MAGIC);
	put_be(h + QCOW2_H_VERSION, 4, 3);
	put_be(h + QCOW2_H_CLUSTER_BITS, 4, CLUSTER_BITS);
	put_be(h + QCOW2_H_SIZE, 8, size);
	put_be(h + QCOW2_H_L1_SIZE, 4, l1_size);
	put_be(h + QCOW2_H_L1_OFFSET, 8, 3 * CLUSTER);
	put_be(h + QCOW2_H_REFTABLE_OFFSET, 8, CLUSTER);
	put_be(h + QCOW2_H_REFTABLE_CLUSTERS, 4, 1);
	put_be(h + QCOW2_H_REFCOUNT_ORDER, 4, 4);
	put_be(h + QCOW2_H_LENGTH, 4, QCOW2_H_V3_LENGTH + 8);
	if (backing && format)
		at = put_extension(at, QCOW2_EXT_BACKING_FORMAT, format, strlen(format));
	at = put_features(at);
	at += 8; /* the end of the extensions */
	if (backing) {
		put_be(h + QCOW2_H_BACKING_OFFSET, 8, (u64)(at - h));
		put_be(h + QCOW2_H_BACKING_SIZE, 4, strlen(backing));
		memcpy(at, backing, strlen(backing));
	}
}

int qcow2_create(struct hostfile *file, u64 size, const char *backing, const char *format)
{
	u64 span = BIT(CLUSTER_BITS + CLUSTER_BITS - 3), l1_size = size / span + (size % span != 0);
	u64 l1_clusters = MAX(ALIGN_UP(l1_size * 8, CLUSTER) / CLUSTER, 1), all = 3 + l1_clusters;
	u8 *image;
	int rc;

	if (l1_size * 8 > QCOW2_MAX_L1_BYTES)
		return -EFBIG;
	if (backing && strlen(backing) > 1023)
		return -ENAMETOOLONG;
	image = calloc(3, CLUSTER);
	if (!image)
		return -ENOMEM;
	put_header(image, size, l1_size, backing, format);
	put_be64_at(image + CLUSTER, 0, 2 * CLUSTER);
	for (u64 i = 0; i < all; i++)
		put_be(image + 2 * CLUSTER + 2 * i, 2, 1);
	/* The header last: half an image is none. A device may hold an old one. */
	rc = hostfile_zero(file, 3 * CLUSTER, l1_clusters * CLUSTER, false);
	rc = rc ? rc : hostfile_pwrite(file, image + CLUSTER, 2 * CLUSTER, CLUSTER);
	rc = rc ? rc : hostfile_sync(file);
	rc = rc ? rc : hostfile_pwrite(file, image, CLUSTER, 0);
	rc = rc ? rc : hostfile_sync(file);
	free(image);
	return rc;
}
