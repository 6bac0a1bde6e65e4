/*
 * -netdev and -nic: which back ends there are, their names, their life.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "confine.h"
#include "netdev_impl.h"
#include "plug.h"

static const struct netdev_type *const types[] = {&netdev_user, &netdev_stream, &netdev_socket,
						  &netdev_tap};

/* A -netdev, or a -nic taken apart. */
struct spec {
	struct keyval k;
	const struct netdev_type *type; /* NULL: -nic none */
	struct netdev_opts o;
	const char *mac; /* -nic: NULL if not given */
};

int netdev_get_fd(struct keyval *k, const char *key, int *fd)
{
	const char *val = keyval_get(k, key);
	u64 n = 0;
	int rc;

	*fd = -1;
	if (!val)
		return 0;
	rc = keyval_number(k, key, &n, INT32_MAX);
	if (rc)
		return rc;
	if (n <= STDERR_FILENO || fcntl((int)n, F_GETFD) < 0)
		return keyval_fail(k, "%s=%s: no open descriptor of yours", key, val);
	*fd = (int)n;
	return 0;
}

int net_parse_mac(struct keyval *k, const char *text, u8 mac[6])
{
	unsigned b[6];
	int end = -1;

	if (!text)
		return 0;
	if (strspn(text, "0123456789abcdefABCDEF:") != strlen(text) ||
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &end) != 6 ||
	    end < 0 || text[end])
		return keyval_fail(k, "mac=%s is no Ethernet address", text);
	if (b[0] & 1)
		return keyval_fail(k, "mac=%s is a group's address, not a card's", text);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (u8)b[i];
	return 0;
}

static int find_type(struct keyval *k, bool nic, const struct netdev_type **type)
{
	const char *name = keyval_get(k, "type");

	*type = NULL;
	if (!name)
		return keyval_fail(k, "a type is missing: user, stream, socket or tap");
	if (nic && !strcmp(name, "none"))
		return 0;
	for (unsigned i = 0; i < ARRAY_LEN(types); i++)
		if (!strcmp(types[i]->name, name))
			*type = types[i];
	if (*type)
		return 0;
	return keyval_fail(k, "'%s' is not in this version; user, stream, socket and tap are",
			   name);
}

/* As QEMU has it: a letter, then letters, digits, '-', '.', '_'. */
static bool is_id(const char *id)
{
	if (!isalpha((unsigned char)*id))
		return false;
	for (; *id; id++)
		if (!isalnum((unsigned char)*id) && !strchr("-._", *id))
			return false;
	return true;
}

static int parse_id(struct keyval *k, bool nic, const char **id)
{
	*id = keyval_get(k, "id");
	if (!*id)
		return nic ? 0 : keyval_fail(k, "id= is missing");
	return is_id(*id) ? 0 : keyval_fail(k, "id=%s is no identifier", *id);
}

static int parse_model(struct keyval *k)
{
	const char *model = keyval_get(k, "model");

	if (model && strcmp(model, "virtio") && strcmp(model, "virtio-net-pci"))
		return keyval_fail(k, "model=%s is not in this version, only virtio-net-pci",
				   model);
	return 0;
}

/* On the heap, as large as it is; the caller frees it. NULL with a message. */
static struct spec *parse(const char *opt, const char *arg, char *err, size_t err_size)
{
	struct spec *s = calloc(1, sizeof(*s));
	bool nic = !strcmp(opt, "-nic");
	int rc;

	if (!s) {
		snprintf(err, err_size, "out of memory");
		return NULL;
	}
	s->o = (struct netdev_opts){.fd = -1, .text = arg};
	rc = keyval_parse(&s->k, opt, arg, "type", err, err_size);
	rc = rc ? rc : find_type(&s->k, nic, &s->type);
	rc = rc ? rc : parse_id(&s->k, nic, &s->o.id);
	if (!rc && nic) {
		s->mac = keyval_get(&s->k, "mac");
		rc = net_parse_mac(&s->k, s->mac, (u8[6]){0});
		rc = rc ? rc : parse_model(&s->k);
	}
	if (!rc && s->type)
		rc = s->type->parse(&s->k, &s->o);
	rc = rc ? rc : keyval_rest(&s->k);
	if (!rc)
		return s;
	free(s);
	return NULL;
}

