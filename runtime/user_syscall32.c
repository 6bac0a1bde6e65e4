/*
 * A system call of 32-bit code. INT 0x80 is an exception like others. SYSCALL (AMD's) and SYSENTER
 * (Intel's) come with what Linux as the host makes of them by its own convention
 * (do_fast_syscall_32): RIP is lost; SYSCALL's ECX is what EBP held, and EBP was loaded from the
 * stack; after SYSENTER ESP is what EBP held. Take that back; a kernel of the same convention, and
 * there is no other with these selectors, does not miss RIP.
 *
 * The host reads that word of the stack before we hear of the call. If the page is not mapped
 * there, though the program has just written to it, the call fails with -EFAULT in EAX and we never
 * do: see docs/spaces.md.
 */
#include "user_syscall32.h"

#include "exec.h"
#include "mmu.h"

#define INT80_LEN 2

/* The byte of user code at va, -1: there is none. */
static int code_byte(struct cpu *c, gva_t va)
{
	struct walk w;
	u8 b;

	if (mmu_probe(c->mmu.ram, &c->mmu.pg, va, MMU_EXEC, true, &w) ||
	    ram_read(c->mmu.ram, w.gpa, &b, 1))
		return -1;
	return b;
}

/* Does RIP lie behind an INT 0x80, and not where the host thinks 32-bit code goes on? */
static bool behind_int80(struct cpu *c)
{
	gva_t at = (u32)(c->seg[SEG_CS].base + c->rip - INT80_LEN);

	if (c->mode == INSN_MODE_64)
		return true; /* there SYSCALL is another kind of exit, and SYSENTER leaves it */
	return c->rip >= INT80_LEN && !(c->rip >> 32) && code_byte(c, at) == 0xcd &&
	       code_byte(c, at + 1) == 0x80;
}

bool user_syscall32(struct cpu *c)
{
	if (behind_int80(c)) {
		c->rip -= INT80_LEN;
		return false;
	}
	c->rip = 0;
	if (c->host.syscall32) {
		c->gpr[GPR_RBP] = (u32)c->gpr[GPR_RCX];
		cpu_syscall(c, 0);
	} else {
		c->gpr[GPR_RBP] = (u32)c->gpr[GPR_RSP];
		exec_sysenter(c, NULL);
	}
	return true;
}
