/*
 * The files a machine boots from, opened once: a reset boots what was there at the start, also when
 * the process can open no more files, or the files have gone.
 */
#ifndef RINGSHIFT_LOAD_KEEP_H
#define RINGSHIFT_LOAD_KEEP_H

struct load_keep {
	struct kept_file *first;
};

/* A descriptor of the caller's own, at the beginning of the file; or negative errno. keep NULL: one
 * that is opened now. */
int load_keep_open(struct load_keep *keep, const char *path);

void load_keep_free(struct load_keep *keep);

#endif
