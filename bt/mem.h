/*
 * Guest memory as instructions see it: segment checks, linear accesses at the current or at
 * supervisor privilege, MMIO and page-crossing accesses included. All raise guest faults by
 * cpu_raise (no return). Sizes are 1, 2, 4, 8 unless said otherwise.
 *
 * Accesses that cross a page are checked on both pages before the first byte is moved, so a
 * faulting write has written nothing.
 */
#ifndef RINGSHIFT_MEM_H
#define RINGSHIFT_MEM_H

#include "cpu.h"

/*
 * Segment offset -> linear address for an access of size bytes. Checks type and limit (#GP(0), or
 * #SS(0) for SS) or, in 64-bit mode, canonicality. off must already be truncated to the address
 * size.
 */
gva_t seg_linear(struct cpu *c, unsigned seg, u64 off, unsigned size, enum mmu_access access);

/* Explicit data accesses at CPL. Data breakpoints (DR7) and alignment checks (#AC) apply. */
u64 mem_read(struct cpu *c, gva_t la, unsigned size);
void mem_write(struct cpu *c, gva_t la, unsigned size, u64 val);
/* Any length up to a page; no MMIO splitting guarantees beyond 8-byte pieces. */
void mem_read_buf(struct cpu *c, gva_t la, void *buf, unsigned len);
void mem_write_buf(struct cpu *c, gva_t la, const void *buf, unsigned len);
/* Check that [la, la+len) can be written (read) without moving data; sets A and D. */
void mem_probe_write(struct cpu *c, gva_t la, unsigned len);
void mem_probe_read(struct cpu *c, gva_t la, unsigned len);
/* Host address of [la, la+len) for reading or writing if it lies in one page of RAM (translating if
 * need be), NULL if it crosses or is MMIO; faults are raised. A writer calls mem_wrote after. */
void *mem_host(struct cpu *c, gva_t la, unsigned len, enum mmu_access access);
/* Note a write through mem_host's pointer (code pages). */
void mem_wrote(struct cpu *c, const void *host, unsigned len);

/* Implicit supervisor accesses: descriptor tables, TSS, stacks of inner levels. */
u64 sys_read(struct cpu *c, gva_t la, unsigned size);
void sys_write(struct cpu *c, gva_t la, unsigned size, u64 val);

/* Stack at the current SS and stack size. push/pop of size 2, 4, 8 move RSP only on success. */
void stack_push(struct cpu *c, unsigned size, u64 val);
u64 stack_pop(struct cpu *c, unsigned size);
/* Read size bytes at RSP+off (in stack-address-size arithmetic), RSP unchanged. */
u64 stack_peek(struct cpu *c, u64 off, unsigned size);
/* Mask of RSP that SS.B / 64-bit mode makes effective: 0xffff, 0xffffffff, ~0. */
u64 stack_mask(const struct cpu *c);
/* RSP += delta within the stack mask. */
void stack_add(struct cpu *c, s64 delta);

/* Register access by operand size (8-bit: rex says whether 4..7 mean AH..BH or SPL..DIL). 32-bit
 * writes zero-extend. */
u64 reg_read(const struct cpu *c, unsigned reg, unsigned size, bool rex);
void reg_write(struct cpu *c, unsigned reg, unsigned size, bool rex, u64 val);

/* Effective address of the memory operand (before segmentation), truncated to the address size.
 * vsib index not included. */
u64 insn_ea(const struct cpu *c, const struct insn *in);
/* insn_ea + seg_linear. */
gva_t insn_linear(struct cpu *c, const struct insn *in, unsigned size, enum mmu_access access);
/* RIP of the next instruction, truncated to the code size. */
u64 insn_next_rip(const struct cpu *c, const struct insn *in);

#endif
