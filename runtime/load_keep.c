#include "load_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct kept_file {
	struct kept_file *next;
	int fd;
	char path[];
};

static struct kept_file *find(const struct load_keep *keep, const char *path)
{
	struct kept_file *f = keep->first;

	while (f && strcmp(f->path, path))
		f = f->next;
	return f;
}

static struct kept_file *add(struct load_keep *keep, const char *path, int fd)
{
	struct kept_file *f = malloc(sizeof(*f) + strlen(path) + 1);

	if (!f)
		return NULL;
	f->fd = fd;
	strcpy(f->path, path);
	f->next = keep->first;
	keep->first = f;
	return f;
}

int load_keep_open(struct load_keep *keep, const char *path)
{
	struct kept_file *f = keep ? find(keep, path) : NULL;
	int fd;

	if (!f) {
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			return -errno;
		if (!keep)
			return fd;
		f = add(keep, path, fd);
		if (!f) {
			close(fd);
			return -ENOMEM;
		}
	} else {
		/* A pipe goes on where it is. */
		(void)lseek(f->fd, 0, SEEK_SET);
	}
	fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

void load_keep_free(struct load_keep *keep)
{
	while (keep->first) {
		struct kept_file *f = keep->first;

		keep->first = f->next;
		close(f->fd);
		free(f);
	}
}
