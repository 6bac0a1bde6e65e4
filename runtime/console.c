/*
 * The console: between the guest's serial ports and stdin, stdout and files.
 *
 * Input. A thread of its own (the vCPU must not wait for a human) polls stdin, takes out the escape
 * keys and puts the rest into a ring, then kicks the vCPU, which calls console_poll to move bytes
 * into the chip as far as its FIFO has room. When the ring is full the thread stops reading, so a
 * pipe's writer waits; a terminal it goes on reading, and drops, since Ctrl-a x has to work with a
 * guest that does not listen. End of file ends input and nothing else.
 *
 * Output. Written by the vCPU thread as it comes. It may block (a pipe nobody reads, Ctrl-S), and
 * the guest with it, but not the way out: it waits in poll together with an eventfd that every
 * request to stop writes to. An error (closed pipe, full disk) asks for the end of the VM, as it
 * would of any program that writes to stdout; what is written after it is dropped.
 *
 * Ends. Signals that would kill us give back the terminal, ask for an orderly end, so that --stats
 * are printed and files are whole, and set an alarm; if the VM has not ended by then SIGALRM kills
 * it. SIGABRT (BUG_ON) gives back the terminal and goes on. SIGPIPE is ignored.
 *
 * Locks: the ring's mutex is taken last and held for copying only. File-level state: what signal
 * handlers need, for the one console that has been started.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "console.h"
#include "lowland.h"

#define RING_SIZE     0x10000u /* a power of two */
#define WRITE_CHUNK   256      /* what a terminal takes without blocking once poll says so */
#define BACKENDS_MAX  8
#define ESCAPE        0x01 /* Ctrl-a */
#define STOP_DEADLINE 3    /* seconds a signal leaves the VM for an orderly end */

struct backend {
	struct chardev dev; /* first: chardev callbacks get its address */
	struct console *con;
	enum char_kind kind;
	const char *path;
	int fd;
};

struct console {
	struct console_host host;
	struct backend backend[BACKENDS_MAX];
	unsigned count;
	struct backend *stdio; /* who gets the input, NULL: nobody */
	_Atomic int stop;      /* enum console_stop */
	int stop_fd;           /* eventfd: stop was set */
	int room_fd;           /* eventfd: the ring has room again */
	bool started, thread_running, tty, escapes;
	struct lowland_thread thread;

	pthread_mutex_t lock; /* guards the rest of this paragraph */
	u8 ring[RING_SIZE];
	unsigned head, tail; /* free-running; head: next to be written */
	bool waiting;        /* the input thread waits for room_fd */

	/* vCPU thread. */
	int error;
	const struct backend *failed;
	bool polling; /* console_poll is on the stack */

	/* Input thread. */
	bool escaped; /* the last byte was ESCAPE */
};

static struct {
	volatile sig_atomic_t raw; /* the terminal is not as it was found */
	int fd;
	struct termios found, ours;
	struct console *_Atomic con;  /* started, not yet destroyed */
	volatile sig_atomic_t caught; /* signal that asked for the end */
	struct sigaction old[NSIG];   /* by signal, for console_destroy */
} active;

static void stop_with(struct console *con, enum console_stop why)
{
	int none = CONSOLE_GOES_ON, saved = errno;
	u64 one = 1;

	atomic_compare_exchange_strong(&con->stop, &none, why);
	/* Cannot fail short of 2^64 stops, and the flag is what counts. */
	if (write(con->stop_fd, &one, sizeof(one)) < 0)
		errno = saved;
	con->host.kick(con->host.opaque);
}

enum console_stop console_stop(const struct console *con)
{
	return atomic_load(&con->stop);
}

/* ---- terminal and signals ---- */

void console_restore_terminal(void)
{
	if (active.raw) {
		active.raw = 0;
		tcsetattr(active.fd, TCSANOW, &active.found);
	}
}

