/*
 * Character devices. Standard input and output on pseudo-terminals, pipes and files: raw mode and
 * its end, escape keys, both directions of bytes, and what happens when the other side goes away.
 * Pseudo-terminals of our own, sockets and ring buffers, one of them shared.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

#include "chardevs.h"

#define PATIENCE_MS 5000

/* A serial port that keeps what it gets, and a VM around it that gets kicked. */
struct rig {
	struct console *con;
	struct chardevs *cs;
	struct aio *aio;
	struct stats stats;
	struct char_spec spec;
	struct chardev *dev;
	_Atomic int kicks;
	u8 got[1 << 21];
	size_t got_len;
	size_t limit; /* can_receive says at most that much more */
	int opened, closed, focused, breaks, writable;
};

static void rig_kick(void *opaque)
{
	((struct rig *)opaque)->kicks++;
}

static void *spawn(void *(*fn)(void *), void *arg)
{
	pthread_t *t = malloc(sizeof(*t));
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	cr_assert_eq(pthread_create(t, NULL, fn, arg), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return t;
}

static void join(void *thread)
{
	pthread_join(*(pthread_t *)thread, NULL);
	free(thread);
}

static void rig_event(void *dev, enum chardev_event event)
{
	struct rig *r = dev;

	switch (event) {
	case CHARDEV_OPENED: r->opened++; break;
	case CHARDEV_CLOSED: r->closed++; break;
	case CHARDEV_FOCUS: r->focused++; break;
	case CHARDEV_BREAK: r->breaks++; break;
	}
}

static void rig_writable(void *dev)
{
	((struct rig *)dev)->writable++;
}

static size_t rig_can_receive(void *dev)
{
	struct rig *r = dev;

	return MIN(r->limit, sizeof(r->got) - r->got_len);
}

static void rig_receive(void *dev, const u8 *buf, size_t len)
{
	struct rig *r = dev;

	cr_assert_leq(len, rig_can_receive(r), "more than there is room for");
	memcpy(r->got + r->got_len, buf, len);
	r->got_len += len;
	if (r->limit != SIZE_MAX)
		r->limit -= len;
}

static struct rig *rig_new(int in, int out)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct aio_host aio = {.spawn = spawn, .join = join, .kick = rig_kick, .opaque = r};
	struct console_host con = {.kick = rig_kick, .opaque = r};
	struct chardevs_host host = {.in = in, .out = out};

	cr_assert_not_null(r);
	r->limit = SIZE_MAX;
	cr_assert_eq(console_create(&r->con, &con), 0);
	cr_assert_eq(aio_create(&r->aio, &aio, &r->stats), 0);
	host.aio = r->aio;
	host.con = r->con;
	host.stats = &r->stats;
	cr_assert_eq(chardevs_create(&r->cs, &host), 0);
	return r;
}

static struct chardev *rig_attach(struct rig *r)
{
	char err[256];
	struct chardev *c = chardevs_attach(r->cs, r->spec.id, true, err, sizeof(err));

	cr_assert_not_null(c, "%s", err);
	c->dev = r;
	c->can_receive = rig_can_receive;
	c->receive = rig_receive;
	c->event = rig_event;
	c->writable = rig_writable;
	return c;
}

static void rig_go(struct rig *r)
{
	char err[256];

	cr_assert_eq(console_start(r->con), 0);
	cr_assert_eq(chardevs_start(r->cs, err, sizeof(err)), 0, "%s", err);
}

/* One device of a short form ("mon:stdio", "unix:...") with a port on it, begun. */
static struct rig *rig_short(int in, int out, const char *form)
{
	struct rig *r = rig_new(in, out);
	char err[256];
	bool mon;

	cr_assert_eq(char_spec_short(&r->spec, "-serial", form, "serial0", &mon, err, sizeof(err)),
		     0, "%s", err);
	cr_assert_eq(chardevs_add(r->cs, &r->spec, err, sizeof(err)), 0, "%s", err);
	r->dev = rig_attach(r);
	rig_go(r);
	return r;
}

enum stdio_kind { PLAIN, MON };

static struct rig *rig_start(int in, int out, enum stdio_kind kind)
{
	return rig_short(in, out, kind == MON ? "mon:stdio" : "stdio");
}

