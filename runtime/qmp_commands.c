/*
 * What the QMP commands of qmp.def do. Members and words are QEMU's (qapi/ in its source).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "drive.h"
#include "hmp.h"
#include "netdev.h"
#include "netdevs.h"
#include "plug.h"
#include "qmp.h"
#include "runstate.h"

/* Whose QMP this follows: clients look at the number to know what there may be. */
#define QEMU_MAJOR 7
#define QEMU_MINOR 2

json_t *qmp_version(void)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", 0, "minor", QEMU_MINOR,
			 "major", QEMU_MAJOR, "package", "ringshift " RINGSHIFT_VERSION);
}

static const char *string_arg(const struct qmp_call *call, const char *name)
{
	return json_string_value(json_object_get(call->args, name));
}

static json_int_t int_arg(const struct qmp_call *call, const char *name)
{
	return json_integer_value(json_object_get(call->args, name));
}

/* ---- about the protocol ---- */

static json_t *qmp_capabilities(struct qmp_call *call)
{
	json_t *enable = json_object_get(call->args, "enable");

	if (json_array_size(enable))
		return qmp_fail(call, "Capability %.50s not available",
				json_is_string(json_array_get(enable, 0))
				    ? json_string_value(json_array_get(enable, 0))
				    : "of that type");
	return json_object();
}

static json_t *query_version(struct qmp_call *call)
{
	(void)call;
	return qmp_version();
}

static json_t *query_commands(struct qmp_call *call)
{
	json_t *list = json_array();

	(void)call;
	for (size_t i = 0; i < qmp_command_count; i++)
		json_array_append_new(list, json_pack("{s:s}", "name", qmp_commands[i].name));
	return list;
}

/* The type of a command's arguments: an object called after the command. */
static json_t *schema_args(const struct qmp_command *c)
{
	json_t *members = json_array();
	const char *list = c->args;
	struct qmp_arg arg;

	while (qmp_next_arg(&list, &arg)) {
		const char *type = arg.type == 's' ? "str" : arg.type == 'i' ? "int" : "any";
		json_t *member = json_pack("{s:s, s:s}", "name", arg.name, "type", type);

		if (arg.optional)
			json_object_set_new(member, "default", json_null());
		json_array_append_new(members, member);
	}
	return json_pack("{s:s+, s:s, s:o}", "name", c->name, "-arg", "meta-type", "object",
			 "members", members);
}

/* Answers are not described: type "any". */
static json_t *query_schema(struct qmp_call *call)
{
	static const char *const builtin[][2] = {
	    {"str", "string"}, {"int", "int"}, {"any", "value"}};
	static const char *const events[] = {"STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN"};
	json_t *list = json_array();

	(void)call;
	for (size_t i = 0; i < ARRAY_LEN(builtin); i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", builtin[i][0],
						      "meta-type", "builtin", "json-type",
						      builtin[i][1]));
	for (size_t i = 0; i < qmp_command_count; i++) {
		const struct qmp_command *c = &qmp_commands[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:s+, s:s, s:b}", "name", c->name,
						      "meta-type", "command", "arg-type", c->name,
						      "-arg", "ret-type", "any", "allow-oob", 0));
		json_array_append_new(list, schema_args(c));
	}
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", events[i],
						      "meta-type", "event", "arg-type", "any"));
	return list;
}

/* ---- about the machine ---- */

static json_t *query_status(struct qmp_call *call)
{
	return json_pack("{s:s, s:b, s:b}", "status", vm_state_name(call->vm), "singlestep", 0,
			 "running", vm_runs(call->vm));
}

static json_t *query_name(struct qmp_call *call)
{
	const char *name = call->vm->cfg->name;

	return name ? json_pack("{s:s}", "name", name) : json_object();
}

static json_t *query_uuid(struct qmp_call *call)
{
	const char *uuid = call->vm->cfg->uuid;

	return json_pack("{s:s}", "UUID", uuid ? uuid : "00000000-0000-0000-0000-000000000000");
}

static json_t *query_kvm(struct qmp_call *call)
{
	(void)call;
	return json_pack("{s:b, s:b}", "enabled", 0, "present", 0);
}

