/*
 * The ELF entry point of ringshift, ahead of libc's _start. The kernel enters with RSP at argc, on
 * a stack near the top of the address space; lowland_early copies what lies there to the low stack
 * and returns the new RSP. On failure there is nobody to tell yet but the process's status.
 */

	.globl	lowland_start
	.type	lowland_start, @function
	.text
lowland_start:
	.cfi_startproc
	.cfi_undefined rip
	xorl	%ebp, %ebp
	movq	%rsp, %rdi
	andq	$-16, %rsp
	call	lowland_early
	movq	%rax, %rsp
	xorl	%edx, %edx	/* no function for _start to register with atexit */
	jmp	_start
	.cfi_endproc
	.size	lowland_start, . - lowland_start
	.section .note.GNU-stack, "", @progbits
