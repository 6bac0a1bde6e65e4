/*
 * The stub: all the code of ours that there is in a space. Position-independent, copied to the
 * first page of the space; no stack but what the handler says, no data but the pages of
 * space_layout.h, which follow at fixed distances.
 *
 * Four things live here: the executor of scripts, with which every task sets itself up; M, the
 * mapper, which is the same executor in a loop; G's signal handler, its wait for the monitor, and
 * the way into guest code; the way in that system calls take which need no signal.
 *
 * Guest code can jump to any byte of this with any registers. That is harmless: the system calls
 * here are G's then, and G's filter lets through nothing but a wait and a wake. It is the record
 * pages being read-only that keeps M, which has other rights, to the monitor's orders.
 *
 * M uses registers only. No memory that it reads can be written by guest code.
 */
#include <asm/unistd_64.h>

#include "space_layout.h"

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define NR_SET_THREAD_AREA 243		/* of 32-bit code: 64-bit code has no such call */
#define CS64 0x33
#define LOOKS 16			/* at a word, between two at the clock */

	.macro	pop_most
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rbp
	popq	%rbx
	popq	%rdx
	popq	%rcx
	popq	%rax
	.endm

/* Memory that the other side has read costs much more to write than to look at. */
	.macro	note op, reg, at
	cmp\op	\reg, (space_stub + \at)(%rip)
	je	noted\@
	mov\op	\reg, (space_stub + \at)(%rip)
noted\@:
	.endm

/* Segment registers and bases. Changes scratch and the flags. */
	.macro	note_segments scratch, scratchd, scratchw
	rdfsbase \scratch
	note	q, \scratch, ST_FSBASE
	rdgsbase \scratch
	note	q, \scratch, ST_GSBASE
	movl	%ds, \scratchd
	note	w, \scratchw, ST_DS
	movl	%es, \scratchd
	note	w, \scratchw, ST_ES
	movl	%fs, \scratchd
	note	w, \scratchw, ST_FS
	movl	%gs, \scratchd
	note	w, \scratchw, ST_GS
	.endm

	.section .rodata
	.balign	64
	.globl	space_stub, space_stub_end, space_stub_script, space_stub_mapper
	.globl	space_stub_first, space_stub_handler, space_stub_restorer, space_stub_tls
	.globl	space_stub_yielded, space_stub_yielded_again, space_stub_slept
	.globl	space_stub_fast, space_stub_fast_switched, space_stub_fast_flagged
	.globl	space_stub_fast_saved
space_stub:

/*
 * Execute the record at RBX: result in RAX, on to R14. Changes RCX, RDX, RSI, RDI, R8-R11.
 */
record:
	movq	0(%rbx), %rax
	movq	8(%rbx), %rdi
	movq	16(%rbx), %rsi
	movq	24(%rbx), %rdx
	movq	32(%rbx), %r10
	movq	40(%rbx), %r8
	movq	48(%rbx), %r9
	cmpq	$RECORD_JUMP, %rax
	je	1f
	syscall
	jmp	*%r14
1:	movq	%rsi, %r15
	movq	%rdx, %rbx
	jmp	*%rdi

/*
 * Execute the records from RBX on, until one jumps away or fails. R15 is the base of a space whose
 * STATE takes the report of a failure.
 */
space_stub_script:
	leaq	1f(%rip), %r14
	jmp	record
1:	movl	56(%rbx), %ecx
	cmpl	$CHECK_EQ, %ecx
	je	2f
	jb	3f
	testq	%rax, %rax		/* CHECK_FORK */
	jnz	4f
	movq	%r9, %rbx
	jmp	space_stub_script
2:	cmpq	%r9, %rax
	jne	5f
	jmp	6f
3:	testl	%ecx, %ecx
	jz	6f
4:	cmpq	$-4095, %rax
	jae	5f
6:	addq	$RECORD_SIZE, %rbx
	jmp	space_stub_script
5:	movq	%rax, ST_FAIL_RAX(%r15)
	movq	%rbx, ST_FAIL(%r15)
	movl	$1, %edi
	movl	$__NR_exit_group, %eax
	syscall
	ud2

/*
 * M, and the zygote. R15 base, R12 records executed, R13 records there are.
 */
space_stub_mapper:
	xorl	%r12d, %r12d
mapper_done:
	movl	%r12d, %eax
	xchgl	%eax, ST_ACK(%r15)
mapper_told:
	cmpl	$0, ST_K_WAITS(%r15)
	je	mapper_wait
	leaq	ST_ACK(%r15), %rdi
	movl	$FUTEX_WAKE, %esi
	movl	$1, %edx
	movl	$__NR_futex, %eax
	syscall
