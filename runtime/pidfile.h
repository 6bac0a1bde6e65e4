/*
 * -pidfile: a file with our process id for as long as the VM runs.
 */
#ifndef RINGSHIFT_PIDFILE_H
#define RINGSHIFT_PIDFILE_H

#include "cmdline.h"

/* Nothing if there is none in the configuration. Another VM's, which it keeps locked, is not
 * touched. Negative errno and a line of text. */
MUST_CHECK int pidfile_write(const struct config *cfg, char *err, size_t errlen);
void pidfile_remove(const struct config *cfg);

#endif
