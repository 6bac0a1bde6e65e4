/*
 * container [--no-seccomp] COMMAND...: run a command as Docker would run it for an ordinary user:
 * no capability, no way to get one, user and group 65534 if we are root, 1024 open files, and the
 * system calls that Docker's default profile refuses refused in the same way (documented by Docker
 * under "Significant syscalls blocked by the default profile"). With --no-seccomp the command
 * cannot install filters of its own either, as under very old container engines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY       65534
#define OPEN_FILES   1024
#define LAST_KNOWN   451 /* cachestat: younger system calls are unknown to the profile */
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static const int refused[] = {
    SYS_acct,
    SYS_add_key,
    SYS_bpf,
    SYS_clock_adjtime,
    SYS_clock_settime,
    SYS_create_module,
    SYS_delete_module,
    SYS_finit_module,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fsopen,
    SYS_fspick,
    SYS_get_kernel_syms,
    SYS_get_mempolicy,
    SYS_init_module,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_io_uring_setup,
    SYS_ioperm,
    SYS_iopl,
    SYS_kcmp,
    SYS_kexec_file_load,
    SYS_kexec_load,
    SYS_keyctl,
    SYS_lookup_dcookie,
    SYS_mbind,
    SYS_mount,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_move_pages,
    SYS_nfsservctl,
    SYS_open_by_handle_at,
    SYS_open_tree,
    SYS_perf_event_open,
    SYS_pivot_root,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_ptrace,
    SYS_query_module,
    SYS_quotactl,
    SYS_reboot,
    SYS_request_key,
    SYS_set_mempolicy,
    SYS_setns,
    SYS_settimeofday,
    SYS_swapoff,
    SYS_swapon,
    SYS_sysfs,
    SYS__sysctl,
    SYS_umount2,
    SYS_unshare,
    SYS_uselib,
    SYS_userfaultfd,
    SYS_ustat,
    SYS_vhangup,
    SYS_syslog,
};

#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(val) BPF_STMT(BPF_RET | BPF_K, (val))
#define FAIL(err)   RETURN(SECCOMP_RET_ERRNO | (err))
/* The next n instructions are for this value only. */
#define ONLY_IF(val, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (val), 0, (n))

static int install_filter(bool no_seccomp)
{
	static struct sock_filter prog[40 + 2 * ARRAY_LEN(refused)];
	static const struct sock_filter head[] = {
	    LOAD(arch),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 0, 1),
	    RETURN(SECCOMP_RET_ALLOW), /* 32-bit programs: not what is tested here */
	    LOAD(nr),
	    BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST_KNOWN, 0, 1),
	    FAIL(ENOSYS),
	    ONLY_IF(SYS_clone3, 1),
	    FAIL(ENOSYS),
	    ONLY_IF(SYS_clone, 4),
	    LOAD(args[0]),
	    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NEW_NAMESPACES, 0, 1),
	    FAIL(EPERM),
	    RETURN(SECCOMP_RET_ALLOW),
	    ONLY_IF(SYS_personality, 5),
	    LOAD(args[0]),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 1, 0),
	    FAIL(EPERM),
	    RETURN(SECCOMP_RET_ALLOW),
	};
	struct sock_fprog fprog = {.filter = prog};
	unsigned n = ARRAY_LEN(head);

	memcpy(prog, head, sizeof(head));
	for (unsigned i = 0; i < ARRAY_LEN(refused); i++) {
		prog[n++] = (struct sock_filter)ONLY_IF((unsigned)refused[i], 1);
		prog[n++] = (struct sock_filter)FAIL(EPERM);
	}
	if (no_seccomp) {
		prog[n++] = (struct sock_filter)ONLY_IF(SYS_seccomp, 1);
		prog[n++] = (struct sock_filter)FAIL(EPERM);
		prog[n++] = (struct sock_filter)ONLY_IF(SYS_prctl, 3);
		prog[n++] = (struct sock_filter)LOAD(args[0]);
		prog[n++] = (struct sock_filter)ONLY_IF(PR_SET_SECCOMP, 1);
		prog[n++] = (struct sock_filter)FAIL(EPERM);
	}
	prog[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	fprog.len = n;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &fprog);
}

static int become_ordinary(void)
{
	if (getuid() == 0 && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			      setresuid(NOBODY, NOBODY, NOBODY)))
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int main(int argc, char **argv)
{
	const struct rlimit files = {OPEN_FILES, OPEN_FILES};

	bool no_seccomp = argc > 1 && !strcmp(argv[1], "--no-seccomp");

	argc -= no_seccomp;
	argv += no_seccomp;
	if (argc < 2) {
		fprintf(stderr, "usage: container [--no-seccomp] COMMAND...\n");
		return 2;
	}
	if (setrlimit(RLIMIT_NOFILE, &files) || become_ordinary() || install_filter(no_seccomp)) {
		perror("container");
		return 125;
	}
	/* The test is worth something only if the filter bites. */
	if (unshare(CLONE_NEWUSER) == 0 || errno != EPERM) {
		fprintf(stderr, "container: the filter lets unshare pass\n");
		return 125;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}