static void on_deadly_signal(int sig)
{
	struct console *con = active.con;
	int saved = errno;

	console_restore_terminal();
	if (!active.caught) {
		active.caught = sig;
		alarm(STOP_DEADLINE);
	}
	if (con)
		stop_with(con, CONSOLE_SIGNAL);
	errno = saved;
}

static void on_abort(int sig)
{
	console_restore_terminal();
	signal(sig, SIG_DFL); /* abort raises it again */
}

/* After a stop (SIGSTOP, or SIGTSTP from outside) the shell may have changed the terminal. */
static void on_continue(int sig)
{
	int saved = errno;

	(void)sig;
	if (active.raw && tcgetpgrp(active.fd) == getpgrp())
		tcsetattr(active.fd, TCSANOW, &active.ours);
	errno = saved;
}

static const struct {
	int sig;
	void (*handler)(int);
	bool respect_ignored; /* nohup: leave it ignored */
} signals[] = {
    {SIGTERM, on_deadly_signal, true}, {SIGINT, on_deadly_signal, true},
    {SIGHUP, on_deadly_signal, true},  {SIGQUIT, on_deadly_signal, true},
    {SIGABRT, on_abort, false},        {SIGCONT, on_continue, false},
    {SIGPIPE, SIG_IGN, false},
};

static void signals_catch(void)
{
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		struct sigaction sa = {.sa_handler = signals[i].handler}, *old;

		/* The vCPU thread may be in a thunk, with the guest's stack pointer. */
		sa.sa_flags = SA_RESTART | SA_ONSTACK;
		old = &active.old[signals[i].sig];
		sigaction(signals[i].sig, &sa, old);
		if (signals[i].respect_ignored && old->sa_handler == SIG_IGN)
			sigaction(signals[i].sig, old, NULL);
	}
}

static void signals_release(void)
{
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaction(signals[i].sig, &active.old[signals[i].sig], NULL);
}

void console_die_of_signal(void)
{
	int sig = active.caught;
	sigset_t set;

	if (!sig)
		return;
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
}

/*
 * Raw, as a serial line is: no echo, no line editing, no translation of input. Output is translated
 * as before, so that messages on stderr keep their shape. With -serial stdio Ctrl-C and Ctrl-\ keep
 * their meaning for the host, as in QEMU; Ctrl-Z goes to the guest.
 */
static void terminal_make_raw(struct console *con)
{
	struct termios t;

	con->tty = tcgetattr(con->host.in, &active.found) == 0;
	if (!con->tty)
		return;
	t = active.found;
	t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
	if (con->stdio->kind == CHAR_MON_STDIO)
		t.c_lflag &= ~(tcflag_t)ISIG;
	t.c_cc[VSUSP] = _POSIX_VDISABLE;
	t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	active.fd = con->host.in;
	active.ours = t;
	active.raw = 1;
	tcsetattr(active.fd, TCSANOW, &t);
}

/* ---- output ---- */

static void output_failed(struct backend *b, int error)
{
	struct console *con = b->con;

	if (!con->error) {
		con->error = error;
		con->failed = b;
	}
	if (b->kind == CHAR_FILE)
		close(b->fd);
	b->fd = -1;
	stop_with(con, CONSOLE_FAILED);
}

/* Wait until fd takes output. False if the VM is to end. */
static bool wait_writable(struct console *con, int fd)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLOUT},
			      {.fd = con->stop_fd, .events = POLLIN}};

	for (;;) {
		int n = poll(p, ARRAY_LEN(p), -1);

		if (n > 0 && p[0].revents)
			return true;
		if (n > 0 || errno != EINTR)
			return false;
	}
}

static void backend_write(struct chardev *c, const u8 *buf, size_t len)
{
	struct backend *b = container_of(c, struct backend, dev);

	while (len && b->fd >= 0 && wait_writable(b->con, b->fd)) {
		ssize_t n = write(b->fd, buf, MIN(len, WRITE_CHUNK));

		if (n >= 0) {
			buf += n;
			len -= (size_t)n;
		} else if (errno != EINTR && errno != EAGAIN) {
			output_failed(b, errno);
		}
	}
}

