/*
 * Error lines: "ringshift: TEXT", always exactly one line on stderr.
 */
#ifndef RINGSHIFT_REPORT_H
#define RINGSHIFT_REPORT_H

#include "base.h"

/* Control characters in the text (they come from file names and options) are shown as '?'. */
void report_error(const char *text);

#endif
