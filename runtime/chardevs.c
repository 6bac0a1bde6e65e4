/*
 * Character devices: what is the same for all kinds.
 *
 * Input. A descriptor is watched (devices/aio.h) while the front ends have room: each has a queue
 * of 64 KiB, from which its chip takes bytes at its own pace. When the queue is full the descriptor
 * is left alone, so that the writer waits. Only a terminal is read on, and dropped, since Ctrl-a x
 * has to work with a guest that does not listen. End of file ends the input of stdio and nothing
 * else; a socket waits for the next client.
 *
 * Output. Written at once if the reader takes it, else queued (64 KiB) and written as it does. The
 * chip is asked to hold back (can_write says 0) before the queue is full, which a guest's driver
 * notices and waits for. What is written all the same when nothing fits has the vCPU wait for the
 * reader, at most HOLD_NS after it last took something: a slow reader loses nothing, one that has
 * stopped reading costs the guest one second, once, and then the bytes (chardev_dropped). With
 * nobody connected bytes are dropped at once, as QEMU does.
 *
 * A shared device (mux=on) has several front ends: all write, one is typed to, and Ctrl-a c goes on
 * to the next. Escape keys are taken out where the device is shared or is a terminal.
 *
 * Everything runs on the vCPU thread, from aio_run or a front end's call. A device is closed from
 * aio_run only: a write that fails marks it (broken) and leaves the rest to its input's watch, so
 * that no front end is told of the end in the middle of its own call.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "chardev_impl.h"
#include "timer.h"

#define RING_SIZE 0x10000u
#define SLACK     0x1000u /* of the output queue: for a chip that finishes what it began */
#define HOLD_NS   NS_PER_SEC
#define ESCAPE    0x01 /* Ctrl-a */

/* ---- queues ---- */

int char_ring_init(struct char_ring *r, u32 size)
{
	*r = (struct char_ring){.buf = malloc(size), .size = size};
	return r->buf ? 0 : -ENOMEM;
}

/* Where the next byte goes or comes from, and how many lie there in one piece. */
static u32 ring_piece(const struct char_ring *r, unsigned pos, u32 len)
{
	return MIN(len, r->size - pos % r->size);
}

size_t char_ring_put(struct char_ring *r, const u8 *buf, size_t len)
{
	size_t done = 0;

	len = MIN(len, char_ring_room(r));
	while (done < len) {
		u32 n = ring_piece(r, r->head, (u32)(len - done));

		memcpy(r->buf + r->head % r->size, buf + done, n);
		r->head += n;
		done += n;
	}
	return done;
}

size_t char_ring_get(struct char_ring *r, u8 *buf, size_t max)
{
	size_t done = 0;

	max = MIN(max, char_ring_used(r));
	while (done < max) {
		u32 n = ring_piece(r, r->tail, (u32)(max - done));

		memcpy(buf + done, r->buf + r->tail % r->size, n);
		r->tail += n;
		done += n;
	}
	return done;
}

/* ---- watches ---- */

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

static int stream_arm(struct char_back *b, struct char_stream *s, unsigned events,
		      void (*ready)(void *, unsigned))
{
	int rc;

	if (s->armed || s->always || s->fd < 0)
		return 0;
	s->armed = true;
	if (s->added) {
		aio_watch_arm(b->all->host.aio, &s->watch, events);
		return 0;
	}
	s->watch.fd = s->fd;
	s->watch.ready = ready;
	s->watch.opaque = b;
	rc = aio_watch_add(b->all->host.aio, &s->watch, events);
	s->added = !rc;
	s->always = rc == -EPERM;
	s->armed = !rc;
	return s->always ? 0 : rc;
}

static void stream_close(struct char_back *b, struct char_stream *s)
{
	if (s->added)
		aio_watch_remove(b->all->host.aio, &s->watch);
	/* The standard descriptors are not ours. */
	if (s->fd >= 0 && s->fd != b->all->host.in && s->fd != b->all->host.out)
		close(s->fd);
	*s = (struct char_stream){.fd = -1};
}

int char_watch_event(struct char_back *b, int fd, unsigned events, void (*ready)(void *, unsigned))
{
	b->event_fd = fd;
	b->event.fd = fd;
	b->event.ready = ready;
	b->event.opaque = b;
	return aio_watch_add(b->all->host.aio, &b->event, events);
}

