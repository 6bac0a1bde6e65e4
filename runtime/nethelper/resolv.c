/*
 * The host's name servers as they were at the start: see resolv.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolv.h"

#define PATH "/etc/resolv.conf"

static char text[16384];
static size_t text_len;
static struct stat found;
static int missing = 1;

void resolv_remember(void)
{
	int fd = open(PATH, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	missing = fstat(fd, &found);
	while ((n = read(fd, text + text_len, sizeof(text) - text_len)) > 0)
		text_len += (size_t)n;
	close(fd);
	missing |= !text_len;
}

static int known(const char *path)
{
	if (!missing && !strcmp(path, PATH))
		return 1;
	errno = ENOENT;
	return 0;
}

/* Under the names with and without 64: which one libslirp uses is a matter of how it was built. */
FILE *fopen(const char *restrict path, const char *restrict mode)
{
	return known(path) && mode[0] == 'r' ? fmemopen(text, text_len, "r") : NULL;
}

FILE *fopen64(const char *restrict path, const char *restrict mode)
{
	return fopen(path, mode);
}

int stat(const char *restrict path, struct stat *restrict st)
{
	if (!known(path))
		return -1;
	*st = found;
	return 0;
}

int stat64(const char *restrict path, struct stat64 *restrict st)
{
	_Static_assert(sizeof(*st) == sizeof(found), "the same on x86-64");
	return stat(path, (struct stat *)st);
}
