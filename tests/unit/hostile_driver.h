/*
 * A driver that means harm, for any device -device can make: it writes whatever comes into the
 * registers, the BARs and the rings, sets queues up properly in between so that the rings are read
 * at all, and kicks. What it does is taken from a stream of numbers: random ones (test_hostile.c)
 * or a fuzzer's (fuzz/fuzz_pci.c).
 *
 * A second device, virtio-rng, is driven by a good driver every now and then, through the window in
 * its configuration space, which no BAR can hide: it must go on.
 */
#ifndef RINGSHIFT_HOSTILE_DRIVER_H
#define RINGSHIFT_HOSTILE_DRIVER_H

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "drive.h"
#include "netdevs.h"
#include "plug.h"

#define HOSTILE_RAM     (16 * MIB)
#define HOSTILE_LOW     (9 * MIB) /* addresses it gives begin here: below is the good driver's */
#define HOSTILE_GOOD    (8 * MIB)
#define HOSTILE_SLOT    5u
#define HOSTILE_WITNESS 6u
#define HOSTILE_QUEUE   0x10000u /* its rings: this far apart, from HOSTILE_LOW */
#define HOSTILE_TABLES  (14 * MIB)

struct hostile {
	struct vm *vm;
	struct config cfg;
	u64 now;
	u64 (*number)(void *opaque);
	void *opaque;
	unsigned messages;
	const char *image;
	int wire; /* the other end of the network card's: what it sends comes back to it */
	pthread_t echo;
	char drive[128], err[256];
};

static inline u64 hostile_now(void *opaque)
{
	return ((struct hostile *)opaque)->now;
}

static inline void hostile_intx(void *opaque, unsigned pirq, int level)
{
	(void)opaque;
	BUG_ON(pirq >= PCI_PIRQS || (level & ~1));
}

static inline void hostile_msi(void *opaque, u8 vector, unsigned mode, bool level, u32 dest,
			       bool logical)
{
	struct hostile *h = opaque;

	(void)vector, (void)level, (void)logical;
	BUG_ON(mode > 7 || dest > 255);
	h->messages++;
}

static inline u8 hostile_reset_read(void *opaque)
{
	(void)opaque;
	return 0;
}

static inline void hostile_reset_write(void *opaque, u8 val)
{
	(void)opaque, (void)val;
}

static inline void *hostile_ptr(void *opaque, gpa_t gpa, u64 len)
{
	return ram_ptr(&((struct vm *)opaque)->ram, gpa, len);
}

static inline void hostile_written(void *opaque, gpa_t gpa, u64 len)
{
	BUG_ON(len && !ram_ptr(&((struct vm *)opaque)->ram, gpa, len));
}

static inline void hostile_discard(void *opaque, gpa_t gpa, u64 len)
{
	struct vm *vm = opaque;
	gpa_t start = ALIGN_UP(gpa, PAGE_SIZE), end = ALIGN_DOWN(gpa + len, PAGE_SIZE);

	if (end > start && start >= gpa && ram_discard(&vm->ram, start, end - start))
		return; /* not RAM */
}

static inline void *hostile_spawn(void *(*fn)(void *), void *arg)
{
	pthread_t *t = malloc(sizeof(*t));

	if (t && pthread_create(t, NULL, fn, arg)) {
		free(t);
		return NULL;
	}
	return t;
}

static inline void hostile_join(void *thread)
{
	pthread_join(*(pthread_t *)thread, NULL);
	free(thread);
}

static inline void hostile_kick(void *opaque)
{
	(void)opaque; /* hostile_step looks anyhow */
}

/* What would follow -device: a type, more options, and another one that needs it (a port), or NULL.
 * drive=d is a scratch image, netdev=n a stream that returns what it is given. */
struct hostile_device {
	const char *name, *options, *then;
};

/* Hello frames come back, too: the other end takes offloads. */
static inline void *hostile_echo(void *opaque)
{
	const struct hostile *h = opaque;
	static u8 buf[65536];
	ssize_t n;

	while ((n = recv(h->wire, buf, sizeof(buf), 0)) > 0)
		if (send(h->wire, buf, (size_t)n, MSG_NOSIGNAL) < 0)
			break;
	return NULL;
}

