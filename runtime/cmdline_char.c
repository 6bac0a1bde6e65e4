/*
 * Every short form becomes a device of its own, as in QEMU: -serial stdio is a -chardev
 * stdio,id=serial0 and a serial port on it; what begins with mon: is shared with a monitor.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "cmdline_char.h"
#include "keyval.h"

static PRINTF(2, 3) int fail(struct cmdline_err *e, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(e->text, e->size, "%.*s: ", (int)strcspn(e->opt, "="), e->opt);

	if (n >= 0 && (size_t)n < e->size) {
		va_start(ap, fmt);
		vsnprintf(e->text + n, e->size - n, fmt, ap);
		va_end(ap);
	}
	return -EINVAL;
}

static struct char_spec *find(struct config *cfg, const char *id)
{
	for (unsigned i = 0; i < cfg->chardev_count; i++)
		if (!strcmp(cfg->chardev[i].id, id))
			return &cfg->chardev[i];
	return NULL;
}

static struct char_spec *find_stdio(struct config *cfg)
{
	for (unsigned i = 0; i < cfg->chardev_count; i++)
		if (cfg->chardev[i].kind == CHAR_STDIO)
			return &cfg->chardev[i];
	return NULL;
}

static int add_device(struct config *cfg, const struct char_spec *s, struct cmdline_err *e)
{
	if (cfg->chardev_count == CHARDEV_MAX)
		return fail(e, "there are %d character devices already", CHARDEV_MAX);
	if (find(cfg, s->id))
		return fail(e, "'%s' is there already", s->id);
	if (s->kind == CHAR_STDIO && find_stdio(cfg))
		return fail(e, "'%s' has stdio already", find_stdio(cfg)->id);
	cfg->chardev[cfg->chardev_count++] = *s;
	return 0;
}

int cmdline_chardev(struct config *cfg, const char *arg, struct cmdline_err *e)
{
	struct char_spec s;
	int rc = char_spec_parse(&s, arg, e->text, e->size);

	return rc ? rc : add_device(cfg, &s, e);
}

static int add_monitor(struct config *cfg, const struct mon_spec *m, struct cmdline_err *e)
{
	if (cfg->mon_count == MON_MAX)
		return fail(e, "there are %d monitors already", MON_MAX);
	cfg->mon[cfg->mon_count++] = *m;
	return 0;
}

/* A user's argument: the device's id into `id`, made if it is a short form. */
static int take_device(struct config *cfg, const char *arg, const char *label, char *id, bool *mon,
		       struct cmdline_err *e)
{
	static const char prefix[] = "chardev:";
	struct char_spec s;
	int rc;

	*mon = false;
	if (!strncmp(arg, prefix, sizeof(prefix) - 1)) {
		arg += sizeof(prefix) - 1;
		if (!*arg || strlen(arg) >= CHAR_ID_MAX)
			return fail(e, "'%s' is no id", arg);
		strcpy(id, arg);
		return 0;
	}
	rc = char_spec_short(&s, e->opt, arg, label, mon, e->text, e->size);
	rc = rc ? rc : add_device(cfg, &s, e);
	if (!rc)
		strcpy(id, s.id);
	return rc;
}

int cmdline_serial(struct config *cfg, const char *arg, struct cmdline_err *e)
{
	struct mon_spec m = {.control = false};
	char label[16];
	bool mon;
	int rc;

	if (cfg->serial_count == SERIAL_MAX)
		return fail(e, "'%s': there are %d serial ports", arg, SERIAL_MAX);
	snprintf(label, sizeof(label), "serial%u", cfg->serial_count);
	cfg->serial[cfg->serial_count][0] = 0;
	if (strcmp(arg, "none")) {
		rc = take_device(cfg, arg, label, cfg->serial[cfg->serial_count], &mon, e);
		if (rc)
			return rc;
		strcpy(m.chardev, label);
		rc = mon ? add_monitor(cfg, &m, e) : 0;
		if (rc)
			return rc;
	}
	cfg->serial_count++;
	return 0;
}

