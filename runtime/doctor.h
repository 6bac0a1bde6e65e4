/*
 * `ringshift doctor`: what this host lets us do, what will be slow, what to change.
 */
#ifndef RINGSHIFT_DOCTOR_H
#define RINGSHIFT_DOCTOR_H

#include "base.h"

/* Exit statuses of doctor. */
enum doctor_status {
	DOCTOR_FINE = 0,     /* guests run at full speed */
	DOCTOR_SLOW = 10,    /* they run, but something here makes them slower or smaller */
	DOCTOR_STEPPED = 11, /* they run instruction by instruction, some hundred times slower */
	DOCTOR_BROKEN = 12,  /* they do not run */
};

enum doctor_level {
	DOCTOR_OK,
	DOCTOR_INFO, /* no judgement: good to know */
	DOCTOR_NOTE, /* slower or smaller than it could be */
	DOCTOR_STEP, /* keeps the translator or native user code from working */
	DOCTOR_FAIL, /* keeps ringshift from working */
};

#define DOCTOR_MAX 32

struct finding {
	const char *id; /* one word, stable: for scripts */
	enum doctor_level level;
	char text[160];
	const char *advice; /* what to change, NULL: nothing */
};

struct doctor {
	struct finding finding[DOCTOR_MAX];
	unsigned count;
};

/* Add a finding. */
PRINTF(5, 6)
void doctor_say(struct doctor *d, const char *id, enum doctor_level level, const char *advice,
		const char *fmt, ...);

/* doctor_host.c: what files and limits say. */
void doctor_check_host(struct doctor *d);
/* doctor_try.c: what is only known by trying. Before the process has threads. */
void doctor_try_spaces(struct doctor *d);
void doctor_try_net(struct doctor *d);
void doctor_try_kvm(struct doctor *d);

enum doctor_status doctor_verdict(const struct doctor *d);
void doctor_print(const struct doctor *d, FILE *out);
void doctor_print_json(const struct doctor *d, FILE *out);

/* The command: argv[0] is "doctor". lowland_err: why lowland could not be entered, NULL if it was.
 */
int doctor_main(int argc, char *const *argv, const char *lowland_err);

#endif
