/*
 * -device virtio-blk-pci.
 */
#include <errno.h>
#include <string.h>

#include "drive.h"
#include "plug.h"
#include "virtio_blk.h"

#define CLASS_SCSI 0x010000 /* as QEMU's: there is no class of its own */

struct plug_blk {
	struct plugged plugged;
	struct virtio_pci pci;
	struct virtio_blk blk;
	struct drive *drive;
};

static void destroy(struct plugged *p)
{
	struct plug_blk *pb = container_of(p, struct plug_blk, plugged);

	virtio_blk_end(&pb->blk);
	free(pb);
}

static void describe(struct plugged *p, FILE *out)
{
	const struct plug_blk *pb = container_of(p, struct plug_blk, plugged);
	const struct disk *disk = pb->drive->disk;

	fprintf(out, "virtio-blk-pci: drive %s, %s (%s, %llu bytes%s)\n", pb->drive->id,
		disk_path(disk), disk_format(disk), (unsigned long long)disk_size(disk),
		disk_is_writable(disk) ? "" : ", read only");
}

static int parse_block_size(struct keyval *k, const char *key, u32 *size)
{
	u64 n = *size;
	int rc = keyval_size(k, key, &n);

	if (rc)
		return rc;
	if (n < 512 || n > 2 * MIB || (n & (n - 1)))
		return keyval_fail(k, "%s: a power of two from 512 to 2M", key);
	*size = (u32)n;
	return 0;
}

static int parse_cache(struct keyval *k, struct virtio_blk_config *cfg)
{
	static const char *const names[] = {"auto", "on", "off"};
	unsigned n = 0;
	int rc = keyval_choice(k, "write-cache", names, ARRAY_LEN(names), &n);

	if (n)
		cfg->writeback = n == 1;
	return rc;
}

static int parse_queues(struct keyval *k, struct virtio_blk_config *cfg)
{
	u64 queues = 1, size = VIRTQ_SIZE;
	int rc = keyval_number(k, "num-queues", &queues, VIRTIO_BLK_MAX_QUEUES);

	rc = rc ? rc : keyval_number(k, "queue-size", &size, VIRTQ_MAX_SIZE);
	if (rc)
		return rc;
	if (!queues)
		return keyval_fail(k, "num-queues: 1 is the least");
	if (size < 4 || (size & (size - 1)))
		return keyval_fail(k, "queue-size: a power of two, 4 at least");
	cfg->queues = (unsigned)queues;
	cfg->queue_size = (u16)size;
	return 0;
}

static int parse(struct keyval *k, struct virtio_blk_config *cfg)
{
	const char *serial = keyval_get(k, "serial");
	bool share = false;
	u64 bootindex;
	int rc = parse_queues(k, cfg);

	cfg->serial = serial ? serial : cfg->serial;
	rc = rc ? rc : parse_cache(k, cfg);
	rc = rc ? rc : keyval_bool(k, "config-wce", &cfg->config_wce);
	rc = rc ? rc : keyval_bool(k, "discard", &cfg->discard);
	rc = rc ? rc : keyval_bool(k, "write-zeroes", &cfg->write_zeroes);
	rc = rc ? rc : parse_block_size(k, "logical_block_size", &cfg->logical_block);
	cfg->physical_block = MAX(cfg->physical_block, cfg->logical_block);
	rc = rc ? rc : parse_block_size(k, "physical_block_size", &cfg->physical_block);
	/* A kernel is booted directly: there is no order to choose. */
	rc = rc ? rc : keyval_number(k, "bootindex", &bootindex, INT32_MAX);
	rc = rc ? rc : keyval_bool(k, "share-rw", &share);
	if (rc)
		return rc;
	if (share)
		return keyval_fail(k, "share-rw=on is not in this version");
	if (cfg->physical_block < cfg->logical_block)
		return keyval_fail(k, "physical_block_size is less than logical_block_size");
	if (disk_size(cfg->disk) % cfg->logical_block)
		return keyval_fail(k, "the disk is not a whole number of logical blocks");
	return 0;
}

static int take_drive(struct vm *vm, struct keyval *k, struct drive **drive)
{
	const char *id = keyval_get(k, "drive");
	struct drive *d = id ? drive_find(vm, id) : NULL;

	if (!id)
		return keyval_fail(k, "virtio-blk-pci needs drive=ID");
	if (!d)
		return keyval_fail(k, "drive=%s: there is no drive with this id", id);
	if (d->taken)
		return keyval_fail(k, "drive=%s: another device has it", id);
	*drive = d;
	return 0;
}

int plug_virtio_blk(struct vm *vm, struct keyval *k)
{
	struct virtio_blk_config cfg = {.aio = vm->aio,
					.discard = true,
					.write_zeroes = true,
					.config_wce = true,
					.logical_block = 512,
					.physical_block = 512};
	struct plug_blk *pb;
	struct drive *d = NULL;
	int rc = take_drive(vm, k, &d);

	if (rc)
		return rc;
	cfg.disk = d->disk;
	cfg.serial = d->serial;
	cfg.readonly = !disk_is_writable(d->disk);
	cfg.writeback = d->writeback;
	rc = parse(k, &cfg);
	if (rc)
		return rc;
	pb = calloc(1, sizeof(*pb));
	if (!pb)
		return -ENOMEM;
	virtio_blk_init(&pb->blk, &cfg, &vm->dma, &vm->stats);
	rc = plug_virtio(vm, k, &pb->pci, &pb->blk.dev, cfg.queues + 1, CLASS_SCSI);
	if (rc) {
		virtio_blk_end(&pb->blk);
		free(pb);
		return rc;
	}
	d->taken = true;
	pb->drive = d;
	pb->plugged.destroy = destroy;
	pb->plugged.describe = describe;
	plug_register(vm, &pb->plugged);
	return 0;
}
