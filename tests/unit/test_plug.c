/* -device: what is made of it, and what is refused in which words. */
#include <criterion/criterion.h>
#include <string.h>

#include "plug.h"

static struct vm *vm;
static struct config cfg;
static char err[256];

static u64 no_time(void *opaque)
{
	(void)opaque;
	return 0;
}

static void no_intx(void *opaque, unsigned pirq, int level)
{
	(void)opaque;
	(void)pirq;
	(void)level;
}

static void setup(void)
{
	struct pci_config pc = {.intx = no_intx};

	vm = calloc(1, sizeof(*vm));
	cr_assert_not_null(vm);
	vm->cfg = &cfg;
	bus_init(&vm->bus, &vm->stats);
	timerq_init(&vm->timers, no_time, NULL, NULL);
	pc.bus = &vm->bus;
	pci_init(&vm->pci, &pc);
	memset(&cfg, 0, sizeof(cfg));
}

static void teardown(void)
{
	plug_destroy(vm);
	free(vm);
}

TestSuite(plug, .init = setup, .fini = teardown);

static int plug(const char *text)
{
	cfg.device[0] = text;
	cfg.device_count = 1;
	return plug_devices(vm, err, sizeof(err));
}

static void refused(const char *text, const char *why)
{
	teardown();
	setup();
	memset(err, 0, sizeof(err));
	cr_expect_neq(plug(text), 0, "%s", text);
	cr_expect(why ? !strcmp(err, why) : err[0], "%s", err);
}

Test(plug, places)
{
	cr_assert_eq(plug("virtio-rng-pci,addr=3"), 0);
	cr_assert_eq(plug("virtio-rng-pci"), 0);
	cr_assert_eq(plug("virtio-rng,addr=0x1f.0,bus=pci.0,disable-legacy=on,packed=off"), 0);
	cr_expect_not_null(vm->pci.dev[1]);
	cr_expect_null(vm->pci.dev[2]);
	cr_expect_not_null(vm->pci.dev[3]);
	cr_expect_not_null(vm->pci.dev[31]);
	cr_expect_eq(vm->pci.dev[3]->msix->count, 2);
	pci_reset(&vm->pci);
	plug_reset(vm);
}

Test(plug, options)
{
	struct virtio_pci *vp;

	cr_assert_eq(plug("virtio-rng-pci,vectors=0,event_idx=off,indirect_desc=off"), 0);
	vp = container_of(vm->pci.dev[1], struct virtio_pci, pci);
	cr_expect_null(vp->pci.msix);
	cr_expect_eq(vp->dev->offered, VIRTIO_F_VERSION_1);
	cr_assert_eq(plug("virtio-rng-pci,vectors=17"), 0);
	cr_expect_eq(vm->pci.dev[2]->msix->count, 17);
}

Test(plug, ids)
{
	cr_assert_eq(plug("virtio-rng-pci,id=a"), 0);
	cr_assert_eq(plug("virtio-rng-pci"), 0);
	cr_assert_eq(plug("virtio-rng-pci,id=b"), 0);
	cr_expect_eq(plug_by_id(vm, "b"), vm->plugged);
	cr_expect_not_null(plug_by_id(vm, "a"));
	cr_expect_null(plug_by_id(vm, "c"));
	cr_expect_neq(plug("virtio-rng-pci,id=a"), 0);
	cr_expect_str_eq(err, "-device: virtio-rng-pci: there is already a device with id 'a'");
}

Test(plug, refuses)
{
	refused("e1000", "-device: 'e1000' is not in this version (-device help lists what is)");
	refused("virtio-rng-pci,addr=0", "-device: addr=0: slots 1 to 1f can be used");
	refused("virtio-rng-pci,addr=20", "-device: addr=20: slots 1 to 1f can be used");
	refused("virtio-rng-pci,addr=3.1", "-device: addr=3.1 is not a slot");
	refused("virtio-rng-pci,addr=", "-device: addr= is not a slot");
	refused("virtio-rng-pci,bus=pci.1", "-device: bus=pci.1: there is one bus, pci.0");
	refused("virtio-rng-pci,disable-legacy=off",
		"-device: disable-legacy=off: there is no legacy interface");
	refused("virtio-rng-pci,packed=on", "-device: packed=on is not in this version");
	refused("virtio-rng-pci,disable-modern=on",
		"-device: disable-modern=on is not in this version");
	refused("virtio-rng-pci,max-bytes=0", "-device: max-bytes and period are 1 at least");
	refused("virtio-rng-pci,colour=red", NULL);
	refused("virtio-rng-pci,vectors=129", NULL);
	cr_assert_eq(plug("virtio-rng-pci,addr=9"), 0);
	cr_expect_neq(plug("virtio-rng-pci,addr=9"), 0);
	cr_expect_str_eq(err, "-device: addr=9: the slot is taken");
}

Test(plug, full_bus)
{
	for (unsigned n = 1; n < PCI_SLOTS; n++)
		cr_assert_eq(plug("virtio-rng-pci"), 0);
	cr_expect_neq(plug("virtio-rng-pci"), 0);
	cr_expect_str_eq(err, "-device: all slots of the bus are taken");
	pci_reset(&vm->pci);
}

Test(plug, help)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	plug_print_help(f, NULL);
	fclose(f);
	cr_expect_not_null(strstr(text, "virtio-rng-pci"));
	free(text);
	f = open_memstream(&text, &len);
	plug_print_help(f, plug_find("virtio-rng", 10));
	fclose(f);
	cr_expect_not_null(strstr(text, "max-bytes"));
	cr_expect_null(plug_find("virtio-rn", 9));
	free(text);
}
