/*
 * Whether the guest runs, and how it ends. See runstate.c. vCPU thread only.
 */
#ifndef RINGSHIFT_RUNSTATE_H
#define RINGSHIFT_RUNSTATE_H

#include "vm.h"

static inline bool vm_runs(const struct vm *vm)
{
	return vm->state == VM_RUNNING;
}

/* QEMU's name of the state. */
const char *vm_state_name(const struct vm *vm);

/* Before anything runs: -S. */
void vm_begin(struct vm *vm);

/* Stop guest and clocks. Nothing if they are stopped already, but for the state's name. */
void vm_pause(struct vm *vm, enum vm_state why);

/* Let them go on. -EPERM: the guest has powered off and has to be reset first. */
MUST_CHECK int vm_resume(struct vm *vm);

/* What was asked for by vm_request or the console. True: the VM goes on; else its exit status. */
bool vm_obey(struct vm *vm, int *status);

/* The VM ends for another reason than those: tell the monitors. */
void vm_tell_end(struct vm *vm, bool guest, const char *reason);

#endif
