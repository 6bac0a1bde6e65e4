/*
 * Real mode for guests: real_run is guest_run for 16-bit code. Segments of struct regs: cs, ss,
 * v_ds, v_es, v_fs, v_gs. Vectors 0 to 0x4f end a run through an interrupt vector table of our own
 * (real_ivt: others may be put there). Included by the guests that need it.
 */
#ifndef GUEST_REAL_H
#define GUEST_REAL_H

#include "lib.h"

#define CODE16 0x1e0 /* slots at the end of the GDT */
#define DATA16 0x1e8

extern u32 real_ivt[256];
extern struct regs real_state;
extern u16 real_data; /* selector whose limits DS, ES, FS and GS take along into real mode */
extern u16 real_ivt_limit;
void real_enter(void);

/* Offsets into struct regs, in words of 4 bytes, as in start32.S. */
asm(".pushsection .text\n"
    ".globl real_enter\n"
    "real_enter:\n"
    "	pusha\n"
    "	mov %esp,real_esp\n"
    "	sgdt real_gdtr\n"
    "	sidt real_idtr\n"
    "	movzwl real_data,%eax\n"
    "	ljmp $0x1e0,$real_16\n"
    "real_back:\n"
    "	mov $0x10,%eax; mov %eax,%ds; mov %eax,%es; mov %eax,%fs; mov %eax,%gs; mov %eax,%ss\n"
    "	mov real_esp,%esp\n"
    "	popa\n"
    "	cld\n"
    "	ret\n"
    ".popsection\n"
    ".pushsection .low,\"ax\"\n"
    ".code16\n"
    "real_16:\n"
    "	mov %ax,%ds; mov %ax,%es; mov %ax,%fs; mov %ax,%gs\n"
    "	mov $0x1e8,%ax; mov %ax,%ss\n"
    "	mov %cr0,%eax; and $~1,%al; mov %eax,%cr0\n"
    "	ljmp $0,$1f\n"
    "1:	xor %ax,%ax; mov %ax,%ds\n"
    "	lidtl real_ivtr\n"
    "	mov real_state+4*18,%ss\n"
    "	mov real_state+4*17,%esp\n"
    "	pushl real_state+4*16; pushl real_state+4*15; pushl real_state+4*14\n"
    "	mov real_state+4*4,%edi; mov real_state+4*5,%esi; mov real_state+4*6,%ebp\n"
    "	mov real_state+4*8,%ebx; mov real_state+4*9,%edx; mov real_state+4*10,%ecx\n"
    "	mov real_state+4*11,%eax\n"
    "	mov real_state+4*19,%es; mov real_state+4*21,%fs; mov real_state+4*22,%gs\n"
    "	mov real_state+4*20,%ds\n"
    "	iretl\n"
    /* The stack: vector, IP, CS, FLAGS. */
    "real_trap:\n"
    "	push %ds; push $0; pop %ds\n"
    "	mov %edi,real_state+4*4; mov %esi,real_state+4*5; mov %ebp,real_state+4*6\n"
    "	mov %ebx,real_state+4*8; mov %edx,real_state+4*9; mov %ecx,real_state+4*10\n"
    "	mov %eax,real_state+4*11\n"
    "	xor %eax,%eax\n"
    "	pop %ax; mov %eax,real_state+4*20\n"
    "	pop %ax; mov %eax,real_state+4*12\n"
    "	pop %ax; mov %eax,real_state+4*14\n"
    "	pop %ax; mov %eax,real_state+4*15\n"
    "	pop %ax; mov %eax,real_state+4*16\n"
    "	mov %esp,real_state+4*17\n"
    "	mov %ss,%ax; mov %eax,real_state+4*18\n"
    "	mov %es,%ax; mov %eax,real_state+4*19\n"
    "	mov %fs,%ax; mov %eax,real_state+4*21\n"
    "	mov %gs,%ax; mov %eax,real_state+4*22\n"
    "	lgdtl real_gdtr; lidtl real_idtr\n"
    "	mov %cr0,%eax; or $1,%al; mov %eax,%cr0\n"
    "	ljmpl $8,$real_back\n"
    ".balign 8\n"
    "real_stubs:\n"
    "	v = 0\n"
    "	.rept 0x50\n"
    "	push $v; jmp real_trap\n"
    "	.balign 8\n"
    "	v = v + 1\n"
    "	.endr\n"
    ".balign 16\n"
    ".globl real_ivt, real_state, real_data, real_ivt_limit\n"
    "real_ivt:	.skip 1024\n"
    "real_state:	.skip 100\n"
    "real_esp:	.long 0\n"
    "real_gdtr:	.skip 8\n"
    "real_idtr:	.skip 8\n"
    "real_ivtr:\n"
    "real_ivt_limit: .word 1023\n"
    "	.long real_ivt\n"
    "real_data:	.word 0x1e8\n"
    ".code32\n"
    ".popsection\n");

extern u8 real_stubs[];

static void real_init(void)
{
	unsigned i;

	set_gdt(CODE16, 0, 0xffff, D_CODE);
	set_gdt(DATA16, 0, 0xffff, D_DATA);
	for (i = 0; i < 0x50; i++)
		real_ivt[i] = (u32)real_stubs + 8 * i;
}

static void real_run(struct regs *r)
{
	real_state = *r;
	real_state.start = r->ip;
	real_enter();
	*r = real_state;
}

static struct regs regs_real(const void *code)
{
	struct regs r;

	memset(&r, 0, sizeof(r));
	r.ip = (u32)code;
	r.flags = 2;
	r.sp = 0x7000;
	return r;
}

#endif