void console_error(const struct console *con, char *err, size_t err_size)
{
	const char *where =
	    con->failed && con->failed->path ? con->failed->path : "standard output";

	snprintf(err, err_size, "cannot write to %s: %s", where, strerror(con->error));
}

/* ---- input ---- */

/* Bytes of the ring the front end has not got yet. */
static unsigned ring_get(struct console *con, u8 *buf, size_t max)
{
	unsigned n = 0;

	pthread_mutex_lock(&con->lock);
	while (n < max && con->tail != con->head)
		buf[n++] = con->ring[con->tail++ % RING_SIZE];
	if (n && con->waiting) {
		u64 one = 1;

		con->waiting = false;
		if (write(con->room_fd, &one, sizeof(one)) < 0)
			BUG_ON(errno != EAGAIN);
	}
	pthread_mutex_unlock(&con->lock);
	return n;
}

void console_poll(struct console *con)
{
	struct chardev *c = con->stdio ? &con->stdio->dev : NULL;
	u8 buf[64];

	/* receive may make the chip say that it has room. */
	if (!c || !c->receive || con->polling)
		return;
	con->polling = true;
	for (;;) {
		size_t room = c->can_receive ? c->can_receive(c->dev) : sizeof(buf);
		unsigned n = room ? ring_get(con, buf, MIN(room, sizeof(buf))) : 0;

		if (!n)
			break;
		c->receive(c->dev, buf, n);
	}
	con->polling = false;
}

/* The chip's FIFO has been emptied: there may be more. */
static void backend_room(struct chardev *c)
{
	console_poll(container_of(c, struct backend, dev)->con);
}

/* Room in the ring; with want_wake, if there is none, ring_get will write to room_fd. */
static size_t ring_room(struct console *con, bool want_wake)
{
	size_t room;

	pthread_mutex_lock(&con->lock);
	room = RING_SIZE - (con->head - con->tail);
	con->waiting = want_wake && !room;
	pthread_mutex_unlock(&con->lock);
	return room;
}

static void ring_put(struct console *con, const u8 *buf, size_t len)
{
	pthread_mutex_lock(&con->lock);
	for (size_t i = 0; i < len && con->head - con->tail < RING_SIZE; i++)
		con->ring[con->head++ % RING_SIZE] = buf[i];
	pthread_mutex_unlock(&con->lock);
}

static void print_escape_help(struct console *con)
{
	static const char text[] = "\r\nCtrl-a h       this help\r\n"
				   "Ctrl-a x       end ringshift\r\n"
				   "Ctrl-a Ctrl-a  send Ctrl-a\r\n";

	/* A courtesy: if the terminal does not take it now, nobody reads it. */
	if (write(con->host.out, text, sizeof(text) - 1) < 0)
		return;
}

/* Take the escape keys out of what was typed, in place; the bytes left. */
static size_t filter_escapes(struct console *con, u8 *buf, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		u8 b = buf[i];

		if (!con->escaped) {
			con->escaped = b == ESCAPE;
			if (!con->escaped)
				buf[out++] = b;
			continue;
		}
		con->escaped = false;
		if (b == 'x')
			stop_with(con, CONSOLE_QUIT);
		else if (b == 'h')
			print_escape_help(con);
		else if (b == ESCAPE)
			buf[out++] = b;
		/* Any other key after Ctrl-a means nothing, and is dropped. */
	}
	return out;
}

/* Read once. False when input has ended. */
static bool input_read(struct console *con, size_t max)
{
	u8 buf[256];
	ssize_t n = read(con->host.in, buf, MIN(max, sizeof(buf)));
	size_t len;

	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN);
	len = con->escapes ? filter_escapes(con, buf, (size_t)n) : (size_t)n;
	if (len) {
		ring_put(con, buf, len);
		con->host.kick(con->host.opaque);
	}
	return true;
}

