/*
 * TCP as net.py measures it: one program for both ends.
 *
 *	net_rows serve PORT			answers anybody, for ever
 *	net_rows get|put|ping HOST PORT SECONDS	one row, on stdout
 *
 * get and put move bytes from and to the server for so long and print MB/s and how many; ping sends
 * a byte and waits for it to come back, and prints microseconds for each and how often.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 << 10)

static char buf[CHUNK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
				  .sin_port = htons((unsigned short)atoi(port))};

	if (inet_pton(AF_INET, host, &sin.sin_addr) != 1)
		die(host);
	return sin;
}

/* What the client wants is in its first byte. */
static void answer(int fd)
{
	char kind;

	if (read(fd, &kind, 1) != 1)
		return;
	if (kind == 'g')
		while (write(fd, buf, CHUNK) > 0)
			;
	else if (kind == 'p')
		while (read(fd, buf, CHUNK) > 0)
			;
	else
		while (read(fd, buf, 1) == 1 && write(fd, buf, 1) == 1)
			;
}

static void serve(const char *port)
{
	struct sockaddr_in sin = address("0.0.0.0", port);
	int door = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(door, (void *)&sin, sizeof(sin)) || listen(door, 5))
		die("listen");
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		int fd = accept(door, NULL, NULL);

		if (fd < 0)
			die("accept");
		no_delay(fd);
		if (!fork()) {
			answer(fd);
			_exit(0);
		}
		close(fd);
	}
}

static void measure(const char *kind, int fd, double seconds)
{
	double begin = now(), end = begin + seconds, took;
	unsigned long long count = 0;
	ssize_t n = 1;

	if (write(fd, kind[0] == 'g' ? "g" : kind[1] == 'u' ? "p" : "i", 1) != 1)
		die("write");
	while (n > 0 && now() < end) {
		if (kind[0] == 'g')
			n = read(fd, buf, CHUNK);
		else if (kind[1] == 'u')
			n = write(fd, buf, CHUNK);
		else
			n = write(fd, buf, 1) == 1 ? read(fd, buf, 1) : -1;
		count += n > 0 ? (unsigned long long)n : 0;
	}
	took = now() - begin;
	if (n <= 0)
		die(kind);
	if (kind[1] == 'i')
		printf("%s %.1f us, %llu times\n", kind, took * 1e6 / (double)count, count);
	else
		printf("%s %.1f MB/s, %llu bytes\n", kind, (double)count / took / 1e6, count);
}

int main(int argc, char **argv)
{
	struct sockaddr_in sin;
	int fd;

	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(argv[2]);
	if (argc != 5)
		return 2;
	sin = address(argv[2], argv[3]);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (void *)&sin, sizeof(sin)))
		die("connect");
	no_delay(fd);
	measure(argv[1], fd, atof(argv[4]));
	return 0;
}
