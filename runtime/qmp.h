/*
 * QMP commands, for qmp.c (who reads and answers) and qmp_commands.c (what they do).
 */
#ifndef RINGSHIFT_QMP_H
#define RINGSHIFT_QMP_H

#include <jansson.h>

#include "vm.h"

struct qmp_call {
	struct vm *vm;
	const json_t *args; /* an object, checked against the command's list */
	const char *error_class;
	char error[512];
};

struct qmp_command {
	const char *name, *args;
	/* The answer, a new reference, or NULL: qmp_fail has been called. */
	json_t *(*run)(struct qmp_call *call);
};

extern const struct qmp_command qmp_commands[];
extern const size_t qmp_command_count;

/* NULL, for run to return: class GenericError. */
PRINTF(2, 3) json_t *qmp_fail(struct qmp_call *call, const char *fmt, ...);

/* Next of a list of arguments: its name, type and whether it may be left out; false at the end. */
struct qmp_arg {
	char name[32], type;
	bool optional;
};
bool qmp_next_arg(const char **list, struct qmp_arg *arg);

json_t *qmp_version(void);

#endif
