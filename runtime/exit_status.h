/*
 * What ringshift's exit status says. isa-debug-exit gives odd numbers (value * 2 + 1), so ours,
 * after the customary 1, are even. A signal that ends ringshift ends it with that signal.
 */
#ifndef RINGSHIFT_EXIT_STATUS_H
#define RINGSHIFT_EXIT_STATUS_H

enum exit_status {
	STATUS_OK = 0,           /* powered off, reset with -no-reboot, or Ctrl-a x */
	STATUS_ERROR = 1,        /* our error: a file, memory, output; one line says which */
	STATUS_USAGE = 2,        /* the command line */
	STATUS_TRIPLE_FAULT = 4, /* the guest triple-faulted */
	STATUS_UNSUPPORTED = 6,  /* the guest did what this version cannot do; a report says what */
	STATUS_LIMIT = 8,        /* --max-insns reached */
};

#endif
