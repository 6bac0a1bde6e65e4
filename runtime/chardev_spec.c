/*
 * Both forms end in the same struct: a short form is split into the kind, what follows its colon,
 * and key=value items that are parsed as those of -chardev.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/un.h>

#include "chardev_spec.h"
#include "keyval.h"

#define RINGBUF_DEFAULT 65536
#define RINGBUF_MAX     (64 * MIB)
#define RECONNECT_MAX   86400

static const char *after(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(s, prefix, n) ? NULL : s + n;
}

static int copy_text(struct keyval *k, const char *what, const char *val, char *to, size_t size)
{
	if (strlen(val) >= size)
		return keyval_fail(k, "%s is longer than %zu characters", what, size - 1);
	memcpy(to, val, strlen(val) + 1);
	return 0;
}

static int take_path(struct keyval *k, struct char_spec *s)
{
	const char *path = keyval_get(k, "path");

	if (!path || !*path)
		return keyval_fail(k, "path= is missing");
	return copy_text(k, "path", path, s->path, sizeof(s->path));
}

/* Ids as QEMU takes them: a letter, then letters, digits and "-._". */
static int take_id(struct keyval *k, struct char_spec *s)
{
	const char *id = keyval_get(k, "id"), *p;

	if (!id)
		return keyval_fail(k, "id= is missing");
	for (p = id; *p; p++) {
		bool letter = (*p | 32) >= 'a' && (*p | 32) <= 'z';

		if (!letter && (p == id || !strchr("0123456789-._", *p)))
			break;
	}
	if (*p || p == id)
		return keyval_fail(
		    k, "'%s' is no id: a letter, then letters, digits, '-', '.', '_'", id);
	return copy_text(k, "id", id, s->id, sizeof(s->id));
}

static int parse_null(struct keyval *k, struct char_spec *s)
{
	(void)k, (void)s;
	return 0;
}

static int parse_stdio(struct keyval *k, struct char_spec *s)
{
	return keyval_bool(k, "signal", &s->signal);
}

static int parse_file(struct keyval *k, struct char_spec *s)
{
	int rc = take_path(k, s);

	return rc ? rc : keyval_bool(k, "append", &s->append);
}

static int parse_ringbuf(struct keyval *k, struct char_spec *s)
{
	u64 size = RINGBUF_DEFAULT;
	int rc = keyval_size(k, "size", &size);

	if (rc)
		return rc;
	if (!size || size > RINGBUF_MAX || (size & (size - 1)))
		return keyval_fail(k, "size=%llu: a power of two up to 64M is what it takes",
				   (unsigned long long)size);
	s->size = (u32)size;
	return 0;
}

static int refuse_if_on(struct keyval *k, const char *key)
{
	bool on = false;
	int rc = keyval_bool(k, key, &on);

	return rc || !on ? rc : keyval_fail(k, "%s=on is not in this version", key);
}

/* Names are not looked up: a static program cannot. */
static int take_host(struct keyval *k, struct char_spec *s)
{
	const char *host = keyval_get(k, "host");
	u8 addr[sizeof(struct in6_addr)];

	if (!host)
		return keyval_fail(k, "path= or host= and port= are missing");
	if (!strcmp(host, "localhost"))
		host = "127.0.0.1";
	if (*host && inet_pton(AF_INET, host, addr) != 1 && inet_pton(AF_INET6, host, addr) != 1)
		return keyval_fail(k, "host=%s: names are not looked up, give an address", host);
	return copy_text(k, "host", host, s->host, sizeof(s->host));
}

