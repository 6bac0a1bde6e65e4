/*
 * Entry from the loader (32-bit, paging off), the static page tables, exception and system call
 * entries, and the ring-3 loop. The image is flat: the multiboot header says where it goes, because
 * neither QEMU takes a 64-bit ELF nor a 32-bit one can name an address in the top 2 GiB.
 */
#include "nano.h"

	.section .boot,"awx"
	.set flags, 0x10003
	.balign 4
header:	.long 0x1badb002, flags, -(0x1badb002 + flags)
	.long header, LOAD_AT, 0, image_end_phys, start

	.code32
	.globl start
start:	cli
	cld
	mov $0xff, %al			/* 8259s: all masked */
	out %al, $0x21
	out %al, $0xa1
	mov %cr4, %eax
	or $0xa0, %eax			/* PAE, PGE */
	mov %eax, %cr4
	mov $(pml4 - KERNEL_BASE), %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x101, %eax			/* LME, SCE */
	wrmsr
	mov %cr0, %eax
	and $~0x6000000c, %eax		/* CD, NW, TS, EM */
	or $0x80010021, %eax		/* PG, WP, NE, PE */
	mov %eax, %cr0
	lgdt boot_gdtr
	ljmp $KERNEL_CS, $1f
	.code64
1:	mov $KERNEL_SS, %eax
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	lgdt gdtr
	mov $stack_top, %rsp
	mov %ebx, %edi			/* the loader's information */
	mov $nano_main, %rax
	call *%rax

	.balign 8
boot_gdtr:
	.word gdt_end - gdt - 1
	.long gdt - KERNEL_BASE

	.section .rodata
	.balign 8
gdtr:	.word gdt_end - gdt - 1
	.quad gdt

	.data
	.globl gdt
	.balign 16
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 08: kernel code */
	.quad 0x00cf93000000ffff	/* 10: kernel data */
	.quad 0
	.quad 0x00cffb000000ffff	/* 20: user code of 32 bits */
	.quad 0x00cff3000000ffff	/* 28: user data */
	.quad 0x00affb000000ffff	/* 30: user code */
	.quad 0, 0			/* 38: TSS, filled in */
gdt_end:

/* Two spaces with the same kernel half. */
	.globl pml4, pml4_other, window_table
	.balign 4096
pml4:	.quad low_pdpt - KERNEL_BASE + (PTE_P | PTE_W | PTE_U | PTE_A)
	.fill 510, 8, 0
	.quad high_pdpt - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
pml4_other:
	.quad low_pdpt - KERNEL_BASE + (PTE_P | PTE_W | PTE_U | PTE_A)
	.fill 510, 8, 0
	.quad high_pdpt - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
low_pdpt:
#ifdef NANO_LOW
	.quad high_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
#else
	.quad boot_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
#endif
	.quad user_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_U | PTE_A)
	.quad 0
	.quad top_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_A) /* used by NANO_LOW */
	.fill 508, 8, 0
boot_pd:
	.quad PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS
	.fill 511, 8, 0
user_pd:
	.quad user_table - KERNEL_BASE + (PTE_P | PTE_W | PTE_U | PTE_A)
	.fill 511, 8, 0
user_table:
	.quad user_code - KERNEL_BASE + (PTE_P | PTE_U | PTE_A)
	.quad user_stack - KERNEL_BASE + (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)
	.fill 510, 8, 0
high_pdpt:
	.fill 510, 8, 0
	.quad high_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
	.quad top_pd - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
high_pd:
	.set i, 0
	.rept 32
	.quad i + (PTE_KERNEL | PTE_PS)
	.set i, i + 0x200000
	.endr
	.fill 480, 8, 0
top_pd:	.quad window_table - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
	.quad device_table - KERNEL_BASE + (PTE_P | PTE_W | PTE_A)
	.fill 510, 8, 0
window_table:
	.fill 512, 8, 0
device_table:
	.quad 0xfee00000 + (PTE_KERNEL | PTE_CD)
	.fill 511, 8, 0

	.bss
	.balign 4096
user_stack:
	.skip 4096
	.globl syscall_stack_top, stack_top
	.skip 8192
syscall_stack_top:
	.skip 16384
stack_top:

	.text
/* What nothing expects: report and end. Vectors 0 to 31, 16 bytes each. */
	.globl trap_stubs
	.balign 16
trap_stubs:
	.set i, 0
	.rept 32
	.balign 16
	.if !((1 << i) & 0x60227d00)	/* no error code: push a 0 */
	push $0
	.endif
	push $i
	jmp unexpected
	.set i, i + 1
	.endr
unexpected:
	pop %rdi
	pop %rsi
	pop %rdx
	and $-16, %rsp
	call nano_unexpected

/* #PF in the window: give the page that belongs there, as an allocator would, and try again. */
	.globl page_fault
	.balign 16
page_fault:
	push %rax
	push %rcx
	mov %cr2, %rax
	mov $WINDOW, %rcx
	sub %rcx, %rax
	cmp $0x200000, %rax
	jae 1f
	and $-4096, %eax
	lea WINDOW_PHYS + PTE_KERNEL(%rax), %rcx
	shr $9, %eax
	mov %rcx, window_table(%rax)
	pop %rcx
	pop %rax
	add $8, %rsp
	iretq
1:	pop %rcx
	pop %rax
	push $14
	jmp unexpected

/* #DE of a two-byte DIV: skip it. */
	.globl divide_error
	.balign 16
divide_error:
	addq $2, (%rsp)
	iretq

	.globl software_interrupt
	.balign 16
software_interrupt:
	iretq

	.globl ipi
	.balign 16
ipi:	incq ipis(%rip)
	push %rax
	mov $LAPIC, %rax
	movl $0, 0xb0(%rax)		/* EOI */
	pop %rax
	iretq

/* The local APIC's timer: say when it came. */
	.globl timer_interrupt
	.balign 16
timer_interrupt:
	push %rax
	push %rdx
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	mov %rax, timer_came(%rip)
	mov $LAPIC, %rax
	movl $0, 0xb0(%rax)		/* EOI */
	pop %rdx
	pop %rax
	iretq

	.globl syscall_entry
	.balign 16
syscall_entry:
	swapgs
	mov %rsp, %gs:PERCPU_USER_RSP
	mov %gs:PERCPU_SYSCALL_STACK, %rsp
	push %rcx
	push %r11
	test %eax, %eax
	jnz 1f
	pop %r11
	pop %rcx
	mov %gs:PERCPU_USER_RSP, %rsp
	swapgs
	sysretq
1:	mov %gs:PERCPU_SAVED_RSP, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* void user_run(u64 n, u64 entry): run ring 3 at entry with n in R15 until system call 1. */
	.globl user_run
	.balign 16
user_run:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %gs:PERCPU_SAVED_RSP
	mov %rdi, %r15
	push $USER_SS
	push $USER_STACK + 0xff0
	push $0x202
	push $USER_CS
	push %rsi
	xor %edi, %edi			/* no arguments: not even what looks like some */
	xor %esi, %esi
	swapgs
	iretq

/* A page of its own, mapped at USER_CODE. */
	.section .user,"ax"
	.balign 4096
user_code:
	nop
1:	mov $0, %eax			/* as C libraries do, so that it can be patched */
	syscall
	dec %r15
	jnz 1b
	mov $1, %eax
	syscall
	.globl user_count
user_count:				/* the same without system calls */
	xor %eax, %eax
	dec %r15
	jnz user_count
	mov $1, %eax
	syscall
	.globl user_count_offset
	.set user_count_offset, user_count - user_code
	.balign 4096