static void rig_end(struct rig *r)
{
	chardevs_flush(r->cs, false);
	chardevs_destroy(r->cs);
	console_destroy(r->con);
	aio_destroy(r->aio);
	free(r);
}

static void nap(void)
{
	struct timespec ts = {.tv_nsec = 1000000};

	nanosleep(&ts, NULL);
}

/* Poll the console until the port has n bytes. */
static void await_bytes(struct rig *r, size_t n)
{
	for (int i = 0; i < PATIENCE_MS && r->got_len < n; i++) {
		aio_run(r->aio);
		nap();
	}
	cr_assert_geq(r->got_len, n, "%zu of %zu bytes arrived", r->got_len, n);
}

static void await_stop(struct rig *r, enum console_stop why)
{
	for (int i = 0; i < PATIENCE_MS && console_stop(r->con) == CONSOLE_GOES_ON; i++) {
		aio_run(r->aio);
		nap();
	}
	cr_assert_eq(console_stop(r->con), why);
	cr_assert_gt(r->kicks, 0, "the vCPU was not told");
}

/* Let events of so many milliseconds happen. */
static void run_for(struct rig *r, int ms)
{
	while (ms--) {
		aio_run(r->aio);
		nap();
	}
}

static void type(int fd, const char *text, size_t len)
{
	cr_assert_eq(write(fd, text, len), (ssize_t)len);
}

/* What arrives at the other side of the output within a while, at least n bytes. */
static size_t drain(int fd, char *buf, size_t n)
{
	size_t have = 0;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (have < n && poll(&p, 1, PATIENCE_MS) > 0) {
		ssize_t ret = read(fd, buf + have, n - have);

		if (ret <= 0)
			break;
		have += (size_t)ret;
	}
	return have;
}

static bool same_modes(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && !memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc));
}

struct pty {
	int master, slave;
	struct termios before;
};

static struct pty pty_open(void)
{
	struct pty p;

	cr_assert_eq(openpty(&p.master, &p.slave, NULL, NULL, NULL), 0);
	cr_assert_eq(tcgetattr(p.slave, &p.before), 0);
	cr_assert(p.before.c_lflag & ICANON, "a new pty is not raw");
	return p;
}

static struct termios modes(int fd)
{
	struct termios t;

	cr_assert_eq(tcgetattr(fd, &t), 0);
	return t;
}

Test(chardev, raw_while_running_and_restored)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, MON);
	struct termios t = modes(p.slave);

	cr_assert_eq(t.c_lflag & (ECHO | ICANON | ISIG | IEXTEN), 0);
	cr_assert_eq(t.c_iflag & (ICRNL | IXON | ISTRIP), 0);
	rig_end(r);
	t = modes(p.slave);
	cr_assert(same_modes(&t, &p.before));
}

Test(chardev, plain_stdio_keeps_ctrl_c_for_the_host)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, PLAIN);

	cr_assert(modes(p.slave).c_lflag & ISIG);
	cr_assert_eq(modes(p.slave).c_lflag & (ECHO | ICANON), 0);
	rig_end(r);
}

Test(chardev, bytes_both_ways)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, MON);
	char buf[16];

	type(p.master, "ls\r\x03", 4);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "ls\r\x03", 4);
	chardev_write(r->dev, (const u8 *)"hello", 5);
	cr_assert_eq(drain(p.master, buf, 5), 5);
	cr_assert_arr_eq(buf, "hello", 5);
	rig_end(r);
}

Test(chardev, ctrl_a_x_quits)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, PLAIN);

	type(p.master, "\x01", 1);
	run_for(r, 20);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	type(p.master, "x", 1);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(chardev, ctrl_a_ctrl_a_sends_one)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, MON);

	type(p.master, "a\x01\x01x\x01qb", 7);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "a\x01xb", 4);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(chardev, ctrl_a_h_helps)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, MON);
	char buf[32] = "";

	type(p.master, "\x01h", 2);
	run_for(r, 50);
	cr_assert_geq(drain(p.master, buf, 31), 31);
	cr_assert_not_null(strstr(buf, "Ctrl-a h"));
	rig_end(r);
}

