/*
 * What both kinds of monitor do to the VM, each thing once.
 */
#ifndef RINGSHIFT_CONTROL_H
#define RINGSHIFT_CONTROL_H

#include "vm.h"

void control_stop(struct vm *vm);
/* NULL, or why not. */
const char *control_cont(struct vm *vm);
void control_reset(struct vm *vm);
void control_power_button(struct vm *vm);
void control_quit(struct vm *vm);
void control_nmi(struct vm *vm);

#endif
