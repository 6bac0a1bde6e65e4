/*
 * The process and its terminal: raw mode and its end, signals, and why the VM is to end.
 *
 * Ends. Signals that would kill us give back the terminal, ask for an orderly end, so that --stats
 * are printed and files are whole, and set an alarm; if the VM has not ended by then SIGALRM kills
 * it. SIGABRT (BUG_ON) gives back the terminal and goes on. SIGPIPE is ignored. Whoever waits for
 * something on the vCPU thread waits for console_stop_fd as well, which every request to stop
 * writes to.
 *
 * File-level state: what signal handlers need, for the one console that has been started.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "console.h"

#define STOP_DEADLINE 3 /* seconds a signal leaves the VM for an orderly end */

struct console {
	struct console_host host;
	_Atomic int stop; /* enum console_stop */
	int stop_fd;      /* eventfd: stop was set */
	bool started;

	/* vCPU thread: what console_fail was told. */
	int error;
	char where[256];
};

static struct {
	volatile sig_atomic_t raw; /* the terminal is not as it was found */
	int fd;
	struct termios found, ours;
	struct console *_Atomic con;  /* started, not yet destroyed */
	volatile sig_atomic_t caught; /* signal that asked for the end */
	struct sigaction old[NSIG];   /* by signal, for console_destroy */
} active;

void console_request_stop(struct console *con, enum console_stop why)
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
		console_request_stop(con, CONSOLE_SIGNAL);
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

bool console_take_terminal(struct console *con, int fd, bool signals)
{
	struct termios t;

	BUG_ON(active.con != con || active.raw);
	if (tcgetattr(fd, &active.found))
		return false;
	t = active.found;
	t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
	if (!signals)
		t.c_lflag &= ~(tcflag_t)ISIG;
	t.c_cc[VSUSP] = _POSIX_VDISABLE;
	t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	active.fd = fd;
	active.ours = t;
	active.raw = 1;
	tcsetattr(fd, TCSANOW, &t);
	return true;
}

/* ---- failure ---- */

void console_fail(struct console *con, const char *where, int error)
{
	if (!con->error) {
		con->error = error;
		snprintf(con->where, sizeof(con->where), "%s", where);
	}
	console_request_stop(con, CONSOLE_FAILED);
}

void console_error(const struct console *con, char *err, size_t err_size)
{
	snprintf(err, err_size, "cannot write to %s: %s", con->where, strerror(con->error));
}

int console_stop_fd(const struct console *con)
{
	return con->stop_fd;
}

/* ---- life ---- */

int console_create(struct console **out, const struct console_host *host)
{
	struct console *con = calloc(1, sizeof(*con));

	if (!con)
		return -ENOMEM;
	con->host = *host;
	con->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (con->stop_fd < 0) {
		int rc = -errno;

		free(con);
		return rc;
	}
	*out = con;
	return 0;
}

int console_start(struct console *con)
{
	BUG_ON(active.con);
	if (atexit(console_restore_terminal))
		return -ENOMEM;
	active.con = con;
	active.caught = 0;
	con->started = true;
	signals_catch();
	return 0;
}

void console_destroy(struct console *con)
{
	if (con->started) {
		console_restore_terminal();
		signals_release();
		active.con = NULL;
	}
	close(con->stop_fd);
	free(con);
}
