/*
 * Entry (32-bit, into long mode), trap stubs and guest_run for 64-bit guests. The stack image of a
 * trap is struct regs of lib.h up to ss.
 */
	.section .multiboot,"a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.code32
	.globl start
start:
	cli
	cld
	mov $kernel_stack_top, %esp
	mov %eax, boot_magic
	mov %ebx, boot_info
	/* Identity map of 4 GiB with 2 MiB pages, open to CPL 3. */
	movl $boot_pdpt + 7, boot_pml4
	mov $boot_pdpt, %edi
	mov $boot_pd + 7, %eax
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 1b
	mov $boot_pd, %edi
	mov $0x87, %eax
	mov $2048, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	loop 1b
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x101, %eax			/* LME, SCE */
	wrmsr
	mov %cr0, %eax
	and $~0x6000000c, %eax
	or $0x80000022, %eax		/* PG, NE, MP; no CD, NW, TS, EM */
	mov %eax, %cr0
	lgdt boot_gdtr
	ljmp $0x08, $1f
	.code64
1:	mov $0x10, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov $kernel_stack_top, %rsp
	call lib_init
	call guest_main
	mov $0x10, %edi
	call finish

	.align 8
boot_gdt:
	.quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr:
	.word 23
	.long boot_gdt, 0

	.globl load_segments
load_segments:
	lgdt (%rdi)
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	pushq $0x08
	pushq $1f
	lretq
1:	ret

	.globl run_enter
run_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, run_kernel_rsp
	mov $run_state, %ebp
	pushq 24*8(%rbp)
	pushq 23*8(%rbp)
	pushq 22*8(%rbp)
	pushq 21*8(%rbp)
	pushq 20*8(%rbp)
	mov 0*8(%rbp), %es
	mov 1*8(%rbp), %ds
	mov 2*8(%rbp), %r15
	mov 3*8(%rbp), %r14
	mov 4*8(%rbp), %r13
	mov 5*8(%rbp), %r12
	mov 6*8(%rbp), %r11
	mov 7*8(%rbp), %r10
	mov 8*8(%rbp), %r9
	mov 9*8(%rbp), %r8
	mov 10*8(%rbp), %rdi
	mov 11*8(%rbp), %rsi
	mov 14*8(%rbp), %rbx
	mov 15*8(%rbp), %rdx
	mov 16*8(%rbp), %rcx
	mov 17*8(%rbp), %rax
	mov 12*8(%rbp), %rbp
	iretq

	.globl run_leave
run_leave:
	mov run_kernel_rsp, %rsp
	mov %rsp, %rcx
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	/* An IRET, so that NMIs are no longer blocked. */
	push %rax
	push %rcx
	pushq $2
	pushq $0x08
	pushq $1f
	iretq
1:	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.macro stubs from, to
	vector = \from
	.rept \to - \from
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp trap_common
	vector = vector + 1
	.endr
	.endm
	.align 16
	.globl trap_stubs
trap_stubs:
	stubs 0, 256

trap_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rax			/* "spare" */
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %ds, %eax
	push %rax
	mov %es, %eax
	push %rax
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap
	mov %rbp, %rsp
	pop %rax
	mov %eax, %es
	pop %rax
	mov %eax, %ds
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	.bss
	.align 4096
	.globl boot_pml4, boot_pdpt, boot_pd
boot_pml4:
	.skip 4096
boot_pdpt:
	.skip 4096
boot_pd:
	.skip 4 * 4096
	.skip 8192
	.globl kernel_stack_top, snippet_stack_top, user_stack, user_stack_top
	.globl ist_stack_top, run_kernel_rsp
kernel_stack_top:
	.skip 8192
ist_stack_top:
	.skip 8192
snippet_stack_top:
user_stack:
	.skip 8192
user_stack_top:
run_kernel_rsp:
	.skip 8
