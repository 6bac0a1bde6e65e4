/*
 * -drive, -hda to -hdd, -snapshot. QEMU's keys; what an image or a cache mode means is in
 * docs/disks.md.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "drive.h"
#include "plug.h"

/* What -drive says, beyond the drive itself. */
struct drive_options {
	const char *file, *format, *id, *serial;
	bool readonly, snapshot, discard, virtio;
	unsigned cache;
};

enum { CACHE_WRITEBACK, CACHE_NONE, CACHE_UNSAFE, CACHE_DIRECTSYNC, CACHE_WRITETHROUGH };

static const char *const cache_names[] = {[CACHE_WRITEBACK] = "writeback",
					  [CACHE_NONE] = "none",
					  [CACHE_UNSAFE] = "unsafe",
					  [CACHE_DIRECTSYNC] = "directsync",
					  [CACHE_WRITETHROUGH] = "writethrough"};

struct drive *drive_find(struct vm *vm, const char *id)
{
	struct drive *d = vm->drives;

	while (d && strcmp(d->id, id))
		d = d->next;
	return d;
}

/* As QEMU wants them: they turn up in other options. */
static bool is_id(const char *s)
{
	if (!isalpha((unsigned char)*s))
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-._", *s))
			return false;
	return true;
}

/* --- keys --- */

static int parse_interface(struct keyval *k, struct drive_options *o)
{
	static const char *const absent[] = {"ide", "scsi", "sd", "mtd", "floppy", "pflash", "xen"};
	static const char *const names[] = {"virtio", "none"};
	const char *text = keyval_get(k, "if");
	unsigned n = 0;
	int rc;

	for (unsigned i = 0; text && i < ARRAY_LEN(absent); i++)
		if (!strcmp(text, absent[i]))
			return keyval_fail(k, "if=%s is not in this version, only virtio and none",
					   text);
	rc = keyval_choice(k, "if", names, ARRAY_LEN(names), &n);
	o->virtio = !n;
	return rc;
}

static int parse_media(struct keyval *k, struct drive_options *o)
{
	static const char *const names[] = {"disk", "cdrom"};
	unsigned n = 0;
	int rc = keyval_choice(k, "media", names, ARRAY_LEN(names), &n);

	o->readonly |= n == 1;
	return rc;
}

static int parse_discard(struct keyval *k, struct drive_options *o)
{
	static const char *const names[] = {"ignore", "off", "unmap", "on"};
	unsigned n = 0;
	int rc = keyval_choice(k, "discard", names, ARRAY_LEN(names), &n);

	o->discard = n >= 2;
	return rc;
}

/* What needs no doing here, in the values that say what is done anyhow. */
static int parse_harmless(struct keyval *k)
{
	static const struct {
		const char *key, *values[4];
	} harmless[] = {
	    {"aio", {"threads"}},       {"werror", {"report"}},    {"rerror", {"report"}},
	    {"detect-zeroes", {"off"}}, {"copy-on-read", {"off"}},
	};

	for (unsigned i = 0; i < ARRAY_LEN(harmless); i++) {
		const char *text = keyval_get(k, harmless[i].key);

		if (text && strcmp(text, harmless[i].values[0]))
			return keyval_fail(k, "%s=%s is not in this version, only %s",
					   harmless[i].key, text, harmless[i].values[0]);
	}
	return 0;
}

static int parse_options(struct keyval *k, struct drive_options *o)
{
	int rc = parse_interface(k, o);

	o->file = keyval_get(k, "file");
	o->format = keyval_get(k, "format");
	o->id = keyval_get(k, "id");
	o->serial = keyval_get(k, "serial");
	if (!o->file && !rc)
		return keyval_fail(k, "file= is missing");
	if (o->id && !is_id(o->id))
		return keyval_fail(k, "id=%s: letters, digits, '-', '.', '_', a letter first",
				   o->id);
	rc = rc ? rc : keyval_bool(k, "readonly", &o->readonly);
	rc = rc ? rc : keyval_bool(k, "read-only", &o->readonly);
	rc = rc ? rc : parse_media(k, o);
	rc = rc ? rc : keyval_bool(k, "snapshot", &o->snapshot);
	rc = rc ? rc : parse_discard(k, o);
	rc = rc ? rc : keyval_choice(k, "cache", cache_names, ARRAY_LEN(cache_names), &o->cache);
	rc = rc ? rc : parse_harmless(k);
	return rc ? rc : keyval_rest(k);
}

/* --- opening --- */

