/*
 * Devices of the command line: -device NAME,key=value and what stands for it (-drive if=virtio,
 * -nic). plug.c has the table of what there is; each entry's function takes the options, makes the
 * device and plugs it into the machine.
 */
#ifndef RINGSHIFT_PLUG_H
#define RINGSHIFT_PLUG_H

#include "keyval.h"
#include "vm.h"

struct plug_type {
	const char *name, *alias; /* "virtio-blk-pci", "virtio-blk" */
	const char *help;         /* its keys, for -device help */
	/* -EINVAL and a line of text (keyval_fail) if it cannot be. The caller runs keyval_rest. */
	int (*create)(struct vm *vm, struct keyval *k);
};

/* All types, NULL at the end of names. */
extern const struct plug_type plug_types[];

const struct plug_type *plug_find(const char *name);

/* Make all devices of vm->cfg, in the order given. Negative errno and a line of text. */
MUST_CHECK int plug_devices(struct vm *vm, char *err, size_t errlen);

/* What a device registers so that the machine can reset and free it, in reverse order. */
struct plugged {
	struct plugged *next;
	const char *id;                     /* of id=, or NULL; belongs to the command line */
	void (*reset)(struct plugged *p);   /* machine reset; may be NULL */
	void (*destroy)(struct plugged *p); /* ends what is in flight, frees */
	/* One line for `info qtree`-like listings; may be NULL. */
	void (*describe)(struct plugged *p, FILE *out);
};
void plug_register(struct vm *vm, struct plugged *p);

#endif
