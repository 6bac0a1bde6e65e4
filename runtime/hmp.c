/*
 * The commands. Names and forms are those of QEMU's monitor.
 */
#include <errno.h>
#include <string.h>

#include "hmp.h"
#include "control.h"
#include "line_edit.h"

static const struct hmp_entry commands[];

static void list(FILE *out, const struct hmp_entry *e, const char *prefix)
{
	for (; e->name; e++)
		fprintf(out, "%s%s%s%s -- %s\n", prefix, e->name, *e->args ? " " : "", e->args,
			e->help);
}

static const struct hmp_entry *find(const struct hmp_entry *e, const char *name, size_t len)
{
	for (; e->name; e++)
		if (strlen(e->name) == len && !memcmp(e->name, name, len))
			return e;
	return NULL;
}

static const char *skip_spaces(const char *s)
{
	return s + strspn(s, " \t");
}

static void help(struct vm *vm, FILE *out, const char *args)
{
	(void)vm;
	if (!strcmp(args, "info"))
		list(out, hmp_info, "info ");
	else
		list(out, commands, "");
}

static void info(struct vm *vm, FILE *out, const char *args)
{
	size_t len = strcspn(args, " \t");
	const struct hmp_entry *e = find(hmp_info, args, len);

	if (e)
		e->run(vm, out, skip_spaces(args + len));
	else
		list(out, hmp_info, "info ");
}

static void stop(struct vm *vm, FILE *out, const char *args)
{
	(void)out, (void)args;
	control_stop(vm);
}

static void cont(struct vm *vm, FILE *out, const char *args)
{
	const char *why = control_cont(vm);

	(void)args;
	if (why)
		fprintf(out, "Error: %s\n", why);
}

static void system_reset(struct vm *vm, FILE *out, const char *args)
{
	(void)out, (void)args;
	control_reset(vm);
}

static void system_powerdown(struct vm *vm, FILE *out, const char *args)
{
	(void)out, (void)args;
	control_power_button(vm);
}

static void quit(struct vm *vm, FILE *out, const char *args)
{
	(void)out, (void)args;
	control_quit(vm);
}

static void nmi(struct vm *vm, FILE *out, const char *args)
{
	(void)out, (void)args;
	control_nmi(vm);
}

/* The keys of "ctrl-alt-delete"; how many, or 0 after a message. */
static unsigned parse_keys(const char *s, size_t len, struct sendkey_code *keys, FILE *out)
{
	unsigned count = 0;

	for (size_t n; count < SENDKEY_MAX; s += n + 1, len -= n + 1) {
		n = strcspn(s, "-");
		n = MIN(n, len);
		if (!sendkey_find(s, n, &keys[count++])) {
			fprintf(out, "Error: unknown key: '%.*s'\n", (int)MIN(n, 100), s);
			return 0;
		}
		if (n == len)
			return count;
	}
	fprintf(out, "Error: more than %u keys\n", SENDKEY_MAX);
	return 0;
}

static void sendkey(struct vm *vm, FILE *out, const char *args)
{
	struct sendkey_code keys[SENDKEY_MAX];
	size_t len = strcspn(args, " \t");
	const char *hold = skip_spaces(args + len);
	unsigned count = parse_keys(args, len, keys, out);
	unsigned long ms = SENDKEY_HOLD_MS;
	char *end = "";

	if (!count)
		return;
	if (*hold)
		ms = strtoul(hold, &end, 10);
	if (*end || ms > SENDKEY_HOLD_MOST) {
		fprintf(out, "Error: '%s' is no time in ms up to %u\n", hold, SENDKEY_HOLD_MOST);
		return;
	}
	if (!sendkey_press(&vm->keys, keys, count, (unsigned)ms))
		fprintf(out, "Error: the keyboard takes no keys now\n");
}

/* First word of args into id; the rest, or NULL (then the caller's usage has been shown). */
static const char *take_id(const char *args, char *id, size_t size, FILE *out, const char *usage)
{
	size_t len = strcspn(args, " \t");

	if (!len || len >= size || !*skip_spaces(args + len)) {
		fprintf(out, "usage: %s\n", usage);
		return NULL;
	}
	memcpy(id, args, len);
	id[len] = 0;
	return skip_spaces(args + len);
}

