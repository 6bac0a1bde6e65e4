/*
 * One virtual machine: RAM, CPU, chips and what wires them. machine.c builds and wires, vcpu.c
 * runs. Everything here is touched by the vCPU thread only, but for vm_kick and `stop`.
 */
#ifndef RINGSHIFT_VM_H
#define RINGSHIFT_VM_H

#include <signal.h>
#include <time.h>

#include "acpi_pm.h"
#include "aio.h"
#include "bus.h"
#include "chardevs.h"
#include "cmdline.h"
#include "console.h"
#include "cpu.h"
#include "cpuid_model.h"
#include "debug_exit.h"
#include "dma.h"
#include "i8042.h"
#include "i8254.h"
#include "i8259.h"
#include "ioapic.h"
#include "lapic.h"
#include "load_keep.h"
#include "mc146818.h"
#include "msr.h"
#include "ns16550.h"
#include "pci.h"
#include "pvclock.h"
#include "ram.h"
#include "sendkey.h"
#include "timer.h"
#include "user.h"

/* What the guest, or the user, asked for; looked at between instructions. */
enum vm_stop { VM_GOES_ON, VM_POWER_OFF, VM_RESET, VM_QUIT, VM_EXIT_STATUS };

/* runstate.c: in all but the first the CPU and the VM's clock stand still. */
enum vm_state { VM_RUNNING, VM_PRELAUNCH, VM_PAUSED, VM_SHUT_DOWN };

struct vm {
	struct cpu *cpu; /* aligned for vector loads, so not embedded */
	struct ram ram;
	struct bus bus;
	struct timerq timers;
	struct aio *aio;
	struct dma dma;
	struct stats stats;
	const struct config *cfg;

	struct i8259 pic;
	struct i8254 pit;
	struct ioapic ioapic;
	struct lapic lapic;
	struct mc146818 rtc;
	struct i8042 kbd;
	struct sendkey keys;
	struct acpi_pm pm;
	struct pci_bus pci;
	struct ns16550 uart[SERIAL_MAX];
	struct debug_exit debug_exit;
	struct debugcon debugcon;
	struct console *console;
	struct chardevs *chardevs;
	struct monitors *monitors;
	gpa_t rsdp; /* 0: no ACPI */
	struct load_keep boot_files;

	struct drive *drives;    /* of the command line (drive.h), in its order */
	struct netdev *netdevs;  /* network back ends (netdevs.h), the last one first */
	unsigned nics;           /* network cards made */
	struct plugged *plugged; /* devices of the command line (plug.h), the last one first */
	struct user *user;       /* NULL: ring 3 is stepped */
	struct cpuid_model cpuid;
	struct msr_state msrs;
	struct pvclock clock;
	u64 tsc_khz, tsc_start; /* host TSC when the VM's clock was 0, were it never stopped */
	u64 tsc_stopped;        /* unless the state is VM_RUNNING: host TSC when it stopped */

	timer_t host_timer;
	pid_t vcpu_tid;
	bool host_timer_made, ram_made;
	_Atomic u64 armed; /* deadline the host timer is set for, 0: none (its signal clears it) */

	enum vm_state state;
	enum vm_stop stop;
	bool stop_by_guest;
	int stop_status; /* VM_EXIT_STATUS */
	FILE *log;
	struct symbols *symbols;
};

/* Build the machine of a configuration, without a kernel. Negative errno and a line of text in err;
 * vm_destroy undoes whatever was done, also after a failure. */
MUST_CHECK int vm_init(struct vm *vm, const struct config *cfg, char *err, size_t errlen);
void vm_destroy(struct vm *vm);

/* Reset CPU and chips, load the kernel, set the CPU up for it. */
MUST_CHECK int vm_boot(struct vm *vm, char *err, size_t errlen);

/* Run until the end; the process's exit status. */
int vcpu_run(struct vm *vm);

/* Ask for an end, from a device or (by_guest false) a monitor. The first one counts. */
void vm_request(struct vm *vm, enum vm_stop stop, bool by_guest);

/* The counters, one a line or (json) as an object. */
void vm_print_stats(const struct vm *vm, FILE *out, bool json);

/* Make the vCPU thread leave the guest and look at events. Any thread, async-signal-safe. */
void vm_kick(struct vm *vm);

/* Nanoseconds of the VM's clock; guest TSC. */
u64 vm_now(void *vm);
u64 vm_tsc(void *vm);

/* The whole program: build, run, report; exit status. */
int vm_main(const struct config *cfg);

#endif
