/*
 * Drives: disk images of the command line (-drive, -hda), and the block devices they are behind.
 */
#ifndef RINGSHIFT_DRIVE_H
#define RINGSHIFT_DRIVE_H

#include "disk.h"
#include "vm.h"

struct drive {
	struct drive *next;
	char *id;
	struct disk *disk;
	char *serial; /* NULL: none given */
	const char *cache; /* the mode's name */
	bool writeback, direct, no_flush;
	bool virtio; /* if=virtio: a device is made for it */
	bool taken;  /* by a device */
};

/* Open all drives of vm->cfg, in the order given; negative errno and a line of text. */
MUST_CHECK int drive_open_all(struct vm *vm, char *err, size_t errlen);
/* Make the devices of those with if=virtio, after -device's. */
MUST_CHECK int drive_plug_all(struct vm *vm, char *err, size_t errlen);
/* After the devices have gone. Says on stderr if an image could not be written back. */
void drive_close_all(struct vm *vm);

/* By id, or NULL. */
struct drive *drive_find(struct vm *vm, const char *id);

#endif
