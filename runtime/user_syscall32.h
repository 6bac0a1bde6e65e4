/* System calls of 32-bit code, as a space reports them. */
#ifndef RINGSHIFT_USER_SYSCALL32_H
#define RINGSHIFT_USER_SYSCALL32_H

#include "cpu.h"

/*
 * The registers are those of a SPACE_INT80. True: it was SYSCALL or SYSENTER, and the CPU has
 * entered the guest's kernel. False: it was INT 0x80, and RIP is there again, to be stepped. May
 * raise.
 */
bool user_syscall32(struct cpu *c);

#endif
