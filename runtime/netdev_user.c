/*
 * -netdev user: starts ringshift-net, the helper that holds the NAT (runtime/nethelper/), and talks
 * frames with it over a socket pair. The helper is a program of its own so that what parses the
 * guest's TCP/IP is neither in the monitor's memory nor in possession of its descriptors, and is
 * linked dynamically, as libslirp comes. It ends when the monitor does, whatever ends that; if it
 * ends first, the cable is out and the machine goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "netdev_impl.h"

#define HELPER     "ringshift-net"
#define HELPER_ENV "RINGSHIFT_NET"
#define START_MS   20000
#define END_MS     2000

struct user_helper {
	pid_t pid; /* 0: reaped */
	const char *id;
};

bool netdev_user_helper(char *path, size_t size)
{
	const char *env = getenv(HELPER_ENV);
	ssize_t n;
	char *slash;

	if (env && *env)
		return snprintf(path, size, "%s", env) < (int)size;
	n = readlink("/proc/self/exe", path, size - sizeof(HELPER));
	if (n <= 0)
		return false;
	path[n] = 0;
	slash = strrchr(path, '/');
	if (!slash)
		return false;
	strcpy(slash + 1, HELPER);
	return true;
}

/* In the child, which shares nothing but descriptors; only system calls from here on. */
static NORETURN void become_helper(const char *path, char *const *argv, int fd)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	fcntl(fd, F_SETFD, 0);
	execv(path, argv);
	_exit(127);
}

/* No SIGCHLD for anybody to catch: the socket tells. */
static pid_t spawn(const char *path, const char *text, int fd)
{
	char fd_text[16], pid_text[16];
	char *argv[] = {HELPER, fd_text, pid_text, (char *)text, NULL};
	pid_t pid;

	snprintf(fd_text, sizeof(fd_text), "%d", fd);
	snprintf(pid_text, sizeof(pid_text), "%d", getpid());
	pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
	if (pid == 0)
		become_helper(path, argv, fd);
	return pid;
}

/* Wait for the hello, or the line of text that comes in its place. */
static bool await_start(int fd, const char *path, char *err, size_t err_size)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char text[512];
	ssize_t n = poll(&p, 1, START_MS) > 0 ? recv(fd, text, sizeof(text) - 1, MSG_PEEK) : -1;

	if (n > 0 && text[0] != '!')
		return true;
	if (n > 0) {
		text[n] = 0;
		snprintf(err, err_size, "%s", text + 1);
	} else if (access(path, X_OK)) {
		snprintf(err, err_size,
			 "cannot run %s: %s (it comes with ringshift; " HELPER_ENV
			 " names another)",
			 path, strerror(errno));
	} else {
		snprintf(err, err_size, "%s does not start", path);
	}
	return false;
}

static void reap(struct user_helper *h)
{
	for (int ms = 0; h->pid; ms++) {
		int rc = waitpid(h->pid, NULL, __WALL | WNOHANG);

		if (rc)
			h->pid = 0;
		else if (ms == END_MS)
			kill(h->pid, SIGKILL);
		else
			poll(NULL, 0, 1);
	}
}

static void helper_gone(void *opaque)
{
	struct user_helper *h = opaque;

	fprintf(stderr, "\r\nringshift: -netdev user,id=%s: the helper ended; the link is down\r\n",
		h->id);
}

/* It ends when its socket is closed, which has been done. */
static void helper_end(void *opaque)
{
	reap(opaque);
	free(opaque);
}

static struct netdev *create(struct vm *vm, const struct netdev_opts *o, char *err, size_t err_size)
{
	struct user_helper *h = calloc(1, sizeof(*h));
	struct stream_setup setup = {
	    .opts = o, .gone = helper_gone, .destroy = helper_end, .opaque = h};
	struct netdev *nd = NULL;
	char path[4096];
	int fd[2];

	if (!h || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd)) {
		snprintf(err, err_size, "%s", strerror(errno));
		free(h);
		return NULL;
	}
	h->id = o->id;
	if (netdev_user_helper(path, sizeof(path)))
		h->pid = spawn(path, o->text, fd[1]);
	else
		snprintf(err, err_size, "cannot find " HELPER);
	close(fd[1]);
	setup.fd = fd[0];
	if (h->pid < 0)
		snprintf(err, err_size, "cannot start a process: %s", strerror(errno));
	if (h->pid > 0 && await_start(fd[0], path, err, err_size))
		nd = netdev_stream_create(vm, &setup, err, err_size);
	else
		close(fd[0]);
	if (!nd) {
		h->pid = MAX(h->pid, 0);
		helper_end(h);
	}
	return nd;
}

static int parse(struct keyval *k, struct netdev_opts *o)
{
	return net_user_parse(k, &o->user);
}

const struct netdev_type netdev_user = {.name = "user", .parse = parse, .create = create};
