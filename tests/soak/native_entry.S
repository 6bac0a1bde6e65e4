/* Offsets of struct native_state. */
#define RFLAGS	   128
#define HOST_RSP   136
#define ENTRY	   144
#define XSAVE_MASK 152
#define XSAVE	   192

	.text
	.globl native_enter, native_exit, native_fault_exit
native_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, native_state + HOST_RSP
	mov native_state + XSAVE_MASK, %eax
	mov native_state + XSAVE_MASK + 4, %edx
	xrstor64 native_state + XSAVE
	pushq native_state + RFLAGS
	popfq
	mov native_state + 0, %rax
	mov native_state + 8, %rcx
	mov native_state + 16, %rdx
	mov native_state + 24, %rbx
	mov native_state + 32, %rsp
	mov native_state + 40, %rbp
	mov native_state + 48, %rsi
	mov native_state + 56, %rdi
	mov native_state + 64, %r8
	mov native_state + 72, %r9
	mov native_state + 80, %r10
	mov native_state + 88, %r11
	mov native_state + 96, %r12
	mov native_state + 104, %r13
	mov native_state + 112, %r14
	mov native_state + 120, %r15
	jmp *native_state + ENTRY

native_exit:
	mov %rax, native_state + 0
	mov %rcx, native_state + 8
	mov %rdx, native_state + 16
	mov %rbx, native_state + 24
	mov %rsp, native_state + 32
	mov %rbp, native_state + 40
	mov %rsi, native_state + 48
	mov %rdi, native_state + 56
	mov %r8, native_state + 64
	mov %r9, native_state + 72
	mov %r10, native_state + 80
	mov %r11, native_state + 88
	mov %r12, native_state + 96
	mov %r13, native_state + 104
	mov %r14, native_state + 112
	mov %r15, native_state + 120
	mov native_state + HOST_RSP, %rsp
	pushfq
	popq native_state + RFLAGS
	mov native_state + XSAVE_MASK, %eax
	mov native_state + XSAVE_MASK + 4, %edx
	xsave64 native_state + XSAVE
native_fault_exit:
	mov native_state + HOST_RSP, %rsp
	cld
	fninit
	ldmxcsr default_mxcsr
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.section .rodata
	.balign 4
default_mxcsr:
	.long 0x1f80

	.section .note.GNU-stack, "", @progbits
