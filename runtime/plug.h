/*
 * Devices of the command line: -device NAME,key=value and what stands for it (-drive if=virtio,
 * -nic). plug.c has the table of what there is; each entry's function takes the options, makes the
 * device and plugs it into the machine.
 */
#ifndef RINGSHIFT_PLUG_H
#define RINGSHIFT_PLUG_H

#include "keyval.h"
#include "virtio_pci.h"
#include "vm.h"

struct plug_type {
	const char *name, *alias; /* "virtio-blk-pci", "virtio-blk"; NULL: no other name */
	const char *help;         /* its keys, for -device help */
	/* -EINVAL and a line of text (keyval_fail) if it cannot be. The caller has asked for id and
	 * runs keyval_rest. What a device that was made holds, a struct plugged frees. */
	int (*create)(struct vm *vm, struct keyval *k);
};

/* All types, NULL at the end of names. */
extern const struct plug_type plug_types[];

/* By name or alias; virtio types also as NAME-non-transitional. NULL if there is none. */
const struct plug_type *plug_find(const char *name, size_t len);
/* The list, or the keys of one type. */
void plug_print_help(FILE *out, const struct plug_type *type);

/* Make all devices of vm->cfg, in the order given. Negative errno and a line of text. */
MUST_CHECK int plug_devices(struct vm *vm, char *err, size_t errlen);
/* Make one, from a text as of -device. */
MUST_CHECK int plug_device(struct vm *vm, const char *arg, char *err, size_t errlen);
/* Machine reset; the machine's end. */
void plug_reset(struct vm *vm);
void plug_destroy(struct vm *vm);

/* What a device registers so that the machine can reset and free it, in reverse order. */
struct plugged {
	struct plugged *next;
	char *id;                           /* of id=, or NULL; plug.c's */
	void (*reset)(struct plugged *p);   /* machine reset; may be NULL */
	void (*destroy)(struct plugged *p); /* ends what is in flight, frees */
	/* What `info qtree` says of it, without a line's end; may be NULL. */
	void (*describe)(struct plugged *p, FILE *out);
};
/* Once the device is whole. */
void plug_register(struct vm *vm, struct plugged *p);
/* The device with an id, or NULL. */
struct plugged *plug_by_id(struct vm *vm, const char *id);

/*
 * The keys every virtio-*-pci device has (addr, bus, vectors, event_idx, ...), and its place on the
 * bus. dev has been initialised; vectors: the default number. Machine reset reaches it through the
 * bus.
 */
MUST_CHECK int plug_virtio(struct vm *vm, struct keyval *k, struct virtio_pci *vp,
			   struct virtio_dev *dev, unsigned vectors, u32 class_code);
/* For plugged.describe: type, slot, state of the driver. */
void plug_describe_virtio(const struct virtio_pci *vp, FILE *out);
/* Its keys, for plug_type.help. */
#define PLUG_VIRTIO_HELP                                                                           \
	"id=NAME, addr=SLOT (hexadecimal), vectors=N, event_idx=on|off, indirect_desc=on|off"

/* --- the types; each in a file of its own --- */
int plug_virtio_net(struct vm *vm, struct keyval *k);
int plug_virtio_rng(struct vm *vm, struct keyval *k);
int plug_virtio_blk(struct vm *vm, struct keyval *k);
int plug_virtio_balloon(struct vm *vm, struct keyval *k);
int plug_virtio_serial(struct vm *vm, struct keyval *k);
int plug_virtconsole(struct vm *vm, struct keyval *k);
int plug_virtserialport(struct vm *vm, struct keyval *k);

/* The balloon: have the guest do with so many bytes of RAM; how it stands. False: there is none. */
struct plug_balloon_info {
	u64 actual;       /* bytes of RAM the guest has */
	bool stats_known; /* by tag (virtio_balloon.h), ~0: not told */
	const u64 *stats;
};
MUST_CHECK bool plug_balloon_set(struct vm *vm, u64 bytes);
MUST_CHECK bool plug_balloon_get(struct vm *vm, struct plug_balloon_info *info);

/* For `info qtree`: the devices, a line each. */
void plug_list(struct vm *vm, FILE *out);

#endif
