/*
 * The modern PCI transport. One BAR of 16 KiB holds four pages: common configuration, ISR status,
 * device configuration, notifications (a doubleword for each queue). A fifth capability is a window
 * in configuration space through which the BARs can be reached before they are mapped (4.1.4.9).
 *
 * The specification lets a driver access a field of the common configuration only with the field's
 * own width, and the halves of the 64-bit ones; other accesses are taken byte by byte where that
 * makes sense, and have no effect elsewhere.
 */
#include <errno.h>
#include <string.h>

#include "virtio_pci.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE 0x1040 /* and the type */
#define BAR_MSIX      1
#define BAR_REGS      4
#define BAR_SIZE      0x4000
#define PART_SIZE     0x1000 /* of the BAR: */
#define PART_COMMON   0x0000
#define PART_ISR      0x1000
#define PART_DEVICE   0x2000
#define PART_NOTIFY   0x3000
#define NOTIFY_STEP   4

#define ISR_QUEUE  1
#define ISR_CONFIG 2

/* Capabilities (4.1.4): what cfg_type says, and the layout. */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
enum {
	CAP_LEN = 2,
	CAP_TYPE = 3,
	CAP_BAR = 4,
	CAP_OFFSET = 8,
	CAP_LENGTH = 12,
	CAP_SIZE = 16,
	CAP_MULTIPLIER = 16,
	CAP_DATA = 16,
	CAP_SIZE_MORE = 20,
};

/* Common configuration (4.1.4.3). */
enum {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	DEVICE_STATUS = 0x14,
	CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	QUEUE_NOTIFY_DATA = 0x38,
	QUEUE_RESET = 0x3a,
	COMMON_SIZE = 0x3c,
};

/* --- interrupts --- */

static void interrupt(struct virtio_dev *dev, u16 vector, bool config)
{
	struct virtio_pci *vp = dev->transport;

	if (pci_msix_enabled(&vp->pci)) {
		pci_msix_notify(&vp->pci, vector); /* NO_VECTOR is beyond the table */
		return;
	}
	vp->isr |= config ? ISR_CONFIG : ISR_QUEUE;
	pci_set_intx(&vp->pci, true);
}

/* Reading it acknowledges (4.1.4.5). */
static u8 take_isr(struct virtio_pci *vp)
{
	u8 isr = vp->isr;

	vp->isr = 0;
	pci_set_intx(&vp->pci, false);
	return isr;
}

/* --- common configuration --- */

static struct virtq *selected(struct virtio_pci *vp)
{
	return vp->queue_select < vp->dev->queue_count ? &vp->dev->queue[vp->queue_select] : NULL;
}

static u32 half(u64 val, u32 select)
{
	return select > 1 ? 0 : (u32)(val >> (32 * select));
}

static u32 read_queue_field(struct virtio_pci *vp, unsigned reg)
{
	const struct virtq *q = selected(vp);

	if (!q)
		return reg == QUEUE_VECTOR ? VIRTIO_NO_VECTOR : 0;
	switch (reg) {
	case QUEUE_SIZE: return q->size;
	case QUEUE_VECTOR: return q->vector;
	case QUEUE_ENABLE: return q->enabled;
	case QUEUE_NOTIFY_OFF:
	case QUEUE_NOTIFY_DATA: return q->index;
	case QUEUE_DESC: return (u32)q->desc;
	case QUEUE_DESC + 4: return (u32)(q->desc >> 32);
	case QUEUE_DRIVER: return (u32)q->avail;
	case QUEUE_DRIVER + 4: return (u32)(q->avail >> 32);
	case QUEUE_DEVICE: return (u32)q->used;
	case QUEUE_DEVICE + 4: return (u32)(q->used >> 32);
	default: return 0;
	}
}

static u32 read_common(struct virtio_pci *vp, unsigned reg)
{
	const struct virtio_dev *dev = vp->dev;

	switch (reg) {
	case DEVICE_FEATURE_SELECT: return vp->device_feature_select;
	case DEVICE_FEATURE: return half(dev->offered, vp->device_feature_select);
	case DRIVER_FEATURE_SELECT: return vp->driver_feature_select;
	case DRIVER_FEATURE: return half(dev->driver_features, vp->driver_feature_select);
	case CONFIG_VECTOR: return dev->config_vector;
	case NUM_QUEUES: return dev->queue_count;
	case DEVICE_STATUS: return dev->status;
	case CONFIG_GENERATION: return dev->config_generation;
	case QUEUE_SELECT: return vp->queue_select;
	default: return read_queue_field(vp, reg);
	}
}

static u16 vector_or_none(const struct virtio_pci *vp, u32 val)
{
	return vp->pci.msix && val < vp->msix.count ? (u16)val : VIRTIO_NO_VECTOR;
}

static void set_half(gpa_t *val, bool high, u32 to)
{
	*val = high ? (*val & 0xffffffffu) | (u64)to << 32 : (*val & ~0xffffffffull) | to;
}

