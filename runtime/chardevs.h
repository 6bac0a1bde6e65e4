/*
 * The character devices of one VM: back ends made from the command line, handed to front ends
 * (serial ports, consoles, monitors) by id. See chardevs.c. vCPU thread only.
 */
#ifndef RINGSHIFT_CHARDEVS_H
#define RINGSHIFT_CHARDEVS_H

#include "aio.h"
#include "chardev.h"
#include "chardev_spec.h"
#include "console.h"

struct chardevs;

struct chardevs_host {
	struct aio *aio;
	struct console *con; /* its end is asked for by Ctrl-a x and by output that fails */
	struct stats *stats;
	int in, out; /* of stdio: 0 and 1 but for tests */
};

/* Negative errno on failure. All of host outlives the devices. */
MUST_CHECK int chardevs_create(struct chardevs **cs, const struct chardevs_host *host);

/* Open one. spec outlives it. Negative errno and a line of text in err. */
MUST_CHECK int chardevs_add(struct chardevs *cs, const struct char_spec *spec, char *err,
			    size_t err_size);

/*
 * Connect a front end to the device of that id: the caller fills in the front end's part of what it
 * gets, which belongs to the devices, before chardevs_start. input: it receives, too; a device that
 * is not shared (mux=on) has one such front end. NULL and a line of text in err.
 */
struct chardev *chardevs_attach(struct chardevs *cs, const char *id, bool input, char *err,
				size_t err_size);

/* Begin: raw terminal, first clients waited for, input watched. Once. console_start comes before.
 */
MUST_CHECK int chardevs_start(struct chardevs *cs, char *err, size_t err_size);

/* The VM stops, or goes on: front ends that are part of it are left alone meanwhile. */
void chardevs_set_stopped(struct chardevs *cs, bool stopped);

/* Wait until what was written has gone out, as long as readers take anything: patient: without a
 * limit for stdio (until console_stop_fd says otherwise). */
void chardevs_flush(struct chardevs *cs, bool patient);

/* Close all. NULL is fine. */
void chardevs_destroy(struct chardevs *cs);

/* For info chardev and query-chardev. */
void chardevs_list(struct chardevs *cs,
		   void (*fn)(void *opaque, const char *id, const char *filename, bool used),
		   void *opaque);

/* Take up to max bytes from a ring buffer device, or put len there; the number, or -ENOENT (no such
 * device), -EINVAL (not a ring buffer). */
ssize_t chardevs_ringbuf_read(struct chardevs *cs, const char *id, u8 *buf, size_t max);
ssize_t chardevs_ringbuf_write(struct chardevs *cs, const char *id, const u8 *buf, size_t len);

#endif
