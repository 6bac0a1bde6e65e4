/*
 * All kinds of character devices but sockets.
 */
#define _GNU_SOURCE /* pseudo-terminals */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "chardev_impl.h"

#define WRITE_CHUNK 256 /* what a terminal takes without blocking once poll says so */

/* The name of a kind is all there is to say. */
static void describe_kind(const struct char_back *b, char *buf, size_t size)
{
	static const char *const names[] = {[CHAR_NULL] = "null",
					    [CHAR_STDIO] = "stdio",
					    [CHAR_FILE] = "file",
					    [CHAR_PIPE] = "pipe",
					    [CHAR_RINGBUF] = "ringbuf"};

	snprintf(buf, size, "%s", names[b->spec->kind]);
}

static int cannot_open(const char *path, char *err, size_t err_size)
{
	int error = errno;

	snprintf(err, err_size, "cannot open %s: %s", path, strerror(error));
	return -error;
}

/* ---- null ---- */

static ssize_t null_write(struct char_back *b, const u8 *buf, size_t len)
{
	(void)b, (void)buf;
	return (ssize_t)len;
}

const struct char_ops char_null = {.write = null_write, .describe = describe_kind};

/* ---- stdio ---- */

/*
 * The descriptors are shared with whoever started us, so they are left blocking: poll says whether
 * something can be written, and how much of it is chosen so that it does not block.
 */
static ssize_t stdio_write(struct char_back *b, const u8 *buf, size_t len)
{
	struct pollfd p = {.fd = b->out.fd, .events = POLLOUT};
	int n = poll(&p, 1, 0);
	ssize_t done;

	if (n <= 0)
		return n ? -errno : -EAGAIN;
	done = write(b->out.fd, buf, MIN(len, WRITE_CHUNK));
	return done < 0 ? -errno : done;
}

/* As any program whose output fails. */
static void stdio_broken(struct char_back *b, int error)
{
	console_fail(b->all->host.con, "standard output", error);
}

/* A terminal belongs to whoever reads it: not taken for output alone. */
static int stdio_start(struct char_back *b, char *err, size_t err_size)
{
	const struct chardevs_host *host = &b->all->host;

	(void)err, (void)err_size;
	b->out.fd = host->out;
	if (char_has_input(b)) {
		b->in.fd = host->in;
		b->terminal = console_take_terminal(host->con, host->in, b->spec->signal);
		b->escapes |= b->terminal;
	}
	char_opened(b);
	return 0;
}

const struct char_ops char_stdio = {
    .start = stdio_start, .write = stdio_write, .broken = stdio_broken, .describe = describe_kind};

/* ---- file ---- */

static int file_open(struct char_back *b, char *err, size_t err_size)
{
	int how = b->spec->append ? O_APPEND : O_TRUNC;

	b->out.fd = open(b->spec->path, O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);
	return b->out.fd < 0 ? cannot_open(b->spec->path, err, err_size) : 0;
}

static void file_broken(struct char_back *b, int error)
{
	console_fail(b->all->host.con, b->spec->path, error);
}

const struct char_ops char_file = {
    .open = file_open, .write = char_write_fd, .broken = file_broken, .describe = describe_kind};

/* ---- pipe ---- */