mapper_wait:
	rdtsc
	movl	%eax, %ebp
1:	movl	CTL_TAIL(%r15), %r13d
	cmpl	%r12d, %r13d
	jne	mapper_next
	rdtsc
	subl	%ebp, %eax
	cmpl	CTL_M_SPIN(%r15), %eax
	jae	2f
	movl	$__NR_sched_yield, %eax
	syscall
	jmp	1b
2:	movl	$1, %eax
	xchgl	%eax, ST_M_SLEEPS(%r15)
	leaq	CTL_TAIL(%r15), %rdi
	movl	$FUTEX_WAIT, %esi
	movl	%r12d, %edx
	xorl	%r10d, %r10d
	movl	$__NR_futex, %eax
	syscall
	movl	$0, ST_M_SLEEPS(%r15)
	jmp	mapper_wait
mapper_next:
	movl	%r12d, %ebx
	andl	$(RECORD_COUNT - 1), %ebx
	shll	$6, %ebx
	leaq	SPACE_RING(%r15, %rbx), %rbx
	leaq	1f(%rip), %r14
	jmp	record
1:	cmpl	$CHECK_FORK, 56(%rbx)
	jne	2f
	testq	%rax, %rax
	jnz	2f
	movq	%r9, %rbx
	jmp	space_stub_script
2:	cmpq	$-4095, %rax
	jb	3f
	movq	%rax, ST_M_ERROR(%r15)
	cmpl	$CHECK_STOP, 56(%rbx)
	jne	3f
	ud2
3:	incl	%r12d
	movl	%r12d, %eax
	xchgl	%eax, ST_ACK(%r15)
	cmpl	%r12d, %r13d
	jne	mapper_next
	jmp	mapper_told

/* G, after its script: R15 base. */
space_stub_first:
	movl	$KIND_NONE, ST_KIND(%r15)
	jmp	handler_saved

/*
 * G's handler of every signal it may get: RDX struct ucontext. It never returns to the
 * kernel: guest code is resumed by IRETQ, with no signal blocked. So signals nest; a kick can come
 * at any instruction here. Up to handler_saved the nested frame leads back to the frame that
 * counts; from there to the wait all can be done again; in the wait there is nothing to lose; from
 * entry on the run has not happened.
 *
 * There is one thing to lose: the kernel starts a handler with a fresh vector state. If guest
 * code's is in the registers (ST_LIVE), a nested handler takes it from its frame again.
 */
space_stub_handler:
	leaq	space_stub(%rip), %rbx
	movq	UC_RIP(%rdx), %rax
	subq	%rbx, %rax
	cmpq	$SPACE_CODE_SIZE, %rax
	jae	guest_frame
	cmpw	$CS64, UC_CS(%rdx)	/* else it is in a segment, anywhere */
	je	nested
guest_frame:
	movq	%rdx, ST_FRAME(%rbx)
	movl	$KIND_GUEST, ST_KIND(%rbx)
	movl	$0, ST_LIVE(%rbx)
handler_saved:
	leaq	space_stub(%rip), %rbx
	leaq	SPACE_IMAGE(%rbx), %rsp
	note_segments %rax, %eax, %ax
report:
	testl	$ORDER_TIME, CTL_ORDER(%rbx)
	jz	1f
	rdtsc
	movl	%eax, ST_LEFT(%rbx)
1:	movl	CTL_GO(%rbx), %eax
	movl	%eax, ST_EXITED(%rbx)
wait:
	leaq	space_stub(%rip), %rbx
	leaq	SPACE_IMAGE(%rbx), %rsp
	lock
	orl	$0, ST_SCRATCH(%rbx)	/* between the report and the look at who sleeps */
	movl	ST_EXITED(%rbx), %r12d
	cmpl	$0, ST_K_SLEEPS(%rbx)
	je	1f
	leaq	ST_EXITED(%rbx), %rdi
	movl	$FUTEX_WAKE, %esi
	movl	$1, %edx
	movl	$__NR_futex, %eax
	syscall
1:	rdtsc
	movl	%eax, %r13d
2:	movl	$LOOKS, %ecx
	cmpl	$WAIT_NEAR, CTL_YIELD(%rbx)
	jne	6f
	movl	$1, %ecx
6:	cmpl	%r12d, CTL_GO(%rbx)
	jne	called
	pause
	decl	%ecx
	jnz	6b
	rdtsc
	subl	%r13d, %eax
	cmpl	CTL_SPIN(%rbx), %eax
	jae	4f
	cmpl	$WAIT_NEAR, CTL_YIELD(%rbx)
	jne	2b
	movl	$__NR_sched_yield, %eax
	syscall