static json_t *query_target(struct qmp_call *call)
{
	(void)call;
	return json_pack("{s:s}", "arch", "x86_64");
}

static json_t *query_machines(struct qmp_call *call)
{
	static const char *const names[] = {"pc", "q35", "microvm"};
	json_t *list = json_array();

	(void)call;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		json_t *m =
		    json_pack("{s:s, s:i, s:b, s:b, s:b}", "name", names[i], "cpu-max", 1,
			      "hotpluggable-cpus", 0, "numa-mem-supported", 0, "deprecated", 0);

		if (i == 0)
			json_object_set_new(m, "is-default", json_true());
		json_array_append_new(list, m);
	}
	return list;
}

static json_t *query_current_machine(struct qmp_call *call)
{
	(void)call;
	return json_pack("{s:b}", "wakeup-suspend-support", 0);
}

static json_t *query_cpus(struct qmp_call *call)
{
	return json_pack("[{s:i, s:{s:i, s:i, s:i}, s:s, s:i, s:s}]", "thread-id",
			 (int)call->vm->vcpu_tid, "props", "core-id", 0, "thread-id", 0,
			 "socket-id", 0, "qom-path", "/machine/unattached/device[0]", "cpu-index",
			 0, "target", "x86_64");
}

static json_t *query_memory(struct qmp_call *call)
{
	return json_pack("{s:I, s:i}", "base-memory", (json_int_t)call->vm->cfg->ram_size,
			 "plugged-memory", 0);
}

static void list_chardev(void *opaque, const char *id, const char *filename, bool used)
{
	json_array_append_new(opaque, json_pack("{s:b, s:s, s:s}", "frontend-open", used,
						"filename", filename, "label", id));
}

static json_t *query_chardev(struct qmp_call *call)
{
	json_t *list = json_array();

	chardevs_list(call->vm->chardevs, list_chardev, list);
	return list;
}

static json_t *pci_regions(const struct pci_dev *d)
{
	json_t *list = json_array();

	for (int i = 0; i < PCI_BARS; i++) {
		const struct pci_bar *bar = &d->bar[i];

		if (bar->size)
			json_array_append_new(list,
					      json_pack("{s:i, s:s, s:I, s:I, s:b, s:b}", "bar", i,
							"type", "memory", "address",
							bar->mapped ? (json_int_t)bar->base : -1,
							"size", (json_int_t)bar->size, "prefetch",
							bar->prefetch, "mem_type_64", bar->is64));
	}
	return list;
}

static json_t *pci_function(const struct pci_dev *d)
{
	json_t *f = json_pack(
	    "{s:i, s:i, s:i, s:{s:i, s:s}, s:{s:i, s:i, s:i, s:i}, s:i, s:s, s:o}", "bus", 0,
	    "slot", d->slot, "function", 0, "class_info", "class",
	    (int)(pci_get(d, PCI_REVISION, 4) >> 16), "desc", d->name, "id", "vendor",
	    (int)pci_get(d, PCI_VENDOR_ID, 2), "device", (int)pci_get(d, PCI_DEVICE_ID, 2),
	    "subsystem-vendor", (int)pci_get(d, PCI_SUBSYSTEM_VENDOR, 2), "subsystem",
	    (int)pci_get(d, PCI_SUBSYSTEM_ID, 2), "irq_pin", d->cfg[PCI_INTERRUPT_PIN], "qdev_id",
	    "", "regions", pci_regions(d));

	if (f && d->cfg[PCI_INTERRUPT_PIN])
		json_object_set_new(f, "irq", json_integer(d->cfg[PCI_INTERRUPT_LINE]));
	return f;
}

static json_t *query_pci(struct qmp_call *call)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (call->vm->pci.dev[i])
			json_array_append_new(list, pci_function(call->vm->pci.dev[i]));
	return json_pack("[{s:i, s:o}]", "bus", 0, "devices", list);
}

/* ---- orders ---- */

static json_t *stop(struct qmp_call *call)
{
	control_stop(call->vm);
	return json_object();
}

static json_t *cont(struct qmp_call *call)
{
	const char *why = control_cont(call->vm);

	return why ? qmp_fail(call, "%s", why) : json_object();
}

