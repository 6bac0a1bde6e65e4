/*
 * The descriptor stays open until the process ends: the lock on it says that the file is in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "pidfile.h"

int pidfile_write(const struct config *cfg, char *err, size_t errlen)
{
	char text[32];
	int fd, len, rc = 0;

	if (!cfg->pidfile)
		return 0;
	fd = open(cfg->pidfile, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) || ftruncate(fd, 0) ||
	    write(fd, text, (size_t)len) != len) {
		rc = errno ? -errno : -EIO;
		snprintf(err, errlen, "-pidfile: cannot write %s: %s", cfg->pidfile,
			 rc == -EWOULDBLOCK ? "another process holds it" : strerror(-rc));
		if (fd >= 0)
			close(fd);
	}
	return rc;
}

void pidfile_remove(const struct config *cfg)
{
	if (cfg->pidfile)
		unlink(cfg->pidfile);
}