static void *input_thread(void *arg)
{
	struct console *con = arg;

	for (;;) {
		size_t room = ring_room(con, !con->tty);
		bool read_on = room || con->tty;
		struct pollfd p[2] = {
		    {.fd = con->stop_fd, .events = POLLIN},
		    {.fd = read_on ? con->host.in : con->room_fd, .events = POLLIN}};
		u64 count;

		if (poll(p, ARRAY_LEN(p), -1) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		if (p[0].revents)
			break;
		if (!read_on) {
			if (read(con->room_fd, &count, sizeof(count)) < 0)
				continue;
		} else if (p[1].revents && !input_read(con, con->tty ? RING_SIZE : room)) {
			break;
		}
	}
	return NULL;
}

/* ---- life ---- */

int console_create(struct console **out, const struct console_host *host)
{
	struct console *con = calloc(1, sizeof(*con));
	int ret;

	if (!con)
		return -ENOMEM;
	con->host = *host;
	con->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	con->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (con->stop_fd < 0 || con->room_fd < 0) {
		ret = -errno;
		goto fail;
	}
	ret = -pthread_mutex_init(&con->lock, NULL);
	if (ret)
		goto fail;
	*out = con;
	return 0;
fail:
	if (con->stop_fd >= 0)
		close(con->stop_fd);
	if (con->room_fd >= 0)
		close(con->room_fd);
	free(con);
	return ret;
}

struct chardev *console_add(struct console *con, const struct char_spec *spec, char *err,
			    size_t err_size)
{
	struct backend *b = &con->backend[con->count];

	BUG_ON(con->count == BACKENDS_MAX || con->started);
	*b = (struct backend){.con = con, .kind = spec->kind, .path = spec->path, .fd = -1};
	switch (spec->kind) {
	case CHAR_NONE: break;
	case CHAR_FILE:
		b->fd = open(spec->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (b->fd < 0) {
			snprintf(err, err_size, "cannot open %s: %s", spec->path, strerror(errno));
			return NULL;
		}
		break;
	case CHAR_STDIO:
	case CHAR_MON_STDIO: b->fd = con->host.out; break;
	}
	b->dev.write = b->fd >= 0 ? backend_write : NULL;
	con->count++;
	return &b->dev;
}

/* The first stdio back end with a front end that receives gets the input. */
static struct backend *input_owner(struct console *con)
{
	for (unsigned i = 0; i < con->count; i++) {
		struct backend *b = &con->backend[i];

		if (b->dev.receive && (b->kind == CHAR_STDIO || b->kind == CHAR_MON_STDIO))
			return b;
	}
	return NULL;
}

int console_start(struct console *con)
{
	int ret;

	BUG_ON(active.con);
	if (atexit(console_restore_terminal))
		return -ENOMEM;
	active.con = con;
	active.caught = 0;
	con->started = true;
	signals_catch();
	con->stdio = input_owner(con);
	if (!con->stdio)
		return 0;
	terminal_make_raw(con);
	con->escapes = con->tty || con->stdio->kind == CHAR_MON_STDIO;
	con->stdio->dev.room = backend_room;
	ret = lowland_thread_create(&con->thread, input_thread, con);
	con->thread_running = !ret;
	if (ret)
		console_restore_terminal();
	return ret;
}

static void console_halt(struct console *con)
{
	if (con->thread_running) {
		u64 one = 1;

		if (write(con->stop_fd, &one, sizeof(one)) < 0)
			BUG_ON(errno != EAGAIN);
		lowland_thread_join(&con->thread);
	}
	console_restore_terminal();
	signals_release();
	active.con = NULL;
}

void console_destroy(struct console *con)
{
	if (con->started)
		console_halt(con);
	for (unsigned i = 0; i < con->count; i++)
		if (con->backend[i].kind == CHAR_FILE && con->backend[i].fd >= 0)
			close(con->backend[i].fd);
	pthread_mutex_destroy(&con->lock);
	close(con->stop_fd);
	close(con->room_fd);
	free(con);
}
