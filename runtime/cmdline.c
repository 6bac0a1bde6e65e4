/*
 * Command line parsing. Options take one dash or two. A value is the next argument, whatever it
 * looks like, as in QEMU, or follows an equals sign. What this version cannot do is refused by
 * name rather than ignored: a command that starts does what it says.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "cmdline_impl.h"
#include "lowland.h"
#include "plug.h"
#include "ram.h"
#include "step.h"

#define DEFAULT_RAM (512 * MIB)
#define MAX_RAM     (6ull << 40) /* the window of lowland.h, less the PCI hole */

_Static_assert(LOWLAND_RAM + MAX_RAM <= LOWLAND_RAM_END, "the RAM window is too small");
_Static_assert((int)LOG_GUEST_ERRORS > (int)LOG_UNIMP && (int)LOG_GUEST_ERRORS < (int)LOG_OUT_ASM,
	       "-d items share one word");

int opt_kernel(struct parser *p, const char *arg)
{
	p->cfg->kernel = arg;
	return 0;
}

int opt_initrd(struct parser *p, const char *arg)
{
	p->cfg->initrd = arg;
	return 0;
}

int opt_append(struct parser *p, const char *arg)
{
	p->cfg->append = arg;
	return 0;
}

int opt_name(struct parser *p, const char *arg)
{
	p->cfg->name = arg;
	return 0;
}

int opt_boot(struct parser *p, const char *arg)
{
	if (strcmp(arg, "stub"))
		return cmdline_fail(p, "'%s' is not in this version, only 'stub'", arg);
	p->cfg->boot = BOOT_STUB;
	return 0;
}

int opt_memory(struct parser *p, const char *arg)
{
	struct item it, value;
	u64 size;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		if (!cmdline_item_value(&it, "size", &value)) {
			if (it.text != arg || memchr(it.text, '=', it.len))
				return cmdline_fail(p, "'%.*s' is not in this version", it.len,
						    it.text);
			value = it;
		}
		if (!cmdline_item_size(&value, &size))
			return cmdline_fail(p, "'%.*s' is not a size", value.len, value.text);
		if (size < RAM_MIN_SIZE)
			return cmdline_fail(p, "'%.*s' is too little: 1M is the least", value.len,
					    value.text);
		if (size > MAX_RAM)
			return cmdline_fail(p, "'%.*s' is too much: 6T is the most", value.len,
					    value.text);
		p->cfg->ram_size = ALIGN_UP(size, PAGE_SIZE);
	}
	return 0;
}

int opt_smp(struct parser *p, const char *arg)
{
	static const char *const keys[] = {"cpus",     "maxcpus", "sockets", "dies",
					   "clusters", "cores",   "threads"};
	struct item it, value;
	u64 n;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		size_t k = 0;

		while (k < ARRAY_LEN(keys) && !cmdline_item_value(&it, keys[k], &value))
			k++;
		if (k == ARRAY_LEN(keys)) {
			if (it.text != arg || memchr(it.text, '=', it.len))
				return cmdline_fail(p, "'%.*s' is not known", it.len, it.text);
			value = it;
		}
		if (!cmdline_item_number(&value, &n) || !n)
			return cmdline_fail(p, "'%.*s' is not a number of processors", value.len,
					    value.text);
		if (n > 1)
			return cmdline_fail(p, "%.*s processors: this version has one", value.len,
					    value.text);
	}
	return 0;
}

static int check_accel(struct parser *p, const struct item *it)
{
	static const char *const absent[] = {"kvm", "tcg", "xen", "hvf", "whpx", "nvmm"};

	if (cmdline_item_is(it, "step") || cmdline_item_is(it, "bt")) {
		p->cfg->accel = cmdline_item_is(it, "bt") ? ACCEL_BT : ACCEL_STEP;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(absent); i++)
		if (cmdline_item_is(it, absent[i]))
			return cmdline_fail(p, "'%s' is not in this version, only 'bt' and 'step'",
					    absent[i]);
	return cmdline_fail(p, "no engine is called '%.*s'; 'bt' and 'step' are", it->len,
			    it->text);
}

