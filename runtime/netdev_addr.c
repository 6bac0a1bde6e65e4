/*
 * Socket addresses of network back ends. Names are not looked up: the monitor is a static
 * executable, and a name server's answer would hold up the start.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "netdev_impl.h"

#define BACKLOG 1

bool net_address_inet(struct net_address *a, const char *host, const char *port)
{
	char *end;
	unsigned long n = strtoul(port, &end, 10);

	memset(a, 0, sizeof(*a));
	if (end == port || *end || n > 65535 || !n)
		return false;
	if (!strcmp(host, "localhost"))
		host = "127.0.0.1";
	if (!*host || inet_pton(AF_INET, host, &a->in.sin_addr) == 1) {
		a->in.sin_family = AF_INET;
		a->in.sin_port = htons((u16)n);
		a->len = sizeof(a->in);
		return true;
	}
	a->in6.sin6_family = AF_INET6;
	a->in6.sin6_port = htons((u16)n);
	a->len = sizeof(a->in6);
	return inet_pton(AF_INET6, host, &a->in6.sin6_addr) == 1;
}

bool net_address_unix(struct net_address *a, const char *path)
{
	memset(a, 0, sizeof(*a));
	if (!*path || strlen(path) >= sizeof(a->un.sun_path))
		return false;
	a->un.sun_family = AF_UNIX;
	strcpy(a->un.sun_path, path);
	a->len = sizeof(a->un);
	return true;
}

void net_address_print(const struct net_address *a, char *buf, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	switch (a->sa.sa_family) {
	case AF_UNIX: snprintf(buf, size, "%s", a->un.sun_path); break;
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		snprintf(buf, size, "%s:%u", host, ntohs(a->in.sin_port));
		break;
	default:
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		snprintf(buf, size, "[%s]:%u", host, ntohs(a->in6.sin6_port));
	}
}

static int make_socket(const struct net_address *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -errno;
	if (a->sa.sa_family != AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	return fd;
}

/* A socket somebody left behind; never a file of another kind. */
static void remove_stale(const char *path)
{
	struct stat st;

	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		unlink(path);
}

int net_address_listen(const struct net_address *a)
{
	int fd = make_socket(a), rc = 0;

	if (fd < 0)
		return fd;
	if (a->sa.sa_family == AF_UNIX)
		remove_stale(a->un.sun_path);
	if (bind(fd, &a->sa, a->len) || listen(fd, BACKLOG))
		rc = -errno;
	if (rc)
		close(fd);
	return rc ? rc : fd;
}

int net_address_connect(const struct net_address *a, bool *pending)
{
	int fd = make_socket(a), rc;

	*pending = false;
	if (fd < 0 || !connect(fd, &a->sa, a->len))
		return fd;
	*pending = errno == EINPROGRESS;
	if (*pending)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}
