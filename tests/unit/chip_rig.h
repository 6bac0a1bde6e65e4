/*
 * What a chip under test is plugged into: a bus, a clock turned by hand, interrupt lines that
 * remember, a chardev that records.
 */
#ifndef RINGSHIFT_CHIP_RIG_H
#define RINGSHIFT_CHIP_RIG_H

#include <string.h>

#include "bus.h"
#include "chardev.h"
#include "irq.h"
#include "timer.h"

struct chip_rig {
	struct bus bus;
	struct timerq q;
	u64 now;
	int level;      /* of the interrupt line */
	unsigned edges; /* its rises */
	struct chardev chr;
	u8 sent[256]; /* by the chip */
	size_t sent_len;
	unsigned rooms; /* calls of chr.room */
	unsigned resets, power_offs;
};

static inline u64 rig_clock(void *opaque)
{
	return ((struct chip_rig *)opaque)->now;
}

static inline void rig_irq(void *opaque, unsigned n, int level)
{
	struct chip_rig *rig = opaque;

	(void)n;
	rig->edges += level && !rig->level;
	rig->level = level;
}

static inline void rig_write(struct chardev *c, const u8 *buf, size_t len)
{
	struct chip_rig *rig = container_of(c, struct chip_rig, chr);

	for (size_t i = 0; i < len && rig->sent_len < sizeof(rig->sent); i++)
		rig->sent[rig->sent_len++] = buf[i];
}

static inline void rig_room(struct chardev *c)
{
	container_of(c, struct chip_rig, chr)->rooms++;
}

static inline void rig_on_reset(void *opaque)
{
	((struct chip_rig *)opaque)->resets++;
}

static inline void rig_on_power_off(void *opaque)
{
	((struct chip_rig *)opaque)->power_offs++;
}

static inline struct irq_line rig_line(struct chip_rig *rig)
{
	return (struct irq_line){rig_irq, rig, 0};
}

static inline void rig_init(struct chip_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	bus_init(&rig->bus, NULL);
	timerq_init(&rig->q, rig_clock, rig, NULL);
	rig->chr.write = rig_write;
	rig->chr.room = rig_room;
}

/* Let ns pass, firing each timer when it is due. */
static inline void rig_pass(struct chip_rig *rig, u64 ns)
{
	u64 end = rig->now + ns;

	while (timerq_next(&rig->q) <= end) {
		rig->now = MAX(rig->now, timerq_next(&rig->q));
		timerq_run(&rig->q);
	}
	rig->now = end;
}

static inline u8 rig_in(struct chip_rig *rig, u16 port)
{
	return (u8)bus_read(&rig->bus, BUS_PORT, port, 1);
}

static inline void rig_out(struct chip_rig *rig, u16 port, u8 val)
{
	bus_write(&rig->bus, BUS_PORT, port, 1, val);
}

#endif
