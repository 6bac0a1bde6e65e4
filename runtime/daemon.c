/*
 * Unlike daemons of old we stay in the directory we were started in: what is removed at the end
 * (sockets, the pid file) may have been named relative to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "exit_status.h"

static NORETURN void wait_for_child(int fd, pid_t child)
{
	int status;
	ssize_t n;
	char c;

	do
		n = read(fd, &c, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		_exit(STATUS_OK);
	if (waitpid(child, &status, 0) == child && WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	_exit(STATUS_ERROR);
}

int daemon_begin(void)
{
	int fds[2];
	pid_t child;

	if (pipe(fds) || fcntl(fds[1], F_SETFD, FD_CLOEXEC))
		return -errno;
	child = fork();
	if (child < 0)
		return -errno;
	if (child) {
		close(fds[1]);
		wait_for_child(fds[0], child);
	}
	close(fds[0]);
	setsid();
	return fds[1];
}

void daemon_ready(int fd)
{
	int null;

	if (fd < 0)
		return;
	null = open("/dev/null", O_RDWR);
	for (int std = 0; null >= 0 && std <= 2; std++)
		dup2(null, std);
	if (null > 2)
		close(null);
	/* A parent that has been killed waits for nothing. */
	if (write(fd, "", 1) < 0 && errno == EINTR)
		daemon_ready(fd);
	else
		close(fd);
}
