/*
 * The process's terminal, its signals, and why the VM is asked to end. See console.c; the bytes are
 * chardev.c's.
 */
#ifndef RINGSHIFT_CONSOLE_H
#define RINGSHIFT_CONSOLE_H

#include "base.h"

struct console;

/* Why the VM is asked to end. */
enum console_stop {
	CONSOLE_GOES_ON,
	CONSOLE_QUIT,   /* Ctrl-a x, or a monitor's quit */
	CONSOLE_SIGNAL, /* SIGTERM and the like; see console_die_of_signal */
	CONSOLE_FAILED, /* output is gone: console_error says how */
};

struct console_host {
	/* Make the vCPU thread look at console_stop soon, also if it sleeps. Called from any thread
	 * and from signal handlers: must be async-signal-safe. */
	void (*kick)(void *opaque);
	void *opaque;
};

/* Negative errno on failure. */
MUST_CHECK int console_create(struct console **con, const struct console_host *host);

/* Catch signals. Negative errno on failure. */
MUST_CHECK int console_start(struct console *con);

/*
 * Make a terminal raw, as a serial line is: no echo, no line editing, no translation of input.
 * Output is translated as before, so that messages on stderr keep their shape. signals: Ctrl-C and
 * Ctrl-\ keep their meaning for the host, as in QEMU; Ctrl-Z goes to the guest in any case. After
 * console_start, once. False if fd is no terminal.
 */
bool console_take_terminal(struct console *con, int fd, bool signals);

/* Has the VM to end? Any thread. */
enum console_stop console_stop(const struct console *con);

/* Ask for it; the first reason counts. Any thread, async-signal-safe. */
void console_request_stop(struct console *con, enum console_stop why);

/* The same, since output to `where` failed. vCPU thread. */
void console_fail(struct console *con, const char *where, int error);

/* Readable once the VM is to end. */
int console_stop_fd(const struct console *con);

/* After CONSOLE_FAILED: one line of text. */
void console_error(const struct console *con, char *err, size_t err_size);

/* Restore the terminal and the signals, free all. */
void console_destroy(struct console *con);

/* Give a terminal back as it was found. Async-signal-safe, may be called at any time. For handlers
 * of signals that are our end, SIGSEGV above all; those of console_start call it themselves. */
void console_restore_terminal(void);

/* If a signal asked for the end (CONSOLE_SIGNAL), die of it, so that the parent sees it. To be
 * called last, when everything has been put in order; else returns. */
void console_die_of_signal(void);

#endif