int opt_accel(struct parser *p, const char *arg)
{
	struct item it, value;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		int ret;

		if (it.text != arg)
			return cmdline_fail(p, "'%.*s' is not in this version", it.len, it.text);
		if (cmdline_item_value(&it, "accel", &value))
			it = value;
		ret = check_accel(p, &it);
		if (ret)
			return ret;
	}
	return 0;
}

int opt_ring3(struct parser *p, const char *arg)
{
	if (strcmp(arg, "native") && strcmp(arg, "step"))
		return cmdline_fail(p, "'%s' is neither 'native' nor 'step'", arg);
	p->cfg->ring3 = strcmp(arg, "step") ? RING3_NATIVE : RING3_STEP;
	p->bt_aid = p->opt;
	return 0;
}

int opt_fast_syscalls(struct parser *p, const char *arg)
{
	if (strcmp(arg, "on") && strcmp(arg, "off"))
		return cmdline_fail(p, "'%s' is neither 'on' nor 'off'", arg);
	p->cfg->fast_syscalls = !strcmp(arg, "on");
	return 0;
}

/* QEMU has a key for each kind of thing that is refused; here all are. */
int opt_sandbox(struct parser *p, const char *arg)
{
	static const char *const keys[] = {"obsolete", "elevateprivileges", "spawn",
					   "resourcecontrol"};
	struct item it = cmdline_take_item(&arg), value;
	size_t k;

	if (!cmdline_item_is(&it, "on") && !cmdline_item_is(&it, "off"))
		return cmdline_fail(p, "'%.*s' is neither 'on' nor 'off'", it.len, it.text);
	p->cfg->sandbox = cmdline_item_is(&it, "on") ? SANDBOX_ON : SANDBOX_OFF;
	while (arg) {
		it = cmdline_take_item(&arg);
		for (k = 0; k < ARRAY_LEN(keys); k++)
			if (cmdline_item_value(&it, keys[k], &value))
				break;
		if (k == ARRAY_LEN(keys) || !cmdline_item_is(&value, "deny"))
			return cmdline_fail(p, "'%.*s' is not in this version, which denies all",
					    it.len, it.text);
	}
	return 0;
}

int opt_cpu(struct parser *p, const char *arg)
{
	static const char *const models[] = {
	    [CPU_HOST] = "host", [CPU_MAX] = "max", [CPU_QEMU64] = "qemu64"};
	struct item it = cmdline_take_item(&arg);

	for (size_t i = 0; i < ARRAY_LEN(models); i++) {
		if (!cmdline_item_is(&it, models[i]))
			continue;
		if (arg)
			return cmdline_fail(p, "'%s': features cannot be chosen in this version",
					    arg);
		p->cfg->cpu = (enum cpu_model)i;
		return 0;
	}
	return cmdline_fail(p, "'%.*s' is not in this version, only host, max and qemu64", it.len,
			    it.text);
}

/* What the machine does not have anyhow, so that existing commands may switch it off. */
static bool machine_lacks(const struct item *it)
{
	static const char *const keys[] = {"usb", "hpet", "vmport", "smm", "graphics"};
	struct item value;

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (cmdline_item_value(it, keys[i], &value))
			return cmdline_item_is(&value, "off");
	return false;
}

static int machine_property(struct parser *p, const struct item *it)
{
	struct item value;

	if (cmdline_item_value(it, "accel", &value))
		return check_accel(p, &value);
	if (cmdline_item_value(it, "acpi", &value) &&
	    (cmdline_item_is(&value, "on") || cmdline_item_is(&value, "off"))) {
		p->cfg->acpi = cmdline_item_is(&value, "on");
		return 0;
	}
	if (machine_lacks(it))
		return 0;
	return cmdline_fail(p, "'%.*s' is not in this version", it->len, it->text);
}

