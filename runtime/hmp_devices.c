/*
 * What the monitor shows of devices, and asks of the balloon.
 */
#include <string.h>

#include "drive.h"
#include "hmp.h"
#include "netdev.h"
#include "netdevs.h"
#include "plug.h"
#include "virtio_balloon.h"

static void show_bars(FILE *out, const struct pci_dev *d)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		const struct pci_bar *b = &d->bar[n];

		if (!b->size)
			continue;
		fprintf(out, "      BAR%u: %u bit %smemory", n, b->is64 ? 64 : 32,
			b->prefetch ? "prefetchable " : "");
		if (b->mapped)
			fprintf(out, " at 0x%08llx [0x%08llx].\n", (unsigned long long)b->base,
				(unsigned long long)(b->base + b->size - 1));
		else
			fprintf(out, " (not mapped)\n");
	}
}

void hmp_info_pci(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		const struct pci_dev *d = vm->pci.dev[slot];

		if (!d)
			continue;
		fprintf(
		    out,
		    "  Bus  0, device %3u, function 0:\n    %s: class %04x, PCI device %04x:%04x\n",
		    slot, d->name, pci_get(d, PCI_REVISION, 4) >> 16, pci_get(d, PCI_VENDOR_ID, 2),
		    pci_get(d, PCI_DEVICE_ID, 2));
		if (pci_get(d, PCI_INTERRUPT_PIN, 1))
			fprintf(out, "      IRQ %u, pin A%s\n", pci_get(d, PCI_INTERRUPT_LINE, 1),
				d->intx ? ", asserted" : "");
		show_bars(out, d);
	}
}

void hmp_info_network(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	netdevs_list(vm, out);
}

void hmp_info_qtree(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	plug_list(vm, out);
}

void hmp_info_block(struct vm *vm, FILE *out, const char *args)
{
	(void)args;
	for (const struct drive *d = vm->drives; d; d = d->next) {
		struct disk_info info;

		disk_get_info(d->disk, &info);
		fprintf(out, "%s: %s (%s%s)\n", d->id, disk_path(d->disk), info.format,
			disk_is_writable(d->disk) ? "" : ", read-only");
		fprintf(out, "    Attached to:      %s\n", d->taken ? "virtio-blk-pci" : "nothing");
		fprintf(out, "    Cache mode:       %s\n", d->cache);
		if (info.backing[0])
			fprintf(out, "    Backing file:     %s (chain depth: %u)\n", info.backing,
				disk_depth(d->disk));
	}
}

static void no_balloon(FILE *out)
{
	fprintf(out, "Error: No balloon device has been activated\n");
}

void hmp_info_balloon(struct vm *vm, FILE *out, const char *args)
{
	struct plug_balloon_info info;

	(void)args;
	if (!plug_balloon_get(vm, &info)) {
		no_balloon(out);
		return;
	}
	fprintf(out, "balloon: actual=%llu\n", (unsigned long long)(info.actual / MIB));
	for (unsigned i = 0; info.stats_known && i < BALLOON_STATS; i++)
		if (info.stats[i] != ~0ull)
			fprintf(out, "%s=%llu\n", virtio_balloon_stat_name[i],
				(unsigned long long)info.stats[i]);
}

/* MiB, as QEMU has it. */
void hmp_balloon(struct vm *vm, FILE *out, const char *args)
{
	char *end;
	unsigned long long mib = strtoull(args, &end, 0);

	if (end == args || *end || !mib || mib > ~0ull / MIB)
		fprintf(out, "usage: balloon MEGABYTES\n");
	else if (!plug_balloon_set(vm, mib * MIB))
		no_balloon(out);
}

void hmp_set_link(struct vm *vm, FILE *out, const char *args)
{
	size_t len = strcspn(args, " \t");
	const char *how = args + len + strspn(args + len, " \t");
	char id[64];
	struct netdev *nd;

	if (!len || (strcmp(how, "on") && strcmp(how, "off"))) {
		fprintf(out, "usage: set_link ID on|off\n");
		return;
	}
	snprintf(id, sizeof(id), "%.*s", (int)MIN(len, sizeof(id)), args);
	nd = netdev_find(vm, id);
	if (nd)
		netdev_pull(nd, !strcmp(how, "off"));
	else
		fprintf(out, "Error: Device '%s' not found\n", id);
}
