/*
 * System calls that are made so often that they are patched (runtime/user_fast.c), and everything
 * that could go wrong with them: as the guest's first process. Prints SYSCALLS OK, or what failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  4096
#define OFTEN 500 /* more than it takes until a site is patched */

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what))                                                                       \
			failed(#what, __LINE__);                                                   \
	} while (0)

static _Noreturn void end(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	_exit(1);
}

static _Noreturn void failed(const char *what, int line)
{
	static char text[200];

	snprintf(text, sizeof(text), "SYSCALLS FAILED line %d: %s, errno %d", line, what, errno);
	end(text);
}

static void plain(void)
{
	int fd = open("/tmp/f", O_RDWR | O_CREAT | O_TRUNC, 0600);
	char c = 'x';

	CHECK(fd >= 0);
	for (unsigned i = 0; i < OFTEN; i++) {
		CHECK(getppid() == 0);
		CHECK(write(fd, &c, 1) == 1);
		CHECK(lseek(fd, i, SEEK_SET) == i);
		CHECK(read(fd, &c, 1) == 1 && c == 'x');
		CHECK(read(-1, &c, 1) == -1 && errno == EBADF);
		CHECK(syscall(SYS_getppid) == 0);
	}
	close(fd);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
	getppid();
}

/* A read that a signal interrupts is restarted: at the SYSCALL itself. */
static void restarted(void)
{
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 3000}, {0, 3000}}, never = {{0, 0}, {0, 0}};
	int p[2];
	pid_t child;
	char c;

	CHECK(pipe(p) == 0);
	sigaction(SIGALRM, &sa, NULL);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		for (unsigned i = 0; i < 50; i++) {
			usleep(10000);
			CHECK(write(p[1], &i, 1) == 1);
		}
		_exit(0);
	}
	setitimer(ITIMER_REAL, &often, NULL);
	for (unsigned i = 0; i < 50; i++)
		CHECK(read(p[0], &c, 1) == 1 && c == (char)i);
	setitimer(ITIMER_REAL, &never, NULL);
	CHECK(alarms > 50);
	CHECK(waitpid(child, NULL, 0) == child);
	close(p[0]);
	close(p[1]);
}

/* Vector and other registers across system calls, with another process that has its own. */
static void registers(void)
{
	pid_t child = fork();
	unsigned long mark = child ? 0x1111111111111111 : 0x2222222222222222, got, kept, red;

	CHECK(child >= 0);
	for (unsigned i = 0; i < 3000; i++) {
		long rax = i % 3 ? SYS_getppid : SYS_sched_yield;

		mark += i;
		asm volatile("movq %[m], %%xmm9; mov %[m], %%r12; mov %[m], -64(%%rsp)\n\t"
			     "stc; syscall; cmc; cmp $-4095, %%rax\n\t"
			     "movq %%xmm9, %[g]; mov %%r12, %[k]; mov -64(%%rsp), %[r]"
			     : "+a"(rax), [g] "=&r"(got), [k] "=&r"(kept), [r] "=&r"(red)
			     : [m] "r"(mark)
			     : "rcx", "r11", "r12", "xmm9", "memory", "cc");
		CHECK(got == mark && kept == mark && red == mark);
	}
	if (!child)
		_exit(0);
	CHECK(waitpid(child, NULL, 0) == child);
}

/* Code that is rewritten after it was patched: through the file, through another mapping. */
static void rewritten(unsigned form)
{
	static const unsigned char pair[] = {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 0x05, 0xc3};
	static const unsigned char wide[] = {0x48, 0xc7, 0xc0, SYS_getpid, 0,
					     0,    0,    0x0f, 0x05,       0xc3};
	static const unsigned char tail[] = {0x90, 0xb0, SYS_getpid, 0x0f, 0xb6, 0xc0, 0x0f, 0x05,
					     0x48, 0x05, 0,          0,    0,    0,    0xc3};
	const unsigned char *code = form == 0 ? pair : form == 1 ? wide : tail;
	size_t size = form == 0 ? sizeof(pair) : form == 1 ? sizeof(wide) : sizeof(tail);
	size_t number = form == 0 ? 1 : form == 1 ? 3 : 2;
	int fd = open("/tmp/code", O_RDWR | O_CREAT | O_TRUNC, 0700);
	unsigned char other = SYS_getppid, *rw;
	long (*call)(void);

	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
	CHECK(pwrite(fd, code, size, 32) == (ssize_t)size);
	call = (long (*)(void))((char *)mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) +
				32);
	rw = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(rw != MAP_FAILED);
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < OFTEN; i++)
			CHECK(call() == getpid());
		if (round & 1)
			rw[32 + number] = other;
		else
			CHECK(pwrite(fd, &other, 1, 32 + (off_t)number) == 1);
		for (unsigned i = 0; i < OFTEN; i++)
			CHECK(call() == getppid());
		if (form == 2) { /* the instruction behind it */
			rw[32 + 10] = 7;
			CHECK(call() == getppid() + 7);
			rw[32 + 10] = 0;
		}
		rw[32 + number] = SYS_getpid;
	}
	/* The page itself is as it was written. */
	CHECK(memcmp(rw + 32, code, size) == 0);
	munmap((char *)call - 32, PAGE);
	munmap(rw, PAGE);
	close(fd);
}

/* Registers that are no arguments: what is in them is no range of pages for something to be mapped
 * at. */
static void left_over(void)
{
	unsigned long large = 2ul << 20,
		      pointer = (unsigned long)&large; /* on the stack: high up */
	int fd = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC, pointer);

	_Static_assert(EPOLL_CLOEXEC % PAGE == 0, "else it would not look like an address");
	CHECK(fd >= 0);
	CHECK(syscall(SYS_close, fd, 0, pointer, 0, 0x100000) == 0);
	CHECK(syscall(SYS_close, -1, 0, large, 8, 0x100000) == -1);
}

int main(void)
{
	mkdir("/tmp", 0700);
	left_over();
	plain();
	restarted();
	registers();
	for (unsigned form = 0; form < 3; form++)
		rewritten(form);
	/* Children have addresses of their own for the same code. */
	for (unsigned i = 0; i < 20; i++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			for (unsigned k = 0; k < OFTEN; k++)
				CHECK(getppid() == 1);
			_exit(0);
		}
		CHECK(waitpid(child, NULL, 0) == child);
	}
	end("SYSCALLS OK");
}