int opt_machine(struct parser *p, const char *arg)
{
	static const char *const types[] = {"q35", "pc", "microvm"};
	struct item it, value;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		bool is_type = it.text == arg && !memchr(it.text, '=', it.len);
		size_t i = 0;
		int ret;

		if (cmdline_item_value(&it, "type", &value)) {
			it = value;
			is_type = true;
		}
		if (!is_type) {
			ret = machine_property(p, &it);
			if (ret)
				return ret;
			continue;
		}
		while (i < ARRAY_LEN(types) && !cmdline_item_is(&it, types[i]))
			i++;
		if (i == ARRAY_LEN(types))
			return cmdline_fail(p,
					    "no machine is called '%.*s'; q35, pc and microvm are",
					    it.len, it.text);
	}
	return 0;
}

int opt_machine_short(struct parser *p, const char *arg)
{
	return opt_machine(p, arg);
}

int opt_no_acpi(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->acpi = false;
	return 0;
}

int opt_nographic(struct parser *p, const char *arg)
{
	(void)arg;
	p->nographic = true;
	return 0;
}

int opt_nodefaults(struct parser *p, const char *arg)
{
	(void)arg;
	p->nodefaults = true;
	return 0;
}

int opt_no_reboot(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->no_reboot = true;
	return 0;
}

int opt_no_shutdown(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->no_shutdown = true;
	return 0;
}

int opt_action(struct parser *p, const char *arg)
{
	struct item it, value;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		bool reboot = cmdline_item_value(&it, "reboot", &value);

		if (!reboot && !cmdline_item_value(&it, "shutdown", &value))
			return cmdline_fail(
			    p, "'%.*s' is not in this version, only reboot= and shutdown=", it.len,
			    it.text);
		if (!cmdline_item_is(&value, reboot ? "reset" : "poweroff") &&
		    !cmdline_item_is(&value, reboot ? "shutdown" : "pause"))
			return cmdline_fail(p, "'%.*s': it is %s", it.len, it.text,
					    reboot ? "reset or shutdown" : "poweroff or pause");
		if (reboot)
			p->cfg->no_reboot = cmdline_item_is(&value, "shutdown");
		else
			p->cfg->no_shutdown = cmdline_item_is(&value, "pause");
	}
	return 0;
}

int opt_stopped(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->stopped = true;
	return 0;
}

int opt_daemonize(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->daemonize = true;
	return 0;
}

int opt_pidfile(struct parser *p, const char *arg)
{
	p->cfg->pidfile = arg;
	return 0;
}

int opt_uuid(struct parser *p, const char *arg)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	size_t i = 0;

	while (form[i] == 'x' ? isxdigit((unsigned char)arg[i]) : form[i] && arg[i] == form[i])
		i++;
	if (form[i] || arg[i])
		return cmdline_fail(p, "'%s' is no UUID", arg);
	p->cfg->uuid = arg;
	return 0;
}

int opt_no_user_config(struct parser *p, const char *arg)
{
	(void)p, (void)arg;
	return 0;
}

int opt_log(struct parser *p, const char *arg)
{
	static const struct {
		const char *name;
		unsigned bit;
	} items[] = {
	    {"in_asm", LOG_IN_ASM}, {"out_asm", LOG_OUT_ASM},
	    {"int", LOG_INT},       {"mmu", LOG_MMU},
	    {"smc", LOG_SMC},       {"cpu", LOG_CPU},
	    {"unimp", LOG_UNIMP},   {"guest_errors", LOG_GUEST_ERRORS},
	};
	struct item it;

	for (const char *list = arg; cmdline_next_item(&list, &it);) {
		size_t i = 0;

		while (i < ARRAY_LEN(items) && !cmdline_item_is(&it, items[i].name))
			i++;
		if (i == ARRAY_LEN(items))
			return cmdline_fail(
			    p,
			    "'%.*s' is none of in_asm, out_asm, int, mmu, smc, cpu, unimp, "
			    "guest_errors",
			    it.len, it.text);
		p->cfg->log_items |= items[i].bit;
	}
	return 0;
}

