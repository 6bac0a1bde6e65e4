/*
 * -device virtio-rng-pci.
 */
#include <errno.h>

#include "plug.h"
#include "virtio_rng.h"

#define CLASS_RNG      0x00ff00
#define DEFAULT_PERIOD 65536 /* ms, QEMU's */
#define MAX_PERIOD     (1000ull * 1000 * 1000)

struct plug_rng {
	struct plugged plugged;
	struct virtio_pci pci;
	struct virtio_rng rng;
};

static void destroy(struct plugged *p)
{
	struct plug_rng *pr = container_of(p, struct plug_rng, plugged);

	timer_cancel(&pr->rng.refill);
	free(pr);
}

static void describe(struct plugged *p, FILE *out)
{
	plug_describe_virtio(&container_of(p, struct plug_rng, plugged)->pci, out);
}

int plug_virtio_rng(struct vm *vm, struct keyval *k)
{
	u64 max_bytes = ~0ull, period = DEFAULT_PERIOD;
	struct plug_rng *pr;
	int rc = keyval_number(k, "max-bytes", &max_bytes, INT64_MAX);

	rc = rc ? rc : keyval_number(k, "period", &period, MAX_PERIOD);
	if (rc)
		return rc;
	if (!max_bytes || !period)
		return keyval_fail(k, "max-bytes and period are 1 at least");
	pr = calloc(1, sizeof(*pr));
	if (!pr)
		return -ENOMEM;
	virtio_rng_init(&pr->rng, &vm->dma, &vm->timers, &vm->stats, max_bytes,
			period * (NS_PER_SEC / 1000));
	rc = plug_virtio(vm, k, &pr->pci, &pr->rng.dev, 2, CLASS_RNG);
	if (rc) {
		free(pr);
		return rc;
	}
	pr->plugged.destroy = destroy;
	pr->plugged.describe = describe;
	plug_register(vm, &pr->plugged);
	return 0;
}
