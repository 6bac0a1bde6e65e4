/*
 * The command line: QEMU's names where QEMU has them. options.def lists them, cmdline.c parses
 * them into a struct config that the rest of runtime/ reads.
 */
#ifndef RINGSHIFT_CMDLINE_H
#define RINGSHIFT_CMDLINE_H

#include "base.h"
#include "bt_run.h"
#include "chardev_spec.h"

enum config_action {
	ACTION_RUN,
	ACTION_HELP,
	ACTION_DEVICE_HELP,
	ACTION_VERSION,
	ACTION_CHECK_LOWLAND,
};

enum cpu_model { CPU_HOST, CPU_MAX, CPU_QEMU64 };
enum accel {
	ACCEL_BEST, /* nobody asked: bt, or step where the host cannot */
	ACCEL_STEP,
	ACCEL_BT,
};
enum ring3 {
	RING3_BEST, /* nobody asked: native, or stepped where the host cannot */
	RING3_NATIVE,
	RING3_STEP,
};
enum sandbox {
	SANDBOX_BEST, /* nobody asked: on, or a note that the host cannot */
	SANDBOX_ON,
	SANDBOX_OFF,
};
enum boot_entry { BOOT_DIRECT, BOOT_STUB };
enum stats_format { STATS_NONE, STATS_TEXT, STATS_JSON };

/* -d: the engine's items are those of step.h (LOG_IN_ASM, ...); this one is for the machine's. */
enum { LOG_GUEST_ERRORS = 16 };

#define SERIAL_MAX     4
#define DEVICE_MAX     64
#define DRIVE_MAX      32
#define NETDEV_MAX     16
#define CHARDEV_MAX    16
#define MON_MAX        8
#define CHAR_USERS_MAX 4 /* of one character device that is shared */

/* -drive's keys, or, with -hda, a file name. */
struct drive_spec {
	const char *opt, *text;
	bool is_file;
};

/* A monitor: for people (readline) or programs (control, QMP). */
struct mon_spec {
	char chardev[CHAR_ID_MAX];
	bool control, pretty;
};

/* Strings belong to argv. */
struct config {
	enum config_action action;
	const char *kernel, *initrd, *append, *name; /* NULL if not given */
	enum boot_entry boot;
	u64 ram_size; /* bytes, a multiple of 4 KiB */
	enum accel accel;
	enum ring3 ring3;
	bool fast_syscalls;
	enum sandbox sandbox;
	enum cpu_model cpu;
	bool acpi;
	bool no_reboot;
	bool no_shutdown; /* a guest that powers off leaves a stopped VM */
	bool stopped;     /* -S */
	const char *pidfile;
	bool daemonize;
	int ready_fd;     /* main's, for daemon_ready; -1 */
	const char *uuid; /* NULL: none */
	unsigned chardev_count;
	struct char_spec chardev[CHARDEV_MAX];
	unsigned serial_count;                /* ports the machine has */
	char serial[SERIAL_MAX][CHAR_ID_MAX]; /* their devices; empty: connected to nothing */
	bool debugcon_present;
	char debugcon[CHAR_ID_MAX];
	bool mon_given; /* -monitor, -qmp or -mon, be it "none" */
	unsigned mon_count;
	struct mon_spec mon[MON_MAX];
	struct {
		bool present;
		u16 iobase;
		u16 iosize;
	} debug_exit;
	const char *device[DEVICE_MAX]; /* what plug.h makes, as given */
	unsigned device_count;
	struct drive_spec drive[DRIVE_MAX]; /* drive.h */
	unsigned drive_count;
	bool snapshot; /* of all drives: what is written is forgotten */
	const char *netdev[NETDEV_MAX], *nic[NETDEV_MAX]; /* what netdevs.h makes, as given */
	unsigned netdev_count, nic_count;
	const struct plug_type *device_help; /* ACTION_DEVICE_HELP: of one type, NULL: all */
	unsigned log_items;
	const char *log_file; /* NULL: stderr */
	const char *symbols;  /* NULL: none */
	u64 max_insns;        /* ~0: no limit */
	enum stats_format stats;
	struct bt_options bt; /* testing aids of the translator */
};

/*
 * Parse a command line and fill in defaults. 0, or -EINVAL and one line of text in err that begins
 * with the option's name. -help and -version end the parsing: what follows is not looked at.
 */
MUST_CHECK int cmdline_parse(struct config *cfg, int argc, char *const *argv, char *err,
			     size_t err_size);

void cmdline_print_help(FILE *out);

#endif