static int take_address(struct keyval *k, struct char_spec *s)
{
	u64 fd = 0, port = 0;
	int rc;

	if (keyval_get(k, "fd")) {
		rc = keyval_number(k, "fd", &fd, INT_MAX);
		s->fd = (int)fd;
		return rc;
	}
	if (keyval_get(k, "path")) {
		rc = take_path(k, s);
		if (!rc && strlen(s->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			rc = keyval_fail(k, "path=%s: longer than a socket's may be", s->path);
		return rc;
	}
	rc = take_host(k, s);
	if (!rc && !keyval_get(k, "port"))
		rc = keyval_fail(k, "port= is missing");
	rc = rc ? rc : keyval_number(k, "port", &port, 65535);
	s->port = (u16)port;
	return rc;
}

static int parse_socket(struct keyval *k, struct char_spec *s)
{
	bool wait = true, nowait = false, wait_given = keyval_get(k, "wait");
	u64 reconnect = 0;
	int rc = take_address(k, s);

	rc = rc ? rc : keyval_bool(k, "server", &s->server);
	rc = rc ? rc : keyval_bool(k, "wait", &wait);
	rc = rc ? rc : keyval_bool(k, "nowait", &nowait);
	rc = rc ? rc : keyval_bool(k, "nodelay", &s->nodelay);
	rc = rc ? rc : keyval_number(k, "reconnect", &reconnect, RECONNECT_MAX);
	rc = rc ? rc : refuse_if_on(k, "telnet");
	rc = rc ? rc : refuse_if_on(k, "websocket");
	rc = rc ? rc : refuse_if_on(k, "tn3270");
	if (rc)
		return rc;
	s->wait = s->server && wait && !nowait;
	s->reconnect = (unsigned)reconnect;
	if (!s->server && wait_given)
		return keyval_fail(k, "wait= is for server=on");
	if (s->server && reconnect)
		return keyval_fail(k, "reconnect= is for clients");
	return 0;
}

static const struct {
	const char *name;
	enum char_kind kind;
	int (*parse)(struct keyval *k, struct char_spec *s);
} kinds[] = {
    {"null", CHAR_NULL, parse_null},
    {"stdio", CHAR_STDIO, parse_stdio},
    {"file", CHAR_FILE, parse_file},
    {"pipe", CHAR_PIPE, take_path},
    {"pty", CHAR_PTY, parse_null},
    {"socket", CHAR_SOCKET, parse_socket},
    {"ringbuf", CHAR_RINGBUF, parse_ringbuf},
    {"memory", CHAR_RINGBUF, parse_ringbuf},
};

static int parse_kind(struct keyval *k, struct char_spec *s, const char *name)
{
	size_t i = 0;
	int rc;

	while (i < ARRAY_LEN(kinds) && strcmp(kinds[i].name, name))
		i++;
	if (i == ARRAY_LEN(kinds))
		return keyval_fail(
		    k, "'%s' is none of null, stdio, file, pipe, pty, socket, ringbuf", name);
	s->kind = kinds[i].kind;
	rc = kinds[i].parse(k, s);
	return rc ? rc : keyval_bool(k, "mux", &s->mux);
}

static const struct char_spec defaults = {.signal = true, .fd = -1};

int char_spec_parse(struct char_spec *s, const char *arg, char *err, size_t err_size)
{
	struct keyval *k = malloc(sizeof(*k));
	const char *name;
	int rc = -EINVAL;

	*s = defaults;
	if (!k) {
		snprintf(err, err_size, "-chardev: out of memory");
		return -ENOMEM;
	}
	rc = keyval_parse(k, "-chardev", arg, "backend", err, err_size);
	if (!rc) {
		name = keyval_get(k, "backend");
		rc = name ? take_id(k, s) : keyval_fail(k, "it begins with the kind of device");
		rc = rc ? rc : parse_kind(k, s, name);
		rc = rc ? rc : keyval_rest(k);
	}
	free(k);
	return rc;
}

/* --- short forms --- */

/* "tcp:HOST:PORT,items": both into items of k's text as -chardev would have them. */
static int rewrite_tcp(const char *rest, char *out, size_t size)
{
	const char *end = rest + strcspn(rest, ","), *colon = end;

	while (colon > rest && *colon != ':')
		colon--;
	if (*colon != ':')
		return -EINVAL;
	if (*rest == '[' && colon > rest + 1 && colon[-1] == ']')
		snprintf(out, size, "socket,host=%.*s,port=%s", (int)(colon - rest - 2), rest + 1,
			 colon + 1);
	else
		snprintf(out, size, "socket,host=%.*s,port=%s", (int)(colon - rest), rest,
			 colon + 1);
	return 0;
}

/* The form of -chardev for a short form; -EINVAL if it is none. A path with a comma in it cannot be
 * told from one with options, except where there are none: file and pipe take all that follows. */
static int rewrite(const char *arg, char *out, size_t size)
{
	const char *rest;

	if (!strcmp(arg, "null") || !strcmp(arg, "stdio") || !strcmp(arg, "pty"))
		snprintf(out, size, "%s", arg);
	else if ((rest = after(arg, "unix:")) && *rest)
		snprintf(out, size, "socket,path=%s", rest);
	else if ((rest = after(arg, "tcp:")))
		return rewrite_tcp(rest, out, size);
	else
		return -EINVAL;
	return 0;
}

static int parse_path_form(struct keyval *k, struct char_spec *s, const char *arg)
{
	const char *file = after(arg, "file:"), *path = file ? file : after(arg, "pipe:");

	if (!path || !*path)
		return keyval_fail(k,
				   "'%s' is none of stdio, pty, file:PATH, pipe:PATH, unix:PATH, "
				   "tcp:HOST:PORT (these after mon:, too), chardev:ID, null, none",
				   arg);
	s->kind = file ? CHAR_FILE : CHAR_PIPE;
	return copy_text(k, "path", path, s->path, sizeof(s->path));
}

int char_spec_short(struct char_spec *s, const char *opt, const char *arg, const char *id,
		    bool *mon, char *err, size_t err_size)
{
	const char *rest = after(arg, "mon:");
	char text[KEYVAL_TEXT];
	struct keyval *k = malloc(sizeof(*k));
	int rc;

	*mon = rest;
	arg = rest ? rest : arg;
	*s = defaults;
	snprintf(s->id, sizeof(s->id), "%s", id);
	if (!k) {
		snprintf(err, err_size, "%s: out of memory", opt);
		return -ENOMEM;
	}
	rc = keyval_parse(k, opt, "", "backend", err, err_size);
	if (!rc && (after(arg, "telnet:") || after(arg, "websocket:") || after(arg, "udp:")))
		rc = keyval_fail(k, "'%s' is not in this version", arg);
	if (!rc && strlen(arg) > KEYVAL_TEXT - 32)
		rc = keyval_fail(k, "too long");
	if (!rc && rewrite(arg, text, sizeof(text))) {
		rc = parse_path_form(k, s, arg);
	} else if (!rc) {
		rc = keyval_parse(k, opt, text, "backend", err, err_size);
		rc = rc ? rc : parse_kind(k, s, keyval_get(k, "backend"));
		rc = rc ? rc : keyval_rest(k);
	}
	if (*mon) {
		s->mux = true;
		s->signal = false; /* Ctrl-C is for the guest, Ctrl-a x for the host */
	}
	free(k);
	return rc;
}
