/* virtio's PCI transport, seen as a driver sees it: capabilities, registers, interrupts. */
#include <criterion/criterion.h>
#include <string.h>

#include "virtio_pci.h"
#include "virtio_rig.h"
#include "virtio_rng.h"

static struct virtio_rig rig;
static struct bus bus;
static struct timerq timers;
static struct pci_bus pci;
static struct virtio_pci vp;
static struct virtio_rng rng;
static int level;
static unsigned messages;
static u8 message_vector;
static u64 now, regs, common, notify, isr_status;
static unsigned cfg_cap;

static u64 clock_now(void *opaque)
{
	(void)opaque;
	return now;
}

static void on_intx(void *opaque, unsigned pirq, int to)
{
	(void)opaque;
	(void)pirq;
	level = to;
}

static void on_msi(void *opaque, u8 vector, unsigned mode, bool is_level, u32 dest, bool logical)
{
	(void)opaque;
	(void)mode;
	(void)is_level;
	(void)dest;
	(void)logical;
	messages++;
	message_vector = vector;
}

static u64 ecam(unsigned reg)
{
	return PCI_ECAM_BASE + (3 << 15) + reg;
}

static u32 cfg(unsigned reg, unsigned size)
{
	return (u32)bus_read(&bus, BUS_MMIO, ecam(reg), size);
}

static u64 get(u64 addr, unsigned size)
{
	return bus_read(&bus, BUS_MMIO, addr, size);
}

static void put(u64 addr, unsigned size, u64 val)
{
	bus_write(&bus, BUS_MMIO, addr, size, val);
}

/* Find the parts through the capabilities, as a driver does. */
static void find_parts(void)
{
	unsigned seen = 0;

	regs = (u64)cfg(0x24, 4) << 32 | (cfg(0x20, 4) & ~15u);
	for (unsigned at = cfg(0x34, 1); at; at = cfg(at + 1, 1)) {
		u64 part = regs + cfg(at + 8, 4);

		if (cfg(at, 1) != 9)
			continue;
		seen |= 1u << cfg(at + 3, 1);
		switch (cfg(at + 3, 1)) {
		case 1: common = part; break;
		case 2:
			notify = part;
			cr_assert_eq(cfg(at + 16, 4), 4);
			break;
		case 3: isr_status = part; break;
		case 5: cfg_cap = at; break;
		}
	}
	cr_assert_eq(seen, 0x2e, "no device configuration");
}