static int open_disk(const struct drive_options *o, struct disk **disk, char *err, size_t errlen)
{
	const struct disk_config cfg = {
	    .path = o->file,
	    .format = o->format,
	    .write = !o->readonly,
	    .direct = o->cache == CACHE_NONE || o->cache == CACHE_DIRECTSYNC,
	    .no_sync = o->cache == CACHE_UNSAFE,
	    .discard = o->discard,
	};
	char note[512];
	int rc;

	if (o->snapshot && !o->readonly)
		rc = disk_open_snapshot(disk, &cfg, note, err, errlen);
	else
		rc = disk_open(disk, &cfg, note, err, errlen);
	if (!rc && note[0])
		fprintf(stderr, "ringshift: note: %s\n", note);
	return rc;
}

static void free_drive(struct drive *d)
{
	if (!d)
		return;
	free(d->id);
	free(d->serial);
	free(d);
}

/* With the name QEMU would give it. */
static struct drive *new_drive(struct vm *vm, const struct drive_options *o)
{
	struct drive *d = calloc(1, sizeof(*d));
	char id[32];
	unsigned n = 0;

	do
		snprintf(id, sizeof(id), "%s%u", o->virtio ? "virtio" : "none", n++);
	while (drive_find(vm, id));
	if (!d)
		return NULL;
	d->id = strdup(o->id ? o->id : id);
	d->serial = o->serial ? strdup(o->serial) : NULL;
	d->virtio = o->virtio;
	d->cache = cache_names[o->cache];
	d->writeback = o->cache != CACHE_WRITETHROUGH && o->cache != CACHE_DIRECTSYNC;
	d->direct = o->cache == CACHE_NONE || o->cache == CACHE_DIRECTSYNC;
	d->no_flush = o->cache == CACHE_UNSAFE;
	if (d->id && (d->serial || !o->serial))
		return d;
	free_drive(d);
	return NULL;
}

static int open_drive(struct vm *vm, const char *opt, const struct drive_options *o, char *err,
		      size_t errlen)
{
	struct drive *d, **end = &vm->drives;
	char why[400];
	int rc;

	if (o->id && drive_find(vm, o->id)) {
		snprintf(err, errlen, "%s: there is already a drive with id '%s'", opt, o->id);
		return -EINVAL;
	}
	d = new_drive(vm, o);
	if (!d) {
		snprintf(err, errlen, "%s: out of memory", opt);
		return -ENOMEM;
	}
	rc = open_disk(o, &d->disk, why, sizeof(why));
	if (rc) {
		snprintf(err, errlen, "%s: %s", opt, why);
		free_drive(d);
		return rc;
	}
	while (*end)
		end = &(*end)->next;
	*end = d;
	return 0;
}

int drive_open_all(struct vm *vm, char *err, size_t errlen)
{
	const struct config *cfg = vm->cfg;
	struct keyval k;
	int rc = 0;

	for (unsigned i = 0; i < cfg->drive_count && !rc; i++) {
		const struct drive_spec *spec = &cfg->drive[i];
		struct drive_options o = {.snapshot = cfg->snapshot, .virtio = true};

		if (spec->is_file)
			o.file = spec->text;
		else
			rc = keyval_parse(&k, spec->opt, spec->text, NULL, err, errlen);
		if (!rc && !spec->is_file)
			rc = parse_options(&k, &o);
		rc = rc ? rc : open_drive(vm, spec->opt, &o, err, errlen);
	}
	return rc;
}

int drive_plug_all(struct vm *vm, char *err, size_t errlen)
{
	int rc = 0;

	for (struct drive *d = vm->drives; d && !rc; d = d->next) {
		char text[512];
		struct keyval k;

		if (!d->virtio || d->taken)
			continue;
		snprintf(text, sizeof(text), "virtio-blk-pci,drive=%s", d->id);
		rc = keyval_parse(&k, "-drive", text, "driver", err, errlen);
		rc = rc ? rc : plug_virtio_blk(vm, &k);
		if (rc == -ENOMEM)
			snprintf(err, errlen, "-drive: out of memory");
	}
	return rc;
}

void drive_close_all(struct vm *vm)
{
	while (vm->drives) {
		struct drive *d = vm->drives;
		int rc;

		vm->drives = d->next;
		rc = disk_close(d->disk);
		if (rc)
			fprintf(stderr, "ringshift: drive %s: could not be written back: %s\n",
				d->id, strerror(-rc));
		free_drive(d);
	}
}