Test(chardev, quit_works_with_a_guest_that_never_reads)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, MON);
	char junk[1024];

	r->limit = 0;
	memset(junk, 'j', sizeof(junk));
	for (int i = 0; i < 100; i++) { /* more than the queue holds */
		type(p.master, junk, sizeof(junk));
		run_for(r, 5);
	}
	type(p.master, "\x01x", 2);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(chardev, a_pipe_is_passed_on_whole_at_the_guests_pace)
{
	enum { TOTAL = 200000 };
	int in[2], null = open("/dev/null", O_WRONLY);
	struct rig *r;
	pid_t writer;

	cr_assert_eq(pipe(in), 0);
	writer = fork();
	if (!writer) {
		for (int i = 0; i < TOTAL; i++) {
			u8 b = (u8)(i * 7);

			if (write(in[1], &b, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(in[1]);
	r = rig_start(in[0], null, PLAIN);
	r->limit = 0;
	run_for(r, 300); /* let the queue fill up */
	cr_assert_eq(r->got_len, 0);
	/* A FIFO of 16 bytes that says when it has been emptied. */
	for (int i = 0; i < 100 * PATIENCE_MS && r->got_len < TOTAL; i++) {
		size_t before = r->got_len;

		r->limit = 16;
		r->dev->room(r->dev);
		aio_run(r->aio);
		if (r->got_len == before)
			nap();
	}
	cr_assert_eq(r->got_len, TOTAL);
	for (int i = 0; i < TOTAL; i++)
		cr_assert_eq(r->got[i], (u8)(i * 7), "byte %d", i);
	waitpid(writer, NULL, 0);
	rig_end(r);
}

Test(chardev, plain_stdio_on_a_pipe_is_transparent)
{
	int in[2], null = open("/dev/null", O_WRONLY);
	struct rig *r;

	cr_assert_eq(pipe(in), 0);
	r = rig_start(in[0], null, PLAIN);
	type(in[1], "\x01x\0\xff", 4);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "\x01x\0\xff", 4);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(chardev, mon_stdio_on_a_pipe_has_escapes)
{
	int in[2], null = open("/dev/null", O_WRONLY);
	struct rig *r;

	cr_assert_eq(pipe(in), 0);
	r = rig_start(in[0], null, MON);
	type(in[1], "\x01x", 2);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(chardev, end_of_file_only_ends_input)
{
	int in[2], out[2];
	struct rig *r;
	char c;

	cr_assert_eq(pipe(in), 0);
	cr_assert_eq(pipe(out), 0);
	r = rig_start(in[0], out[1], MON);
	type(in[1], "ab", 2);
	close(in[1]);
	await_bytes(r, 2);
	run_for(r, 20);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	chardev_write(r->dev, (const u8 *)"z", 1);
	cr_assert_eq(read(out[0], &c, 1), 1);
	rig_end(r);
}

Test(chardev, closed_standard_input)
{
	int in = dup(0), null = open("/dev/null", O_WRONLY);
	struct rig *r;

	close(in);
	r = rig_start(in, null, PLAIN);
	run_for(r, 20);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(chardev, output_to_a_closed_pipe_asks_for_the_end)
{
	int out[2], null = open("/dev/null", O_RDONLY);
	struct rig *r;
	char err[128];

	cr_assert_eq(pipe(out), 0);
	r = rig_start(null, out[1], PLAIN);
	close(out[0]);
	chardev_write(r->dev, (const u8 *)"x", 1);
	await_stop(r, CONSOLE_FAILED);
	chardev_write(r->dev, (const u8 *)"y", 1); /* dropped */
	console_error(r->con, err, sizeof(err));
	cr_assert_str_eq(err, "cannot write to standard output: Broken pipe");
	rig_end(r);
}

Test(chardev, full_disk)
{
	struct rig *r = rig_short(0, 1, "file:/dev/full");
	char err[128];

	chardev_write(r->dev, (const u8 *)"x", 1);
	await_stop(r, CONSOLE_FAILED);
	console_error(r->con, err, sizeof(err));
	cr_assert_str_eq(err, "cannot write to /dev/full: No space left on device");
	rig_end(r);
}

Test(chardev, a_file_gets_what_is_written)
{
	char path[] = "/tmp/ringshift-chardev-XXXXXX", form[64], buf[8], err[128];
	int fd = mkstemp(path);
	struct char_spec wrong = {.kind = CHAR_FILE, .id = "w", .path = "/nonexistent/x"};
	struct rig *r;

	cr_assert_geq(fd, 0);
	snprintf(form, sizeof(form), "file:%s", path);
	r = rig_short(0, 1, form);
	cr_assert_eq(chardevs_add(r->cs, &wrong, err, sizeof(err)), -ENOENT);
	cr_assert_str_eq(err, "cannot open /nonexistent/x: No such file or directory");
	chardev_write(r->dev, (const u8 *)"serial", 6);
	rig_end(r);
	cr_assert_eq(read(fd, buf, sizeof(buf)), 6);
	cr_assert_arr_eq(buf, "serial", 6);
	unlink(path);
}

Test(chardev, a_slow_reader_loses_nothing)
{
	enum { TOTAL = 300000 };
	static u8 data[TOTAL], got[TOTAL];
	int out[2], null = open("/dev/null", O_RDONLY);
	struct rig *r;
	pid_t writer;
	int status;

	for (int i = 0; i < TOTAL; i++)
		data[i] = (u8)(i * 13 >> 3);
	cr_assert_eq(pipe(out), 0);
	cr_assert_eq(fcntl(out[1], F_SETFL, O_NONBLOCK), 0); /* EAGAIN, partial writes */
	writer = fork();
	if (!writer) {
		r = rig_start(null, out[1], PLAIN);
		chardev_write(r->dev, data, TOTAL);
		chardevs_flush(r->cs, true);
		_exit(console_stop(r->con) != CONSOLE_GOES_ON);
	}
	close(out[1]);
	for (int i = 0; i < 50; i++)
		nap();
	cr_assert_eq(drain(out[0], (char *)got, TOTAL), TOTAL);
	cr_assert_eq(memcmp(data, got, TOTAL), 0);
	waitpid(writer, &status, 0);
	cr_assert_eq(status, 0);
}

/* Run a console on p in a child until it has been told to end by `how`; its wait status. */
static int child_ends(struct pty *p, void (*how)(struct rig *r, struct pty *p))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct rig *r = rig_start(p->slave, p->slave, MON);

		if (modes(p->slave).c_lflag & ICANON)
			_exit(99);
		how(r, p);
		_exit(98);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void by_orderly_sigterm(struct rig *r, struct pty *p)
{
	(void)p;
	raise(SIGTERM);
	await_stop(r, CONSOLE_SIGNAL);
	rig_end(r);
	console_die_of_signal();
}

static void by_sighup_with_a_stuck_vcpu(struct rig *r, struct pty *p)
{
	(void)r, (void)p;
	raise(SIGHUP);
	for (;;)
		pause();
}

static void by_abort(struct rig *r, struct pty *p)
{
	(void)r, (void)p;
	abort();
}

static void by_exit(struct rig *r, struct pty *p)
{
	(void)r, (void)p;
	exit(7);
}

/* The output is full and nobody reads: the writer must come back when a signal asks for the end. */
static void while_output_blocks(struct rig *r, struct pty *p)
{
	u8 junk[4096];

	(void)p;
	memset(junk, 'j', sizeof(junk));
	if (!fork()) {
		nap();
		for (int i = 0; i < 100; i++)
			nap();
		kill(getppid(), SIGTERM);
		_exit(0);
	}
	for (int i = 0; i < 100 && console_stop(r->con) == CONSOLE_GOES_ON; i++)
		chardev_write(r->dev, junk, sizeof(junk));
	by_orderly_sigterm(r, p);
}

Test(chardev, every_end_gives_the_terminal_back, .timeout = 30)
{
	static const struct {
		const char *name;
		void (*how)(struct rig *r, struct pty *p);
		int exit, signal;
	} ends[] = {
	    {"SIGTERM", by_orderly_sigterm, 0, SIGTERM},
	    {"SIGHUP, stuck", by_sighup_with_a_stuck_vcpu, 0, SIGALRM},
	    {"abort", by_abort, 0, SIGABRT},
	    {"exit", by_exit, 7, 0},
	    {"blocked output", while_output_blocks, 0, SIGTERM},
	};

	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		struct pty p = pty_open();
		int status = child_ends(&p, ends[i].how);
		struct termios t = modes(p.slave);

		if (ends[i].signal)
			cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == ends[i].signal,
				  "%s: wait status %#x", ends[i].name, status);
		else
			cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == ends[i].exit,
				  "%s: wait status %#x", ends[i].name, status);
		cr_expect(same_modes(&t, &p.before), "%s: the terminal is not as it was",
			  ends[i].name);
		close(p.master);
		close(p.slave);
	}
}

Test(chardev, an_ignored_hangup_stays_ignored)
{
	struct pty p = pty_open();
	struct rig *r;

	signal(SIGHUP, SIG_IGN); /* nohup */
	r = rig_start(p.slave, p.slave, PLAIN);
	raise(SIGHUP);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(chardev, raw_again_after_a_stop)
{
	struct pty p = pty_open();
	pid_t pid = fork();
	int status;

	if (!pid) { /* a session of its own, with the pty as its terminal */
		struct rig *r;

		if (login_tty(dup(p.slave)))
			_exit(1);
		r = rig_start(0, 1, PLAIN);
		tcsetattr(0, TCSANOW, &p.before); /* as a shell does while we are stopped */
		raise(SIGCONT);
		status = modes(0).c_lflag & ICANON ? 2 : 0;
		rig_end(r);
		_exit(status);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

/* ---- shared devices ---- */

Test(chardev, ctrl_a_c_goes_round)
{
	struct pty p = pty_open();
	struct rig *r = rig_new(p.slave, p.slave), *mon = calloc(1, sizeof(*mon));
	struct chardev *c;
	char err[128];

	r->spec = (struct char_spec){.kind = CHAR_STDIO, .mux = true, .fd = -1, .id = "con"};
	mon->spec = r->spec;
	mon->limit = SIZE_MAX;
	cr_assert_eq(chardevs_add(r->cs, &r->spec, err, sizeof(err)), 0);
	r->dev = rig_attach(r);
	c = rig_attach(r);
	c->dev = mon;
	rig_go(r);
	cr_assert_eq(r->opened, 1);
	cr_assert_eq(mon->opened, 1);
	cr_assert_eq(r->focused, 1);
	cr_assert_eq(mon->focused, 0, "the first that takes input has it");
	type(p.master,
	     "ab\x01"
	     "cxy\x01"
	     "cd\x01"
	     "b",
	     12);
	await_bytes(r, 3);
	cr_assert_arr_eq(r->got, "abd", 3);
	cr_assert_eq(mon->got_len, 2);
	cr_assert_arr_eq(mon->got, "xy", 2);
	cr_assert_eq(mon->focused, 1);
	cr_assert_eq(r->focused, 2);
	run_for(r, 20);
	cr_assert_eq(r->breaks, 1);
	/* Both write. */
	chardev_write(r->dev, (const u8 *)"g", 1);
	chardev_write(c, (const u8 *)"m", 1);
	cr_assert_eq(drain(p.master, err, 2), 2);
	cr_assert_arr_eq(err, "gm", 2);
	rig_end(r);
	free(mon);
}

Test(chardev, one_user_unless_it_is_shared)
{
	struct rig *r = rig_new(0, 1);
	char err[128];

	r->spec = (struct char_spec){.kind = CHAR_NULL, .fd = -1, .id = "n"};
	cr_assert_eq(chardevs_add(r->cs, &r->spec, err, sizeof(err)), 0);
	rig_attach(r);
	cr_assert_null(chardevs_attach(r->cs, "n", true, err, sizeof(err)));
	cr_assert_str_eq(err, "character device 'n' has another user");
	cr_assert_not_null(chardevs_attach(r->cs, "n", false, err, sizeof(err)), "it only writes");
	cr_assert_null(chardevs_attach(r->cs, "m", true, err, sizeof(err)));
	cr_assert_str_eq(err, "there is no character device 'm'");
	rig_end(r);
}

/* ---- ring buffers, pipes ---- */

Test(chardev, a_ring_buffer_keeps_the_newest)
{
	struct rig *r = rig_new(0, 1);
	char err[128];
	u8 buf[16];

	r->spec = (struct char_spec){.kind = CHAR_RINGBUF, .size = 8, .fd = -1, .id = "ring"};
	cr_assert_eq(chardevs_add(r->cs, &r->spec, err, sizeof(err)), 0);
	r->dev = rig_attach(r);
	rig_go(r);
	chardev_write(r->dev, (const u8 *)"0123456789", 10);
	chardev_write(r->dev, (const u8 *)"ab", 2);
	cr_assert_eq(chardevs_ringbuf_read(r->cs, "ring", buf, 3), 3);
	cr_assert_arr_eq(buf, "456", 3);
	cr_assert_eq(chardevs_ringbuf_write(r->cs, "ring", (const u8 *)"X", 1), 1);
	cr_assert_eq(chardevs_ringbuf_read(r->cs, "ring", buf, 16), 6);
	cr_assert_arr_eq(buf, "789abX", 6);
	cr_assert_eq(chardevs_ringbuf_read(r->cs, "ring", buf, 16), 0);
	cr_assert_eq(chardevs_ringbuf_read(r->cs, "bell", buf, 16), -ENOENT);
	rig_end(r);
}

Test(chardev, pipes_both_ways)
{
	char path[] = "/tmp/ringshift-pipe-XXXXXX", name[64], form[64], buf[8];
	struct rig *r;
	int in, out;

	close(mkstemp(path));
	snprintf(name, sizeof(name), "%s.in", path);
	cr_assert_eq(mkfifo(name, 0600), 0);
	snprintf(name, sizeof(name), "%s.out", path);
	cr_assert_eq(mkfifo(name, 0600), 0);
	snprintf(form, sizeof(form), "pipe:%s", path);
	r = rig_short(0, 1, form);
	out = open(name, O_RDONLY);
	snprintf(name, sizeof(name), "%s.in", path);
	in = open(name, O_WRONLY);
	type(in, "to guest", 8);
	await_bytes(r, 8);
	cr_assert_arr_eq(r->got, "to guest", 8);
	close(in);
	in = open(name, O_WRONLY); /* the next writer */
	type(in, "!", 1);
	await_bytes(r, 9);
	chardev_write(r->dev, (const u8 *)"hello", 5);
	cr_assert_eq(drain(out, buf, 5), 5);
	rig_end(r);
	unlink(name);
	snprintf(name, sizeof(name), "%s.out", path);
	unlink(name);
	unlink(path);
}

/* ---- a pseudo-terminal of our own ---- */

/* The name the device has printed is also in its description. */
static void note_name(void *opaque, const char *id, const char *filename, bool used)
{
	(void)id, (void)used;
	strcpy(opaque, filename);
}

Test(chardev, pty_comes_and_goes)
{
	struct rig *r = rig_short(0, open("/dev/null", O_WRONLY), "pty");
	char name[CHAR_PATH_MAX + 64], buf[8];
	int fd;

	chardevs_list(r->cs, note_name, name);
	cr_assert_eq(strncmp(name, "pty:/dev/pts/", 13), 0);
	chardev_write(r->dev, (const u8 *)"lost", 4);
	cr_assert_eq(r->stats.n[STAT_chardev_dropped], 4, "nobody is there");
	cr_assert_eq(chardev_can_write(r->dev), SIZE_MAX, "nor is anybody waited for");
	for (int round = 1; round <= 2; round++) {
		fd = open(name + 4, O_RDWR | O_NOCTTY);
		cr_assert_geq(fd, 0);
		cr_assert_not(modes(fd).c_lflag & (ECHO | ICANON), "raw from the start");
		/* A write notices; without one it takes a second. */
		if (round == 1)
			chardev_write(r->dev, (const u8 *)"hello", 5);
		else
			run_for(r, 1500);
		cr_assert_eq(r->opened, round);
		type(fd, "hi\r", 3);
		await_bytes(r, 3 * (size_t)round);
		cr_assert_arr_eq(r->got, "hi\r", 3);
		if (round == 1)
			cr_assert_eq(drain(fd, buf, 5), 5);
		close(fd);
		run_for(r, 50);
		cr_assert_eq(r->closed, round);
	}
	rig_end(r);
}

/* ---- sockets ---- */

static const char *socket_path(void)
{
	static char path[64];

	snprintf(path, sizeof(path), "/tmp/ringshift-chardev-%d.sock", (int)getpid());
	return path;
}

static int dial(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, socket_path());
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0, "%s", strerror(errno));
	return fd;
}

static struct rig *rig_server(void)
{
	char form[128];

	snprintf(form, sizeof(form), "unix:%s,server=on,wait=off", socket_path());
	return rig_short(0, 1, form);
}

Test(chardev, clients_in_turn)
{
	struct rig *r = rig_server();
	char buf[8];
	int a, b;

	chardev_write(r->dev, (const u8 *)"lost", 4);
	a = dial();
	b = dial(); /* waits in the backlog */
	type(b, "b", 1);
	type(a, "a", 1);
	await_bytes(r, 1);
	cr_assert_eq(r->got[0], 'a');
	run_for(r, 20);
	cr_assert_eq(r->got_len, 1, "one at a time");
	chardev_write(r->dev, (const u8 *)"to a", 4);
	cr_assert_eq(drain(a, buf, 4), 4);
	cr_assert_arr_eq(buf, "to a", 4);
	type(a, "last", 4);
	close(a);
	await_bytes(r, 6);
	cr_assert_arr_eq(r->got, "alastb", 6);
	cr_assert_eq(r->opened, 2);
	cr_assert_eq(r->closed, 1);
	close(b);
	run_for(r, 50);
	cr_assert_eq(r->closed, 2);
	rig_end(r);
	cr_assert_eq(access(socket_path(), F_OK), -1, "it goes with us");
}

Test(chardev, a_megabyte_both_ways)
{
	enum { TOTAL = 1 << 20 };
	static u8 got[TOTAL];
	struct rig *r = rig_server();
	size_t sent = 0, have = 0, written = 0;
	int fd = dial();

	run_for(r, 50);
	cr_assert_eq(r->opened, 1);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	r->limit = 0;
	for (int i = 0; i < 100 * PATIENCE_MS && (have < TOTAL || r->got_len < TOTAL); i++) {
		u8 chunk[1000];
		ssize_t n;

		for (size_t k = 0; k < sizeof(chunk); k++)
			chunk[k] = (u8)((sent + k) * 7 >> 3);
		n = sent < TOTAL ? write(fd, chunk, MIN(sizeof(chunk), TOTAL - sent)) : 0;
		sent += n > 0 ? (size_t)n : 0;
		/* The chip takes 16 bytes at a time, and holds back when it is told to. */
		r->limit = 16;
		r->dev->room(r->dev);
		for (int k = 0; k < 16 && written < TOTAL && chardev_can_write(r->dev); k++) {
			u8 b = (u8)(written++ * 13 >> 4);

			chardev_write(r->dev, &b, 1);
		}
		if (i % 64 == 0) {
			n = read(fd, got + have, TOTAL - have);
			have += n > 0 ? (size_t)n : 0;
		}
		aio_run(r->aio);
	}
	cr_assert_eq(have, TOTAL);
	cr_assert_eq(r->got_len, TOTAL);
	for (size_t i = 0; i < TOTAL; i++)
		cr_assert(got[i] == (u8)(i * 13 >> 4) && r->got[i] == (u8)(i * 7 >> 3), "%zu", i);
	cr_assert_eq(r->stats.n[STAT_chardev_dropped], 0);
	close(fd);
	rig_end(r);
}

static u64 ms_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

Test(chardev, a_client_that_does_not_read_costs_a_second_once)
{
	static u8 junk[1 << 20];
	struct rig *r = rig_server();
	int fd = dial();
	size_t n;
	u64 begin;

	run_for(r, 50);
	cr_assert_eq(r->opened, 1);
	/* A chip that asks first is told to wait. */
	for (n = 0; n < sizeof(junk) && chardev_can_write(r->dev); n++)
		chardev_write(r->dev, junk, 1);
	cr_assert_lt(n, sizeof(junk));
	cr_assert_eq(r->stats.n[STAT_chardev_dropped], 0);
	/* One that does not ask waits, for a while. */
	begin = ms_now();
	chardev_write(r->dev, junk, sizeof(junk));
	cr_assert_leq(ms_now() - begin, 3000);
	begin = ms_now();
	for (int i = 0; i < 1000; i++)
		chardev_write(r->dev, junk, 1000);
	cr_assert_leq(ms_now() - begin, 500);
	cr_assert_gt(r->stats.n[STAT_chardev_dropped], 1000000);
	/* Once it reads, all is well again. */
	cr_assert_eq(r->writable, 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < PATIENCE_MS && !r->writable; i++) {
		while (read(fd, junk, sizeof(junk)) > 0)
			;
		run_for(r, 1);
	}
	cr_assert_eq(r->writable, 1);
	cr_assert_gt(chardev_can_write(r->dev), 0);
	close(fd);
	rig_end(r);
}

/* The other side goes while much is queued, in both directions. */
Test(chardev, a_client_that_goes_with_everything_full)
{
	static u8 junk[1 << 18];
	struct rig *r = rig_server();
	int fd = dial();

	r->limit = 0;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 300; i++) {
		if (write(fd, junk, sizeof(junk)) < 0 && i > 200)
			break;
		run_for(r, 1);
	}
	while (chardev_can_write(r->dev))
		chardev_write(r->dev, junk, 1000);
	close(fd);
	for (int i = 0; i < PATIENCE_MS && !r->closed; i++) {
		chardev_write(r->dev, junk, 1);
		run_for(r, 1);
	}
	cr_assert_eq(r->writable, 1);
	cr_assert_eq(r->closed, 1);
	/* The next one is welcome. */
	fd = dial();
	run_for(r, 50);
	cr_assert_eq(r->opened, 2);
	r->limit = SIZE_MAX;
	r->dev->room(r->dev);
	type(fd, "new", 3);
	for (int i = 0; i < PATIENCE_MS && memcmp(r->got + r->got_len - 3, "new", 3); i++)
		run_for(r, 1);
	cr_assert_arr_eq(r->got + r->got_len - 3, "new", 3);
	close(fd);
	rig_end(r);
}

Test(chardev, a_client_connects_again)
{
	struct rig *server = rig_server(), *r = rig_new(0, 1);
	char err[128];

	r->spec = (struct char_spec){.kind = CHAR_SOCKET, .fd = -1, .reconnect = 1, .id = "s"};
	strcpy(r->spec.path, socket_path());
	cr_assert_eq(chardevs_add(r->cs, &r->spec, err, sizeof(err)), 0);
	r->dev = rig_attach(r);
	/* Only one console can have the signals. */
	cr_assert_eq(chardevs_start(r->cs, err, sizeof(err)), 0);
	cr_assert_eq(r->opened, 1);
	chardev_write(r->dev, (const u8 *)"one", 3);
	await_bytes(server, 3);
	rig_end(server);
	run_for(r, 100);
	cr_assert_eq(r->closed, 1);
	server = rig_server();
	for (int i = 0; i < PATIENCE_MS && r->opened < 2; i++)
		run_for(r, 1);
	cr_assert_eq(r->opened, 2);
	run_for(server, 50);
	chardev_write(r->dev, (const u8 *)"two", 3);
	await_bytes(server, 3);
	cr_assert_arr_eq(server->got, "two", 3);
	rig_end(server);
	rig_end(r);
}

Test(chardev, a_socket_in_use_is_left_alone)
{
	struct rig *r = rig_server(), *other = rig_new(0, 1);
	char err[256], wanted[256];
	int fd;

	other->spec = r->spec;
	cr_assert_eq(chardevs_add(other->cs, &other->spec, err, sizeof(err)), -EADDRINUSE);
	snprintf(wanted, sizeof(wanted),
		 "cannot listen on unix:%s,server=on: Address already in use", socket_path());
	cr_assert_str_eq(err, wanted);
	rig_end(other);
	close(dial());
	rig_end(r);
	/* One left behind is taken over. */
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, socket_path());
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	r = rig_server();
	close(dial());
	rig_end(r);
}
