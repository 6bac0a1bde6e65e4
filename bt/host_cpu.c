/*
 * Asking the host CPU by trying. Neither vendor nor CPUID bits settle these: a hypervisor may hide
 * or invent them. SDM vol. 1, 8.1.8 and 11.6.6; APM vol. 2, chapter 11 (x87 pointers), vol. 3, REP.
 */
#include "host_cpu.h"

#include <cpuid.h>
#include <string.h>

#include "insn.h"
#include "xstate.h"

#define HYGON_EBX          0x6f677948u /* "Hygo" */
#define MXCSR_MASK_DEFAULT 0xffbfu     /* of a processor whose FXSAVE stores none */

static void probe_x87(struct host_cpu *h)
{
	u8 own[512] __attribute__((aligned(16))), img[512] __attribute__((aligned(16)));
	u64 fip;

	memset(own, 0, sizeof(own));
	memset(img, 0, sizeof(img));
	asm volatile("fxsave64 %[own]\n\tfninit\n\tfld1\n\tfxsave64 %[img]\n\tfxrstor64 %[own]"
		     : [own] "+m"(own), [img] "+m"(img));
	memcpy(&h->mxcsr_mask, own + FX_MXCSR_MASK, 4);
	if (!h->mxcsr_mask)
		h->mxcsr_mask = MXCSR_MASK_DEFAULT;
	memcpy(&fip, img + FX_FIP, 8);
	h->x87_pointers_hidden = !fip;
}

/* What cannot be tried without a fault, or a kernel's help. APM vol. 3, SYSCALL. */
static void probe_vendor(struct host_cpu *h)
{
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
	h->syscall32 = h->rep_fault_flags = b == signature_AMD_ebx || b == HYGON_EBX;
}

#define HIGH_HALF (1ull << 32)

#define PROBE_REP(h, opcode)                                                                       \
	do {                                                                                       \
		u64 rcx = HIGH_HALF, rsi = HIGH_HALF, rdi = HIGH_HALF, rax = 0;                    \
		asm volatile(".byte 0x67, 0xf3, " #opcode                                          \
			     : "+c"(rcx), "+S"(rsi), "+D"(rdi), "+a"(rax)                          \
			     :                                                                     \
			     : "memory", "cc");                                                    \
		(h)->rep_zero_cuts[host_rep_index(opcode)] = (rcx ? 0 : 1u << GPR_RCX) |           \
							     (rsi ? 0 : 1u << GPR_RSI) |           \
							     (rdi ? 0 : 1u << GPR_RDI);            \
	} while (0)

void host_cpu_probe(struct host_cpu *h)
{
	memset(h, 0, sizeof(*h));
	probe_x87(h);
	probe_vendor(h);
	PROBE_REP(h, 0xa4);
	PROBE_REP(h, 0xa6);
	PROBE_REP(h, 0xaa);
	PROBE_REP(h, 0xac);
	PROBE_REP(h, 0xae);
}
