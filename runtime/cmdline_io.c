/*
 * The options about what the machine is connected to: displays there are none of, serial ports,
 * monitors, networks, disks, other devices. Most are kept as text for those who make the devices.
 */
#include <string.h>

#include "cmdline_impl.h"
#include "netdevs.h"
#include "plug.h"

#define EXIT_IOBASE   0x501 /* QEMU's defaults for isa-debug-exit */
#define EXIT_IOSIZE   2
#define PORTS         0x10000
#define EXIT_MAX_SIZE 8

/* Options for what the machine does not have. */
static int only_none(struct parser *p, const char *arg)
{
	if (strcmp(arg, "none"))
		return cmdline_fail(p, "'%s' is not in this version, only 'none'", arg);
	return 0;
}

int opt_display(struct parser *p, const char *arg)
{
	return only_none(p, arg);
}

int opt_vga(struct parser *p, const char *arg)
{
	return only_none(p, arg);
}

int opt_parallel(struct parser *p, const char *arg)
{
	return only_none(p, arg);
}

int opt_net(struct parser *p, const char *arg)
{
	return only_none(p, arg);
}

/* Checked now, made later: arg is kept. */
static int keep_net(struct parser *p, const char *opt, const char *arg, const char **kept,
		    unsigned *count)
{
	int ret = netdev_check(opt, arg, p->err, p->err_size);

	if (ret)
		return ret;
	if (*count == NETDEV_MAX)
		return cmdline_fail(p, "'%s': more than %d of these", arg, NETDEV_MAX);
	kept[(*count)++] = arg;
	return 0;
}

int opt_netdev(struct parser *p, const char *arg)
{
	return keep_net(p, "-netdev", arg, p->cfg->netdev, &p->cfg->netdev_count);
}

int opt_nic(struct parser *p, const char *arg)
{
	return keep_net(p, "-nic", arg, p->cfg->nic, &p->cfg->nic_count);
}

int opt_chardev(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_chardev(p->cfg, arg, &e);
}

int opt_serial(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_serial(p->cfg, arg, &e);
}

int opt_debugcon(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_debugcon(p->cfg, arg, &e);
}

int opt_monitor(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_monitor(p->cfg, arg, false, false, &e);
}

int opt_qmp(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_monitor(p->cfg, arg, true, false, &e);
}

int opt_qmp_pretty(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_monitor(p->cfg, arg, true, true, &e);
}

int opt_mon(struct parser *p, const char *arg)
{
	struct cmdline_err e = cmdline_char_err(p);

	return cmdline_mon(p->cfg, arg, &e);
}

static int device_debug_exit(struct parser *p, const char *arg)
{
	u64 iobase = EXIT_IOBASE, iosize = EXIT_IOSIZE;
	struct item it, value;

	while (cmdline_next_item(&arg, &it)) {
		bool base = cmdline_item_value(&it, "iobase", &value);

		if (!base && !cmdline_item_value(&it, "iosize", &value))
			return cmdline_fail(p, "isa-debug-exit has no '%.*s'", it.len, it.text);
		if (!cmdline_item_number(&value, base ? &iobase : &iosize))
			return cmdline_fail(p, "'%.*s' is not a number", value.len, value.text);
	}
	if (!iosize || iosize > EXIT_MAX_SIZE || iobase >= PORTS || iobase + iosize > PORTS)
		return cmdline_fail(
		    p, "isa-debug-exit: iobase %#llx, iosize %llu is no range of ports",
		    (unsigned long long)iobase, (unsigned long long)iosize);
	p->cfg->debug_exit.present = true;
	p->cfg->debug_exit.iobase = (u16)iobase;
	p->cfg->debug_exit.iosize = (u16)iosize;
	return 0;
}

static int device_help(struct parser *p, const struct plug_type *type)
{
	p->cfg->action = ACTION_DEVICE_HELP;
	p->cfg->device_help = type;
	return 0;
}

int opt_device(struct parser *p, const char *arg)
{
	const char *rest = arg;
	struct item it = cmdline_take_item(&rest), value;
	const struct plug_type *type;

	if (cmdline_item_is(&it, "help") || cmdline_item_is(&it, "?"))
		return device_help(p, NULL);
	if (cmdline_item_is(&it, "isa-debug-exit"))
		return device_debug_exit(p, rest);
	if (cmdline_item_value(&it, "driver", &value))
		it = value;
	type = plug_find(it.text, it.len);
	if (!type)
		return cmdline_fail(p, "'%.*s' is not in this version (-device help lists what is)",
				    it.len, it.text);
	if (rest && (!strcmp(rest, "help") || !strcmp(rest, "?")))
		return device_help(p, type);
	if (p->cfg->device_count == DEVICE_MAX)
		return cmdline_fail(p, "'%s': more than %d devices", arg, DEVICE_MAX);
	p->cfg->device[p->cfg->device_count++] = arg;
	return 0;
}

static int add_drive(struct parser *p, const char *opt, const char *text, bool is_file)
{
	if (p->cfg->drive_count == DRIVE_MAX)
		return cmdline_fail(p, "'%s': more than %d drives", text, DRIVE_MAX);
	p->cfg->drive[p->cfg->drive_count++] = (struct drive_spec){opt, text, is_file};
	return 0;
}

int opt_drive(struct parser *p, const char *arg)
{
	return add_drive(p, "-drive", arg, false);
}

int opt_hda(struct parser *p, const char *arg)
{
	return add_drive(p, "-hda", arg, true);
}

int opt_hdb(struct parser *p, const char *arg)
{
	return add_drive(p, "-hdb", arg, true);
}

int opt_hdc(struct parser *p, const char *arg)
{
	return add_drive(p, "-hdc", arg, true);
}

int opt_hdd(struct parser *p, const char *arg)
{
	return add_drive(p, "-hdd", arg, true);
}

int opt_snapshot(struct parser *p, const char *arg)
{
	(void)arg;
	p->cfg->snapshot = true;
	return 0;
}
