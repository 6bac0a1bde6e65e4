#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "disk.h"
#include "exit_status.h"
#include "img.h"
#include "report.h"

/* Of `img check`, as qemu-img has them. */
enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_UNSUPPORTED = 63 };

struct img_args {
	const char *command;
	const char *format, *backing, *backing_format;
	bool json, quiet, share;
	const char *operand[2];
	unsigned operands;
};

static int error(const char *text)
{
	char line[1024];

	snprintf(line, sizeof(line), "img: %s", text);
	report_error(line);
	return STATUS_ERROR;
}

static PRINTF(1, 2) int usage_error(const char *fmt, ...)
{
	char text[1000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	error(text);
	return STATUS_USAGE;
}

/* --- arguments --- */

struct img_option {
	const char *name;
	const char *commands; /* the first letters of those that have it */
	const char **value;   /* one of these two */
	bool *flag;
};

static int take_option(struct img_args *a, char *const *argv, int *used)
{
	const struct img_option options[] = {
	    {"-f", "cikr", &a->format, NULL},      {"-b", "c", &a->backing, NULL},
	    {"-F", "c", &a->backing_format, NULL}, {"-q", "ckr", NULL, &a->quiet},
	    {"-U", "ik", NULL, &a->share},         {"--force-share", "ik", NULL, &a->share},
	    {"--json", "ik", NULL, &a->json},      {"--output=json", "ik", NULL, &a->json},
	};
	char letter = strcmp(a->command, "check") ? *a->command : 'k';

	*used = 1;
	for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
		const struct img_option *o = &options[i];

		if (strcmp(o->name, argv[0]) || !strchr(o->commands, letter))
			continue;
		if (o->flag) {
			*o->flag = true;
			return 0;
		}
		if (!argv[1])
			return usage_error("%s: needs a value", argv[0]);
		*o->value = argv[1];
		*used = 2;
		return 0;
	}
	return usage_error("%s: '%s' is not in this version", a->command, argv[0]);
}

static int take_arguments(struct img_args *a, int argc, char **argv)
{
	bool options = true;

	for (int i = 2, used; i < argc; i += used) {
		int rc;

		used = 1;
		if (options && !strcmp(argv[i], "--")) {
			options = false;
			continue;
		}
		if (options && argv[i][0] == '-' && argv[i][1]) {
			rc = take_option(a, argv + i, &used);
			if (rc)
				return rc;
			continue;
		}
		if (a->operands == ARRAY_LEN(a->operand))
			return usage_error("%s: unexpected argument '%s'", a->command, argv[i]);
		a->operand[a->operands++] = argv[i];
	}
	return 0;
}

/* Bytes; K, M, G, T are powers of 1024. */
static bool parse_bytes(const char *text, u64 *bytes)
{
	static const char suffixes[] = "BKMGTPE";
	const char *suffix;
	char *end;
	u64 n;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	n = strtoull(text, &end, 10);
	suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : suffixes;
	if (errno || !suffix || (*end && end[1]))
		return false;
	*bytes = n << (10 * (suffix - suffixes));
	return *bytes >> (10 * (suffix - suffixes)) == n;
}

/* --- create, resize --- */

static int img_create(const struct img_args *a)
{
	const char *format = a->format ? a->format : "raw";
	char err[512];
	u64 size = ~0ull;

	if (a->operands < 1)
		return usage_error("create: no file name given");
	if (a->operands > 1 && !parse_bytes(a->operand[1], &size))
		return usage_error("create: '%s' is not a size", a->operand[1]);
	if (a->operands < 2 && !a->backing)
		return usage_error("create: no size given");
	if (disk_create(a->operand[0], format, size, a->backing, a->backing_format, err,
			sizeof(err)))
		return error(err);
	return STATUS_OK;
}

static int open_image(const struct img_args *a, struct disk **disk, bool write, bool chain)
{
	const struct disk_config cfg = {.path = a->operand[0],
					.format = a->format,
					.write = write,
					.discard = true,
					.no_lock = a->share,
					.no_backing = !chain};
	char err[512];

	if (a->operands < 1)
		return usage_error("%s: no file name given", a->command);
	return disk_open(disk, &cfg, NULL, err, sizeof(err)) ? error(err) : 0;
}

