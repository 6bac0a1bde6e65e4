/*
 * Entry, trap stubs and guest_run for 32-bit guests. The stack image of a trap is struct regs of
 * lib.h up to ss (v_gs from v86 mode).
 */
	.section .multiboot,"a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.globl start
start:
	cli
	cld
	mov $kernel_stack_top, %esp
	mov %eax, boot_magic
	mov %ebx, boot_info
	call lib_init
	call guest_main
	push $0x10
	call finish

/* Load GDTR at (%eax) and all segments. */
	.globl load_segments
load_segments:
	mov 4(%esp), %eax
	lgdt (%eax)
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	ljmp $0x08, $1f
1:	ret

/* void guest_run(struct regs *r): a copy of *r is in run_state. */
#define R(n) run_state + 4 * (n) /* DS is flat whatever SS is */

	.globl run_enter
run_enter:
	pusha
	mov %esp, run_kernel_esp
	testl $0x20000, R(16)
	jnz .Lv86
	testl $3, R(15)
	jnz .Louter
	lss R(17), %esp
	jmp .Lframe
.Lv86:
	pushl R(22)
	pushl R(21)
	pushl R(20)
	pushl R(19)
.Louter:
	pushl R(18)
	pushl R(17)
.Lframe:
	pushl R(16)
	pushl R(15)
	pushl R(14)
	pushl R(3)
	mov R(4), %edi
	mov R(5), %esi
	mov R(8), %ebx
	mov R(9), %edx
	mov R(10), %ecx
	mov R(11), %eax
	mov R(0), %gs
	mov R(1), %fs
	mov R(2), %es
	mov R(6), %ebp
	pop %ds
	iret

	.globl run_leave
run_leave:
	mov run_kernel_esp, %esp
	mov $0x10, %eax
	mov %eax, %ss
	mov run_kernel_esp, %esp
	mov %eax, %ds
	mov %eax, %es
	/* An IRET, so that NMIs are no longer blocked. */
	push $2
	push %cs
	push $1f
	iret
1:	popa
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
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	push %esp
	call trap
	add $4, %esp
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

	.bss
	.align 4096
	.skip 8192
	.globl kernel_stack_top, snippet_stack_top, user_stack, user_stack_top, run_kernel_esp
kernel_stack_top:
	.skip 8192
snippet_stack_top:
user_stack:
	.skip 8192
user_stack_top:
run_kernel_esp:
	.skip 4
