/*
 * The monitors of a VM: for people (readline, hmp.c) and for programs (control, qmp.c). See
 * monitor.c. vCPU thread only; a NULL struct monitors has no monitors.
 */
#ifndef RINGSHIFT_MONITOR_H
#define RINGSHIFT_MONITOR_H

#include "base.h"

struct vm;
struct monitors;

/* As the VM's configuration says; its character devices are there. Negative errno and a line of
 * text in err. */
MUST_CHECK int monitors_create(struct monitors **out, struct vm *vm, char *err, size_t errlen);
void monitors_destroy(struct monitors *ms);

/* Hand what is to be said to the character devices, which may then be flushed. */
void monitors_flush(struct monitors *ms);

/* A QMP event; with what QEMU says about ends: did the guest do it, and which of QEMU's reasons. */
void monitors_event(struct monitors *ms, const char *name);
void monitors_event_reason(struct monitors *ms, const char *name, bool guest, const char *reason);

#endif
