/*
 * -device virtio-serial-pci, and its ports: -device virtconsole and virtserialport.
 */
#include <errno.h>
#include <string.h>

#include "plug.h"
#include "virtio_console.h"

#define CLASS_COMMUNICATION 0x078000

struct plug_serial {
	struct plugged plugged;
	struct virtio_pci pci;
	struct virtio_console con;
};

struct plug_port {
	struct plugged plugged;
	struct virtio_console_port port;
	char *name;
};

static void destroy_serial(struct plugged *p)
{
	struct plug_serial *ps = container_of(p, struct plug_serial, plugged);

	timer_cancel(&ps->con.go_on);
	free(ps);
}

static void describe_serial(struct plugged *p, FILE *out)
{
	plug_describe_virtio(&container_of(p, struct plug_serial, plugged)->pci, out);
}

int plug_virtio_serial(struct vm *vm, struct keyval *k)
{
	struct plug_serial *ps;
	u64 max_ports = VIRTIO_CONSOLE_PORTS;
	int rc = keyval_number(k, "max_ports", &max_ports, VIRTIO_CONSOLE_PORTS);

	if (rc)
		return rc;
	if (!max_ports)
		return keyval_fail(k, "max_ports is 1 at least");
	ps = calloc(1, sizeof(*ps));
	if (!ps)
		return -ENOMEM;
	virtio_console_init(&ps->con, &vm->dma, &vm->timers, &vm->stats, (unsigned)max_ports);
	rc = plug_virtio(vm, k, &ps->pci, &ps->con.dev, (unsigned)max_ports + 1,
			 CLASS_COMMUNICATION);
	if (rc) {
		free(ps);
		return rc;
	}
	ps->plugged.destroy = destroy_serial;
	ps->plugged.describe = describe_serial;
	plug_register(vm, &ps->plugged);
	return 0;
}

/* --- ports --- */

static void destroy_port(struct plugged *p)
{
	struct plug_port *pp = container_of(p, struct plug_port, plugged);

	free(pp->name);
	free(pp);
}

static void describe_port(struct plugged *p, FILE *out)
{
	const struct virtio_console_port *port = &container_of(p, struct plug_port, plugged)->port;

	fprintf(out, "%s, port %u, guest %s, host %s",
		port->console ? "virtconsole" : "virtserialport", port->nr,
		port->guest_open ? "on" : "off", port->host_open ? "on" : "off");
}

/* The virtio-serial-pci of bus=ID.0, or the first one. */
static struct virtio_console *find_serial(struct vm *vm, const char *bus)
{
	struct virtio_console *found = NULL;

	for (struct plugged *p = vm->plugged; p; p = p->next) {
		size_t len = p->id ? strlen(p->id) : 0;

		if (p->destroy != destroy_serial)
			continue;
		if (!bus || (len && !strncmp(bus, p->id, len) && !strcmp(bus + len, ".0")))
			found = &container_of(p, struct plug_serial, plugged)->con;
	}
	return found;
}

/* nr=, or the first free one: 0 is for consoles only, as in QEMU. */
static int choose_number(struct keyval *k, struct virtio_console_port *p)
{
	u64 nr = p->console ? 0 : 1;
	bool given = keyval_get(k, "nr");
	int rc = keyval_number(k, "nr", &nr, p->con->max_ports - 1);

	if (rc)
		return rc;
	if (given && !nr && !p->console)
		return keyval_fail(k, "nr=0 is for a virtconsole");
	while (!given && nr < p->con->max_ports && p->con->port[nr])
		nr++;
	if (nr >= p->con->max_ports)
		return keyval_fail(k, "all ports of the virtio-serial device are taken");
	if (p->con->port[nr])
		return keyval_fail(k, "nr=%u is taken", (unsigned)nr);
	p->nr = (unsigned)nr;
	return 0;
}

static int attach(struct vm *vm, struct keyval *k, struct virtio_console_port *p)
{
	const char *id = keyval_get(k, "chardev");
	char why[200];

	if (!id)
		return 0;
	p->chr = chardevs_attach(vm->chardevs, id, true, why, sizeof(why));
	return p->chr ? 0 : keyval_fail(k, "%s", why);
}

static int make_port(struct vm *vm, struct keyval *k, struct plug_port *pp)
{
	const char *bus = keyval_get(k, "bus"), *name = keyval_get(k, "name");
	int rc;

	pp->port.con = find_serial(vm, bus);
	if (!pp->port.con)
		return keyval_fail(k, "there is no virtio-serial-pci device before it");
	rc = choose_number(k, &pp->port);
	if (!rc && name) {
		pp->name = strdup(name);
		pp->port.name = pp->name;
		rc = pp->name ? 0 : -ENOMEM;
	}
	return rc ? rc : attach(vm, k, &pp->port);
}

static int plug_port(struct vm *vm, struct keyval *k, bool console)
{
	struct plug_port *pp = calloc(1, sizeof(*pp));
	int rc;

	if (!pp)
		return -ENOMEM;
	pp->port.console = console;
	rc = make_port(vm, k, pp);
	if (rc) {
		destroy_port(&pp->plugged);
		return rc;
	}
	virtio_console_add(&pp->port);
	pp->plugged.destroy = destroy_port;
	pp->plugged.describe = describe_port;
	plug_register(vm, &pp->plugged);
	return 0;
}

int plug_virtconsole(struct vm *vm, struct keyval *k)
{
	return plug_port(vm, k, true);
}

int plug_virtserialport(struct vm *vm, struct keyval *k)
{
	return plug_port(vm, k, false);
}
