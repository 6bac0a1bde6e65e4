/*
 * The table of -device types, and what all of them share.
 */
#include <errno.h>
#include <string.h>

#include "plug.h"

#define PORT_HELP "chardev=ID, name=NAME, nr=N, bus=ID.0 (of the virtio-serial-pci), id=NAME"

const struct plug_type plug_types[] = {
    {"virtio-balloon-pci", "virtio-balloon",
     "deflate-on-oom=on|off, free-page-reporting=on|off, "
     "guest-stats-polling-interval=SECONDS, " PLUG_VIRTIO_HELP,
     plug_virtio_balloon},
    {"virtio-net-pci", "virtio-net",
     "netdev=ID, mac=XX:XX:XX:XX:XX:XX, host_mtu=N, rx_queue_size=N, tx_queue_size=N, csum=on|off, "
     "guest_csum=on|off, gso=on|off, host_tso4=on|off, host_tso6=on|off, guest_tso4=on|off, "
     "guest_tso6=on|off, mrg_rxbuf=on|off, status=on|off, ctrl_vq=on|off, " PLUG_VIRTIO_HELP,
     plug_virtio_net},
    {"virtio-rng-pci", "virtio-rng",
     "max-bytes=N, period=MS (how many random bytes in how many milliseconds), " PLUG_VIRTIO_HELP,
     plug_virtio_rng},
    {"virtio-blk-pci", "virtio-blk",
     "drive=ID (of -drive if=none), serial=TEXT, num-queues=N, queue-size=N, "
     "write-cache=on|off|auto, config-wce=on|off, discard=on|off, write-zeroes=on|off, "
     "logical_block_size=N, physical_block_size=N, " PLUG_VIRTIO_HELP,
     plug_virtio_blk},
    {"virtio-serial-pci", "virtio-serial", "max_ports=N, " PLUG_VIRTIO_HELP, plug_virtio_serial},
    {"virtconsole", NULL, PORT_HELP, plug_virtconsole},
    {"virtserialport", NULL, PORT_HELP, plug_virtserialport},
    {NULL, NULL, NULL, NULL},
};

static bool is_name(const char *want, const char *name, size_t len)
{
	return want && strlen(want) == len && !memcmp(want, name, len);
}

const struct plug_type *plug_find(const char *name, size_t len)
{
	static const char modern[] = "-non-transitional";
	const struct plug_type *t = plug_types;
	size_t cut = sizeof(modern) - 1;

	if (len > cut && !memcmp(name + len - cut, modern, cut))
		len -= cut;
	while (t->name && !is_name(t->name, name, len) && !is_name(t->alias, name, len))
		t++;
	return t->name ? t : NULL;
}

void plug_print_help(FILE *out, const struct plug_type *type)
{
	if (type) {
		fprintf(out, "%s: %s\n", type->name, type->help);
		return;
	}
	for (const struct plug_type *t = plug_types; t->name; t++)
		fprintf(out, "%s%s%s: %s\n", t->name, t->alias ? ", " : "",
			t->alias ? t->alias : "", t->help);
	fprintf(out, "isa-debug-exit: iobase=N, iosize=N\n");
}

/* --- what has been plugged --- */

void plug_register(struct vm *vm, struct plugged *p)
{
	p->next = vm->plugged;
	vm->plugged = p;
}

struct plugged *plug_by_id(struct vm *vm, const char *id)
{
	struct plugged *p = vm->plugged;

	while (p && (!p->id || strcmp(p->id, id)))
		p = p->next;
	return p;
}

void plug_reset(struct vm *vm)
{
	for (struct plugged *p = vm->plugged; p; p = p->next)
		if (p->reset)
			p->reset(p);
}

void plug_destroy(struct vm *vm)
{
	while (vm->plugged) {
		struct plugged *p = vm->plugged;

		vm->plugged = p->next;
		free(p->id);
		p->destroy(p);
	}
}

void plug_list(struct vm *vm, FILE *out)
{
	for (struct plugged *p = vm->plugged; p; p = p->next) {
		fprintf(out, "%s: ", p->id ? p->id : "(no id)");
		if (p->describe)
			p->describe(p, out);
		fputc('\n', out);
	}
}

/* --- -device --- */

static int create(struct vm *vm, struct keyval *k)
{
	const char *name = keyval_get(k, "driver"), *id = keyval_get(k, "id");
	const struct plug_type *t = name ? plug_find(name, strlen(name)) : NULL;
	struct plugged *before = vm->plugged;
	int rc;

	if (!t)
		return keyval_fail(k, "'%s' is not in this version (-device help lists what is)",
				   name ? name : "");
	if (id && plug_by_id(vm, id))
		return keyval_fail(k, "%s: there is already a device with id '%s'", name, id);
	rc = t->create(vm, k);
	if (!rc)
		rc = keyval_rest(k);
	if (rc || !id)
		return rc;
	BUG_ON(vm->plugged == before);
	vm->plugged->id = strdup(id);
	return vm->plugged->id ? 0 : -ENOMEM;
}

