/* Keys pressed by a monitor: what the keyboard says, and when. */
#include <criterion/criterion.h>
#include <string.h>

#include "chip_rig.h"
#include "sendkey.h"

#define DATA 0x60
#define CMD  0x64
#define MS   1000000ull

static struct chip_rig rig;
static struct i8042 kbc;
static struct sendkey keys;

static void setup(void)
{
	struct i8042_config cfg;

	rig_init(&rig);
	cfg = (struct i8042_config){rig_line(&rig), rig_on_reset, &rig};
	i8042_init(&kbc, &cfg);
	cr_assert_eq(i8042_register(&kbc, &rig.bus), 0);
	sendkey_init(&keys, &kbc, &rig.q);
	/* No translation, so that set 2 is what comes. */
	rig_out(&rig, CMD, 0x60);
	rig_out(&rig, DATA, 0x05);
}

TestSuite(sendkey, .init = setup);

static void expect(const u8 *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		cr_expect(rig_in(&rig, CMD) & I8042_STR_OBF, "byte %u missing", i);
		cr_expect_eq(rig_in(&rig, DATA), bytes[i], "byte %u", i);
	}
	cr_expect_not(rig_in(&rig, CMD) & I8042_STR_OBF, "more than %u", n);
}
#define EXPECT(...) expect((u8[]){__VA_ARGS__}, sizeof((u8[]){__VA_ARGS__}))

static bool press(unsigned ms, unsigned count, const char *const *names)
{
	struct sendkey_code code[SENDKEY_MAX];

	for (unsigned i = 0; i < count; i++)
		cr_assert(sendkey_find(names[i], strlen(names[i]), &code[i]), "%s", names[i]);
	return sendkey_press(&keys, code, count, ms);
}
#define PRESS(ms, ...)                                                                             \
	press(ms, ARRAY_LEN(((const char *[]){__VA_ARGS__})), (const char *[]){__VA_ARGS__})

Test(sendkey, names)
{
	struct sendkey_code code;

	cr_assert(sendkey_find("a-b", 1, &code));
	cr_expect_eq(code.code, 0x1c);
	cr_expect_not(sendkey_find("f13", 3, &code));
	cr_expect_not(sendkey_find("", 0, &code));
	cr_expect_not(sendkey_find("delet", 5, &code));
}

Test(sendkey, down_together_and_up_the_other_way)
{
	cr_assert(PRESS(100, "ctrl", "alt", "delete"));
	EXPECT(0x14, 0x11, 0xe0, 0x71);
	rig_pass(&rig, 99 * MS);
	cr_expect_not(rig_in(&rig, CMD) & I8042_STR_OBF);
	rig_pass(&rig, MS);
	EXPECT(0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
	rig_pass(&rig, 1000 * MS);
	cr_expect_not(rig_in(&rig, CMD) & I8042_STR_OBF);
}

Test(sendkey, the_next_ones_release_the_last)
{
	cr_assert(PRESS(100, "a"));
	cr_assert(PRESS(100, "b"));
	EXPECT(0x1c, 0xf0, 0x1c, 0x32);
	rig_pass(&rig, 100 * MS);
	EXPECT(0xf0, 0x32);
}

/* A full buffer loses no release: the guest would see a key that is stuck. */
Test(sendkey, a_driver_that_does_not_read)
{
	unsigned presses = 0, downs = 0, ups = 0;

	while (PRESS(10, "shift", "q", "home"))
		cr_assert_lt(++presses, 100);
	for (unsigned i = 0; i < 50; i++) {
		rig_pass(&rig, 10 * MS);
		for (bool up = false; rig_in(&rig, CMD) & I8042_STR_OBF;) {
			u8 got = rig_in(&rig, DATA);

			downs += got == 0x12 && !up;
			ups += got == 0x12 && up;
			up = got == 0xf0;
		}
	}
	cr_expect_geq(downs, presses);
	cr_expect_eq(downs, ups);
	cr_expect(PRESS(10, "a"));
}

Test(sendkey, reset_forgets)
{
	cr_assert(PRESS(10, "a"));
	EXPECT(0x1c);
	i8042_reset(&kbc);
	sendkey_reset(&keys);
	rig_pass(&rig, 100 * MS);
	cr_expect_not(rig_in(&rig, CMD) & I8042_STR_OBF);
}

/* The driver has told the keyboard to be silent. */
Test(sendkey, a_keyboard_that_does_not_scan)
{
	rig_out(&rig, DATA, 0xf5);
	cr_expect_eq(rig_in(&rig, DATA), 0xfa);
	cr_expect_not(PRESS(10, "a"));
	rig_pass(&rig, 100 * MS);
	cr_expect_not(rig_in(&rig, CMD) & I8042_STR_OBF);
}
