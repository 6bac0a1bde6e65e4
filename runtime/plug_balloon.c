/*
 * -device virtio-balloon-pci, and what the monitors do with it.
 */
#include <errno.h>
#include <string.h>

#include "plug.h"
#include "virtio_balloon.h"

#define CLASS_OTHER    0x00ff00
#define VECTORS        5 /* four queues and the configuration */
#define MAX_INTERVAL_S 1000000

struct plug_balloon {
	struct plugged plugged;
	struct virtio_pci pci;
	struct virtio_balloon balloon;
};

static void destroy(struct plugged *p)
{
	struct plug_balloon *pb = container_of(p, struct plug_balloon, plugged);

	timer_cancel(&pb->balloon.poll);
	free(pb);
}

static void describe(struct plugged *p, FILE *out)
{
	plug_describe_virtio(&container_of(p, struct plug_balloon, plugged)->pci, out);
}

/* The device, if there is one: it is the only type with this destroy. */
static struct virtio_balloon *find(struct vm *vm)
{
	struct plugged *p = vm->plugged;

	while (p && p->destroy != destroy)
		p = p->next;
	return p ? &container_of(p, struct plug_balloon, plugged)->balloon : NULL;
}

static int parse(struct keyval *k, u64 *features, u64 *interval)
{
	bool oom = false, reporting = false;
	u64 seconds = 0;
	int rc = keyval_bool(k, "deflate-on-oom", &oom);

	rc = rc ? rc : keyval_bool(k, "free-page-reporting", &reporting);
	rc = rc ? rc : keyval_number(k, "guest-stats-polling-interval", &seconds, MAX_INTERVAL_S);
	*features = (oom ? VIRTIO_BALLOON_F_DEFLATE_ON_OOM : 0) |
		    (reporting ? VIRTIO_BALLOON_F_REPORTING : 0);
	*interval = seconds * NS_PER_SEC;
	return rc;
}

int plug_virtio_balloon(struct vm *vm, struct keyval *k)
{
	struct plug_balloon *pb;
	u64 features, interval;
	int rc = parse(k, &features, &interval);

	if (rc)
		return rc;
	if (find(vm))
		return keyval_fail(k, "there can be only one balloon");
	pb = calloc(1, sizeof(*pb));
	if (!pb)
		return -ENOMEM;
	virtio_balloon_init(&pb->balloon, &vm->dma, &vm->timers, &vm->stats, features, interval);
	rc = plug_virtio(vm, k, &pb->pci, &pb->balloon.dev, VECTORS, CLASS_OTHER);
	if (rc) {
		free(pb);
		return rc;
	}
	pb->plugged.destroy = destroy;
	pb->plugged.describe = describe;
	plug_register(vm, &pb->plugged);
	return 0;
}

bool plug_balloon_set(struct vm *vm, u64 bytes)
{
	struct virtio_balloon *b = find(vm);

	if (b)
		virtio_balloon_set_target(
		    b, (u32)((vm->ram.size - MIN(bytes, vm->ram.size)) / BALLOON_PAGE));
	return b;
}

bool plug_balloon_get(struct vm *vm, struct plug_balloon_info *info)
{
	const struct virtio_balloon *b = find(vm);

	if (!b)
		return false;
	info->actual = vm->ram.size - MIN((u64)b->actual * BALLOON_PAGE, vm->ram.size);
	info->stats_known = b->stats_time;
	info->stats = b->stats;
	return true;
}