static void setup(void)
{
	const struct pci_config pc = {.bus = &bus, .intx = on_intx, .msi = on_msi, .stats = NULL};
	const struct virtio_pci_config vc = {
	    .bus = &pci, .slot = 3, .vectors = 2, .class_code = 0x00ff00};

	virtio_rig_init(&rig);
	bus_init(&bus, NULL);
	timerq_init(&timers, clock_now, NULL, NULL);
	pci_init(&pci, &pc);
	cr_assert_eq(pci_register(&pci), 0);
	virtio_rng_init(&rng, &rig.dma, &timers, &rig.stats, ~0ull, 1000);
	cr_assert_eq(virtio_pci_plug(&vp, &rng.dev, &vc), 0);
	pci_reset(&pci);
	find_parts();
	put(ecam(4), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

TestSuite(virtio_pci, .init = setup);

static void handshake(void)
{
	u64 offered;

	put(common + 0x14, 1, 0);
	cr_assert_eq(get(common + 0x14, 1), 0);
	put(common + 0x14, 1, 1);
	put(common + 0x14, 1, 3);
	put(common + 0x00, 4, 1);
	offered = get(common + 0x04, 4) << 32;
	put(common + 0x00, 4, 0);
	offered |= get(common + 0x04, 4);
	cr_assert_eq(offered, VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	put(common + 0x08, 4, 0);
	put(common + 0x0c, 4, (u32)VIRTIO_F_INDIRECT_DESC);
	put(common + 0x08, 4, 1);
	put(common + 0x0c, 4, 1);
	put(common + 0x08, 4, 2);
	put(common + 0x0c, 4, ~0u); /* nothing there */
	put(common + 0x14, 1, 11);
	cr_assert_eq(get(common + 0x14, 1), 11);
}

static struct vring queue(void)
{
	struct vring r = {.rig = &rig, .q = 0, .size = 4};

	put(common + 0x16, 2, 0);
	cr_assert_eq(get(common + 0x18, 2), 8);
	put(common + 0x18, 2, 4);
	put(common + 0x20, 8, RIG_DESC);
	put(common + 0x28, 4, RIG_AVAIL);
	put(common + 0x2c, 4, 0);
	put(common + 0x30, 8, RIG_USED);
	put(common + 0x1c, 2, 1);
	cr_assert_eq(get(common + 0x1c, 2), 1);
	put(common + 0x14, 1, 15);
	return r;
}

static void kick(void)
{
	put(notify + 4 * get(common + 0x1e, 2), 2, 0);
}

static void ask(struct vring *r, u32 len)
{
	vring_desc(r, 0, RIG_BUFFER, len, RIG_WRITE, 0);
	vring_add(r, 0);
	kick();
}

Test(virtio_pci, identity)
{
	cr_expect_eq(cfg(0, 4), 0x10441af4);
	cr_expect_eq(cfg(8, 4), 0x00ff0001);
	cr_expect_eq(cfg(0x2c, 4), 0x11001af4);
	cr_expect_eq(cfg(0x20, 4) & 15, 12, "64-bit, prefetchable");
	cr_expect_eq(get(common + 0x12, 2), 1);
}

Test(virtio_pci, by_pin)
{
	struct vring r;
	u32 id;

	handshake();
	r = queue();
	ask(&r, 32);
	cr_expect_eq(vring_take(&r, &id), 32);
	cr_expect_eq(level, 1);
	cr_expect_eq(get(isr_status, 1), 1);
	cr_expect_eq(level, 0);
	cr_expect_eq(get(isr_status, 1), 0);
	cr_expect_eq(get(isr_status + 1, 1), 0);
	virtio_break(&rng.dev, "test");
	cr_expect_eq(level, 1);
	cr_expect_eq(get(common + 0x14, 1), 0x4f);
	cr_expect_eq(get(isr_status, 1), 2);
	virtio_break(&rng.dev, "again");
	cr_expect_eq(level, 0);
	put(common + 0x14, 1, 0);
	cr_expect_eq(get(common + 0x14, 1), 0);
	cr_expect_eq(get(common + 0x1c, 2), 0, "queues are gone");
	cr_expect_eq(get(common + 0x18, 2), 8);
	cr_expect_eq(get(common + 0x20, 8), 0);
}

Test(virtio_pci, by_message)
{
	u64 table = cfg(0x14, 4);
	struct vring r;

	put(table, 8, 0xfee00000);
	put(table + 8, 8, 0x30);
	put(table + 16, 8, 0xfee00000);
	put(table + 24, 8, 0x31);
	put(ecam(vp.msix.cap + 2), 2, 0x8000);
	handshake();
	put(common + 0x10, 2, 0);
	put(common + 0x1a, 2, 1);
	cr_expect_eq(get(common + 0x10, 2), 0);
	cr_expect_eq(get(common + 0x1a, 2), 1);
	r = queue();
	ask(&r, 8);
	cr_expect_eq(messages, 1);
	cr_expect_eq(message_vector, 0x31);
	cr_expect_eq(level, 0);
	virtio_config_changed(&rng.dev);
	cr_expect_eq(message_vector, 0x30);
	put(common + 0x1a, 2, 2);
	cr_expect_eq(get(common + 0x1a, 2), 0xffff, "no such vector");
	ask(&r, 8);
	cr_expect_eq(messages, 2);
}

Test(virtio_pci, registers)
{
	put(common + 0x16, 2, 1); /* no such queue */
	cr_expect_eq(get(common + 0x18, 2), 0);
	cr_expect_eq(get(common + 0x1a, 2), 0xffff);
	put(common + 0x18, 2, 4);
	put(common + 0x1c, 2, 1);
	put(common + 0x3a, 2, 1);
	put(common + 0x16, 2, 0);
	/* Whole fields are written, anything is read. */
	put(common + 0x20, 8, 0x1122334455667788);
	put(common + 0x21, 1, 0);
	put(common + 0x20, 2, 0);
	cr_expect_eq(get(common + 0x20, 8), 0x1122334455667788);
	cr_expect_eq(get(common + 0x21, 2), 0x6677);
	cr_expect_eq(get(common + 0x24, 4), 0x11223344);
	cr_expect_eq(get(common + 0x18, 4), 0xffff0008);
	cr_expect_eq(get(common + 0x11, 1), 0xff);
	cr_expect_eq(get(common + 0x12, 4), 0x00000001);
	cr_expect_eq(get(common + 0x3c, 4), 0);
	cr_expect_eq(get(common + 0xffc, 4), 0);
	put(common + 0x3c, 4, 1);
	put(common + 0x04, 4, 1);
	put(notify + 2, 2, 0);
	put(notify + 0xffc, 4, 0);
	cr_expect_eq(get(notify, 4), 0);
}

/* Once enabled, a queue stays where it is. */
Test(virtio_pci, enabled_queue_is_fixed)
{
	handshake();
	queue();
	put(common + 0x18, 2, 8);
	put(common + 0x20, 8, 0x1000);
	put(common + 0x1c, 2, 0);
	cr_expect_eq(get(common + 0x18, 2), 4);
	cr_expect_eq(get(common + 0x20, 8), RIG_DESC);
	cr_expect_eq(get(common + 0x1c, 2), 1);
}

Test(virtio_pci, window_in_configuration_space)
{
	put(ecam(4), 2, 0); /* the BARs do not answer */
	put(ecam(cfg_cap + 4), 1, 4);
	put(ecam(cfg_cap + 8), 4, 0x12);
	put(ecam(cfg_cap + 12), 4, 2);
	cr_expect_eq(cfg(cfg_cap + 16, 2), 1, "num_queues");
	put(ecam(cfg_cap + 8), 4, 0x14);
	put(ecam(cfg_cap + 12), 4, 1);
	put(ecam(cfg_cap + 16), 1, 1);
	cr_expect_eq(rng.dev.status, 1);
	cr_expect_eq(cfg(cfg_cap + 16, 1), 1);
	for (unsigned bar = 0; bar < 256; bar++) {
		static const u32 offset[] = {0, 0x13, 0x3fff, 0x4000, 0xfffffffe, 0xffffffff};

		put(ecam(cfg_cap + 4), 1, bar);
		for (unsigned i = 0; i < ARRAY_LEN(offset); i++) {
			put(ecam(cfg_cap + 8), 4, offset[i]);
			for (unsigned len = 0; len < 9; len++) {
				put(ecam(cfg_cap + 12), 4, len);
				cfg(cfg_cap + 16, 4);
				put(ecam(cfg_cap + 16), 4, ~0u);
			}
		}
	}
}

Test(virtio_pci, without_bus_mastering)
{
	struct vring r;
	u32 id;

	handshake();
	r = queue();
	put(ecam(4), 2, PCI_COMMAND_MEMORY);
	ask(&r, 8);
	cr_expect_eq(vring_take(&r, &id), -1);
	put(ecam(4), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cr_expect_eq(vring_take(&r, &id), 8, "what was missed");
}

Test(virtio_pci, machine_reset)
{
	handshake();
	queue();
	virtio_config_changed(&rng.dev);
	cr_expect_eq(level, 1);
	pci_reset(&pci);
	cr_expect_eq(level, 0);
	cr_expect_eq(rng.dev.status, 0);
	cr_expect_eq(get(common + 0x14, 1), 0);
	cr_expect_eq(get(common + 0x16, 2), 0);
}

/* --- the entropy device itself --- */

Test(virtio_pci, rng_fills)
{
	static const u8 zero[4096];
	struct vring r;
	u32 id;

	handshake();
	r = queue();
	vring_desc(&r, 0, RIG_BUFFER, 100, RIG_WRITE | RIG_NEXT, 1);
	vring_desc(&r, 1, RIG_BUFFER + 0x1000, 28, RIG_WRITE, 0);
	vring_add(&r, 0);
	kick();
	cr_expect_eq(vring_take(&r, &id), 128);
	cr_expect_neq(memcmp(rig.ram + RIG_BUFFER, zero, 100), 0);
	cr_expect_neq(memcmp(rig.ram + RIG_BUFFER + 0x1000, zero, 28), 0);
	cr_expect_eq(memcmp(rig.ram + RIG_BUFFER + 100, zero, 0x1000 - 100), 0);
	vring_desc(&r, 0, RIG_BUFFER, 0x10000, RIG_WRITE, 0);
	vring_add(&r, 0);
	vring_desc(&r, 1, RIG_BUFFER, 16, 0, 0); /* nothing to write to */
	vring_add(&r, 1);
	kick();
	cr_expect_eq(vring_take(&r, &id), 4096, "a page at most");
	cr_expect_eq(vring_take(&r, &id), 0);
}

Test(virtio_pci, rng_limit)
{
	struct vring r;
	u32 id;

	rng.max_bytes = rng.left = 10;
	handshake();
	r = queue();
	ask(&r, 8);
	ask(&r, 8);
	ask(&r, 8);
	cr_expect_eq(vring_take(&r, &id), 8);
	cr_expect_eq(vring_take(&r, &id), 2);
	cr_expect_eq(vring_take(&r, &id), -1);
	now = 1000;
	timerq_run(&timers);
	cr_expect_eq(vring_take(&r, &id), 8);
}
