/*
 * What is only known by trying: does a user space run a program, and does /dev/kvm run anything?
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "doctor.h"
#include "netdevs.h"
#include "space.h"

/* --- user spaces --- */

#define CODE   0x400000ull
#define ROUNDS 2000

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Nanoseconds of one system call of a program in a space, by a patched site as hot ones are. 0: it
 * does not run. */
static u64 time_syscall(struct space_pool *pool, struct space *sp)
{
	/* 1: mov $39,%eax; syscall; jmp 1b */
	static const u8 loop[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7};
	const struct space_site site = {.kind = SPACE_SITE_PAIR, .nr = 39, .len = 5};
	struct space_regs r = {.cs = SPACE_CS64, .rip = CODE, .rflags = 0x202};
	static const _Atomic u32 never;
	u8 *copy = space_copy(pool, 0);
	u64 start = now_ns();

	memcpy(copy, loop, sizeof(loop));
	space_fast_patch(copy, 0);
	space_fast_set(sp, 0, &site, CODE + SPACE_PATCH_LEN);
	if (space_map_copy(sp, CODE, 0))
		return 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct space_exit ex;

		if (space_run(sp, &r, &never, &ex) || ex.kind == SPACE_DEAD ||
		    ex.kind == SPACE_FAULT)
			return 0;
	}
	return MAX((now_ns() - start) / ROUNDS, 1);
}

static void try_space(struct doctor *d, struct space_pool *pool)
{
	struct space *sp = space_get(pool, 0);
	u64 ns = sp ? time_syscall(pool, sp) : 0;

	if (ns)
		doctor_say(d, "user_spaces", DOCTOR_OK, NULL,
			   "guest programs run natively; a system call leaves in %llu ns",
			   (unsigned long long)ns);
	else
		doctor_say(d, "user_spaces", DOCTOR_STEP, NULL,
			   "a process for guest programs does not run");
	if (sp)
		space_put(sp);
}

void doctor_try_spaces(struct doctor *d)
{
	int fd = memfd_create("doctor", MFD_CLOEXEC);
	struct space_pool *pool;
	struct stats stats = {0};
	char err[120] = "no memory";

	if (fd < 0 || ftruncate(fd, PAGE_SIZE) ||
	    space_pool_new(&pool, fd, &stats, err, sizeof(err))) {
		doctor_say(d, "user_spaces", DOCTOR_STEP,
			   "guest programs need seccomp filters, fork and futexes", "%s", err);
	} else {
		try_space(d, pool);
		space_pool_free(pool);
	}
	if (fd >= 0)
		close(fd);
}

/* --- the network helper --- */

/* Started without arguments it says how it is used; without its libraries it does not get so far.
 */
static bool helper_starts(const char *path)
{
	int status = -1, null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid = fork();

	if (pid == 0) {
		dup2(null, 0), dup2(null, 1), dup2(null, 2);
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, &status, 0);
	close(null);
	return WIFEXITED(status) && WEXITSTATUS(status) != 127;
}

void doctor_try_net(struct doctor *d)
{
	char path[4096];

	if (netdev_user_helper(path, sizeof(path)) && helper_starts(path))
		doctor_say(d, "network", DOCTOR_OK, NULL, "-nic user works: %.100s", path);
	else
		doctor_say(
		    d, "network", DOCTOR_NOTE,
		    "put ringshift-net beside ringshift, or say where it is in RINGSHIFT_NET; "
		    "it needs libslirp (Debian: libslirp0)",
		    "the helper of -nic user does not start");
	if (access("/dev/net/tun", R_OK | W_OK) == 0)
		doctor_say(d, "tap", DOCTOR_INFO, NULL, "/dev/net/tun can be opened");
}

/* --- /dev/kvm --- */

#define KVM_TIMEOUT 3 /* seconds */

/* Ends of the child that tries. */
enum kvm_try { KVM_RAN, KVM_NO_VM, KVM_NO_CPU, KVM_DID_NOT_RUN };

/* HLT in real mode, from the first page. */
static enum kvm_try run_hlt(int kvm)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0), cpu;
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	u8 *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region mem = {.memory_size = PAGE_SIZE,
						  .userspace_addr = (u64)page};
	struct kvm_regs regs = {.rflags = 2};
	struct kvm_sregs sregs;
	struct kvm_run *run;

	if (vm < 0 || size < (int)sizeof(*run) || page == MAP_FAILED ||
	    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &mem))
		return KVM_NO_VM;
	page[0] = 0xf4;
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || ioctl(cpu, KVM_GET_SREGS, &sregs))
		return KVM_NO_CPU;
	sregs.cs.base = sregs.cs.selector = 0;
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	if (run == MAP_FAILED || ioctl(cpu, KVM_SET_SREGS, &sregs) ||
	    ioctl(cpu, KVM_SET_REGS, &regs))
		return KVM_NO_CPU;
	return ioctl(cpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_HLT ? KVM_RAN
									       : KVM_DID_NOT_RUN;
}

static const char *kvm_words(int status)
{
	static const char *const words[] = {
	    [KVM_RAN] = "runs an instruction; whether whole kernels, a test with one must show",
	    [KVM_NO_VM] = "opens, but makes no virtual machine",
	    [KVM_NO_CPU] = "opens, but makes no processor",
	    [KVM_DID_NOT_RUN] = "opens, but runs nothing"};

	if (WIFEXITED(status) && WEXITSTATUS(status) < ARRAY_LEN(words))
		return words[WEXITSTATUS(status)];
	return "opens, but hangs or crashes whoever uses it";
}

/* In a child with a time limit: what cannot be trusted to work cannot be trusted to fail nicely. */
void doctor_try_kvm(struct doctor *d)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), status = -1;
	pid_t pid;

	if (kvm < 0) {
		doctor_say(d, "kvm", DOCTOR_INFO, NULL, "/dev/kvm: %s (ringshift does not need it)",
			   strerror(errno));
		return;
	}
	pid = fork();
	if (pid == 0) {
		alarm(KVM_TIMEOUT);
		_exit(run_hlt(kvm));
	}
	if (pid > 0)
		waitpid(pid, &status, 0);
	close(kvm);
	doctor_say(d, "kvm", DOCTOR_INFO, NULL, "/dev/kvm %s (ringshift does not need it)",
		   kvm_words(status));
}
