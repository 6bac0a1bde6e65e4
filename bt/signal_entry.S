/*
 * Where signals arrive that may interrupt translated code: FS then holds the guest's GS base, and C code
 * needs its own. The head below the alternate stack (struct alt_head) has it; the stack is aligned to
 * its size, so RSP leads there. void signal_entry(int, siginfo_t *, void *)
 */
#define ALT_MASK  -65536
#define ALT_MAGIC 0
#define ALT_FS	  8

	.text
	.globl signal_entry
	.type signal_entry, @function
signal_entry:
	push %rbx
	push %r12
	push %r13
	mov %rsp, %rbx
	and $ALT_MASK, %rbx
	mov $0x74667368676e6972, %rax
	cmp %rax, ALT_MAGIC(%rbx)
	jne 1f
	rdfsbase %r12
	mov ALT_FS(%rbx), %rax
	wrfsbase %rax
	call signal_dispatch
	wrfsbase %r12
	jmp 2f
1:	call signal_dispatch
2:	pop %r13
	pop %r12
	pop %rbx
	ret

	.section .note.GNU-stack, "", @progbits