static json_t *system_reset(struct qmp_call *call)
{
	control_reset(call->vm);
	return json_object();
}

static json_t *system_powerdown(struct qmp_call *call)
{
	control_power_button(call->vm);
	return json_object();
}

static json_t *quit(struct qmp_call *call)
{
	control_quit(call->vm);
	return json_object();
}

static json_t *inject_nmi(struct qmp_call *call)
{
	control_nmi(call->vm);
	return json_object();
}

/* One of {"type": "qcode", "data": NAME}. */
static bool key_value(const json_t *v, struct sendkey_code *key)
{
	const char *type = json_string_value(json_object_get(v, "type"));
	const char *name = json_string_value(json_object_get(v, "data"));

	return type && name && !strcmp(type, "qcode") && sendkey_find(name, strlen(name), key);
}

static json_t *send_key(struct qmp_call *call)
{
	const json_t *list = json_object_get(call->args, "keys");
	const json_t *hold = json_object_get(call->args, "hold-time");
	json_int_t ms = hold ? json_integer_value(hold) : SENDKEY_HOLD_MS;
	struct sendkey_code keys[SENDKEY_MAX];
	size_t count = json_array_size(list);

	if (!count || count > SENDKEY_MAX)
		return qmp_fail(call, "'keys' has %zu keys, not 1 to %u", count, SENDKEY_MAX);
	if (ms < 0 || ms > SENDKEY_HOLD_MOST)
		return qmp_fail(call, "'hold-time' is not 0 to %u ms", SENDKEY_HOLD_MOST);
	for (size_t i = 0; i < count; i++)
		if (!key_value(json_array_get(list, i), &keys[i]))
			return qmp_fail(call, "keys[%zu] is no key by its qcode", i);
	if (!sendkey_press(&call->vm->keys, keys, (unsigned)count, (unsigned)ms))
		return qmp_fail(call, "the keyboard takes no keys now");
	return json_object();
}

static json_t *human_monitor_command(struct qmp_call *call)
{
	size_t len;
	char *text = hmp_execute(call->vm, string_arg(call, "command-line"), &len);
	json_t *answer = text ? json_stringn(text, len) : NULL;

	free(text);
	return answer ? answer : qmp_fail(call, "the answer is no text");
}

/* ---- ring buffers, memory ---- */

static json_t *ringbuf_error(struct qmp_call *call, ssize_t rc)
{
	return rc == -ENOENT
		   ? qmp_fail(call, "Device '%.60s' not found", string_arg(call, "device"))
		   : qmp_fail(call, "%.60s is not a ringbuf device", string_arg(call, "device"));
}

static bool utf8_only(struct qmp_call *call)
{
	const char *format = string_arg(call, "format");

	return !format || !strcmp(format, "utf8") ||
	       qmp_fail(call, "format '%.30s' is not in this version, only utf8", format);
}

/* Bytes that are no UTF-8 become question marks, as they must in a JSON string. */
static json_t *ringbuf_read(struct qmp_call *call)
{
	json_int_t size = int_arg(call, "size");
	json_t *answer;
	ssize_t n;
	u8 *buf;

	if (!utf8_only(call))
		return NULL;
	if (size <= 0)
		return qmp_fail(call, "size must be greater than zero");
	size = MIN(size, (json_int_t)MIB);
	buf = malloc((size_t)size);
	if (!buf)
		return NULL;
	n = chardevs_ringbuf_read(call->vm->chardevs, string_arg(call, "device"), buf,
				  (size_t)size);
	answer = n < 0 ? ringbuf_error(call, n) : json_stringn((char *)buf, (size_t)n);
	if (n >= 0 && !answer) {
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] >= 0x80)
				buf[i] = '?';
		answer = json_stringn((char *)buf, (size_t)n);
	}
	free(buf);
	return answer;
}

static json_t *ringbuf_write(struct qmp_call *call)
{
	const json_t *data = json_object_get(call->args, "data");
	ssize_t n;

	if (!utf8_only(call))
		return NULL;
	n = chardevs_ringbuf_write(call->vm->chardevs, string_arg(call, "device"),
				   (const u8 *)json_string_value(data), json_string_length(data));
	return n < 0 ? ringbuf_error(call, n) : json_object();
}

