/* Processes come and go. */
#define _GNU_SOURCE
#include "user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void process_fork(void)
{
	int i, status;

	for (i = 0; i < 300; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(i & 0xff);
		EQUAL(waitpid(pid, &status, 0), pid);
		EQUAL(status, (i & 0xff) << 8);
	}
	for (i = 1; i < 32; i++) {
		pid_t pid;

		if (i == SIGSTOP || i == SIGTSTP || i == SIGTTIN || i == SIGTTOU || i == SIGCHLD ||
		    i == SIGCONT || i == SIGURG || i == SIGWINCH)
			continue;
		pid = fork();
		if (!pid) {
			signal(i, SIG_DFL);
			raise(i);
			_exit(0);
		}
		EQUAL(waitpid(pid, &status, 0), pid);
		EQUAL(status & 0x7f, i);
	}
}

/* The child of vfork runs in its parent's memory, and the parent waits. */
void process_vfork(void)
{
	volatile int seen = 0;
	int i;

	for (i = 0; i < 300; i++) {
		pid_t pid = vfork();

		if (!pid) {
			seen = i;
			_exit(0);
		}
		EQUAL(seen, i);
		join(pid);
	}
}

/* main() ends with argc if USER_EXEC is set. */
void process_exec(void)
{
	static char *argv[4001], *envp[] = {"USER_EXEC=1", NULL};
	static char text[4000][64];
	int i, status, n;

	for (i = 0; i < 4000; i++)
		memset(argv[i] = text[i], 'a' + i % 26, 50);
	for (i = 0; i < 60; i++) {
		pid_t pid = i % 2 ? vfork() : fork();

		n = i * 4 + 3744; /* 4000 in the end; its low byte is what we see */
		if (!pid) {
			argv[n] = NULL;
			execve("/proc/self/exe", argv, envp);
			_exit(0);
		}
		argv[n] = text[n < 4000 ? n : 0];
		EQUAL(waitpid(pid, &status, 0), pid);
		EQUAL(status, (n & 0xff) << 8);
	}
	EQUAL(execve("/proc", argv, envp), -1);
	EQUAL(errno, EACCES);
}

/* 64 KiB through five processes, each of which adds 1 to each byte. */
void process_pipes(void)
{
	int in, ends[2], i;
	u8 buffer[3000];
	u64 expected = 7, back = 7;
	ssize_t n;

	CHECK(!pipe(ends));
	if (!fork()) {
		close(ends[0]);
		for (i = 0; i < 1 << 16; i += 8) {
			next_random(&expected);
			CHECK(write(ends[1], &expected, 8) == 8);
		}
		_exit(0);
	}
	close(ends[1]);
	in = ends[0];
	for (i = 0; i < 4; i++) {
		CHECK(!pipe(ends));
		if (!fork()) {
			close(ends[0]);
			while ((n = read(in, buffer, sizeof(buffer))) > 0) {
				for (ssize_t k = 0; k < n; k++)
					buffer[k]++;
				CHECK(write(ends[1], buffer, (size_t)n) == n);
			}
			_exit(0);
		}
		close(ends[1]);
		close(in);
		in = ends[0];
	}
	for (i = 0; i < 1 << 16; i++) {
		u8 byte;

		if (i % 8 == 0)
			next_random(&back);
		CHECK(read(in, &byte, 1) == 1);
		EQUAL((u8)(byte - 4), (u8)(back >> i % 8 * 8));
	}
	for (i = 0; i < 5; i++) {
		int status;

		CHECK(wait(&status) > 0);
		EQUAL(status, 0);
	}
}

static void compute(unsigned id)
{
	u64 seed = id + 1, again = id + 1;
	unsigned i, j;
	u64 *p = map_pages(16, PROT_READ | PROT_WRITE);

	for (j = 0; j < 3; j++) {
		for (i = 0; i < 16 * 512; i++)
			p[i] = next_random(&seed);
		usleep(1000);
		for (i = 0; i < 16 * 512; i++)
			EQUAL(p[i], next_random(&again));
	}
}

/* More address spaces at once than fit into any small cache of them. */
void process_many(void)
{
	in_processes(64, compute);
}