static int img_resize(const struct img_args *a)
{
	const char *text = a->operands > 1 ? a->operand[1] : "";
	bool relative = *text == '+';
	struct disk *disk;
	u64 size;
	int rc;

	if (!parse_bytes(text + relative, &size))
		return usage_error("resize: '%s' is not a size", text);
	rc = open_image(a, &disk, true, true);
	if (rc)
		return rc;
	size = ALIGN_UP(size + (relative ? disk_size(disk) : 0), DISK_SECTOR);
	rc = size < disk_size(disk) ? -ENOTSUP : disk_resize(disk, size);
	if (rc == -ENOTSUP)
		error("resize: images only grow, in place, and without snapshots; qemu-img resize "
		      "does more");
	else if (rc)
		error(strerror(-rc));
	if (disk_close(disk) && !rc)
		rc = error("cannot write the image back");
	return rc ? STATUS_ERROR : STATUS_OK;
}

/* --- info --- */

static void put_json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static const char *on(bool b)
{
	return b ? "true" : "false";
}

/* qemu-img's names and nesting. */
static void print_json(const char *path, const struct disk_info *i)
{
	printf("{\n    \"virtual-size\": %llu,\n    \"filename\": ", (unsigned long long)i->size);
	put_json_string(path);
	if (i->cluster_size)
		printf(",\n    \"cluster-size\": %u", i->cluster_size);
	printf(",\n    \"format\": \"%s\",\n    \"actual-size\": %llu", i->format,
	       (unsigned long long)i->allocated);
	if (i->backing[0]) {
		printf(",\n    \"backing-filename\": ");
		put_json_string(i->backing);
	}
	if (i->backing_format[0]) {
		printf(",\n    \"backing-filename-format\": ");
		put_json_string(i->backing_format);
	}
	if (i->version)
		printf(",\n    \"snapshot-count\": %u,\n    \"format-specific\": {\n"
		       "        \"type\": \"qcow2\",\n        \"data\": {\n"
		       "            \"compat\": \"%s\",\n"
		       "            \"compression-type\": \"%s\",\n"
		       "            \"lazy-refcounts\": %s,\n"
		       "            \"refcount-bits\": %u,\n"
		       "            \"corrupt\": %s\n        }\n    }",
		       i->snapshots, i->version == 3 ? "1.1" : "0.10", i->compression,
		       on(i->lazy_refcounts), i->refcount_bits, on(i->corrupt));
	printf(",\n    \"dirty-flag\": %s\n}\n", on(i->dirty));
}

static void print_size(const char *what, u64 bytes, bool exact)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double n = (double)bytes;
	unsigned u = 0;

	while (n >= 1024 && u + 1 < ARRAY_LEN(units)) {
		n /= 1024;
		u++;
	}
	printf("%s: %.3g %s", what, n, units[u]);
	if (exact)
		printf(" (%llu bytes)", (unsigned long long)bytes);
	putchar('\n');
}

static void print_text(const char *path, const struct disk_info *i)
{
	printf("image: %s\nfile format: %s\n", path, i->format);
	print_size("virtual size", i->size, true);
	print_size("disk size", i->allocated, false);
	if (i->cluster_size)
		printf("cluster_size: %u\n", i->cluster_size);
	if (i->backing[0])
		printf("backing file: %s\n", i->backing);
	if (i->backing_format[0])
		printf("backing file format: %s\n", i->backing_format);
	if (!i->version)
		return;
	printf("compat: %s\ncompression type: %s\nlazy refcounts: %s\nrefcount bits: %u\n"
	       "corrupt: %s\nsnapshots: %u\n",
	       i->version == 3 ? "1.1" : "0.10", i->compression, on(i->lazy_refcounts),
	       i->refcount_bits, on(i->corrupt), i->snapshots);
}

