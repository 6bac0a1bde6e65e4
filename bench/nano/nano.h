/*
 * Names that nano.c and entry.S share.
 */
#ifndef NANO_H
#define NANO_H

#ifdef NANO_LOW
#define KERNEL_BASE 0x0
#define WINDOW      0xc0000000
#else
#define KERNEL_BASE 0xffffffff80000000 /* physical 0 */
#define WINDOW      0xffffffffc0000000 /* 2 MiB of 4 KiB pages, in window_table */
#endif
#define LOAD_AT     0x100000
#define RAM_MAPPED  0x4000000 /* at KERNEL_BASE */
#define WINDOW_PHYS 0x2000000
#define LAPIC       (WINDOW + 0x200000)
#define USER_CODE   0x40000000
#define USER_STACK  0x40001000

#define KERNEL_CS 0x08
#define KERNEL_SS 0x10
#define USER_SS   0x2b /* ring 3 as Linux has it */
#define USER_CS   0x33
#define TSS_SEL   0x38

#define PTE_P  0x001
#define PTE_W  0x002
#define PTE_U  0x004
#define PTE_CD 0x010
#define PTE_A  0x020
#define PTE_D  0x040
#define PTE_PS 0x080
#define PTE_G  0x100
/* What Linux gives its own data: accessed, dirty, global. */
#define PTE_KERNEL (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G)

#define MSR_APIC_BASE      0x1b
#define MSR_X2APIC_EOI     0x80b
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define IPI_VECTOR   0x41
#define TIMER_VECTOR 0x42

/* struct percpu of nano.c */
#define PERCPU_SYSCALL_STACK 0
#define PERCPU_USER_RSP      8
#define PERCPU_SAVED_RSP     16

#endif
