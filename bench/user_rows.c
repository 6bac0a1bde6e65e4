/*
 * What user programs ask of a kernel and of whatever runs both: memory touched first, processes,
 * pipes, protections, signals. Linked statically and run as the guest's first process, in place of
 * /init; bench/user.py packs it, starts it, writes the character of one row after the other to its
 * standard input and reads what it prints:
 *
 *	ROW name microseconds-per-operation
 *
 * each the best of several rounds. Runs as an ordinary program, too; `rows list` prints the names.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB  (1024 * 1024ul)

#define BUDGET                                                                                     \
	0.5e6 /* microseconds of one row, after which it has two rounds, the first a warm-up */

static volatile double sink; /* what is computed has to go somewhere */
static char *self;           /* this program */
static bool failed;          /* a row cannot be had here */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void check(long ok, const char *what)
{
	if (ok >= 0)
		return;
	perror(what);
	exit(1);
}

static void *pages(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}

static void getpid_loop(unsigned n)
{
	while (n--)
		syscall(SYS_getppid);
}

/* A page each; huge pages off, so that it is the same on every kernel. */
static void first_touch(unsigned n)
{
	volatile char *p = pages(n * PAGE);

	madvise((void *)p, n * PAGE, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < n; i++)
		p[i * PAGE] = 1;
	munmap((void *)p, n * PAGE);
}

/* Again over pages that the program has had all the time. */
static void touch_again(unsigned n)
{
	static volatile char *p;

	if (!p)
		p = pages(n * PAGE);
	for (unsigned i = 0; i < n; i++)
		p[i * PAGE]++;
}

static void fork_exit(unsigned n)
{
	while (n--) {
		pid_t pid = fork();

		check(pid, "fork");
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
}

static void exec_each(unsigned n, char **argv)
{
	int status;

	while (n--) {
		pid_t pid = fork();

		check(pid, "fork");
		if (!pid) {
			execv(argv[0], argv);
			_exit(127);
		}
		waitpid(pid, &status, 0);
		failed |= status != 0;
	}
}

static void exec_self(unsigned n)
{
	exec_each(n, (char *[]){self, "exit", NULL});
}

static void exec_busybox(unsigned n)
{
	char *path = getenv("BUSYBOX");

	exec_each(n, (char *[]){path ? path : "/bin/busybox", "true", NULL});
}

static void echo_bytes(int from, int to)
{
	char c;

	while (read(from, &c, 1) == 1)
		check(write(to, &c, 1), "write");
	_exit(0);
}

static void one_byte(int fd, unsigned n, bool out)
{
	char c = 0;

	check(fd, "open");
	while (n--)
		check(out ? write(fd, &c, 1) : read(fd, &c, 1), "one byte");
	close(fd);
}

static void read_byte(unsigned n)
{
	one_byte(open("/dev/zero", O_RDONLY), n, false);
}

static void write_byte(unsigned n)
{
	one_byte(open("/dev/null", O_WRONLY), n, true);
}

/* A file in memory, 1 MiB at a time. */
static void page_cache(unsigned n)
{
	static char buf[MIB];
	int fd = memfd_create("cached", 0);

	check(fd, "memfd_create");
	for (unsigned i = 0; i < 16; i++)
		check(write(fd, buf, MIB), "write");
	while (n--)
		check(pread(fd, buf, MIB, n % 16 * MIB), "pread");
	close(fd);
}

/* There and back between two processes. */
static void ping_pong(unsigned n)
{
	int there[2], back[2];
	pid_t pid;
	char c = 0;

	check(pipe(there), "pipe");
	check(pipe(back), "pipe");
	pid = fork();
	check(pid, "fork");
	if (!pid) {
		close(there[1]);
		close(back[0]);
		echo_bytes(there[0], back[1]);
	}
	close(there[0]);
	close(back[1]);
	while (n--) {
		check(write(there[1], &c, 1), "write");
		check(read(back[0], &c, 1), "read");
	}
	close(there[1]);
	close(back[0]);
	waitpid(pid, NULL, 0);
}

static void futex(atomic_int *word, int op, int val)
{
	syscall(SYS_futex, word, op, val, NULL, NULL, 0);
}

static void futex_turns(atomic_int *turn, int mine, unsigned n)
{
	while (n--) {
		while (*turn != mine)
			futex(turn, FUTEX_WAIT, !mine);
		*turn = !mine;
		futex(turn, FUTEX_WAKE, 1);
	}
}

static void futex_ping_pong(unsigned n)
{
	atomic_int *turn =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = fork();

	check(pid, "fork");
	futex_turns(turn, pid == 0, n);
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	munmap(turn, PAGE);
}

static void send_all(int fd, const char *buf, size_t len, unsigned n)
{
	while (n--)
		for (size_t done = 0; done < len;) {
			ssize_t part = write(fd, buf + done, len - done);

			check(part, "write");
			done += part;
		}
	_exit(0);
}

/* n times 64 KiB through a stream to another process. */
static void stream(unsigned n, int from, int to)
{
	static char buf[64 * 1024];
	size_t left = n * sizeof(buf);
	pid_t pid = fork();

	check(pid, "fork");
	if (!pid)
		send_all(to, buf, sizeof(buf), n);
	close(to);
	while (left) {
		ssize_t part = read(from, buf, sizeof(buf));

		check(part - 1, "read");
		left -= part;
	}
	close(from);
	waitpid(pid, NULL, 0);
}

static void unix_stream(unsigned n)
{
	int fd[2];

	check(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), "socketpair");
	stream(n, fd[0], fd[1]);
}

