/*
 * The vCPU's outer loop: run the guest, look at events, sleep when it halts.
 *
 * cpu->attention is the one word others write: the input thread, the host timer's signal, devices.
 * It is cleared before events are looked at, so nothing that comes meanwhile is lost; a halted
 * guest waits on the same word with a futex.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine.h"
#include "daemon.h"
#include "exit_status.h"
#include "lowland.h"
#include "monitor.h"
#include "netdevs.h"
#include "pidfile.h"
#include "report.h"
#include "runstate.h"
#include "step.h"
#include "thunk.h"
#include "vm.h"

void vm_kick(struct vm *vm)
{
	int saved = errno;

	atomic_store_explicit(&vm->cpu->attention, 1, memory_order_release);
	syscall(SYS_futex, &vm->cpu->attention, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	/* Translated code looks at nothing: a signal takes it out. */
	if (vm->cpu->translator && syscall(SYS_gettid) != vm->vcpu_tid)
		syscall(SYS_tgkill, getpid(), vm->vcpu_tid, KICK_SIGNAL);
	errno = saved;
}

void vm_request(struct vm *vm, enum vm_stop stop, bool by_guest)
{
	/* The first one counts: a guest that powers off and then resets has powered off. */
	if (vm->stop == VM_GOES_ON) {
		vm->stop = stop;
		vm->stop_by_guest = by_guest;
	}
	atomic_store_explicit(&vm->cpu->attention, 1, memory_order_relaxed);
}

static void wait_for_event(struct vm *vm)
{
	while (!atomic_load_explicit(&vm->cpu->attention, memory_order_acquire))
		syscall(SYS_futex, &vm->cpu->attention, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void look_at_events(struct vm *vm)
{
	atomic_store_explicit(&vm->cpu->attention, 0, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	if (vm_runs(vm)) {
		timerq_run(&vm->timers);
		vm->timers.rearm(vm->timers.opaque, timerq_next(&vm->timers));
	}
	aio_run(vm->aio);
}

static void report(struct vm *vm, const char *what)
{
	fprintf(stderr, "\r\nringshift: %s\n", what);
	cpu_dump(vm->cpu, stderr);
}

/* Run the guest for a while. False: it cannot go on, for that status. */
static bool run_guest(struct vm *vm, int *status)
{
	struct cpu *c = vm->cpu;
	u64 left = vm->cfg->max_insns - c->insns;

	switch (step_run(c, vm->cfg->max_insns == ~0ull ? ~0ull : left)) {
	case EXIT_HLT: wait_for_event(vm); return true;
	case EXIT_ATTENTION: return true;
	case EXIT_BUDGET: *status = STATUS_LIMIT; break;
	case EXIT_TRIPLE_FAULT:
		report(vm, "triple fault: the guest's CPU shut down");
		*status = STATUS_TRIPLE_FAULT;
		break;
	case EXIT_UNSUPPORTED:
		fprintf(stderr, "\r\nringshift: unsupported: %s\n", c->unsupported);
		cpu_dump(c, stderr);
		*status = STATUS_UNSUPPORTED;
		break;
	}
	vm_tell_end(vm, true, *status == STATUS_TRIPLE_FAULT ? "guest-panic" : "host-error");
	return false;
}

int vcpu_run(struct vm *vm)
{
	int status = STATUS_OK;

	do {
		if (!vm_runs(vm))
			wait_for_event(vm);
		else if (!run_guest(vm, &status))
			break;
		look_at_events(vm);
	} while (vm_obey(vm, &status));
	return status;
}

/* --- the whole program --- */

void vm_print_stats(const struct vm *vm, FILE *out, bool json)
{
	static const struct {
		const char *name, *help;
	} stat[STAT_COUNT] = {
#define STAT(id, help) {#id, help},
#include "stats.def"
#undef STAT
	};
	unsigned i;

	for (i = 0; i < STAT_COUNT; i++) {
		unsigned long long n = vm->stats.n[i];

		if (json)
			fprintf(out, "%s\"%s\": %llu", i ? ", " : "{", stat[i].name, n);
		else
			fprintf(out, "%16llu  %s (%s)\n", n, stat[i].help, stat[i].name);
	}
	if (json)
		fprintf(out, "}\n");
	else if (vm->cpu && vm->cpu->engine)
		engine_print_callouts(vm->cpu, out);
}

/* BUG_ON and crashes (bt/thunk_fault.c) end here: give the terminal back and say where the guest
 * was. The console has a handler of its own, so ours comes after console_start. */
static struct vm *vm_of_abort;

static void on_abort(int sig)
{
	console_restore_terminal();
	signal(sig, SIG_DFL);
	if (vm_of_abort && vm_of_abort->cpu)
		cpu_dump(vm_of_abort->cpu, stderr);
	raise(sig);
}

static void catch_abort(struct vm *vm)
{
	struct sigaction sa = {.sa_handler = on_abort, .sa_flags = SA_ONSTACK};

	vm_of_abort = vm;
	sigaction(SIGABRT, &sa, NULL);
}

/*
 * Signals from outside are not for the vCPU thread: translated code has the guest's values in RSP
 * and the FS base, so a handler could not run there. A thread of its own waits for them.
 */
static void *take_signals(void *unused)
{
	sigset_t kick;

	(void)unused;
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &kick, NULL);
	for (;;)
		pause();
	return NULL;
}

/* What only the vCPU thread can take: its own exceptions, and kicks. */
static void block_outside_signals(sigset_t *old)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
	sigset_t set;
	unsigned i;

	sigfillset(&set);
	for (i = 0; i < ARRAY_LEN(own); i++)
		sigdelset(&set, own[i]);
	sigdelset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &set, old);
}

