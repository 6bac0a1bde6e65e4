/*
 * The host's side of the guest's serial ports: the terminal (or whatever stdin and stdout are) and
 * output files. See console.c.
 */
#ifndef RINGSHIFT_CONSOLE_H
#define RINGSHIFT_CONSOLE_H

#include "base.h"
#include "chardev.h"
#include "cmdline.h"

struct console;

/* Why the VM is asked to end. */
enum console_stop {
	CONSOLE_GOES_ON,
	CONSOLE_QUIT,   /* Ctrl-a x */
	CONSOLE_SIGNAL, /* SIGTERM and the like; see console_die_of_signal */
	CONSOLE_FAILED, /* output is gone: console_error says how */
};

struct console_host {
	int in, out; /* descriptors, 0 and 1 but for tests */
	/* Make the vCPU thread call console_poll and console_stop soon, also if it sleeps. Called
	 * from any thread and from signal handlers: must be async-signal-safe. */
	void (*kick)(void *opaque);
	void *opaque;
};

/* Negative errno on failure. */
MUST_CHECK int console_create(struct console **con, const struct console_host *host);

/* Make a back end. It belongs to the console; the caller fills in the front end's part. NULL, with
 * a line of text in err, if the file cannot be opened. */
struct chardev *console_add(struct console *con, const struct char_spec *spec, char *err,
			    size_t err_size);

/*
 * Begin: catch signals and, if a back end is stdio, make a terminal raw and start the input thread.
 * The front ends must be connected. Negative errno on failure.
 */
MUST_CHECK int console_start(struct console *con);

/* Hand input that has arrived to the front end. vCPU thread, device lock held. */
void console_poll(struct console *con);

/* Has the VM to end? Any thread. */
enum console_stop console_stop(const struct console *con);

/* After CONSOLE_FAILED: one line of text. */
void console_error(const struct console *con, char *err, size_t err_size);

/* Stop the input thread, restore the terminal and the signals, close files, free all. */
void console_destroy(struct console *con);

/* Give a terminal back as it was found. Async-signal-safe, may be called at any time. For handlers
 * of signals that are our end, SIGSEGV above all; those of console_start call it themselves. */
void console_restore_terminal(void);

/* If a signal asked for the end (CONSOLE_SIGNAL), die of it, so that the parent sees it. To be
 * called last, when everything has been put in order; else returns. */
void console_die_of_signal(void);

#endif
