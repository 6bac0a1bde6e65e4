/*
 * ringshift's main: into lowland, read the command line, run the VM. Everything else is in the
 * libraries, where tests can reach it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "cmdline.h"
#include "console.h"
#include "daemon.h"
#include "doctor.h"
#include "exit_status.h"
#include "img.h"
#include "lowland.h"
#include "plug.h"
#include "report.h"
#include "vm.h"

/*
 * If we were started with a standard descriptor closed, put something in its place, lest a file
 * opened later gets its number: guest RAM as standard output. It is open the wrong way round, so
 * that using it fails as it should.
 */
static void occupy_standard_descriptors(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
		    open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
			return; /* whoever opens a file will hear of it */
}

/* A reader that has gone and a file that may not grow are errors to report, not ends. */
static void ignore_signals_of_output(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

/* What has been printed is worth its status only if it has arrived. */
static int finish_stdout(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "ringshift: cannot write to standard output: %s\n",
			strerror(errno));
		return STATUS_ERROR;
	}
	return status;
}

int main(int argc, char **argv)
{
	struct config cfg;
	char err[512];
	int status;

	occupy_standard_descriptors();
	ignore_signals_of_output();
	status = lowland_enter(err, sizeof(err));
	if (argc > 1 && !strcmp(argv[1], "doctor"))
		return finish_stdout(doctor_main(argc - 1, argv + 1, status ? err : NULL));
	if (argc > 1 && !strcmp(argv[1], "img"))
		return finish_stdout(img_main(argc - 1, argv + 1));
	if (status) {
		report_error(err);
		return STATUS_ERROR;
	}
	if (cmdline_parse(&cfg, argc, argv, err, sizeof(err))) {
		report_error(err);
		return STATUS_USAGE;
	}
	switch (cfg.action) {
	case ACTION_HELP: cmdline_print_help(stdout); return finish_stdout(STATUS_OK);
	case ACTION_DEVICE_HELP:
		plug_print_help(stdout, cfg.device_help);
		return finish_stdout(STATUS_OK);
	case ACTION_VERSION:
		printf("ringshift " RINGSHIFT_VERSION "\n");
		return finish_stdout(STATUS_OK);
	case ACTION_CHECK_LOWLAND:
		status = lowland_report(stdout) ? STATUS_ERROR : STATUS_OK;
		return finish_stdout(status);
	case ACTION_RUN: break;
	}
	if (cfg.daemonize) {
		cfg.ready_fd = daemon_begin();
		if (cfg.ready_fd < 0) {
			report_error("-daemonize: cannot start a process");
			return STATUS_ERROR;
		}
	}
	status = vm_main(&cfg);
	console_die_of_signal();
	return status;
}