int netdev_check(const char *opt, const char *arg, char *err, size_t err_size)
{
	struct spec *s = parse(opt, arg, err, err_size);

	if (!s)
		return -EINVAL;
	free(s);
	return 0;
}

struct netdev *netdev_find(struct vm *vm, const char *id)
{
	for (struct netdev *n = vm->netdevs; n; n = n->next)
		if (!strcmp(n->id, id))
			return n;
	return NULL;
}

/* Make the back end of a specification; its name is the back end's from then on. */
static int make(struct vm *vm, struct spec *s, const char *name, char *err, size_t err_size)
{
	char *id = strdup(name), why[1024];
	struct netdev *nd = NULL;

	snprintf(why, sizeof(why), "out of memory");
	s->o.id = id;
	if (id && netdev_find(vm, id))
		snprintf(why, sizeof(why), "id=%s is there already", id);
	else if (id)
		nd = s->type->create(vm, &s->o, why, sizeof(why));
	if (nd) {
		nd->kind = s->type->name;
		nd->next = vm->netdevs;
		vm->netdevs = nd;
		return 0;
	}
	snprintf(err, err_size, "%s %s: %s", s->k.opt, s->type->name, why);
	free(id);
	return -EINVAL;
}

static int make_netdev(struct vm *vm, const char *arg, char *err, size_t err_size)
{
	struct spec *s = parse("-netdev", arg, err, err_size);
	int rc = s ? make(vm, s, s->o.id, err, err_size) : -EINVAL;

	free(s);
	return rc;
}

/* A back end and a card in front of it. */
static int make_nic(struct vm *vm, unsigned n, const char *arg, char *err, size_t err_size)
{
	struct spec *s = parse("-nic", arg, err, err_size);
	char name[64], device[256];
	int rc = s ? 0 : -EINVAL;

	if (s && s->type) {
		snprintf(name, sizeof(name), "nic%u", n);
		rc = make(vm, s, s->o.id ? s->o.id : name, err, err_size);
		if (!rc) {
			snprintf(device, sizeof(device), "virtio-net-pci,netdev=%s%s%s",
				 vm->netdevs->id, s->mac ? ",mac=" : "", s->mac ? s->mac : "");
			rc = plug_device(vm, device, err, err_size);
		}
	}
	free(s);
	return rc;
}

int netdevs_create(struct vm *vm, char *err, size_t err_size)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->cfg->netdev_count && !rc; i++)
		rc = make_netdev(vm, vm->cfg->netdev[i], err, err_size);
	return rc;
}

int nics_create(struct vm *vm, char *err, size_t err_size)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->cfg->nic_count && !rc; i++)
		rc = make_nic(vm, i, vm->cfg->nic[i], err, err_size);
	return rc;
}

unsigned netdevs_need(const struct vm *vm)
{
	unsigned needs = 0;

	/* A peer may come again later, and the name of a socket goes at the end. */
	for (const struct netdev *nd = vm->netdevs; nd; nd = nd->next)
		if (!strcmp(nd->kind, "stream") || !strcmp(nd->kind, "socket"))
			needs |= CONFINE_CONNECT | CONFINE_REMOVE;
	return needs;
}

void netdevs_list(struct vm *vm, FILE *out)
{
	for (struct netdev *nd = vm->netdevs; nd; nd = nd->next)
		fprintf(out, "%s: %s, link %s%s%s%s\n", nd->id, nd->kind, nd->link ? "up" : "down",
			nd->pulled ? ", unplugged" : "", nd->offloads ? ", takes offloads" : "",
			nd->nic ? "" : ", no card");
}

void netdevs_destroy(struct vm *vm)
{
	while (vm->netdevs) {
		struct netdev *nd = vm->netdevs;
		char *id = (char *)nd->id;

		vm->netdevs = nd->next;
		nd->destroy(nd);
		free(id);
	}
}