/* It only writes, so it may have standard output beside a serial port. */
int cmdline_debugcon(struct config *cfg, const char *arg, struct cmdline_err *e)
{
	bool mon;

	cfg->debugcon_present = true;
	cfg->debugcon[0] = 0;
	if (!strcmp(arg, "none"))
		return 0;
	if (!strcmp(arg, "stdio") && find_stdio(cfg)) {
		strcpy(cfg->debugcon, find_stdio(cfg)->id);
		return 0;
	}
	return take_device(cfg, arg, "debugcon", cfg->debugcon, &mon, e);
}

int cmdline_monitor(struct config *cfg, const char *arg, bool control, bool pretty,
		    struct cmdline_err *e)
{
	struct mon_spec m = {.control = control, .pretty = pretty};
	char label[32];
	bool mon;
	int rc;

	cfg->mon_given = true;
	if (!strcmp(arg, "none"))
		return 0;
	snprintf(label, sizeof(label), "compat_monitor%u", cfg->mon_count);
	rc = take_device(cfg, arg, label, m.chardev, &mon, e);
	return rc ? rc : add_monitor(cfg, &m, e);
}

int cmdline_mon(struct config *cfg, const char *arg, struct cmdline_err *e)
{
	static const char *const modes[] = {"readline", "control"};
	struct mon_spec m = {.control = false};
	struct keyval *k = malloc(sizeof(*k));
	unsigned mode = 0;
	int rc;

	if (!k)
		return fail(e, "out of memory");
	cfg->mon_given = true;
	rc = keyval_parse(k, "-mon", arg, "chardev", e->text, e->size);
	rc = rc ? rc : keyval_choice(k, "mode", modes, ARRAY_LEN(modes), &mode);
	rc = rc ? rc : keyval_bool(k, "pretty", &m.pretty);
	if (!rc) {
		const char *id = keyval_get(k, "chardev");

		rc = keyval_rest(k);
		if (!rc && (!id || !*id || strlen(id) >= CHAR_ID_MAX))
			rc = keyval_fail(k, "chardev= is missing");
		if (!rc)
			strcpy(m.chardev, id);
	}
	free(k);
	m.control = mode == 1;
	return rc ? rc : add_monitor(cfg, &m, e);
}

/* --- when all are known --- */

/* QEMU's: -nographic without a monitor elsewhere shares the terminal; a terminal that something
 * else has is left to it. */
static int add_default_serial(struct config *cfg, bool nographic, struct cmdline_err *e)
{
	if (find_stdio(cfg) || cfg->daemonize)
		return cmdline_serial(cfg, "none", e);
	return cmdline_serial(cfg, nographic && !cfg->mon_given ? "mon:stdio" : "stdio", e);
}

/* One more front end that takes input. */
static int use(struct config *cfg, const char *id, unsigned *users, struct cmdline_err *e)
{
	struct char_spec *s = find(cfg, id);

	if (!s)
		return fail(e, "there is no character device '%s'", id);
	users += s - cfg->chardev;
	if (++*users > 1 && !s->mux)
		return fail(e, "'%s' has another user (mux=on lets several share it)", id);
	if (*users > CHAR_USERS_MAX)
		return fail(e, "'%s' has more than %d users", id, CHAR_USERS_MAX);
	return 0;
}

int cmdline_chars_finish(struct config *cfg, bool nographic, bool nodefaults, struct cmdline_err *e)
{
	unsigned users[CHARDEV_MAX] = {0};
	int rc = 0;

	e->opt = "-serial";
	if (!cfg->serial_count && !nodefaults)
		rc = add_default_serial(cfg, nographic, e);
	for (unsigned i = 0; !rc && i < cfg->serial_count; i++)
		if (*cfg->serial[i])
			rc = use(cfg, cfg->serial[i], users, e);
	e->opt = "-daemonize";
	if (!rc && cfg->daemonize && find_stdio(cfg))
		rc = fail(e, "'%s' is stdio, which will lead nowhere", find_stdio(cfg)->id);
	e->opt = "-mon";
	for (unsigned i = 0; !rc && i < cfg->mon_count; i++)
		rc = use(cfg, cfg->mon[i].chardev, users, e);
	e->opt = "-debugcon";
	if (!rc && *cfg->debugcon && !find(cfg, cfg->debugcon))
		rc = fail(e, "there is no character device '%s'", cfg->debugcon);
	return rc;
}