static inline void hostile_back_ends(struct hostile *h)
{
	static char netdev[64], path[32];
	int pair[2], disk;

	strcpy(path, "/tmp/hostile-XXXXXX");
	disk = mkstemp(path);
	BUG_ON(disk < 0 || ftruncate(disk, 4 * MIB));
	close(disk);
	h->image = path;
	snprintf(h->drive, sizeof(h->drive), "file=%s,format=raw,if=none,id=d", path);
	h->cfg.drive[0] = (struct drive_spec){.opt = "-drive", .text = h->drive};
	h->cfg.drive_count = 1;
	BUG_ON(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	h->wire = pair[1];
	BUG_ON(pthread_create(&h->echo, NULL, hostile_echo, h));
	snprintf(netdev, sizeof(netdev), "socket,id=n,fd=%d", pair[0]);
	h->cfg.netdev[0] = netdev;
	h->cfg.netdev_count = 1;
	if (drive_open_all(h->vm, h->err, sizeof(h->err)) ||
	    netdevs_create(h->vm, h->err, sizeof(h->err)))
		bug_at("back ends", 0, h->err);
}

static inline void hostile_init(struct hostile *h, const struct hostile_device *device)
{
	static char text[256];
	const struct pci_config pc = {.bus = NULL,
				      .intx = hostile_intx,
				      .reset_read = hostile_reset_read,
				      .reset_write = hostile_reset_write,
				      .opaque = h,
				      .msi = hostile_msi,
				      .msi_opaque = h,
				      .high_base = 4 * GIB,
				      .high_size = GIB};
	const struct aio_host host = {hostile_spawn, hostile_join, hostile_kick, NULL};
	struct pci_config cfg = pc;
	struct vm *vm = calloc(1, sizeof(*vm));

	BUG_ON(!vm);
	h->vm = vm;
	vm->cfg = &h->cfg;
	bus_init(&vm->bus, &vm->stats);
	timerq_init(&vm->timers, hostile_now, h, &vm->stats);
	BUG_ON(ram_init(&vm->ram, HOSTILE_RAM, NULL));
	BUG_ON(aio_create(&vm->aio, &host, &vm->stats));
	vm->dma = (struct dma){hostile_ptr, hostile_written, hostile_discard, vm};
	cfg.bus = &vm->bus;
	cfg.stats = &vm->stats;
	pci_init(&vm->pci, &cfg);
	BUG_ON(pci_register(&vm->pci));
	snprintf(text, sizeof(text), "%s,addr=%x%s", device->name, HOSTILE_SLOT, device->options);
	h->cfg.device[h->cfg.device_count++] = text;
	h->cfg.device[h->cfg.device_count++] = "virtio-rng-pci,addr=6";
	if (device->then)
		h->cfg.device[h->cfg.device_count++] = device->then;
	hostile_back_ends(h);
	if (plug_devices(vm, h->err, sizeof(h->err)))
		bug_at(device->name, 0, h->err);
	pci_reset(&vm->pci);
}

static inline void hostile_end(struct hostile *h)
{
	plug_destroy(h->vm);
	drive_close_all(h->vm);
	netdevs_destroy(h->vm);
	shutdown(h->wire, SHUT_RDWR);
	pthread_join(h->echo, NULL);
	close(h->wire);
	unlink(h->image);
	aio_destroy(h->vm->aio);
	ram_destroy(&h->vm->ram);
	free(h->vm);
}

/* --- the good driver --- */

/* The window's offset; every virtio function has the same capabilities in the same places but for
 * what precedes it, so it is looked for. */
static inline u64 hostile_window(struct vm *vm, unsigned slot)
{
	u64 base = PCI_ECAM_BASE + ((u64)slot << 15);
	u64 at = bus_read(&vm->bus, BUS_MMIO, base + PCI_CAPABILITIES, 1);

	while (at && (bus_read(&vm->bus, BUS_MMIO, base + at, 1) != PCI_CAP_VENDOR ||
		      bus_read(&vm->bus, BUS_MMIO, base + at + 3, 1) != 5))
		at = bus_read(&vm->bus, BUS_MMIO, base + at + 1, 1);
	BUG_ON(!at);
	return base + at;
}

static inline void good_put(struct vm *vm, u32 reg, unsigned size, u64 val)
{
	u64 window = hostile_window(vm, HOSTILE_WITNESS);

	bus_write(&vm->bus, BUS_MMIO, window + 4, 1, 4); /* the BAR */
	for (unsigned i = 0; i < size; i += 4) {
		unsigned len = MIN(size - i, 4);

		bus_write(&vm->bus, BUS_MMIO, window + 8, 4, reg + i);
		bus_write(&vm->bus, BUS_MMIO, window + 12, 4, len);
		bus_write(&vm->bus, BUS_MMIO, window + 16, len, val >> (8 * i));
	}
}

/* Ask the witness for 64 random bytes. */
static inline bool hostile_others_go_on(struct hostile *h)
{
	struct vm *vm = h->vm;
	u8 *ram = vm->ram.window + HOSTILE_GOOD, sum = 0;

	memset(ram, 0, 0x4000);
	bus_write(&vm->bus, BUS_MMIO, PCI_ECAM_BASE + (HOSTILE_WITNESS << 15) + PCI_COMMAND, 2, 6);
	good_put(vm, 0x14, 1, 0);
	good_put(vm, 0x14, 1, 3);
	good_put(vm, 0x08, 4, 1);
	good_put(vm, 0x0c, 4, 1);
	good_put(vm, 0x14, 1, 11);
	good_put(vm, 0x18, 2, 4);
	good_put(vm, 0x20, 8, HOSTILE_GOOD);
	good_put(vm, 0x28, 8, HOSTILE_GOOD + 0x1000);
	good_put(vm, 0x30, 8, HOSTILE_GOOD + 0x2000);
	good_put(vm, 0x1c, 2, 1);
	good_put(vm, 0x14, 1, 15);
	memcpy(ram, &(u64[]){HOSTILE_GOOD + 0x3000, 64 | 2ull << 32}, 16);
	ram[0x1002] = 1;
	good_put(vm, 0x3000, 2, 0);
	for (unsigned i = 0; i < 64; i++)
		sum |= ram[0x3000 + i];
	return ram[0x2002] == 1 && ram[0x2008] == 64 && sum;
}

/* --- the bad one --- */

static inline u64 hostile_number(struct hostile *h)
{
	return h->number(h->opaque);
}

static inline u64 hostile_below(struct hostile *h, u64 n)
{
	return hostile_number(h) % n;
}

static inline unsigned hostile_size(struct hostile *h)
{
	return 1u << hostile_below(h, 4);
}

/* An address: mostly in RAM, at times at its end, past it, anything. */
static inline u64 hostile_address(struct hostile *h)
{
	u64 n = hostile_number(h);

	switch (hostile_below(h, 16)) {
	case 0: return HOSTILE_RAM - n % 64;
	case 1: return HOSTILE_RAM + n;
	case 2: return ~0ull - n % 4096;
	case 3: return n | 1ull << 40;
	default: return HOSTILE_LOW + n % (HOSTILE_RAM - HOSTILE_LOW);
	}
}

static inline u32 hostile_length(struct hostile *h)
{
	u64 n = hostile_number(h);

	switch (hostile_below(h, 12)) {
	case 0: return 0;
	case 1: return (u32)n;
	case 2: return 0xffffffff;
	case 3: return n % 64 * 16; /* an indirect table's */
	case 4: return n % MIB;
	default: return n % 600;
	}
}

/* The device's BAR of registers, wherever it has been put. */
static inline u64 hostile_bar(struct hostile *h, unsigned n)
{
	return h->vm->pci.dev[HOSTILE_SLOT]->bar[n].base;
}

static inline void hostile_put(struct hostile *h, u64 offset, unsigned size, u64 val)
{
	bus_write(&h->vm->bus, BUS_MMIO, hostile_bar(h, 4) + offset, size, val);
}

static inline u64 hostile_get(struct hostile *h, u64 offset, unsigned size)
{
	return bus_read(&h->vm->bus, BUS_MMIO, hostile_bar(h, 4) + offset, size);
}

static inline void hostile_config(struct hostile *h)
{
	u64 reg = PCI_ECAM_BASE + (HOSTILE_SLOT << 15) + hostile_below(h, 0x110);

	if (hostile_below(h, 2))
		bus_write(&h->vm->bus, BUS_MMIO, reg, hostile_size(h), hostile_number(h));
	else
		bus_read(&h->vm->bus, BUS_MMIO, reg, hostile_size(h));
}

/* Put the BARs back, or nothing else would be reached. */
static inline void hostile_restore(struct hostile *h)
{
	u64 reg = PCI_ECAM_BASE + (HOSTILE_SLOT << 15);

	bus_write(&h->vm->bus, BUS_MMIO, reg + PCI_BAR0 + 4, 4, 0xc8000000);
	bus_write(&h->vm->bus, BUS_MMIO, reg + PCI_BAR0 + 16, 8, 0xc9000000);
	bus_write(&h->vm->bus, BUS_MMIO, reg + PCI_COMMAND, 2,
		  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static inline u64 hostile_ring(unsigned q)
{
	return HOSTILE_LOW + q % 32 * HOSTILE_QUEUE;
}

/* A queue in its place, of any size. */
static inline void hostile_queue(struct hostile *h, unsigned q)
{
	u64 at = hostile_ring(q);

	memset(h->vm->ram.window + at + 0x8000, 0, 4); /* flags and index */
	memset(h->vm->ram.window + at + 0xc000, 0, 4);
	hostile_put(h, 0x16, 2, q);
	hostile_put(h, 0x18, 2, 1u << hostile_below(h, 9));
	hostile_put(h, 0x1a, 2, hostile_below(h, 8));
	hostile_put(h, 0x20, 8, at);
	hostile_put(h, 0x28, 8, at + 0x8000);
	hostile_put(h, 0x30, 8, at + 0xc000);
	hostile_put(h, 0x1c, 2, 1);
}

/* Reset one, with whatever is in flight, and set it up again. */
static inline void hostile_queue_reset(struct hostile *h)
{
	unsigned queues = (unsigned)hostile_get(h, 0x12, 2), q;

	q = (unsigned)hostile_below(h, MIN(MAX(queues, 1), VIRTIO_MAX_QUEUES));
	hostile_put(h, 0x16, 2, q);
	hostile_put(h, 0x3a, 2, 1);
	if (hostile_below(h, 4))
		hostile_queue(h, q);
}

/* As a good driver would, mostly: queues in their places. */
static inline void hostile_start(struct hostile *h)
{
	unsigned queues = (unsigned)hostile_get(h, 0x12, 2);

	hostile_restore(h);
	hostile_put(h, 0x14, 1, 0);
	hostile_put(h, 0x14, 1, 3);
	for (u32 i = 0; i < 2; i++) {
		hostile_put(h, 0x00, 4, i);
		hostile_put(h, 0x08, 4, i);
		hostile_put(h, 0x0c, 4,
			    hostile_get(h, 0x04, 4) & (hostile_number(h) | hostile_number(h) | i));
	}
	hostile_put(h, 0x14, 1, 11);
	for (unsigned q = 0; q < queues && q < VIRTIO_MAX_QUEUES; q++)
		hostile_queue(h, q);
	hostile_put(h, 0x14, 1, 15);
}

/* Flags and next: bad at times, so that chains end, too. */
static inline void hostile_descriptor(struct hostile *h, u64 table, unsigned n, unsigned entries)
{
	u64 addr = hostile_address(h), what = hostile_number(h);
	u32 len = hostile_length(h);
	u16 flags = what % 64 ? what % 4 : what % 8, next = (what >> 8) % entries;

	if (what >> 40 & 1)
		flags &= (u16)~1;
	if ((what >> 41) % 16 == 0) {
		flags = 4;
		addr = HOSTILE_TABLES;
		len = 16 * (1 + (what >> 48) % 64);
	}
	if ((what >> 24) % 128 == 0)
		next = (u16)(what >> 32);
	if (table + 16 * n + 16 > HOSTILE_RAM)
		return;
	memcpy(h->vm->ram.window + table + 16 * n, &addr, 8);
	memcpy(h->vm->ram.window + table + 16 * n + 8, &(u32[]){len, flags | (u32)next << 16}, 8);
}

/* Requests: random bytes at the front of some buffers, so that types and commands vary. */
static inline void hostile_bytes(struct hostile *h)
{
	u8 *at = h->vm->ram.window + HOSTILE_LOW + hostile_below(h, HOSTILE_RAM - HOSTILE_LOW - 64);

	for (unsigned i = 0; i < 8; i++)
		memcpy(at + 8 * i, &(u64){hostile_number(h) >> hostile_below(h, 64)}, 8);
}

static inline void hostile_chains(struct hostile *h)
{
	unsigned queues = (unsigned)hostile_get(h, 0x12, 2);
	unsigned q = (unsigned)hostile_below(h, MIN(MAX(queues, 1), VIRTIO_MAX_QUEUES));
	struct vm *vm = h->vm;
	unsigned size, adds = (unsigned)hostile_below(h, 4) + 1;
	u8 *avail = vm->ram.window + hostile_ring(q) + 0x8000;
	u16 idx;

	hostile_put(h, 0x16, 2, q);
	size = (unsigned)hostile_get(h, 0x18, 2);
	if (!size || size > VIRTQ_MAX_SIZE)
		return;
	for (unsigned i = 0; i < 8; i++) {
		hostile_descriptor(h, hostile_ring(q), (unsigned)hostile_below(h, size), size);
		hostile_descriptor(h, HOSTILE_TABLES, (unsigned)hostile_below(h, 64), 64);
	}
	hostile_bytes(h);
	memcpy(&idx, avail + 2, 2);
	while (adds--) {
		u16 head = (u16)hostile_below(h, hostile_below(h, 64) ? size : 65536);

		memcpy(avail + 4 + 2 * (idx++ % size), &head, 2);
	}
	if (hostile_below(h, 256) == 0)
		idx = (u16)hostile_number(h);
	memcpy(avail + 2, &idx, 2);
	memcpy(avail, &(u16){hostile_below(h, 2)}, 2);
	hostile_put(h, 0x3000 + 4 * q, 2, q);
}

/* The network's other end: a frame, mostly of the length it says (netdev_stream.c). */
static inline void hostile_frame(struct hostile *h)
{
	u8 frame[256] = {0};
	size_t len = 4 + hostile_below(h, sizeof(frame) - 4);

	for (unsigned i = 4; i + 8 <= sizeof(frame); i += 8)
		memcpy(frame + i, &(u64){hostile_number(h)}, 8);
	frame[3] = (u8)(len - 4);
	if (hostile_below(h, 4096) == 0)
		frame[0] = 1;
	if (send(h->wire, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* nobody takes it */
}

static inline void hostile_step(struct hostile *h)
{
	switch (hostile_below(h, 32)) {
	case 0: hostile_config(h); break;
	case 1: hostile_put(h, hostile_below(h, 0x4000), hostile_size(h), hostile_number(h)); break;
	case 2: hostile_put(h, hostile_below(h, 0x40), hostile_size(h), hostile_number(h)); break;
	case 3: hostile_get(h, hostile_below(h, 0x4000), hostile_size(h)); break;
	case 4:
		hostile_put(h, 0x2000 + hostile_below(h, 64), hostile_size(h), hostile_number(h));
		break;
	case 5:
		bus_write(&h->vm->bus, BUS_MMIO, hostile_bar(h, 1) + hostile_below(h, 0x1000),
			  hostile_size(h), hostile_number(h));
		break;
	case 6: hostile_restore(h); break;
	case 7: hostile_start(h); break;
	case 8: hostile_put(h, 0x3000 + 4 * hostile_below(h, 80), 2, 0); break;
	case 9:
		h->now += hostile_below(h, NS_PER_SEC);
		timerq_run(&h->vm->timers);
		break;
	case 10:
		bus_write(&h->vm->bus, BUS_PORT, 0xcf8 + hostile_below(h, 8),
			  1u << hostile_below(h, 3), hostile_number(h) | 0x80000000);
		break;
	case 11:
		if (hostile_below(h, 64) == 0)
			pci_reset(&h->vm->pci);
		break;
	case 12: hostile_queue_reset(h); break;
	case 13: hostile_frame(h); break;
	default: hostile_chains(h); break;
	}
	if (h->vm->pci.dev[HOSTILE_SLOT] &&
	    hostile_get(h, 0x14, 1) & VIRTIO_S_NEEDS_RESET) /* broken: begin again */
		hostile_start(h);
	aio_run(h->vm->aio);
}

/* --- whom it does it to: a new device is one line here, for the unit test and the fuzzer --- */

static const struct hostile_device hostile_devices[] = {
    {"virtio-rng-pci", "", NULL},
    {"virtio-rng-pci", ",vectors=0,event_idx=off,indirect_desc=off,max-bytes=5000,period=1", NULL},
    {"virtio-balloon-pci", ",free-page-reporting=on,guest-stats-polling-interval=1", NULL},
    {"virtio-blk-pci", ",drive=d", NULL},
    {"virtio-net-pci", ",netdev=n", NULL},
    {"virtio-net-pci", ",netdev=n,mrg_rxbuf=off,guest_csum=off,csum=off,ctrl_vq=off", NULL},
    {"virtio-serial-pci", ",max_ports=3", "virtserialport,name=a.b"},
    {"virtio-serial-pci", "", "virtconsole"},
};

#endif
