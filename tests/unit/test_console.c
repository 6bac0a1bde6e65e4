/*
 * The console on pseudo-terminals, pipes and files: raw mode and its end, escape keys, both
 * directions of bytes, and what happens when the other side goes away.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

#include "console.h"

#define PATIENCE_MS 5000

/* A serial port that keeps what it gets, and a VM around it that gets kicked. */
struct rig {
	struct console *con;
	struct chardev *dev;
	_Atomic int kicks;
	u8 got[1 << 18];
	size_t got_len;
	size_t limit; /* can_receive says at most that much more */
};

static void rig_kick(void *opaque)
{
	((struct rig *)opaque)->kicks++;
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

static struct rig *rig_start(int in, int out, enum char_kind kind)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct console_host host = {in, out, rig_kick, r};
	struct char_spec spec = {.kind = kind};
	char err[256];

	cr_assert_not_null(r);
	r->limit = SIZE_MAX;
	cr_assert_eq(console_create(&r->con, &host), 0);
	r->dev = console_add(r->con, &spec, err, sizeof(err));
	cr_assert_not_null(r->dev);
	r->dev->dev = r;
	r->dev->can_receive = rig_can_receive;
	r->dev->receive = rig_receive;
	cr_assert_eq(console_start(r->con), 0);
	return r;
}

static void rig_end(struct rig *r)
{
	console_destroy(r->con);
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
		console_poll(r->con);
		nap();
	}
	cr_assert_geq(r->got_len, n, "%zu of %zu bytes arrived", r->got_len, n);
}

static void await_stop(struct rig *r, enum console_stop why)
{
	for (int i = 0; i < PATIENCE_MS && console_stop(r->con) == CONSOLE_GOES_ON; i++)
		nap();
	cr_assert_eq(console_stop(r->con), why);
	cr_assert_gt(r->kicks, 0, "the vCPU was not told");
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

Test(console, raw_while_running_and_restored)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_MON_STDIO);
	struct termios t = modes(p.slave);

	cr_assert_eq(t.c_lflag & (ECHO | ICANON | ISIG | IEXTEN), 0);
	cr_assert_eq(t.c_iflag & (ICRNL | IXON | ISTRIP), 0);
	rig_end(r);
	t = modes(p.slave);
	cr_assert(same_modes(&t, &p.before));
}

Test(console, plain_stdio_keeps_ctrl_c_for_the_host)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_STDIO);

	cr_assert(modes(p.slave).c_lflag & ISIG);
	cr_assert_eq(modes(p.slave).c_lflag & (ECHO | ICANON), 0);
	rig_end(r);
}

Test(console, bytes_both_ways)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_MON_STDIO);
	char buf[16];

	type(p.master, "ls\r\x03", 4);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "ls\r\x03", 4);
	chardev_write(r->dev, (const u8 *)"hello", 5);
	cr_assert_eq(drain(p.master, buf, 5), 5);
	cr_assert_arr_eq(buf, "hello", 5);
	rig_end(r);
}

Test(console, ctrl_a_x_quits)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_STDIO);

	type(p.master, "\x01", 1);
	nap();
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	type(p.master, "x", 1);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(console, ctrl_a_ctrl_a_sends_one)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_MON_STDIO);

	type(p.master, "a\x01\x01x\x01qb", 7);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "a\x01xb", 4);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(console, ctrl_a_h_helps)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_MON_STDIO);
	char buf[32] = "";

	type(p.master, "\x01h", 2);
	cr_assert_geq(drain(p.master, buf, 31), 31);
	cr_assert_not_null(strstr(buf, "Ctrl-a h"));
	rig_end(r);
}

Test(console, quit_works_with_a_guest_that_never_reads)
{
	struct pty p = pty_open();
	struct rig *r = rig_start(p.slave, p.slave, CHAR_MON_STDIO);
	char junk[1024];

	r->limit = 0;
	memset(junk, 'j', sizeof(junk));
	for (int i = 0; i < 100; i++) /* more than the ring holds */
		type(p.master, junk, sizeof(junk));
	type(p.master, "\x01x", 2);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(console, a_pipe_is_passed_on_whole_at_the_guests_pace)
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
	r = rig_start(in[0], null, CHAR_STDIO);
	r->limit = 0;
	for (int i = 0; i < 300; i++) /* let the ring fill up */
		nap();
	cr_assert_eq(r->got_len, 0);
	/* A FIFO of 16 bytes that says when it has been emptied. */
	for (int i = 0; i < 100 * PATIENCE_MS && r->got_len < TOTAL; i++) {
		size_t before = r->got_len;

		r->limit = 16;
		r->dev->room(r->dev);
		if (r->got_len == before)
			nap();
	}
	cr_assert_eq(r->got_len, TOTAL);
	for (int i = 0; i < TOTAL; i++)
		cr_assert_eq(r->got[i], (u8)(i * 7), "byte %d", i);
	waitpid(writer, NULL, 0);
	rig_end(r);
}