void char_unwatch_event(struct char_back *b)
{
	if (b->event_fd < 0)
		return;
	aio_watch_remove(b->all->host.aio, &b->event);
	close(b->event_fd);
	b->event_fd = -1;
}

int char_tick(struct char_back *b, unsigned seconds, void (*ready)(void *, unsigned))
{
	struct itimerspec ts = {.it_value.tv_sec = seconds};
	int rc;

	b->tick.ready = ready;
	b->tick.opaque = b;
	if (b->tick_fd < 0) {
		b->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		b->tick.fd = b->tick_fd;
		rc = b->tick_fd < 0 ? -errno : aio_watch_add(b->all->host.aio, &b->tick, EPOLLIN);
		if (rc)
			return rc;
	} else {
		aio_watch_arm(b->all->host.aio, &b->tick, EPOLLIN);
	}
	/* Setting it takes back an expiry nobody has read. */
	return timerfd_settime(b->tick_fd, 0, &ts, NULL) ? -errno : 0;
}

/* ---- output ---- */

static void output_ready(void *opaque, unsigned events);

static void input_ready(void *opaque, unsigned events);

/* A descriptor that cannot be watched (too many are) is as good as gone, and counted. */
static void arm_output(struct char_back *b)
{
	if (stream_arm(b, &b->out, EPOLLOUT, output_ready))
		b->all->host.stats->n[STAT_chardev_unwatched]++;
}

static void arm_input(struct char_back *b)
{
	if (stream_arm(b, &b->in, EPOLLIN, input_ready))
		b->all->host.stats->n[STAT_chardev_unwatched]++;
}

static void lost(struct char_back *b, size_t n)
{
	b->all->host.stats->n[STAT_chardev_dropped] += n;
}

static void output_broken(struct char_back *b, int error)
{
	b->broken = true;
	lost(b, char_ring_used(&b->pending));
	b->pending.tail = b->pending.head;
	if (b->ops->broken)
		b->ops->broken(b, error);
	if (b->ops->ended)
		arm_input(b);
}

/* Hand on as much as the reader takes; how much that is. */
static size_t write_out(struct char_back *b, const u8 *buf, size_t len)
{
	size_t done = 0;

	while (done < len && !b->broken) {
		ssize_t n = b->ops->write(b, buf + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n == -EAGAIN || n == 0)
			break;
		else if (n != -EINTR)
			output_broken(b, (int)-n);
	}
	if (done)
		b->progress = now_ns();
	return done;
}

static void tell_writable(struct char_back *b)
{
	for (unsigned i = 0; i < b->count; i++) {
		struct char_front *f = &b->front[i];

		if (!f->starved)
			continue;
		f->starved = false;
		if (f->dev.writable)
			f->dev.writable(f->dev.dev);
	}
}

/* Write what is queued. */
static void drain_pending(struct char_back *b)
{
	struct char_ring *r = &b->pending;

	while (char_ring_used(r)) {
		u32 n = ring_piece(r, r->tail, char_ring_used(r));
		size_t done = write_out(b, r->buf + r->tail % r->size, n);

		if (b->broken)
			return;
		r->tail += (unsigned)done;
		if (done < n)
			break;
	}
}

static void output_ready(void *opaque, unsigned events)
{
	struct char_back *b = opaque;

	(void)events; /* an error shows when writing */
	b->out.armed = false;
	drain_pending(b);
	if (char_ring_used(&b->pending))
		arm_output(b);
	if (char_ring_used(&b->pending) <= RING_SIZE / 2)
		tell_writable(b);
}

/* The queue is full and there is more: wait for the reader, if it still reads. */
static bool hold(struct char_back *b)
{
	struct pollfd p[2] = {{.fd = b->out.fd, .events = POLLOUT},
			      {.fd = console_stop_fd(b->all->host.con), .events = POLLIN}};
	u64 waited = now_ns() - b->progress;
	int n;

	if (b->broken || waited >= HOLD_NS)
		return false;
	b->all->host.stats->n[STAT_chardev_holds]++;
	n = poll(p, ARRAY_LEN(p), (int)((HOLD_NS - waited) / 1000000) + 1);
	if (n < 0)
		return errno == EINTR;
	if (!n || p[1].revents)
		return false;
	drain_pending(b);
	return !b->broken;
}