static json_t *pmemsave(struct qmp_call *call)
{
	u64 from = (u64)int_arg(call, "val"), size = (u64)int_arg(call, "size");
	const char *path = string_arg(call, "filename");
	u8 *mem =
	    size && size <= call->vm->ram.high_end ? ram_ptr(&call->vm->ram, from, size) : NULL;
	int fd;

	if (!mem)
		return qmp_fail(call, "Invalid addr 0x%016llx/size %llu specified",
				(unsigned long long)from, (unsigned long long)size);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	for (u64 done = 0; fd >= 0 && done < size;) {
		ssize_t n = write(fd, mem + done, size - done);

		if (n <= 0) {
			close(fd);
			fd = -1;
			break;
		}
		done += (u64)n;
	}
	if (fd < 0 || close(fd))
		return qmp_fail(call, "Could not write '%.200s': %s", path, strerror(errno));
	return json_object();
}

/* ---- the balloon ---- */

static json_t *no_balloon(struct qmp_call *call)
{
	qmp_fail(call, "No balloon device has been activated");
	call->error_class = "DeviceNotActive";
	return NULL;
}

static json_t *query_balloon(struct qmp_call *call)
{
	struct plug_balloon_info info;

	if (!plug_balloon_get(call->vm, &info))
		return no_balloon(call);
	return json_pack("{s:I}", "actual", (json_int_t)info.actual);
}

static json_t *balloon(struct qmp_call *call)
{
	json_int_t value = int_arg(call, "value");

	if (value <= 0)
		return qmp_fail(call, "Parameter 'target' expects a size");
	return plug_balloon_set(call->vm, (u64)value) ? json_object() : no_balloon(call);
}

/* ---- networks ---- */

static json_t *set_link(struct qmp_call *call)
{
	const char *name = string_arg(call, "name");
	struct netdev *nd = netdev_find(call->vm, name);

	if (!nd) {
		qmp_fail(call, "Device '%.100s' not found", name);
		call->error_class = "DeviceNotFound";
		return NULL;
	}
	netdev_pull(nd, !json_is_true(json_object_get(call->args, "up")));
	return json_object();
}

/* ---- disks ---- */

static json_t *image_info(const struct drive *d, const struct disk_info *info)
{
	json_t *image = json_pack("{s:s, s:s, s:I, s:I}", "filename", disk_path(d->disk), "format",
				  info->format, "virtual-size", (json_int_t)info->size,
				  "actual-size", (json_int_t)info->allocated);

	if (info->cluster_size)
		json_object_set_new(image, "cluster-size", json_integer(info->cluster_size));
	if (info->backing[0])
		json_object_set_new(image, "backing-filename", json_string(info->backing));
	return image;
}

static json_t *drive_info(const struct drive *d)
{
	struct disk_info info;
	json_t *inserted;

	disk_get_info(d->disk, &info);
	inserted = json_pack("{s:s, s:s, s:b, s:b, s:i, s:{s:b, s:b, s:b}, s:o}", "file",
			     disk_path(d->disk), "drv", info.format, "ro",
			     !disk_is_writable(d->disk), "encrypted", false, "backing_file_depth",
			     (int)disk_depth(d->disk), "cache", "writeback", d->writeback, "direct",
			     d->direct, "no-flush", d->no_flush, "image", image_info(d, &info));
	if (info.backing[0])
		json_object_set_new(inserted, "backing_file", json_string(info.backing));
	return json_pack("{s:s, s:s, s:b, s:b, s:s, s:o}", "device", d->id, "type", "unknown",
			 "removable", false, "locked", false, "io-status", "ok", "inserted",
			 inserted);
}

static json_t *query_block(struct qmp_call *call)
{
	json_t *all = json_array();

	for (const struct drive *d = call->vm->drives; d; d = d->next)
		json_array_append_new(all, drive_info(d));
	return all;
}

const struct qmp_command qmp_commands[] = {
#define QMP(name, args, function) {name, args, function},
#include "qmp.def"
#undef QMP
};
const size_t qmp_command_count = ARRAY_LEN(qmp_commands);