Test(console, plain_stdio_on_a_pipe_is_transparent)
{
	int in[2], null = open("/dev/null", O_WRONLY);
	struct rig *r;

	cr_assert_eq(pipe(in), 0);
	r = rig_start(in[0], null, CHAR_STDIO);
	type(in[1], "\x01x\0\xff", 4);
	await_bytes(r, 4);
	cr_assert_arr_eq(r->got, "\x01x\0\xff", 4);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(console, mon_stdio_on_a_pipe_has_escapes)
{
	int in[2], null = open("/dev/null", O_WRONLY);
	struct rig *r;

	cr_assert_eq(pipe(in), 0);
	r = rig_start(in[0], null, CHAR_MON_STDIO);
	type(in[1], "\x01x", 2);
	await_stop(r, CONSOLE_QUIT);
	rig_end(r);
}

Test(console, end_of_file_only_ends_input)
{
	int in[2], out[2];
	struct rig *r;
	char c;

	cr_assert_eq(pipe(in), 0);
	cr_assert_eq(pipe(out), 0);
	r = rig_start(in[0], out[1], CHAR_MON_STDIO);
	type(in[1], "ab", 2);
	close(in[1]);
	await_bytes(r, 2);
	for (int i = 0; i < 20; i++)
		nap();
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	chardev_write(r->dev, (const u8 *)"z", 1);
	cr_assert_eq(read(out[0], &c, 1), 1);
	rig_end(r);
}

Test(console, closed_standard_input)
{
	int in = dup(0), null = open("/dev/null", O_WRONLY);
	struct rig *r;

	close(in);
	r = rig_start(in, null, CHAR_STDIO);
	for (int i = 0; i < 20; i++)
		nap();
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(console, output_to_a_closed_pipe_asks_for_the_end)
{
	int out[2], null = open("/dev/null", O_RDONLY);
	struct rig *r;
	char err[128];

	cr_assert_eq(pipe(out), 0);
	r = rig_start(null, out[1], CHAR_STDIO);
	close(out[0]);
	chardev_write(r->dev, (const u8 *)"x", 1);
	await_stop(r, CONSOLE_FAILED);
	chardev_write(r->dev, (const u8 *)"y", 1); /* dropped */
	console_error(r->con, err, sizeof(err));
	cr_assert_str_eq(err, "cannot write to standard output: Broken pipe");
	rig_end(r);
}

Test(console, full_disk)
{
	struct console_host host = {0, 1, rig_kick, NULL};
	struct char_spec spec = {CHAR_FILE, "/dev/full"};
	struct rig *r = calloc(1, sizeof(*r));
	char err[128];

	host.opaque = r;
	cr_assert_eq(console_create(&r->con, &host), 0);
	r->dev = console_add(r->con, &spec, err, sizeof(err));
	cr_assert_not_null(r->dev);
	cr_assert_eq(console_start(r->con), 0);
	chardev_write(r->dev, (const u8 *)"x", 1);
	await_stop(r, CONSOLE_FAILED);
	console_error(r->con, err, sizeof(err));
	cr_assert_str_eq(err, "cannot write to /dev/full: No space left on device");
	rig_end(r);
}

Test(console, a_file_gets_what_is_written)
{
	char path[] = "/tmp/ringshift-console-XXXXXX", buf[8], err[128];
	int fd = mkstemp(path);
	struct rig *r = calloc(1, sizeof(*r));
	struct console_host host = {0, 1, rig_kick, r};
	struct char_spec spec = {CHAR_FILE, path}, wrong = {CHAR_FILE, "/nonexistent/x"};

	cr_assert_geq(fd, 0);
	cr_assert_eq(console_create(&r->con, &host), 0);
	cr_assert_null(console_add(r->con, &wrong, err, sizeof(err)));
	cr_assert_str_eq(err, "cannot open /nonexistent/x: No such file or directory");
	r->dev = console_add(r->con, &spec, err, sizeof(err));
	chardev_write(r->dev, (const u8 *)"serial", 6);
	rig_end(r);
	cr_assert_eq(read(fd, buf, sizeof(buf)), 6);
	cr_assert_arr_eq(buf, "serial", 6);
	unlink(path);
}

Test(console, a_slow_reader_loses_nothing)
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
		r = rig_start(null, out[1], CHAR_STDIO);
		chardev_write(r->dev, data, TOTAL);
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
		struct rig *r = rig_start(p->slave, p->slave, CHAR_MON_STDIO);

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

Test(console, every_end_gives_the_terminal_back, .timeout = 30)
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

Test(console, an_ignored_hangup_stays_ignored)
{
	struct pty p = pty_open();
	struct rig *r;

	signal(SIGHUP, SIG_IGN); /* nohup */
	r = rig_start(p.slave, p.slave, CHAR_STDIO);
	raise(SIGHUP);
	cr_assert_eq(console_stop(r->con), CONSOLE_GOES_ON);
	rig_end(r);
}

Test(console, raw_again_after_a_stop)
{
	struct pty p = pty_open();
	pid_t pid = fork();
	int status;

	if (!pid) { /* a session of its own, with the pty as its terminal */
		struct rig *r;

		if (login_tty(dup(p.slave)))
			_exit(1);
		r = rig_start(0, 1, CHAR_STDIO);
		tcsetattr(0, TCSANOW, &p.before); /* as a shell does while we are stopped */
		raise(SIGCONT);
		status = modes(0).c_lflag & ICANON ? 2 : 0;
		rig_end(r);
		_exit(status);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}
