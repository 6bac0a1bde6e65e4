/* The monitor's sandbox, tried from inside. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"

TestSuite(confine, .timeout = 60);

static int gate[2];

/* Run in a child, which confines itself; its status as of waitpid. */
static int in_child(void (*f)(void), unsigned needs)
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (!pid) {
		if (confine(needs))
			_exit(99);
		f();
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

#define WANT(n, condition)                                                                         \
	do {                                                                                       \
		errno = 0;                                                                         \
		if (!(condition))                                                                  \
			_exit(n);                                                                  \
	} while (0)
#define REFUSED(call) ((call) == -1 && errno == EPERM)

static void everything_is_refused(void)
{
	struct stat st;

	WANT(1, REFUSED(open("/dev/null", O_RDONLY)));
	WANT(2, REFUSED(open("/tmp/confine-test", O_WRONLY | O_CREAT, 0600)));
	WANT(3, REFUSED(socket(AF_INET, SOCK_STREAM, 0)));
	WANT(4, REFUSED(socket(AF_UNIX, SOCK_STREAM, 0)));
	WANT(5, REFUSED(fork()));
	WANT(6, REFUSED(unlink("/tmp/confine-test")));
	WANT(7, REFUSED(stat("/", &st)));
	WANT(8, mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0) == MAP_FAILED &&
		    errno == EPERM);
	WANT(9, REFUSED(ioctl(0, TIOCSTI, "x")));
	WANT(10, REFUSED(memfd_create("confine", 0)));
	WANT(11, REFUSED(setuid(getuid())));
	WANT(12, REFUSED(chdir("/")));
}

Test(confine, nothing_is_opened_made_or_begun)
{
	if (!confine_can())
		return;
	cr_expect_eq(in_child(everything_is_refused, 0), 0);
}

static void *open_something(void *arg)
{
	(void)arg;
	return REFUSED(open("/dev/null", O_RDONLY)) ? arg : NULL;
}

static void the_rest_works(void)
{
	struct stat st;
	pthread_t thread;
	void *got, *p;

	WANT(1, pthread_create(&thread, NULL, open_something, gate) == 0);
	WANT(2, pthread_join(thread, &got) == 0 && got == gate);
	p = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WANT(3, p != MAP_FAILED);
	WANT(4, mprotect(p, 4096, PROT_READ | PROT_WRITE) == 0);
	WANT(5, REFUSED(mprotect(p, 4096, PROT_WRITE | PROT_EXEC)));
	WANT(6, fstat(0, &st) == 0);
	WANT(7, fcntl(0, F_GETFD) >= 0);
	WANT(8, ioctl(0, FIONREAD, &st) == 0 || errno != EPERM);
}

Test(confine, what_a_running_machine_does_goes_on)
{
	if (!confine_can())
		return;
	cr_expect_eq(in_child(the_rest_works, 0), 0);
}

static void needs_are_met(void)
{
	WANT(1, unlink("/nonexistent/x") && errno == ENOENT);
	WANT(2, socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
	WANT(3, socket(AF_INET6, SOCK_STREAM, 0) >= 0 || errno == EAFNOSUPPORT);
	WANT(4, REFUSED(socket(AF_NETLINK, SOCK_RAW, 0)));
	WANT(5, open("/dev/null", O_RDONLY) >= 0);
}

Test(confine, what_the_command_line_needs_is_left)
{
	if (!confine_can())
		return;
	cr_expect_eq(in_child(needs_are_met, CONFINE_REMOVE | CONFINE_CONNECT | CONFINE_OPEN), 0);
}

static void start_a_program(void)
{
	execl("/bin/true", "true", NULL);
}

static void look_into_the_parent(void)
{
	ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static void call_as_32_bit_code(void)
{
	int nr = 20; /* getpid */

	asm volatile("int $0x80" : "+a"(nr) : : "memory");
}

Test(confine, an_attack_is_the_end)
{
	static void (*const attacks[])(void) = {start_a_program, look_into_the_parent,
						call_as_32_bit_code};

	if (!confine_can())
		return;
	for (unsigned i = 0; i < ARRAY_LEN(attacks); i++) {
		int status = in_child(attacks[i], CONFINE_OPEN);

		cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%u: %x", i, status);
	}
}

/* Threads that are there already are in it as well. */
static void *waiting(void *arg)
{
	char c;

	if (read(gate[0], &c, 1) != 1)
		return NULL;
	return open_something(arg);
}

Test(confine, all_threads)
{
	int status;
	pid_t pid;

	if (!confine_can())
		return;
	cr_assert_eq(pipe(gate), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		pthread_t thread;
		void *got;

		WANT(1, pthread_create(&thread, NULL, waiting, gate) == 0);
		WANT(2, confine(0) == 0);
		WANT(3, write(gate[1], "x", 1) == 1);
		WANT(4, pthread_join(thread, &got) == 0 && got == gate);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0, "status %x", status);
}
