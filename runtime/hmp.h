/*
 * The monitor for people: one line in, text out. hmp.c has the commands, hmp_info.c and
 * hmp_memory.c what they show.
 */
#ifndef RINGSHIFT_HMP_H
#define RINGSHIFT_HMP_H

#include "vm.h"

/* Run a command; what it says, to be freed, or NULL without memory. Lines end in \n. */
char *hmp_execute(struct vm *vm, const char *line, size_t *len);

/* For line_edit. */
const char *hmp_complete(const char *text, size_t *skip, unsigned i);

/* For the files of the monitor. */
struct hmp_entry {
	const char *name, *args, *help;
	void (*run)(struct vm *vm, FILE *out, const char *args);
};
extern const struct hmp_entry hmp_info[]; /* ends with an empty name */

void hmp_x(struct vm *vm, FILE *out, const char *args);
void hmp_xp(struct vm *vm, FILE *out, const char *args);
void hmp_info_mem(struct vm *vm, FILE *out, const char *args);
void hmp_info_block(struct vm *vm, FILE *out, const char *args);
void hmp_info_network(struct vm *vm, FILE *out, const char *args);
void hmp_info_pci(struct vm *vm, FILE *out, const char *args);
void hmp_info_qtree(struct vm *vm, FILE *out, const char *args);
void hmp_info_balloon(struct vm *vm, FILE *out, const char *args);
void hmp_balloon(struct vm *vm, FILE *out, const char *args);
void hmp_set_link(struct vm *vm, FILE *out, const char *args);

#endif
