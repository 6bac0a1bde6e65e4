/*
 * What the command line says about character devices, taken apart: -chardev KIND,key=value and the
 * short forms of -serial, -debugcon and -monitor. QEMU's names throughout.
 */
#ifndef RINGSHIFT_CHARDEV_SPEC_H
#define RINGSHIFT_CHARDEV_SPEC_H

#include "base.h"

#define CHAR_ID_MAX   64
#define CHAR_PATH_MAX 1024
#define CHAR_HOST_MAX 64

enum char_kind {
	CHAR_NULL,    /* takes everything, says nothing */
	CHAR_STDIO,   /* standard input and output */
	CHAR_FILE,    /* output only */
	CHAR_PIPE,    /* FIFOs path.in and path.out, or path for both */
	CHAR_PTY,     /* a new pseudo-terminal */
	CHAR_SOCKET,  /* unix if path is set, else TCP; or a descriptor handed to us */
	CHAR_RINGBUF, /* keeps the last bytes, for ringbuf_read */
};

struct char_spec {
	enum char_kind kind;
	bool mux;           /* several front ends may share it; Ctrl-a c goes round */
	bool signal;        /* stdio: Ctrl-C keeps its meaning for the host */
	bool append;        /* file */
	bool server, wait;  /* socket: listen; wait for the first client before the guest starts */
	bool nodelay;       /* TCP */
	int fd;             /* socket: -1 if none was handed to us */
	unsigned reconnect; /* socket, client: seconds between attempts, 0: one attempt */
	u32 size;           /* ringbuf: bytes, a power of two */
	u16 port;           /* TCP */
	char id[CHAR_ID_MAX];
	char path[CHAR_PATH_MAX]; /* file, pipe, unix socket */
	char host[CHAR_HOST_MAX]; /* TCP: a numeric address; empty: any */
};

/* -chardev. -EINVAL and "-chardev: ..." in err. */
MUST_CHECK int char_spec_parse(struct char_spec *s, const char *arg, char *err, size_t err_size);

/*
 * The short forms: null, stdio, pty, file:PATH, pipe:PATH, unix:PATH[,...], tcp:[HOST]:PORT[,...],
 * each of which may follow "mon:" (then *mon, and mux), for the option opt. id: what the device
 * will be called. "none" and "chardev:ID" are the caller's.
 */
MUST_CHECK int char_spec_short(struct char_spec *s, const char *opt, const char *arg,
			       const char *id, bool *mon, char *err, size_t err_size);

#endif
