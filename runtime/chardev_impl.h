/*
 * What the files of the character devices share: chardevs.c (front ends, both directions of bytes),
 * chardev_open.c (all kinds but one), chardev_socket.c (that one).
 */
#ifndef RINGSHIFT_CHARDEV_IMPL_H
#define RINGSHIFT_CHARDEV_IMPL_H

#include "chardevs.h"
#include "cmdline.h"

/* A queue of bytes. */
struct char_ring {
	u8 *buf;
	u32 size;            /* a power of two */
	unsigned head, tail; /* free-running; head: next to be written */
};

static inline u32 char_ring_used(const struct char_ring *r)
{
	return r->head - r->tail;
}

static inline u32 char_ring_room(const struct char_ring *r)
{
	return r->size - char_ring_used(r);
}

MUST_CHECK int char_ring_init(struct char_ring *r, u32 size);
size_t char_ring_put(struct char_ring *r, const u8 *buf, size_t len); /* as much as fits */
size_t char_ring_get(struct char_ring *r, u8 *buf, size_t max);

struct char_front {
	struct chardev dev; /* chardev callbacks get its address */
	struct char_back *back;
	struct char_ring in; /* typed, not yet taken */
	bool input;
	bool starved; /* it has been told that nothing can be written */
};

/* One direction. */
struct char_stream {
	int fd; /* -1: none */
	struct aio_watch watch;
	bool added, armed;
	bool always; /* a file, for which epoll does not wait */
};

struct char_ops {
	/* Open what spec says. Negative errno and a line of text. */
	int (*open)(struct char_back *b, char *err, size_t err_size);
	/* All front ends are there; NULL: char_opened is all there is to do. */
	int (*start)(struct char_back *b, char *err, size_t err_size);
	/* Write some without blocking: how many, or -errno. */
	ssize_t (*write)(struct char_back *b, const u8 *buf, size_t len);
	/* Output failed; and input has ended (or failed). NULL: nothing comes of it. */
	void (*broken)(struct char_back *b, int error);
	void (*ended)(struct char_back *b);
	/* Nobody is connected: is it still so? May be NULL. */
	void (*probe)(struct char_back *b);
	/* As info chardev shows it. */
	void (*describe)(const struct char_back *b, char *buf, size_t size);
	void (*close)(struct char_back *b); /* may be NULL; the streams are closed by the caller */
};

struct char_back {
	struct char_back *next;
	struct chardevs *all;
	const struct char_spec *spec;
	const struct char_ops *ops;
	struct char_front front[CHAR_USERS_MAX + 1]; /* one for who only writes */
	unsigned count, focus;
	bool open; /* somebody is connected */

	struct char_stream in, out;
	bool ended;               /* no more input */
	bool terminal;            /* goes on being read when there is no room */
	bool escapes, escaped;    /* Ctrl-a means something; it was the last byte */
	bool feeding;             /* char_feed is on the stack */
	bool broken;              /* writing failed: the rest is dropped, the end is to come */
	struct char_ring pending; /* output */
	u64 progress;             /* when the reader last took something, ns */

	/* pty, socket */
	struct aio_watch event; /* a listening socket, one that connects */
	int event_fd;
	bool bound;            /* the path of a listening socket is ours */
	struct aio_watch tick; /* a timer */
	int tick_fd;
	char name[32];         /* of the pseudo-terminal */
	struct char_ring kept; /* ringbuf */
};

struct chardevs {
	struct chardevs_host host;
	struct char_back *first, **end;
	bool started;
};

extern const struct char_ops char_null, char_stdio, char_file, char_pipe, char_pty, char_socket,
    char_ringbuf;

/* Is there a front end that takes input? */
bool char_has_input(const struct char_back *b);

/* Somebody is there, or is there no more. Both streams are set before, and closed after. */
void char_opened(struct char_back *b);
void char_closed(struct char_back *b);

/* ops->write for descriptors that do not block. */
ssize_t char_write_fd(struct char_back *b, const u8 *buf, size_t len);

/* Have `ready` called in that many seconds (tick), or when fd is ready (event). Negative errno. */
MUST_CHECK int char_tick(struct char_back *b, unsigned seconds, void (*ready)(void *, unsigned));
MUST_CHECK int char_watch_event(struct char_back *b, int fd, unsigned events,
				void (*ready)(void *, unsigned));
void char_unwatch_event(struct char_back *b); /* and close it */

#endif