int opt_log_file(struct parser *p, const char *arg)
{
	p->cfg->log_file = arg;
	return 0;
}

int opt_symbols(struct parser *p, const char *arg)
{
	p->cfg->symbols = arg;
	return 0;
}

int opt_max_insns(struct parser *p, const char *arg)
{
	struct item it = {arg, (int)strnlen(arg, 64)};

	p->max_insns = p->opt;
	if (!cmdline_item_number(&it, &p->cfg->max_insns))
		return cmdline_fail(p, "'%s' is not a number", arg);
	return 0;
}

/* A whole number, at least 1. */
static int parse_count(struct parser *p, const char *arg, u64 *n)
{
	struct item it = {arg, (int)strnlen(arg, 64)};

	if (!cmdline_item_number(&it, n))
		return cmdline_fail(p, "'%s' is not a number", arg);
	if (!*n)
		return cmdline_fail(p, "1 is the least");
	return 0;
}

int opt_stats(struct parser *p, const char *arg)
{
	if (arg && strcmp(arg, "json"))
		return cmdline_fail(p, "'%s' is not a format; json is", arg);
	p->cfg->stats = arg ? STATS_JSON : STATS_TEXT;
	return 0;
}

int opt_check_lockstep(struct parser *p, const char *arg)
{
	p->bt_aid = p->opt;
	p->cfg->bt.lockstep = 100;
	return arg ? parse_count(p, arg, &p->cfg->bt.lockstep) : 0;
}

int opt_check_recovery(struct parser *p, const char *arg)
{
	(void)arg;
	p->bt_aid = p->opt;
	p->cfg->bt.check_recovery = true;
	return 0;
}

int opt_bt_cache(struct parser *p, const char *arg)
{
	struct item it = {arg, (int)strnlen(arg, 64)};

	p->bt_aid = p->opt;
	if (!cmdline_item_size(&it, &p->cfg->bt.cache_size))
		return cmdline_fail(p, "'%s' is not a size", arg);
	if (p->cfg->bt.cache_size < BT_CACHE_MIN)
		return cmdline_fail(p, "'%s' is too little: 64K is the least", arg);
	return 0;
}

int opt_bt_one_insn(struct parser *p, const char *arg)
{
	(void)arg;
	p->bt_aid = p->opt;
	p->cfg->bt.one_insn = true;
	return 0;
}

int opt_bt_no_chain(struct parser *p, const char *arg)
{
	(void)arg;
	p->bt_aid = p->opt;
	p->cfg->bt.no_chain = true;
	return 0;
}

int opt_bt_flush_every(struct parser *p, const char *arg)
{
	p->bt_aid = p->opt;
	return parse_count(p, arg, &p->cfg->bt.flush_every);
}

int opt_check_lowland(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->action = ACTION_CHECK_LOWLAND;
	return 0;
}

int opt_version(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->action = ACTION_VERSION;
	return 0;
}

int opt_help(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->action = ACTION_HELP;
	return 0;
}

int opt_help_short(struct parser *p, const char *arg)
{
	return opt_help(p, arg);
}

static const struct option_desc {
	const char *name, *arg, *help;
	int (*parse)(struct parser *p, const char *arg);
} options[] = {
#define OPTION(id, name, arg, help) {name, arg, help, opt_##id},
#include "options.def"
#undef OPTION
};

static bool value_required(const struct option_desc *o)
{
	return o->arg[0] && !cmdline_after(o->arg, "[=");
}

static const struct option_desc *option_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (strlen(options[i].name) == len && !memcmp(options[i].name, name, len))
			return &options[i];
	return NULL;
}