/* Where and how large a queue is cannot change while it is in use. */
static void write_queue_field(struct virtio_pci *vp, unsigned reg, u32 val)
{
	struct virtq *q = selected(vp);

	if (!q)
		return;
	if (reg == QUEUE_VECTOR)
		q->vector = vector_or_none(vp, val);
	else if (reg == QUEUE_RESET && val == 1)
		virtio_reset_queue(vp->dev, q->index);
	if (q->enabled)
		return;
	switch (reg) {
	case QUEUE_SIZE: q->size = (u16)val; break;
	case QUEUE_ENABLE:
		if (val == 1)
			virtio_enable_queue(vp->dev, q->index);
		break;
	case QUEUE_DESC:
	case QUEUE_DESC + 4: set_half(&q->desc, reg & 4, val); break;
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4: set_half(&q->avail, reg & 4, val); break;
	case QUEUE_DEVICE:
	case QUEUE_DEVICE + 4: set_half(&q->used, reg & 4, val); break;
	}
}

static void write_driver_features(struct virtio_pci *vp, u32 val)
{
	u64 features = vp->dev->driver_features;

	if (vp->driver_feature_select > 1)
		return;
	set_half(&features, vp->driver_feature_select, val);
	virtio_set_features(vp->dev, features);
}

/* Selectors and interrupts as after power-up; the device's part is virtio_set_status's. */
static void reset_transport(struct virtio_pci *vp)
{
	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	(void)take_isr(vp);
}

static void write_common(struct virtio_pci *vp, unsigned reg, u32 val)
{
	struct virtio_dev *dev = vp->dev;

	switch (reg) {
	case DEVICE_FEATURE_SELECT: vp->device_feature_select = val; break;
	case DRIVER_FEATURE_SELECT: vp->driver_feature_select = val; break;
	case DRIVER_FEATURE: write_driver_features(vp, val); break;
	case CONFIG_VECTOR: dev->config_vector = vector_or_none(vp, val); break;
	case DEVICE_STATUS:
		virtio_set_status(dev, (u8)val);
		if (!(u8)val)
			reset_transport(vp);
		break;
	case QUEUE_SELECT: vp->queue_select = (u16)val; break;
	default: write_queue_field(vp, reg, val);
	}
}

/* The width of the field at an offset: 64-bit fields are two of 32. 0: no field begins there. */
static unsigned field_width(unsigned reg)
{
	if (reg >= COMMON_SIZE)
		return 0;
	if (reg == DEVICE_STATUS || reg == CONFIG_GENERATION)
		return 1;
	if (reg < CONFIG_VECTOR || (reg >= QUEUE_DESC && reg < QUEUE_NOTIFY_DATA))
		return reg % 4 ? 0 : 4;
	return reg % 2 ? 0 : 2;
}

static u64 common_read(struct virtio_pci *vp, unsigned at, unsigned size)
{
	u64 val = 0;

	for (unsigned end = at + size, shift = 0; at < end;) {
		unsigned width = field_width(at);
		u32 field;

		if (!width) { /* a byte in the middle of a field */
			unsigned start = at & ~3u;

			while (field_width(start) && start + field_width(start) <= at)
				start += field_width(start);
			field = read_common(vp, start) >> (8 * (at - start));
			width = 1;
		} else {
			field = read_common(vp, at);
			width = MIN(width, end - at);
		}
		val |= (u64)(field & (~0u >> (32 - 8 * width))) << shift;
		shift += 8 * width;
		at += width;
	}
	return val;
}

/* Whole fields only; a quadword may be two of them. */
static void common_write(struct virtio_pci *vp, unsigned at, unsigned size, u64 val)
{
	while (size) {
		unsigned width = field_width(at);

		if (!width || width > size)
			return;
		write_common(vp, at, (u32)(val & (~0u >> (32 - 8 * width))));
		at += width;
		val >>= 8 * width;
		size -= width;
	}
}

/* --- the BAR --- */

static u64 regs_read(void *opaque, u64 offset, unsigned size)
{
	struct virtio_pci *vp = opaque;
	unsigned at = offset % PART_SIZE;

	switch (offset - at) {
	case PART_COMMON: return common_read(vp, at, size);
	case PART_ISR: return at ? 0 : take_isr(vp);
	case PART_DEVICE: return virtio_config_read(vp->dev, at, size);
	default: return 0;
	}
}

static void regs_write(void *opaque, u64 offset, unsigned size, u64 val)
{
	struct virtio_pci *vp = opaque;
	unsigned at = offset % PART_SIZE;

	switch (offset - at) {
	case PART_COMMON: common_write(vp, at, size, val); break;
	case PART_DEVICE: virtio_config_write(vp->dev, at, size, val); break;
	case PART_NOTIFY:
		/* What is written says the same, without VIRTIO_F_NOTIFICATION_DATA. */
		if (at % NOTIFY_STEP == 0)
			virtio_notify(vp->dev, at / NOTIFY_STEP);
		break;
	}
}

/* --- configuration space --- */

/* The window: the BAR, offset and length the driver has put into the capability, if they are an
 * access that a BAR takes. */