space_stub_yielded:
	jmp	2b
4:	movl	$1, %eax
	xchgl	%eax, ST_G_SLEEPS(%rbx)
	leaq	CTL_GO(%rbx), %rdi
	movl	$FUTEX_WAIT, %esi
	movl	%r12d, %edx
	xorl	%r10d, %r10d
	movl	$__NR_futex, %eax
	syscall
space_stub_slept:
	leaq	space_stub(%rip), %rbx	/* whoever came here, this is how it goes on */
	movl	$0, ST_G_SLEEPS(%rbx)
	jmp	1b

/* The mapper may have something to do first. */
called:
	movl	ST_ACK(%rbx), %eax
	subl	CTL_WANT(%rbx), %eax
	jns	entry
	cmpl	$0, CTL_KICK(%rbx)
	jne	entry
	cmpl	$WAIT_FAR, CTL_YIELD(%rbx)
	jne	1f
	pause
	jmp	called
1:	movl	$__NR_sched_yield, %eax
	syscall
space_stub_yielded_again:
	jmp	called

entry:
	cmpl	$0, CTL_KICK(%rbx)
	jne	not_entered
	movl	CTL_ORDER(%rbx), %esi
	testl	$ORDER_SAVE, %esi
	jnz	save
	testl	$ORDER_LOAD, %esi
	jz	1f
	movq	CTL_XSAVE(%rbx), %rcx
	movl	CTL_RFBM(%rbx), %eax
	movl	CTL_RFBM+4(%rbx), %edx
	xrstor64 (%rcx)
1:	testl	$ORDER_SEGMENTS, %esi
	jz	leave
	movl	%esi, %ebp
	shrl	$ORDER_TLS, %ebp
	jnz	tls
segments:
	movl	%ds, %eax
	cmpw	%ax, CTL_DS(%rbx)
	je	1f
	movw	CTL_DS(%rbx), %ds
1:	movl	%es, %eax
	cmpw	%ax, CTL_ES(%rbx)
	je	1f
	movw	CTL_ES(%rbx), %es
1:	movl	%fs, %eax
	cmpw	%ax, CTL_FS(%rbx)
	je	1f
	movw	CTL_FS(%rbx), %fs
1:	movl	%gs, %eax
	cmpw	%ax, CTL_GS(%rbx)
	je	1f
	movw	CTL_GS(%rbx), %gs
1:	movq	CTL_FSBASE(%rbx), %rax
	wrfsbase %rax
	movq	CTL_GSBASE(%rbx), %rax
	wrgsbase %rax
leave:
	testl	$ORDER_TIME, %esi
	jz	1f
	rdtsc
	movl	%eax, ST_ENTERED(%rbx)
1:	testl	$ORDER_SAME, %esi
	jnz	same
	leaq	SPACE_IMAGE(%rbx), %rsp
	testl	$ORDER_IRET, %esi
	jnz	1f
	popq	%r15			/* the clean flags */
	pop_most
	leaq	16(%rsp), %rsp
	popfq
	popq	%rsp
	jmp	*(space_stub + SPACE_IMAGE + IMAGE_RIP)(%rip)
1:	popfq				/* IRETQ with NT set would fault */
	pop_most
	iretq

/* Most of it has not gone out of this processor's cache. No POPFQ, which is slow. */
same:
	movq	ST_RDX(%rbx), %rdx
	movq	ST_RSI(%rbx), %rsi
	movq	ST_RDI(%rbx), %rdi
	movq	ST_RBP(%rbx), %rbp
	movq	ST_R8(%rbx), %r8
	movq	ST_R9(%rbx), %r9
	movq	ST_R10(%rbx), %r10
	movq	ST_R12(%rbx), %r12
	movq	ST_R13(%rbx), %r13
	movq	ST_R14(%rbx), %r14
	movq	ST_R15(%rbx), %r15
	movq	CTL_RCX(%rbx), %rcx
	movq	CTL_R11(%rbx), %r11
	movl	CTL_FLAGS(%rbx), %eax
	addb	$0x7f, %al		/* OF */
	sahf
	movq	CTL_RAX(%rbx), %rax
	movq	ST_RSP(%rbx), %rsp
	movq	ST_RBX(%rbx), %rbx
	jmp	*(space_stub + CTL_RIP)(%rip)

/* EBP has a bit for each descriptor that is to be set. */
tls:
	addq	$CTL_TLS, %rbx
1:	shrl	%ebp
	jnc	2f
	movl	$NR_SET_THREAD_AREA, %eax
space_stub_tls:
	int	$0x80
	testl	%eax, %eax
	jnz	3f