static void queue_output(struct char_back *b, const u8 *buf, size_t len)
{
	if (!char_ring_used(&b->pending))
		b->progress = now_ns(); /* from here on the reader is waited for */
	for (;;) {
		size_t n = char_ring_put(&b->pending, buf, len);

		buf += n;
		len -= n;
		if (!len || !hold(b))
			break;
	}
	if (len)
		lost(b, len);
	if (!b->broken)
		arm_output(b);
}

static void front_write(struct chardev *c, const u8 *buf, size_t len)
{
	struct char_back *b = container_of(c, struct char_front, dev)->back;
	size_t n = 0;

	if (!b->open && b->ops->probe)
		b->ops->probe(b);
	if (!b->open || b->broken) {
		lost(b, len);
		return;
	}
	if (!char_ring_used(&b->pending))
		n = write_out(b, buf, len);
	if (b->broken)
		lost(b, len - n);
	else if (n < len)
		queue_output(b, buf + n, len - n);
}

static size_t front_can_write(struct chardev *c)
{
	struct char_front *f = container_of(c, struct char_front, dev);
	struct char_back *b = f->back;
	u32 room = char_ring_room(&b->pending);

	if (!b->open || b->broken)
		return SIZE_MAX;
	if (room > SLACK)
		return room - SLACK;
	f->starved = true;
	return 0;
}

ssize_t char_write_fd(struct char_back *b, const u8 *buf, size_t len)
{
	ssize_t n = write(b->out.fd, buf, len);

	return n < 0 ? -errno : n;
}

/* ---- input ---- */

static struct char_front *focused(struct char_back *b)
{
	return &b->front[b->focus];
}

static void tell(struct char_front *f, enum chardev_event event)
{
	if (f->dev.event)
		f->dev.event(f->dev.dev, event);
}

static void focus_next(struct char_back *b)
{
	unsigned i = b->focus;

	do
		i = (i + 1) % b->count;
	while (!b->front[i].input);
	if (i == b->focus)
		return;
	b->focus = i;
	tell(focused(b), CHARDEV_FOCUS);
}

static void print_escape_help(struct char_back *b)
{
	static const char text[] = "\r\nCtrl-a h       this help\r\n"
				   "Ctrl-a x       end ringshift\r\n"
				   "Ctrl-a b       send a break\r\n"
				   "Ctrl-a c       switch between guest and monitor\r\n"
				   "Ctrl-a Ctrl-a  send Ctrl-a\r\n";

	chardev_write(&focused(b)->dev, (const u8 *)text, sizeof(text) - 1);
}

/* The key after Ctrl-a; any other than these means nothing, and is dropped. */
static void escape_key(struct char_back *b, u8 key)
{
	struct char_front *f = focused(b);

	switch (key) {
	case 'x': console_request_stop(b->all->host.con, CONSOLE_QUIT); break;
	case 'h': print_escape_help(b); break;
	case 'b': tell(f, CHARDEV_BREAK); break;
	case 'c': focus_next(b); break;
	case ESCAPE: char_ring_put(&f->in, &key, 1); break;
	}
}

/* Queue what was typed for whom it is meant. */
static void take_input(struct char_back *b, const u8 *buf, size_t len)
{
	if (!b->escapes) {
		char_ring_put(&focused(b)->in, buf, len);
		return;
	}
	for (size_t i = 0; i < len; i++) {
		if (b->escaped) {
			b->escaped = false;
			escape_key(b, buf[i]);
		} else if (buf[i] == ESCAPE) {
			b->escaped = true;
		} else {
			char_ring_put(&focused(b)->in, &buf[i], 1);
		}
	}
}

/* How much may be read so that all of it fits, whoever it is for. */
static size_t input_room(const struct char_back *b)
{
	size_t room = SIZE_MAX;

	for (unsigned i = 0; i < b->count; i++)
		if (b->front[i].input)
			room = MIN(room, char_ring_room(&b->front[i].in));
	return b->terminal ? SIZE_MAX : room;
}

static bool wants_input(const struct char_back *b)
{
	return b->open && !b->ended && b->in.fd >= 0 && input_room(b);
}