static void ringbuf_error(FILE *out, const char *id, ssize_t rc)
{
	fprintf(out,
		rc == -ENOENT ? "Error: Device '%s' not found\n"
			      : "Error: %s is not a ringbuf device\n",
		id);
}

static void ringbuf_read(struct vm *vm, FILE *out, const char *args)
{
	char id[CHAR_ID_MAX];
	const char *rest = take_id(args, id, sizeof(id), out, "ringbuf_read ID SIZE");
	u8 buf[4096];
	unsigned long left;
	ssize_t n = 0;

	if (!rest)
		return;
	left = MIN(strtoul(rest, NULL, 0), MIB);
	while (left &&
	       (n = chardevs_ringbuf_read(vm->chardevs, id, buf, MIN(left, sizeof(buf)))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			bool shown = (buf[i] >= ' ' && buf[i] < 0x7f) || buf[i] == '\n';

			if (shown && buf[i] != '\\')
				fputc(buf[i], out);
			else
				fprintf(out, buf[i] == '\\' ? "\\\\" : "\\u%04X", buf[i]);
		}
		left -= (size_t)n;
	}
	if (n < 0)
		ringbuf_error(out, id, n);
	else
		fputc('\n', out);
}

static void ringbuf_write(struct vm *vm, FILE *out, const char *args)
{
	char id[CHAR_ID_MAX];
	const char *rest = take_id(args, id, sizeof(id), out, "ringbuf_write ID DATA");
	ssize_t n =
	    rest ? chardevs_ringbuf_write(vm->chardevs, id, (const u8 *)rest, strlen(rest)) : 0;

	if (n < 0)
		ringbuf_error(out, id, n);
}

static const struct hmp_entry commands[] = {
    {"help", "[info]", "this list, or that of what info shows", help},
    {"?", "", "the same", help},
    {"info", "WHAT", "show something of the VM", info},
    {"stop", "", "stop the guest and its clocks", stop},
    {"cont", "", "let it go on", cont},
    {"c", "", "the same", cont},
    {"system_reset", "", "reset the machine", system_reset},
    {"system_powerdown", "", "press the power button", system_powerdown},
    {"quit", "", "end ringshift", quit},
    {"q", "", "the same", quit},
    {"balloon", "MEGABYTES", "have the guest do with so much memory", hmp_balloon},
    {"set_link", "ID on|off", "put the cable of a -netdev in, or take it out", hmp_set_link},
    {"nmi", "", "send an NMI", nmi},
    {"sendkey", "KEYS [MS]", "press keys together (ctrl-alt-delete), for 100 ms", sendkey},
    {"x", "/FMT ADDR", "guest memory by linear address; FMT: count, x d u o c i, b h w g", hmp_x},
    {"xp", "/FMT ADDR", "the same by physical address", hmp_xp},
    {"ringbuf_read", "ID SIZE", "take bytes from a ring buffer device", ringbuf_read},
    {"ringbuf_write", "ID DATA", "put a text into one", ringbuf_write},
    {.name = NULL},
};

static void run(struct vm *vm, FILE *out, const char *line)
{
	const char *name = skip_spaces(line);
	/* As in QEMU, "x/10i" needs no space. */
	size_t len = strcspn(name, " \t/");
	const struct hmp_entry *e = find(commands, name, len);

	if (!len)
		return;
	if (e)
		e->run(vm, out, skip_spaces(name + len));
	else
		fprintf(out, "unknown command: '%.*s'\n", (int)MIN(len, 100), name);
}

char *hmp_execute(struct vm *vm, const char *line, size_t *len)
{
	char *text = NULL, copy[LINE_MAX_LEN + 1] = "";
	FILE *out = open_memstream(&text, len);
	size_t n = strnlen(line, sizeof(copy) - 1);

	if (!out)
		return NULL;
	/* Spaces at the end would be part of an argument. */
	while (n && strchr(" \t\r\n", line[n - 1]))
		n--;
	memcpy(copy, line, n);
	run(vm, out, copy);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

const char *hmp_complete(const char *text, size_t *skip, unsigned i)
{
	const struct hmp_entry *e = commands;

	*skip = 0;
	if (!strncmp(text, "info ", 5)) {
		e = hmp_info;
		*skip = 5;
	}
	text += *skip;
	for (; e->name; e++)
		if (!strncmp(e->name, text, strlen(text)) && i-- == 0)
			break;
	return e->name;
}
