/*
 * Stop and cont, reset, power off, and what monitors are told of it.
 *
 * While the VM is stopped the vCPU thread sleeps and looks at events as that of a halted guest
 * does: monitors and character devices live on. The VM's clock (vm_now) stands still, and with it
 * all timers of chips, so nothing is late afterwards and nothing comes in a burst.
 *
 * The TSC does not stop: it is the host's, and native code reads it directly. A guest that keeps
 * time by it sees the stop as a jump, as under KVM, where it runs on as well. What the monitor can
 * do about that is done when the guest goes on: the paravirtual clock gets a new pair of TSC and
 * time (so it has stood still, too) with the flag that spares the guest's watchdogs, and the TSC
 * deadline of the local APIC is looked at again.
 */
#include <errno.h>
#include <x86intrin.h>

#include "runstate.h"
#include "exit_status.h"
#include "monitor.h"
#include "netdev.h"
#include "report.h"

const char *vm_state_name(const struct vm *vm)
{
	static const char *const names[] = {[VM_RUNNING] = "running",
					    [VM_PRELAUNCH] = "prelaunch",
					    [VM_PAUSED] = "paused",
					    [VM_SHUT_DOWN] = "shutdown"};

	return names[vm->state];
}

/* Nothing from outside reaches the machine, and what its devices have begun is finished: guest
 * memory stands still, too. */
static void stop_devices(struct vm *vm)
{
	chardevs_set_stopped(vm->chardevs, true);
	for (struct netdev *n = vm->netdevs; n; n = n->next)
		netdev_set_stopped(n, true);
	aio_drain(vm->aio);
}

static void start_devices(struct vm *vm)
{
	chardevs_set_stopped(vm->chardevs, false);
	for (struct netdev *n = vm->netdevs; n; n = n->next)
		netdev_set_stopped(n, false);
}

void vm_begin(struct vm *vm)
{
	if (!vm_runs(vm))
		stop_devices(vm);
}

void vm_pause(struct vm *vm, enum vm_state why)
{
	bool ran = vm_runs(vm);

	if (ran) {
		stop_devices(vm);
		vm->tsc_stopped = __rdtsc();
	}
	vm->state = why;
	if (ran)
		monitors_event(vm->monitors, "STOP");
}

int vm_resume(struct vm *vm)
{
	if (vm_runs(vm))
		return 0;
	if (vm->state == VM_SHUT_DOWN)
		return -EPERM;
	vm->tsc_start += __rdtsc() - vm->tsc_stopped;
	vm->state = VM_RUNNING;
	pvclock_resume(&vm->clock);
	lapic_tsc_moved(&vm->lapic);
	start_devices(vm);
	vm->timers.rearm(vm->timers.opaque, timerq_next(&vm->timers));
	monitors_event(vm->monitors, "RESUME");
	return 0;
}

void vm_tell_end(struct vm *vm, bool guest, const char *reason)
{
	monitors_event_reason(vm->monitors, "SHUTDOWN", guest, reason);
}

/* -no-shutdown: stay, and wait for a reset or quit. */
static bool shut_down(struct vm *vm, const char *reason)
{
	vm_tell_end(vm, vm->stop_by_guest, reason);
	if (!vm->cfg->no_shutdown)
		return false;
	vm->stop = VM_GOES_ON;
	vm_pause(vm, VM_SHUT_DOWN);
	return true;
}

static bool reset(struct vm *vm, int *status)
{
	const char *reason = vm->stop_by_guest ? "guest-reset" : "host-qmp-system-reset";
	char err[512];

	if (vm->cfg->no_reboot)
		return shut_down(vm, reason);
	vm->stop = VM_GOES_ON;
	monitors_event_reason(vm->monitors, "RESET", vm->stop_by_guest, reason);
	if (!vm_runs(vm))
		vm->state = VM_PRELAUNCH;
	if (vm_boot(vm, err, sizeof(err)) == 0)
		return true;
	report_error(err);
	*status = STATUS_ERROR;
	return false;
}

static bool obey_console(struct vm *vm, int *status)
{
	char err[512];

	switch (console_stop(vm->console)) {
	case CONSOLE_GOES_ON: return true;
	case CONSOLE_QUIT: vm_tell_end(vm, false, "host-ui"); return false;
	case CONSOLE_SIGNAL: vm_tell_end(vm, false, "host-signal"); return false;
	case CONSOLE_FAILED: break;
	}
	vm_tell_end(vm, false, "host-error");
	console_error(vm->console, err, sizeof(err));
	report_error(err);
	*status = STATUS_ERROR;
	return false;
}

bool vm_obey(struct vm *vm, int *status)
{
	*status = STATUS_OK;
	if (!obey_console(vm, status))
		return false;
	switch (vm->stop) {
	case VM_GOES_ON: break;
	case VM_POWER_OFF: return shut_down(vm, "guest-shutdown");
	case VM_RESET: return reset(vm, status);
	case VM_QUIT: vm_tell_end(vm, false, "host-qmp-quit"); return false;
	case VM_EXIT_STATUS:
		*status = vm->stop_status & 0xff;
		vm_tell_end(vm, true, "guest-shutdown");
		return false;
	}
	return true;
}