/* Read once. False if nothing came. */
static bool read_input(struct char_back *b)
{
	u8 buf[4096];
	ssize_t n = read(b->in.fd, buf, MIN(input_room(b), sizeof(buf)));

	if (n > 0) {
		take_input(b, buf, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return false;
	b->ended = true;
	if (b->ops->ended)
		b->ops->ended(b);
	return false;
}

static void pump(struct char_front *f)
{
	u8 buf[256];

	while (f->dev.receive && char_ring_used(&f->in)) {
		size_t room = f->dev.can_receive ? f->dev.can_receive(f->dev.dev) : sizeof(buf);
		size_t n = char_ring_get(&f->in, buf, MIN(room, sizeof(buf)));

		if (!n)
			break;
		f->dev.receive(f->dev.dev, buf, n);
	}
}

/* Move bytes on as far as there is room, and wait for more if there is. */
static void char_feed(struct char_back *b)
{
	bool more;

	/* receive may make the chip say that it has room. */
	if (b->feeding)
		return;
	b->feeding = true;
	do {
		for (unsigned i = 0; i < b->count; i++)
			pump(&b->front[i]);
		more = b->in.always && wants_input(b) && read_input(b);
	} while (more);
	b->feeding = false;
	if (wants_input(b))
		arm_input(b);
}

static void input_ready(void *opaque, unsigned events)
{
	struct char_back *b = opaque;

	(void)events; /* hang-ups and errors show when reading */
	b->in.armed = false;
	if (wants_input(b))
		read_input(b);
	else if (b->broken && b->ops->ended)
		b->ops->ended(b); /* what it has sent last finds no room */
	char_feed(b);
}

/* The chip's FIFO has been emptied: there may be more. */
static void front_room(struct chardev *c)
{
	char_feed(container_of(c, struct char_front, dev)->back);
}

/* ---- who is there ---- */

void char_opened(struct char_back *b)
{
	b->open = true;
	b->ended = b->broken = b->escaped = false;
	for (unsigned i = 0; i < b->count; i++)
		tell(&b->front[i], CHARDEV_OPENED);
	if (b->count)
		tell(focused(b), CHARDEV_FOCUS);
	char_feed(b);
	/* A file is read at once, by char_feed, once it has turned out to be one. */
	if (b->in.always)
		char_feed(b);
}

void char_closed(struct char_back *b)
{
	b->open = false;
	stream_close(b, &b->in);
	stream_close(b, &b->out);
	lost(b, char_ring_used(&b->pending));
	b->pending.tail = b->pending.head;
	for (unsigned i = 0; i < b->count; i++)
		tell(&b->front[i], CHARDEV_CLOSED);
	tell_writable(b);
	char_feed(b);
}

/* ---- life ---- */

int chardevs_create(struct chardevs **out, const struct chardevs_host *host)
{
	struct chardevs *cs = calloc(1, sizeof(*cs));

	if (!cs)
		return -ENOMEM;
	cs->host = *host;
	cs->end = &cs->first;
	*out = cs;
	return 0;
}

static const struct char_ops *const ops_of_kind[] = {
    [CHAR_NULL] = &char_null,       [CHAR_STDIO] = &char_stdio, [CHAR_FILE] = &char_file,
    [CHAR_PIPE] = &char_pipe,       [CHAR_PTY] = &char_pty,     [CHAR_SOCKET] = &char_socket,
    [CHAR_RINGBUF] = &char_ringbuf,
};

static void back_free(struct char_back *b)
{
	stream_close(b, &b->in);
	stream_close(b, &b->out);
	char_unwatch_event(b);
	if (b->tick_fd >= 0) {
		aio_watch_remove(b->all->host.aio, &b->tick);
		close(b->tick_fd);
	}
	if (b->ops->close)
		b->ops->close(b);
	for (unsigned i = 0; i < b->count; i++)
		free(b->front[i].in.buf);
	free(b->pending.buf);
	free(b->kept.buf);
	free(b);
}

int chardevs_add(struct chardevs *cs, const struct char_spec *spec, char *err, size_t err_size)
{
	struct char_back *b = calloc(1, sizeof(*b));
	int rc;

	if (!b || char_ring_init(&b->pending, RING_SIZE)) {
		free(b);
		snprintf(err, err_size, "-chardev %s: out of memory", spec->id);
		return -ENOMEM;
	}
	b->all = cs;
	b->spec = spec;
	b->ops = ops_of_kind[spec->kind];
	b->in.fd = b->out.fd = b->event_fd = b->tick_fd = -1;
	rc = b->ops->open ? b->ops->open(b, err, err_size) : 0;
	if (rc) {
		back_free(b);
		return rc;
	}
	*cs->end = b;
	cs->end = &b->next;
	return 0;
}

static struct char_back *find(struct chardevs *cs, const char *id)
{
	struct char_back *b = cs->first;

	while (b && strcmp(b->spec->id, id))
		b = b->next;
	return b;
}

bool char_has_input(const struct char_back *b)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->front[i].input)
			return true;
	return false;
}