2:	addq	$USER_DESC_SIZE, %rbx
	testl	%ebp, %ebp
	jnz	1b
	leaq	space_stub(%rip), %rbx
	jmp	segments
3:	leaq	space_stub(%rip), %rbx
	movl	$KIND_REFUSED, ST_KIND(%rbx)
	jmp	handler_saved

save:
	movl	CTL_RFBM(%rbx), %eax
	movl	CTL_RFBM+4(%rbx), %edx
	xsave64	ST_XSAVE(%rbx)
	movl	$KIND_SAVED, ST_KIND(%rbx)
	jmp	handler_saved
not_entered:
	movl	$KIND_NOT_ENTERED, ST_KIND(%rbx)
	jmp	handler_saved

/*
 * The signal interrupted this very code: RAX is where. RDX alone leads back, so that every step
 * can be repeated.
 */
nested:
	cmpl	$SPACE_KICK_SIGNAL, UC_SIGNO(%rdx)
	jne	stub_frame
	cmpq	$(space_stub_fast_saved - space_stub), %rax
	jae	fast_again
	cmpq	$(space_stub_fast - space_stub), %rax
	jae	guest_frame		/* space_fast_undo knows what is not as guest code had it */
	cmpq	$(nested - space_stub), %rax
	jae	again
	cmpq	$(handler_saved - space_stub), %rax
	jae	1f
	cmpq	$(space_stub_handler - space_stub), %rax
	jae	again
stub_frame:
	movq	%rdx, ST_FRAME(%rbx)
	movl	$KIND_STUB, ST_KIND(%rbx)
	movl	$0, ST_LIVE(%rbx)
	jmp	handler_saved
again:
	movq	UC_RDX(%rdx), %rdx
	leaq	-8(%rdx), %rsp		/* where that frame begins: the stack is not endless */
	jmp	space_stub_handler
fast_again:
	movl	$1, ST_LIVE(%rbx)
1:	cmpl	$0, ST_LIVE(%rbx)
	je	2f
	movq	%rax, %rsi
	movq	UC_FPSTATE(%rdx), %rcx
	movl	CTL_RFBM(%rbx), %eax	/* EDX stands for bits that no processor has */
	xrstor64 (%rcx)
	movq	%rsi, %rax
2:	cmpq	$(space_stub_fast_saved - space_stub), %rax
	jae	space_stub_fast_saved
	cmpq	$(entry - space_stub), %rax
	jae	not_entered
	cmpq	$(wait - space_stub), %rax
	jae	wait
	jmp	handler_saved

/*
 * The trampoline of a patched system call comes here: RCX is the return address, RAX the number,
 * R11 is free, all else is guest code's, the flags and what lies below RSP too. Up to fast_saved
 * nothing changes but RSP and the flags, so that whoever finds guest code interrupted here can undo
 * it.
 *
 * The first store asks for the line that the monitor is looking at; the others to it are ready when
 * it comes.
 */
space_stub_fast:
	movq	%rsp, (space_stub + ST_RSP)(%rip)
	leaq	(space_stub + ST_SCRATCH + 8)(%rip), %rsp
space_stub_fast_switched:
	pushfq
space_stub_fast_flagged:
	popq	%r11
	note	q, %r11, ST_FLAGS
	note	q, %rbx, ST_RBX
	note	q, %rbp, ST_RBP
	note	q, %r8, ST_R8
	note	q, %r9, ST_R9
	note	q, %r12, ST_R12
	note	q, %r13, ST_R13
	note	q, %r14, ST_R14
	note	q, %r15, ST_R15
	note_segments %r11, %r11d, %r11w
	movq	%rax, (space_stub + ST_RAX)(%rip)
	movq	%rcx, (space_stub + ST_RCX)(%rip)
	movq	%rdx, (space_stub + ST_RDX)(%rip)
	movq	%rsi, (space_stub + ST_RSI)(%rip)
	movq	%rdi, (space_stub + ST_RDI)(%rip)
	movq	%r10, (space_stub + ST_R10)(%rip)
space_stub_fast_saved:
	leaq	space_stub(%rip), %rbx
	movl	$1, ST_LIVE(%rbx)
	movl	$KIND_FAST, ST_KIND(%rbx)
	testl	$ORDER_KEEP, CTL_ORDER(%rbx)
	jz	report
	movl	CTL_RFBM(%rbx), %eax
	movl	CTL_RFBM+4(%rbx), %edx
	xsave64	ST_XSAVE(%rbx)
	movl	$KIND_KEPT, ST_KIND(%rbx)
	jmp	report

/* Signals are given a restorer because the kernel wants one. */
space_stub_restorer:
	ud2
space_stub_end:
	.section .note.GNU-stack, "", @progbits