/* Open for both, so that neither waits for nor hears of the other side. */
static int open_fifo(const char *path, const char *suffix)
{
	char name[CHAR_PATH_MAX + 8];

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	return open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static int pipe_open(struct char_back *b, char *err, size_t err_size)
{
	const char *path = b->spec->path;

	b->in.fd = open_fifo(path, ".in");
	b->out.fd = open_fifo(path, ".out");
	if (b->in.fd >= 0 && b->out.fd >= 0)
		return 0;
	if (b->in.fd >= 0)
		close(b->in.fd);
	if (b->out.fd >= 0)
		close(b->out.fd);
	b->out.fd = -1;
	b->in.fd = open_fifo(path, "");
	if (b->in.fd >= 0)
		b->out.fd = fcntl(b->in.fd, F_DUPFD_CLOEXEC, 3);
	return b->out.fd < 0 ? cannot_open(path, err, err_size) : 0;
}

const struct char_ops char_pipe = {
    .open = pipe_open, .write = char_write_fd, .describe = describe_kind};

/* ---- ring buffer ---- */

static int ringbuf_open(struct char_back *b, char *err, size_t err_size)
{
	int rc = char_ring_init(&b->kept, b->spec->size);

	if (rc)
		snprintf(err, err_size, "-chardev %s: out of memory", b->spec->id);
	return rc;
}

/* The newest bytes are kept. */
static ssize_t ringbuf_write(struct char_back *b, const u8 *buf, size_t len)
{
	struct char_ring *r = &b->kept;
	size_t skip = len > r->size ? len - r->size : 0, n = len - skip;

	if (n > char_ring_room(r))
		r->tail += (unsigned)(n - char_ring_room(r));
	char_ring_put(r, buf + skip, n);
	return (ssize_t)len;
}

const struct char_ops char_ringbuf = {
    .open = ringbuf_open, .write = ringbuf_write, .describe = describe_kind};

/* ---- pseudo-terminal ---- */

/*
 * We hold the master. As long as nobody has opened the slave the master is hung up, and poll says
 * so at once, so it cannot be waited for: it is looked at each second, and when the guest writes.
 */
#define PTY_LOOK_SECONDS 1

static void pty_look(struct char_back *b)
{
	struct pollfd p = {.fd = b->event_fd, .events = POLLIN};
	int in, out;

	if (b->open || poll(&p, 1, 0) < 0 || (p.revents & POLLHUP))
		return;
	in = fcntl(b->event_fd, F_DUPFD_CLOEXEC, 3);
	out = fcntl(b->event_fd, F_DUPFD_CLOEXEC, 3);
	if (in < 0 || out < 0) {
		if (in >= 0)
			close(in);
		return; /* no descriptors left: later, perhaps */
	}
	b->in.fd = in;
	b->out.fd = out;
	char_opened(b);
}

static void pty_tick(void *opaque, unsigned events)
{
	struct char_back *b = opaque;

	(void)events;
	pty_look(b);
	if (!b->open && char_tick(b, PTY_LOOK_SECONDS, pty_tick))
		b->all->host.stats->n[STAT_chardev_unwatched]++;
}

static void pty_ended(struct char_back *b)
{
	char_closed(b);
	pty_tick(b, 0);
}

/* Raw from the start: what the guest sends before anybody can say stty is not to be mangled. */
static int make_slave_raw(const char *name)
{
	int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC), rc;
	struct termios t;

	if (fd < 0)
		return -1;
	rc = tcgetattr(fd, &t);
	if (!rc) {
		cfmakeraw(&t);
		rc = tcsetattr(fd, TCSANOW, &t);
	}
	close(fd);
	return rc;
}

static int pty_open(struct char_back *b, char *err, size_t err_size)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY);

	b->event_fd = fd;
	if (fd < 0 || grantpt(fd) || unlockpt(fd) || ptsname_r(fd, b->name, sizeof(b->name)) ||
	    make_slave_raw(b->name) || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC)) {
		int error = errno;

		snprintf(err, err_size, "cannot make a pseudo-terminal: %s", strerror(error));
		return -error;
	}
	printf("char device redirected to %s (label %s)\n", b->name, b->spec->id);
	fflush(stdout);
	return 0;
}

static int pty_start(struct char_back *b, char *err, size_t err_size)
{
	int rc;

	pty_look(b);
	rc = b->open ? 0 : char_tick(b, PTY_LOOK_SECONDS, pty_tick);
	if (rc)
		snprintf(err, err_size, "cannot watch %s: %s", b->name, strerror(-rc));
	return rc;
}

static void pty_describe(const struct char_back *b, char *buf, size_t size)
{
	snprintf(buf, size, "pty:%s", b->name);
}

const struct char_ops char_pty = {.open = pty_open,
				  .start = pty_start,
				  .write = char_write_fd,
				  .ended = pty_ended,
				  .probe = pty_look,
				  .describe = pty_describe};