struct chardev *chardevs_attach(struct chardevs *cs, const char *id, bool input, char *err,
				size_t err_size)
{
	struct char_back *b = find(cs, id);
	struct char_front *f;

	BUG_ON(cs->started);
	if (!b) {
		snprintf(err, err_size, "there is no character device '%s'", id);
		return NULL;
	}
	if (b->count == ARRAY_LEN(b->front) || (input && char_has_input(b) && !b->spec->mux)) {
		snprintf(err, err_size, "character device '%s' has another user", id);
		return NULL;
	}
	f = &b->front[b->count];
	*f = (struct char_front){.back = b, .input = input};
	if (input && char_ring_init(&f->in, RING_SIZE)) {
		snprintf(err, err_size, "out of memory");
		return NULL;
	}
	f->dev.write = front_write;
	f->dev.can_write = front_can_write;
	f->dev.room = front_room;
	/* The first that takes input has it. */
	if (input && !char_has_input(b))
		b->focus = b->count;
	b->count++;
	return &f->dev;
}

static int back_start(struct char_back *b, char *err, size_t err_size)
{
	b->escapes |= b->spec->mux;
	if (b->ops->start)
		return b->ops->start(b, err, err_size);
	char_opened(b);
	return 0;
}

int chardevs_start(struct chardevs *cs, char *err, size_t err_size)
{
	cs->started = true;
	for (struct char_back *b = cs->first; b; b = b->next) {
		int rc = back_start(b, err, err_size);

		if (rc)
			return rc;
	}
	return 0;
}

static void flush_one(struct char_back *b, bool patient)
{
	struct pollfd p[2] = {{.fd = b->out.fd, .events = POLLOUT},
			      {.fd = console_stop_fd(b->all->host.con), .events = POLLIN}};
	bool wait_on = patient && b->spec->kind == CHAR_STDIO;

	while (b->open && !b->broken && char_ring_used(&b->pending)) {
		u64 waited = now_ns() - b->progress;
		int left = waited >= HOLD_NS ? 0 : (int)((HOLD_NS - waited) / 1000000) + 1;
		int n = poll(p, wait_on ? 2 : 1, wait_on ? -1 : left);

		if (n == 0 || (n < 0 && errno != EINTR) || (wait_on && n > 0 && p[1].revents))
			break;
		drain_pending(b);
	}
}

void chardevs_flush(struct chardevs *cs, bool patient)
{
	for (struct char_back *b = cs->first; b; b = b->next)
		flush_one(b, patient);
}

void chardevs_destroy(struct chardevs *cs)
{
	if (!cs)
		return;
	while (cs->first) {
		struct char_back *b = cs->first;

		cs->first = b->next;
		back_free(b);
	}
	free(cs);
}

/* ---- for monitors ---- */

void chardevs_list(struct chardevs *cs,
		   void (*fn)(void *opaque, const char *id, const char *filename, bool used),
		   void *opaque)
{
	char name[CHAR_PATH_MAX + 64];

	for (struct char_back *b = cs->first; b; b = b->next) {
		b->ops->describe(b, name, sizeof(name));
		fn(opaque, b->spec->id, name, b->count);
	}
}

ssize_t chardevs_ringbuf_read(struct chardevs *cs, const char *id, u8 *buf, size_t max)
{
	struct char_back *b = find(cs, id);

	if (!b || b->spec->kind != CHAR_RINGBUF)
		return b ? -EINVAL : -ENOENT;
	return (ssize_t)char_ring_get(&b->kept, buf, max);
}

ssize_t chardevs_ringbuf_write(struct chardevs *cs, const char *id, const u8 *buf, size_t len)
{
	struct char_back *b = find(cs, id);

	if (!b || b->spec->kind != CHAR_RINGBUF)
		return b ? -EINVAL : -ENOENT;
	return b->ops->write(b, buf, len);
}
