/*
 * Pieces of which a seccomp filter of a process that runs our own code is put together: a list of
 * system calls that it makes, everything else refused. The accumulator holds the call's number
 * before and after each piece that does not end the filter. (The spaces' filters, whose processes
 * run guest code, are space_seccomp.c's.)
 */
#ifndef RINGSHIFT_SECCOMP_FILTER_H
#define RINGSHIFT_SECCOMP_FILTER_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

#define FILTER_NR         offsetof(struct seccomp_data, nr)
#define FILTER_ARG(n)     (offsetof(struct seccomp_data, args) + 8 * (n))
#define FILTER_LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, what)
#define VERDICT(v)        BPF_STMT(BPF_RET | BPF_K, v)
#define REFUSE            VERDICT(SECCOMP_RET_ERRNO | EPERM)

/* The beginning: calls of other architectures, x32's among them, are an attack. */
#define ONLY_64_BIT_CALLS                                                                          \
	FILTER_LOAD(offsetof(struct seccomp_data, arch)),                                          \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),                          \
	    VERDICT(SECCOMP_RET_KILL_PROCESS), FILTER_LOAD(FILTER_NR),                             \
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),                                 \
	    VERDICT(SECCOMP_RET_KILL_PROCESS)

#define ANSWER(call, verdict)                                                                      \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), VERDICT(verdict)
#define ALLOW(call) ANSWER(call, SECCOMP_RET_ALLOW)
#define END(call)   ANSWER(call, SECCOMP_RET_KILL_PROCESS)
/* Allowed unless the argument has one of these bits. */
#define ALLOW_WITHOUT(call, arg, bits)                                                             \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 4), FILTER_LOAD(FILTER_ARG(arg)),      \
	    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1), REFUSE, VERDICT(SECCOMP_RET_ALLOW)
/* Allowed if it has one of them. */
#define ALLOW_WITH(call, arg, bits)                                                                \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 4), FILTER_LOAD(FILTER_ARG(arg)),      \
	    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 1, 0), REFUSE, VERDICT(SECCOMP_RET_ALLOW)
/* Allowed unless it has all of them. */
#define ALLOW_WITHOUT_ALL(call, arg, bits)                                                         \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 5), FILTER_LOAD(FILTER_ARG(arg)),      \
	    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits),                                             \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, bits, 0, 1), REFUSE, VERDICT(SECCOMP_RET_ALLOW)
/* Allowed if the argument is one of two. */
#define ALLOW_EITHER(call, arg, a, b)                                                              \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 5), FILTER_LOAD(FILTER_ARG(arg)),      \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, a, 1, 0),                                          \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, b, 0, 1), VERDICT(SECCOMP_RET_ALLOW), REFUSE

/* What nobody does by accident; and the end of a filter. */
#define END_ATTACKS_REFUSE_THE_REST                                                                \
	END(execve), END(execveat), END(ptrace), END(process_vm_readv), END(process_vm_writev),    \
	    END(pidfd_getfd), REFUSE

#endif
