/*
 * The right to use I/O ports.
 */
#ifndef RINGSHIFT_IO_H
#define RINGSHIFT_IO_H

#include "cpu.h"

/*
 * May the current instruction access size (1, 2, 4) ports from port on? #GP(0) if neither IOPL nor
 * the TSS's permission bitmap allows it. Notes I/O breakpoints. SDM vol. 1, 19.5; vol. 3, 17.2.
 */
void io_check(struct cpu *c, u16 port, unsigned size);

#endif
