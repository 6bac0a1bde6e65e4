/*
 * What the helper gives up once its ports are open, before it looks at a frame: see sandbox.c.
 */
#ifndef RINGSHIFT_NETHELPER_SANDBOX_H
#define RINGSHIFT_NETHELPER_SANDBOX_H

#include "base.h"

/* For good. Negative errno if the host cannot do it. */
MUST_CHECK int sandbox_enter(void);

#endif