/* Parse the option at argv[i]; *used: arguments taken. */
static int parse_option(struct parser *p, char *const *argv, int *used)
{
	const char *name = argv[0] + (argv[0][1] == '-' ? 2 : 1), *value = NULL;
	size_t len = strcspn(name, "=");
	const struct option_desc *o = option_find(name, len);

	p->opt = argv[0];
	*used = 1;
	if (!o)
		return cmdline_fail(p, "unknown option (-help lists those there are)");
	if (name[len])
		value = name + len + 1;
	if (value && !o->arg[0])
		return cmdline_fail(p, "takes no value");
	if (!value && value_required(o)) {
		value = argv[1];
		*used = 2;
		if (!value)
			return cmdline_fail(p, "needs a value: %s", o->arg);
	}
	return o->parse(p, value);
}

/* Options that go with one engine choose it if nobody has, and are refused with the other. */
static int choose_engine(struct parser *p)
{
	enum accel *accel = &p->cfg->accel;

	if (p->bt_aid && *accel == ACCEL_BEST)
		*accel = ACCEL_BT;
	if (p->max_insns && *accel == ACCEL_BEST)
		*accel = ACCEL_STEP;
	p->opt = p->bt_aid;
	if (p->bt_aid && *accel != ACCEL_BT)
		return cmdline_fail(p, "needs -accel bt");
	p->opt = p->max_insns;
	if (p->max_insns && *accel != ACCEL_STEP)
		return cmdline_fail(
		    p, "needs -accel step: translated code does not count instructions");
	return 0;
}

static int finish(struct parser *p)
{
	struct cmdline_err e = cmdline_char_err(p);
	struct config *cfg = p->cfg;
	int rc;

	p->opt = NULL;
	if (cfg->action != ACTION_RUN)
		return 0;
	if (!cfg->kernel)
		return cmdline_fail(p,
				    "nothing to boot: give -kernel FILE (-help lists the options)");
	rc = cmdline_chars_finish(cfg, p->nographic, p->nodefaults, &e);
	return rc ? rc : choose_engine(p);
}

int cmdline_parse(struct config *cfg, int argc, char *const *argv, char *err, size_t err_size)
{
	struct parser p = {.cfg = cfg, .err = err, .err_size = err_size};

	*cfg = (struct config){.ram_size = DEFAULT_RAM,
			       .acpi = true,
			       .fast_syscalls = true,
			       .max_insns = ~0ull,
			       .ready_fd = -1};
	for (int i = 1, used; i < argc; i += used) {
		int ret;

		p.opt = NULL;
		if (argv[i][0] != '-' || !argv[i][1])
			return cmdline_fail(&p, "unexpected argument '%s'", argv[i]);
		ret = parse_option(&p, argv + i, &used);
		if (ret || cfg->action == ACTION_HELP || cfg->action == ACTION_DEVICE_HELP ||
		    cfg->action == ACTION_VERSION)
			return ret;
	}
	return finish(&p);
}

#define HELP_COLUMN 34

void cmdline_print_help(FILE *out)
{
	fprintf(out, "usage: ringshift -kernel FILE [options]\n"
		     "A virtual PC without hardware virtualization. Options are QEMU's where QEMU "
		     "has them.\n\n");
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		const struct option_desc *o = &options[i];
		int n = fprintf(out, "  -%s%s%s", o->name, value_required(o) ? " " : "", o->arg);

		if (n > HELP_COLUMN - 2)
			n = fprintf(out, "\n") - 1;
		fprintf(out, "%*s%s\n", HELP_COLUMN - n, "", o->help);
	}
	fprintf(out, "\nOn a terminal Ctrl-a h shows the escape keys; Ctrl-a x ends ringshift.\n"
		     "Exit status: 0 powered off, or reset with -no-reboot; 1 an error of ours; 2 "
		     "usage;\n"
		     "4 triple fault; 6 the guest needs what this version lacks; 8 --max-insns "
		     "reached;\n"
		     "odd from isa-debug-exit.\n");
}