/* The vCPU loop with signals where they belong. The thread that takes them lives as long as the
 * process. */
static int run_vcpu(struct vm *vm)
{
	struct lowland_thread taker;
	sigset_t old;
	int status = STATUS_ERROR, rc;

	block_outside_signals(&old);
	rc = lowland_thread_create(&taker, take_signals, NULL);
	if (rc)
		fprintf(stderr, "ringshift: cannot start a thread: %s\n", strerror(-rc));
	else
		status = vcpu_run(vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return status;
}

static unsigned needs_of(const struct vm *vm)
{
	const struct config *cfg = vm->cfg;
	unsigned needs = cfg->pidfile ? CONFINE_REMOVE : 0;

	for (unsigned i = 0; i < cfg->chardev_count; i++) {
		const struct char_spec *s = &cfg->chardev[i];

		if (s->kind == CHAR_SOCKET)
			needs |= s->server ? CONFINE_REMOVE : s->reconnect ? CONFINE_CONNECT : 0;
	}
	for (unsigned i = 0; i < cfg->mon_count; i++)
		if (cfg->mon[i].control)
			needs |= CONFINE_OPEN;
	return needs | netdevs_need(vm);
}

/* -sandbox on, and nothing to make it of. */
static int check_sandbox(const struct config *cfg, char *err, size_t errlen)
{
	if (cfg->sandbox != SANDBOX_ON || confine_can())
		return 0;
	snprintf(err, errlen, "-sandbox on: this host, or this build of ringshift, has none");
	return -ENOTSUP;
}

/* The last thing before the guest runs. */
static int enter_sandbox(const struct vm *vm)
{
	int rc;

	if (vm->cfg->sandbox == SANDBOX_OFF || !confine_can())
		return 0;
	rc = confine(needs_of(vm));
	if (rc)
		fprintf(stderr, "ringshift: %s: -sandbox: %s\n",
			vm->cfg->sandbox == SANDBOX_ON ? "error" : "note: goes on without",
			strerror(-rc));
	return vm->cfg->sandbox == SANDBOX_ON ? rc : 0;
}

/* From a machine that is built to its end; the exit status. */
static int run_program(struct vm *vm, char *err, size_t errlen)
{
	int rc = console_start(vm->console), status;

	catch_abort(vm);
	vm_begin(vm);
	if (rc)
		snprintf(err, errlen, "cannot start the console: %s", strerror(-rc));
	if (rc || chardevs_start(vm->chardevs, err, errlen) ||
	    check_sandbox(vm->cfg, err, errlen) || pidfile_write(vm->cfg, err, errlen)) {
		report_error(err);
		return STATUS_ERROR;
	}
	daemon_ready(vm->cfg->ready_fd);
	status = enter_sandbox(vm) ? STATUS_ERROR : run_vcpu(vm);
	monitors_flush(vm->monitors);
	chardevs_flush(vm->chardevs,
		       console_stop(vm->console) == CONSOLE_GOES_ON && vm->stop != VM_QUIT);
	pidfile_remove(vm->cfg);
	return status;
}

int vm_main(const struct config *cfg)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int status = STATUS_ERROR;
	char err[512] = "out of memory";

	if (!vm) {
		report_error(err);
		return status;
	}
	catch_abort(vm);
	if (vm_init(vm, cfg, err, sizeof(err)) || vm_boot(vm, err, sizeof(err)) ||
	    lowland_check(err, sizeof(err)))
		report_error(err);
	else
		status = run_program(vm, err, sizeof(err));
	console_restore_terminal();
	if (cfg->stats != STATS_NONE)
		vm_print_stats(vm, stderr, cfg->stats == STATS_JSON);
	vm_of_abort = NULL;
	vm_destroy(vm);
	free(vm);
	return status;
}
