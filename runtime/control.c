#include "control.h"

#include "monitor.h"
#include "runstate.h"

void control_stop(struct vm *vm)
{
	if (vm_runs(vm))
		vm_pause(vm, VM_PAUSED);
}

const char *control_cont(struct vm *vm)
{
	return vm_resume(vm) ? "Resetting the Virtual Machine is required" : NULL;
}

void control_reset(struct vm *vm)
{
	vm_request(vm, VM_RESET, false);
}

/* ACPI's button: what comes of it is the guest's affair. */
void control_power_button(struct vm *vm)
{
	acpi_pm_power_button(&vm->pm);
	monitors_event(vm->monitors, "POWERDOWN");
}

void control_quit(struct vm *vm)
{
	vm_request(vm, VM_QUIT, false);
}

void control_nmi(struct vm *vm)
{
	vm->cpu->nmi_pending = true;
	cpu_update_slow(vm->cpu);
}
