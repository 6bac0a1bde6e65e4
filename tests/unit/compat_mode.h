/*
 * A way to run 32-bit instructions on the host: a far jump to the 32-bit user code segment that
 * 64-bit Linux keeps in its GDT, and back. For tests of what 64-bit mode lacks.
 */
#ifndef RINGSHIFT_TESTS_COMPAT_MODE_H
#define RINGSHIFT_TESTS_COMPAT_MODE_H

#include <string.h>
#include <sys/mman.h>

#include "base.h"

#define COMPAT_CS32 0x23
#define COMPAT_CS64 0x33

struct compat {
	u8 *page; /* below 4 GiB: entry at 0, way back at 256, 32-bit code at 512 */
};

enum {
	COMPAT_EAX = 2048,
	COMPAT_EBX = 2052,
	COMPAT_FLAGS = 2056,
	COMPAT_RSP = 2064,
	COMPAT_FAR = 2080
};

/* False if this host has no such segment. */
static inline bool compat_open(struct compat *m)
{
	u8 present;
	u32 rights = 0, sel = COMPAT_CS32;

	asm("lar %[sel], %[rights]\n\tsetz %[ok]"
	    : [rights] "+r"(rights), [ok] "=r"(present)
	    : [sel] "r"(sel)
	    : "cc");
	if (!present || (rights & 0x00609800) != 0x00409800) /* present, code, D without L */
		return false;
	m->page = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	return m->page != MAP_FAILED;
}

static inline void compat_close(struct compat *m)
{
	munmap(m->page, 8192);
}

static inline u8 *compat_put(u8 *at, const void *bytes, size_t n)
{
	memcpy(at, bytes, n);
	return at + n;
}

static inline u8 *compat_address(struct compat *m, u8 *at, unsigned off)
{
	u32 a = (u32)(u64)(m->page + off);

	return compat_put(at, &a, 4);
}

/* Assemble a run of the instruction bytes; it then works on EAX, EBX and the flags. */
static inline void compat_load(struct compat *m, const u8 *insn, size_t n)
{
	static const u16 cs32 = COMPAT_CS32, cs64 = COMPAT_CS64;
	u8 *p;

	p = compat_put(m->page, "\x48\x89\x24\x25", 4); /* mov [RSP], rsp */
	p = compat_address(m, p, COMPAT_RSP);
	p = compat_put(p, "\xff\x2c\x25", 3); /* ljmp [FAR] */
	compat_address(m, p, COMPAT_FAR);
	p = compat_put(m->page + 256, "\x48\x8b\x24\x25", 4); /* mov rsp, [RSP] */
	p = compat_address(m, p, COMPAT_RSP);
	compat_put(p, "\xc3", 1);
	p = compat_address(m, m->page + COMPAT_FAR, 512);
	compat_put(p, &cs32, 2);
	p = compat_put(m->page + 512, "\x66\xb8\x2b\x00\x8e\xd8\x8e\xc0\xbc", 9); /* ds, es, esp */
	p = compat_address(m, p, 4096);
	p = compat_put(p, "\xff\x35", 2);
	p = compat_address(m, p, COMPAT_FLAGS);
	p = compat_put(p, "\x9d\xa1", 2);
	p = compat_address(m, p, COMPAT_EAX);
	p = compat_put(p, "\x8b\x1d", 2);
	p = compat_address(m, p, COMPAT_EBX);
	p = compat_put(p, insn, n);
	p = compat_put(p, "\xa3", 1);
	p = compat_address(m, p, COMPAT_EAX);
	p = compat_put(p, "\x89\x1d", 2);
	p = compat_address(m, p, COMPAT_EBX);
	p = compat_put(p, "\x9c\x8f\x05", 3);
	p = compat_address(m, p, COMPAT_FLAGS);
	p = compat_put(p, "\xea", 1); /* ljmp to 256 */
	p = compat_address(m, p, 256);
	compat_put(p, &cs64, 2);
}

static inline void compat_run(struct compat *m, u32 *eax, u32 *ebx, u32 *flags)
{
	u64 entry = (u64)m->page;

	memcpy(m->page + COMPAT_EAX, eax, 4);
	memcpy(m->page + COMPAT_EBX, ebx, 4);
	memcpy(m->page + COMPAT_FLAGS, flags, 4);
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "push %%rbp\n\tpush %%rbx\n\tpushfq\n\t"
		     "call *%[entry]\n\t"
		     "popfq\n\tpop %%rbx\n\tpop %%rbp\n\t"
		     "lea 128(%%rsp), %%rsp"
		     : [entry] "+a"(entry)
		     :
		     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
		       "r15", "memory", "cc");
	memcpy(eax, m->page + COMPAT_EAX, 4);
	memcpy(ebx, m->page + COMPAT_EBX, 4);
	memcpy(flags, m->page + COMPAT_FLAGS, 4);
}

#endif
