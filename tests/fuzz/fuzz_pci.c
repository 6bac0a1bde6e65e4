/*
 * PCI and virtio registers, BARs and rings: the input's bytes are what a hostile driver does
 * (../unit/hostile_driver.h), the first of them which device it does it to. Seeds: seeds_pci.
 */
#include <string.h>

#include "../unit/hostile_driver.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
	const u8 *data;
	size_t left;
};

/* Eight bytes at a time, zeros behind the end. */
static u64 take(void *opaque)
{
	struct input *in = opaque;
	size_t n = MIN(in->left, 8);
	u64 val = 0;

	memcpy(&val, in->data, n);
	in->data += n;
	in->left -= n;
	return val;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = {data, size};
	struct hostile h = {.number = take, .opaque = &in};
	unsigned n;

	if (!size)
		return 0;
	n = *in.data++ % ARRAY_LEN(hostile_devices);
	in.left--;
	hostile_init(&h, &hostile_devices[n]);
	hostile_start(&h);
	while (in.left)
		hostile_step(&h);
	BUG_ON(!hostile_others_go_on(&h));
	hostile_end(&h);
	return 0;
}
