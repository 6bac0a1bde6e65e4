/*
 * The network helper's sandbox, from inside: each attempt in a child that has entered it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox.h"

/* The status of a child that does something in the sandbox. */
static int inside(int (*attempt)(void))
{
	pid_t pid = fork();
	int status = -1;

	if (!pid) {
		int rc = sandbox_enter();

		_exit(rc ? 99 : attempt());
	}
	waitpid(pid, &status, 0);
	return status;
}

#define REFUSED(call) ((call) == -1 && errno == EPERM ? 0 : 1)

static int open_file(void)
{
	return REFUSED(open("/etc/passwd", O_RDONLY)) | REFUSED(syscall(SYS_open, "/", O_RDONLY)) |
	       REFUSED(syscall(SYS_openat2, -1, "/", NULL, 0)) | REFUSED(unlink("/tmp/none")) |
	       REFUSED(chdir("/")) | REFUSED(syscall(SYS_memfd_create, "m", 0));
}

static int other_sockets(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in sin = {.sin_family = AF_INET};

	return fd < 0 || REFUSED(socket(AF_UNIX, SOCK_STREAM, 0)) ||
	       REFUSED(socket(AF_NETLINK, SOCK_RAW, 0)) ||
	       REFUSED(socket(AF_PACKET, SOCK_RAW, 0)) ||
	       REFUSED(bind(fd, (void *)&sin, sizeof(sin))) || REFUSED(listen(fd, 1));
}

static int processes(void)
{
	return REFUSED(fork()) | REFUSED(kill(getppid(), SIGKILL)) |
	       REFUSED(syscall(SYS_clone3, NULL, 0)) | REFUSED(setuid(0)) |
	       REFUSED(syscall(SYS_prctl, 1, 0)) |
	       REFUSED(syscall(SYS_prlimit64, 0, 0, NULL, NULL));
}

static int executable_memory(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED || x != MAP_FAILED || REFUSED(mprotect(p, 4096, PROT_EXEC));
}

static int start_program(void)
{
	execl("/bin/true", "true", NULL);
	return 1;
}

static int trace(void)
{
	ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
	return 1;
}

static int read_memory(void)
{
	syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0);
	return 1;
}

/* The 32-bit entry has numbers of its own. */
static int other_abi(void)
{
	long rc = 20; /* getpid */

	__asm__ volatile("int $0x80" : "+a"(rc) : : "memory");
	return 1;
}

static bool killed(int (*attempt)(void))
{
	int status = inside(attempt);

	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* The sanitizers' runtime needs what the sandbox takes. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

Test(net_sandbox, refuses, .disabled = SANITIZED)
{
	cr_assert_eq(inside(open_file), 0);
	cr_assert_eq(inside(other_sockets), 0);
	cr_assert_eq(inside(processes), 0);
	cr_assert_eq(inside(executable_memory), 0);
}

Test(net_sandbox, ends_attackers)
{
	cr_assert(killed(start_program));
	cr_assert(killed(trace));
	cr_assert(killed(read_memory));
	cr_assert(killed(other_abi));
}