static struct pci_bar *window(struct virtio_pci *vp, u32 *offset, u32 *len)
{
	unsigned cap = vp->cfg_cap, bar = pci_get(&vp->pci, cap + CAP_BAR, 1);

	*offset = pci_get(&vp->pci, cap + CAP_OFFSET, 4);
	*len = pci_get(&vp->pci, cap + CAP_LENGTH, 4);
	if (bar >= PCI_BARS || !vp->pci.bar[bar].size)
		return NULL;
	if ((*len != 1 && *len != 2 && *len != 4) || *offset % *len ||
	    *offset >= vp->pci.bar[bar].size)
		return NULL;
	return &vp->pci.bar[bar];
}

static bool window_touched(const struct virtio_pci *vp, unsigned offset, unsigned len)
{
	unsigned data = vp->cfg_cap + CAP_DATA;

	return offset < data + 4 && data < offset + len;
}

static void config_reading(struct pci_dev *d, unsigned offset, unsigned len)
{
	struct virtio_pci *vp = container_of(d, struct virtio_pci, pci);
	struct pci_bar *bar;
	u32 at, size;

	if (!window_touched(vp, offset, len))
		return;
	bar = window(vp, &at, &size);
	if (bar)
		pci_put(d, vp->cfg_cap + CAP_DATA, size, (u32)bar->read(bar->opaque, at, size));
}

static void config_written(struct pci_dev *d, unsigned offset, unsigned len)
{
	struct virtio_pci *vp = container_of(d, struct virtio_pci, pci);
	struct pci_bar *bar;
	u32 at, size;

	if (offset < PCI_COMMAND + 2 && PCI_COMMAND < offset + len)
		virtio_hold(vp->dev, !(pci_get(d, PCI_COMMAND, 2) & PCI_COMMAND_MASTER));
	if (!window_touched(vp, offset, len))
		return;
	bar = window(vp, &at, &size);
	if (bar)
		bar->write(bar->opaque, at, size, pci_get(d, vp->cfg_cap + CAP_DATA, size));
}

static void reset_function(struct pci_dev *d)
{
	struct virtio_pci *vp = container_of(d, struct virtio_pci, pci);

	virtio_set_status(vp->dev, 0);
	reset_transport(vp);
	virtio_hold(vp->dev, true); /* PCI_COMMAND_MASTER is clear */
}

/* --- building --- */

static u8 add_cap(struct pci_dev *d, u8 type, u8 size, u32 offset, u32 len)
{
	u8 at = pci_dev_add_cap(d, PCI_CAP_VENDOR, size);

	d->cfg[at + CAP_LEN] = size;
	d->cfg[at + CAP_TYPE] = type;
	d->cfg[at + CAP_BAR] = BAR_REGS;
	pci_put(d, at + CAP_OFFSET, 4, offset);
	pci_put(d, at + CAP_LENGTH, 4, len);
	return at;
}

static void add_caps(struct virtio_pci *vp)
{
	struct pci_dev *d = &vp->pci;
	u8 at;

	at = add_cap(d, CAP_PCI, CAP_SIZE_MORE, 0, 0);
	d->cfg[at + CAP_BAR] = 0;
	d->wmask[at + CAP_BAR] = 0xff;
	memset(&d->wmask[at + CAP_OFFSET], 0xff, CAP_SIZE_MORE - CAP_OFFSET);
	vp->cfg_cap = at;
	at = add_cap(d, CAP_NOTIFY, CAP_SIZE_MORE, PART_NOTIFY, VIRTIO_MAX_QUEUES * NOTIFY_STEP);
	pci_put(d, at + CAP_MULTIPLIER, 4, NOTIFY_STEP);
	if (vp->dev->type->config_len)
		add_cap(d, CAP_DEVICE, CAP_SIZE, PART_DEVICE, vp->dev->type->config_len);
	add_cap(d, CAP_ISR, CAP_SIZE, PART_ISR, 1);
	add_cap(d, CAP_COMMON, CAP_SIZE, PART_COMMON, COMMON_SIZE);
}

int virtio_pci_plug(struct virtio_pci *vp, struct virtio_dev *dev,
		    const struct virtio_pci_config *cfg)
{
	struct pci_dev *d = &vp->pci;

	memset(vp, 0, sizeof(*vp));
	vp->dev = dev;
	dev->transport = vp;
	dev->interrupt = interrupt;
	dev->held = true;
	pci_dev_init(d, dev->type->name, VIRTIO_VENDOR, (u16)(VIRTIO_DEVICE + dev->type->id),
		     cfg->class_code);
	d->cfg[PCI_REVISION] = 1;
	d->config_reading = config_reading;
	d->config_written = config_written;
	d->reset = reset_function;
	d->bar[BAR_REGS] = (struct pci_bar){.size = BAR_SIZE,
					    .is64 = true,
					    .prefetch = true,
					    .read = regs_read,
					    .write = regs_write,
					    .opaque = vp};
	if (cfg->vectors)
		pci_msix_init(d, &vp->msix, BAR_MSIX, cfg->vectors);
	add_caps(vp);
	return pci_plug(cfg->bus, d, cfg->slot);
}