int plug_device(struct vm *vm, const char *arg, char *err, size_t errlen)
{
	struct keyval k;
	int rc = keyval_parse(&k, "-device", arg, "driver", err, errlen);

	if (!rc)
		rc = create(vm, &k);
	if (rc == -ENOMEM)
		snprintf(err, errlen, "-device %s: out of memory", arg);
	return rc;
}

int plug_devices(struct vm *vm, char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->cfg->device_count && !rc; i++)
		rc = plug_device(vm, vm->cfg->device[i], err, errlen);
	return rc;
}

/* --- virtio over PCI --- */

/* "5", "0x1f" or "05.0": a slot, hexadecimal as in QEMU; there are only functions 0. */
static int parse_slot(struct keyval *k, int *slot)
{
	const char *text = keyval_get(k, "addr");
	char *end;
	unsigned long n;

	if (!text)
		return 0;
	n = strtoul(text, &end, 16);
	if (end == text || (*end && strcmp(end, ".0")))
		return keyval_fail(k, "addr=%s is not a slot", text);
	if (!n || n >= PCI_SLOTS)
		return keyval_fail(k, "addr=%s: slots 1 to 1f can be used", text);
	*slot = (int)n;
	return 0;
}

static int parse_bus(struct keyval *k)
{
	const char *bus = keyval_get(k, "bus");

	if (bus && strcmp(bus, "pci.0") && strcmp(bus, "pcie.0"))
		return keyval_fail(k, "bus=%s: there is one bus, pci.0", bus);
	return 0;
}

/* Of what QEMU can switch: the modern interface is on and everything else is off. */
static int parse_fixed(struct keyval *k)
{
	static const char *const off[] = {"disable-modern", "iommu_platform", "ats", "packed"};
	const char *legacy = keyval_get(k, "disable-legacy");

	if (legacy && strcmp(legacy, "on") && strcmp(legacy, "auto") && strcmp(legacy, "true"))
		return keyval_fail(k, "disable-legacy=%s: there is no legacy interface", legacy);
	for (unsigned i = 0; i < ARRAY_LEN(off); i++) {
		bool on = false;

		if (keyval_bool(k, off[i], &on))
			return -EINVAL;
		if (on)
			return keyval_fail(k, "%s=on is not in this version", off[i]);
	}
	return 0;
}

static int parse_features(struct keyval *k, struct virtio_dev *dev)
{
	static const struct {
		const char *key;
		u64 bit;
	} feature[] = {{"event_idx", VIRTIO_F_EVENT_IDX},
		       {"indirect_desc", VIRTIO_F_INDIRECT_DESC}};

	for (unsigned i = 0; i < ARRAY_LEN(feature); i++) {
		bool on = true;

		if (keyval_bool(k, feature[i].key, &on))
			return -EINVAL;
		if (!on)
			dev->offered &= ~feature[i].bit;
	}
	return 0;
}

int plug_virtio(struct vm *vm, struct keyval *k, struct virtio_pci *vp, struct virtio_dev *dev,
		unsigned vectors, u32 class_code)
{
	struct virtio_pci_config cfg = {.bus = &vm->pci, .slot = -1, .class_code = class_code};
	u64 n = vectors;
	int rc = parse_slot(k, &cfg.slot);

	rc = rc ? rc : parse_bus(k);
	rc = rc ? rc : parse_fixed(k);
	rc = rc ? rc : parse_features(k, dev);
	rc = rc ? rc : keyval_number(k, "vectors", &n, MSIX_MAX);
	if (rc)
		return rc;
	cfg.vectors = (unsigned)n;
	rc = virtio_pci_plug(vp, dev, &cfg);
	if (rc == -EEXIST)
		return keyval_fail(k, "addr=%x: the slot is taken", (unsigned)cfg.slot);
	if (rc)
		return keyval_fail(k, "all slots of the bus are taken");
	return 0;
}

void plug_describe_virtio(const struct virtio_pci *vp, FILE *out)
{
	const struct virtio_dev *dev = vp->dev;

	fprintf(out, "%s, slot %02x, features %llx of %llx, status %02x", dev->type->name,
		vp->pci.slot, (unsigned long long)dev->driver_features,
		(unsigned long long)dev->offered, dev->status);
	if (dev->broken)
		fprintf(out, ", broken: %s", dev->broken);
}