/* As a first process we have to switch the interface on ourselves. */
static void loopback_up(void)
{
	struct ifreq ifr = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	check(fd, "socket");
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) == 0 && !(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		check(ioctl(fd, SIOCSIFFLAGS, &ifr), "lo up");
	}
	close(fd);
}

static void tcp_stream(unsigned n)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0), to = socket(AF_INET, SOCK_STREAM, 0), from;

	loopback_up();
	check(bind(listener, (struct sockaddr *)&addr, len), "bind");
	check(listen(listener, 1), "listen");
	check(getsockname(listener, (struct sockaddr *)&addr, &len), "getsockname");
	check(connect(to, (struct sockaddr *)&addr, len), "connect");
	from = accept(listener, NULL, NULL);
	check(from, "accept");
	close(listener);
	stream(n, from, to);
}

/* Protect a page, allow it again, write to it. */
static void protect(unsigned n)
{
	volatile char *p = pages(PAGE);

	while (n--) {
		check(mprotect((void *)p, PAGE, PROT_READ), "mprotect");
		check(mprotect((void *)p, PAGE, PROT_READ | PROT_WRITE), "mprotect");
		*p = 1;
	}
	munmap((void *)p, PAGE);
}

/* Map, write, unmap one page. */
static void map_unmap(unsigned n)
{
	while (n--) {
		volatile char *p = pages(PAGE);

		*p = 1;
		munmap((void *)p, PAGE);
	}
}

static void on_signal(int sig)
{
	(void)sig;
}

static void signal_self(unsigned n)
{
	pid_t me = getpid();

	signal(SIGUSR1, on_signal);
	while (n--)
		kill(me, SIGUSR1);
}

/* What needs the processor alone, in rounds of some microseconds. */
static void integer_loop(unsigned n)
{
	while (n--) {
		unsigned crc = n;

		for (unsigned i = 0; i < 1024; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		sink = crc;
	}
}

static void double_loop(unsigned n)
{
	static double a[1024], b[1024];

	for (unsigned i = 0; i < 1024; i++)
		a[i] = i, b[i] = 1.0 / (i + 1);
	while (n--) {
		double sum = 0;

		for (unsigned i = 0; i < 1024; i++)
			sum += a[i] * b[i];
		a[n % 1024] = sum;
		sink = sum;
	}
}

__attribute__((target("avx2"))) static void avx_sum(const unsigned *v, unsigned *out)
{
	typedef unsigned vec __attribute__((vector_size(32)));
	vec sum = {0};

	for (unsigned i = 0; i < 1024; i++)
		sum = (sum + ((const vec *)v)[i]) ^ sum << 3;
	*(vec *)out = sum;
}

static void avx_loop(unsigned n)
{
	static unsigned v[8 * 1024] __attribute__((aligned(32))),
	    out[8] __attribute__((aligned(32)));

	while (n--) {
		v[n % 8192] = n;
		if (__builtin_cpu_supports("avx2"))
			avx_sum(v, out);
		sink = out[0];
	}
}

static const struct {
	const char *name;
	void (*run)(unsigned n);
	unsigned n, rounds;
} rows[] = {
    {"system call", getpid_loop, 20000, 5},
    {"first touch, a page of 64 MiB", first_touch, 64 * MIB / PAGE, 3},
    {"touch again, 16 MiB", touch_again, 16 * MIB / PAGE, 5},
    {"fork, exit, wait", fork_exit, 50, 5},
    {"fork, exec self, wait", exec_self, 30, 5},
    {"fork, exec busybox, wait", exec_busybox, 30, 5},
    {"pipe ping-pong", ping_pong, 1000, 5},
    {"mprotect twice, write", protect, 1000, 5},
    {"mmap, write, munmap", map_unmap, 1000, 5},
    {"signal to self", signal_self, 2000, 5},
    {"read a byte", read_byte, 20000, 5},
    {"write a byte", write_byte, 20000, 5},
    {"read 1 MiB of the page cache", page_cache, 100, 5},
    {"futex ping-pong", futex_ping_pong, 1000, 5},
    {"64 KiB by Unix stream", unix_stream, 400, 5},
    {"64 KiB by TCP loopback", tcp_stream, 400, 5},
    {"1024 CRC steps", integer_loop, 5000, 5},
    {"1024 double multiply-adds", double_loop, 20000, 5},
    {"1024 AVX2 steps", avx_loop, 20000, 5},
};

static const char names[] = "0123456789abcdefghi"; /* of the rows, on the command line */
_Static_assert(sizeof(names) - 1 == sizeof(rows) / sizeof(rows[0]), "a name each");

static void measure(unsigned i)
{
	double best = 1e12, start = now();

	failed = false;
	for (unsigned r = 0; r < rows[i].rounds && (r < 2 || now() - start < BUDGET); r++) {
		double t = now();

		rows[i].run(rows[i].n);
		t = (now() - t) / rows[i].n;
		if (t < best)
			best = t;
	}
	printf("ROW %s\t%.3f\n", rows[i].name, failed ? NAN : best);
	fflush(stdout);
}

static void list(void)
{
	for (unsigned i = 0; names[i]; i++)
		printf("%c %s\n", names[i], rows[i].name);
}

int main(int argc, char **argv)
{
	int c;

	self = argv[0];
	if (argc > 1 && !strcmp(argv[1], "exit"))
		return 0;
	if (argc > 1 && !strcmp(argv[1], "list")) {
		list();
		return 0;
	}
	if (getpid() == 1)
		mount("dev", "/dev", "devtmpfs", 0, NULL); /* the kernel may have done so */
	printf("ROWS READY\n");
	fflush(stdout);
	while ((c = getchar()) != EOF && c != '.') {
		const char *at = strchr(names, c);

		if (at && *at)
			measure(at - names);
	}
	printf("ROWS END\n");
	fflush(stdout);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