static int img_info(const struct img_args *a)
{
	struct disk_info info;
	struct disk *disk;
	int rc = open_image(a, &disk, false, false);

	if (rc)
		return rc;
	disk_get_info(disk, &info);
	if (a->json)
		print_json(a->operand[0], &info);
	else
		print_text(a->operand[0], &info);
	disk_close(disk);
	return STATUS_OK;
}

/* --- check --- */

static void print_check(const struct img_args *a, const struct disk_check *r)
{
	if (a->json) {
		printf("{\n    \"filename\": ");
		put_json_string(a->operand[0]);
		printf(",\n    \"format\": \"qcow2\",\n    \"corruptions\": %llu,\n"
		       "    \"leaks\": %llu,\n    \"total-clusters\": %llu,\n"
		       "    \"allocated-clusters\": %llu,\n    \"compressed-clusters\": %llu,\n"
		       "    \"image-end-offset\": %llu\n}\n",
		       (unsigned long long)r->corruptions, (unsigned long long)r->leaks,
		       (unsigned long long)r->clusters, (unsigned long long)r->allocated,
		       (unsigned long long)r->compressed, (unsigned long long)r->end);
		return;
	}
	if (r->corruptions)
		printf("\n%llu errors were found on the image.\nData may be corrupted, or further "
		       "writes to the image may corrupt it.\n",
		       (unsigned long long)r->corruptions);
	if (r->leaks)
		printf("\n%llu leaked clusters were found on the image.\nThis means waste of disk "
		       "space, but no harm to data.\n",
		       (unsigned long long)r->leaks);
	if (!r->corruptions && !r->leaks)
		printf("No errors were found on the image.\n");
	printf("%llu/%llu clusters allocated, %llu compressed\nImage end offset: %llu\n",
	       (unsigned long long)r->allocated, (unsigned long long)r->clusters,
	       (unsigned long long)r->compressed, (unsigned long long)r->end);
}

static int img_check(const struct img_args *a)
{
	struct disk_check result;
	struct disk *disk;
	int rc = open_image(a, &disk, false, false);

	if (rc)
		return rc;
	rc = disk_check(disk, &result, a->json || a->quiet ? NULL : stdout);
	if (rc == -ENOTSUP) {
		error(strcmp(disk_format(disk), "raw")
			  ? "check: an image with bitmaps is for qemu-img check"
			  : "check: raw images have nothing to check");
		rc = CHECK_UNSUPPORTED;
	} else if (rc) {
		rc = error(strerror(-rc));
	} else {
		if (!a->quiet)
			print_check(a, &result);
		rc = result.corruptions ? CHECK_CORRUPT : result.leaks ? CHECK_LEAKS : STATUS_OK;
	}
	disk_close(disk);
	return rc;
}

/* --- all of them --- */

static const char help[] =
    "usage: ringshift img COMMAND [options]\n\n"
    "  create [-f raw|qcow2] [-b BACKING -F FORMAT] FILE [SIZE]\n"
    "                     make an image; SIZE in bytes, or with K, M, G, T\n"
    "  info [-f FORMAT] [-U] [--json] FILE\n"
    "                     what it is; -U: even if it is in use\n"
    "  check [-f FORMAT] [-U] [-q] [--json] FILE\n"
    "                     qcow2: compare its reference counts with its tables;\n"
    "                     status 2: corrupt, 3: leaked clusters, 63: nothing to check\n"
    "  resize [-f FORMAT] FILE [+]SIZE\n"
    "                     let it grow\n";

int img_main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(const struct img_args *a);
	} commands[] = {{"create", img_create},
			{"info", img_info},
			{"check", img_check},
			{"resize", img_resize}};
	struct img_args a = {.command = argc > 1 ? argv[1] : ""};

	if (!strcmp(a.command, "-h") || !strcmp(a.command, "--help") ||
	    !strcmp(a.command, "help")) {
		fputs(help, stdout);
		return STATUS_OK;
	}
	for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
		int rc;

		if (strcmp(commands[i].name, a.command))
			continue;
		rc = take_arguments(&a, argc, argv);
		return rc ? rc : commands[i].run(&a);
	}
	return usage_error("'%s' is none of create, info, check, resize", a.command);
}
