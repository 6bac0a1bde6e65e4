/*
 * An interrupt wire. The one who drives it calls irq_set; the one it leads to gave the function.
 * Level semantics: 0 low, 1 high; edge-triggered inputs look for the rise. A line with no set
 * function leads nowhere.
 */
#ifndef RINGSHIFT_IRQ_H
#define RINGSHIFT_IRQ_H

#include "base.h"

struct irq_line {
	void (*set)(void *opaque, unsigned n, int level);
	void *opaque;
	unsigned n;
};

static inline void irq_set(const struct irq_line *l, int level)
{
	if (l->set)
		l->set(l->opaque, l->n, level);
}

static inline void irq_pulse(const struct irq_line *l)
{
	irq_set(l, 1);
	irq_set(l, 0);
}

#endif
