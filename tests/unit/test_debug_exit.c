/* isa-debug-exit and the 0xe9 console. */
#include <criterion/criterion.h>
#include <errno.h>

#include "chip_rig.h"
#include "debug_exit.h"

struct seen {
	int status;
	unsigned calls;
};

static struct chip_rig rig;

static void on_exit_status(void *opaque, int status)
{
	struct seen *s = opaque;

	s->status = status;
	s->calls++;
}

static void setup(void)
{
	rig_init(&rig);
}

TestSuite(debug_exit, .init = setup);

Test(debug_exit, status)
{
	static const struct {
		unsigned size;
		u32 val;
		int status;
	} cases[] = {
	    {1, 0, 1}, {1, 0x10, 0x21}, {1, 0xff, 0x1ff}, {2, 0x1234, 0x2469}, {4, 0x31, 0x63},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct seen s = {0, 0};
		struct debug_exit d;

		rig_init(&rig);
		debug_exit_init(&d, 0xf4, 4, on_exit_status, &s);
		cr_assert_eq(debug_exit_register(&d, &rig.bus), 0);
		cr_expect_eq(bus_read(&rig.bus, BUS_PORT, 0xf4, cases[i].size), 0);
		bus_write(&rig.bus, BUS_PORT, 0xf4, cases[i].size, cases[i].val);
		cr_expect_eq(s.calls, 1);
		cr_expect_eq(s.status, cases[i].status, "case %u: %#x", i, s.status);
	}
}

Test(debug_exit, defaults_and_a_wide_write)
{
	struct seen s = {0, 0};
	struct debug_exit d;

	debug_exit_init(&d, DEBUG_EXIT_IOBASE, DEBUG_EXIT_IOSIZE, on_exit_status, &s);
	cr_assert_eq(debug_exit_register(&d, &rig.bus), 0);
	cr_expect_eq(rig_in(&rig, 0x500), 0xff);
	cr_expect_eq(rig_in(&rig, 0x503), 0xff);
	/* Wider than the ports: comes in bytes, the first counts. */
	bus_write(&rig.bus, BUS_PORT, 0x501, 4, 0x04030205);
	cr_expect_eq(s.calls, 1);
	cr_expect_eq(s.status, 0x05 << 1 | 1);
}

Test(debug_exit, bad_ports)
{
	struct debug_exit d;

	debug_exit_init(&d, 0x501, 0, on_exit_status, NULL);
	cr_expect_eq(debug_exit_register(&d, &rig.bus), -EINVAL);
	debug_exit_init(&d, 0xffff, 2, on_exit_status, NULL);
	cr_expect_eq(debug_exit_register(&d, &rig.bus), -EINVAL);
	debug_exit_init(&d, 0xffff, 1, on_exit_status, NULL);
	cr_expect_eq(debug_exit_register(&d, &rig.bus), 0);
	cr_expect_eq(debug_exit_register(&d, &rig.bus), -EEXIST);
}

Test(debug_exit, console)
{
	struct debugcon con;

	debugcon_init(&con, &rig.chr);
	cr_assert_eq(debugcon_register(&con, &rig.bus), 0);
	cr_expect_eq(rig_in(&rig, 0xe9), 0xe9);
	rig_out(&rig, 0xe9, 'o');
	rig_out(&rig, 0xe9, 'k');
	cr_expect_eq(rig.sent_len, 2);
	cr_expect_eq(memcmp(rig.sent, "ok", 2), 0);
	debugcon_init(&con, NULL);
	rig_out(&rig, 0xe9, 'x');
	cr_expect_eq(rig.sent_len, 2);
}
