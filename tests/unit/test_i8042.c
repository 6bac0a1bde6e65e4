/* Keyboard controller and keyboard: the conversation of a driver, translation, resets, floods. */
#include <criterion/criterion.h>

#include "chip_rig.h"
#include "i8042.h"

#define DATA 0x60
#define CMD  0x64

static struct chip_rig rig;
static struct i8042 kbc;

static void setup(void)
{
	struct i8042_config cfg;

	rig_init(&rig);
	cfg = (struct i8042_config){rig_line(&rig), rig_on_reset, &rig};
	i8042_init(&kbc, &cfg);
	cr_assert_eq(i8042_register(&kbc, &rig.bus), 0);
}

static void cmd(u8 val)
{
	rig_out(&rig, CMD, val);
}

static void data(u8 val)
{
	rig_out(&rig, DATA, val);
}

static u8 status(void)
{
	return rig_in(&rig, CMD);
}

/* Exactly these bytes come, then no more. */
static void expect(const char *what, unsigned n, const u8 *bytes)
{
	for (unsigned i = 0; i < n; i++) {
		cr_expect(status() & I8042_STR_OBF, "%s: byte %u missing", what, i);
		u8 got = rig_in(&rig, DATA);
		cr_expect_eq(got, bytes[i], "%s: byte %u is %02x", what, i, got);
	}
	cr_expect_not(status() & I8042_STR_OBF, "%s: more than %u", what, n);
}
#define EXPECT(what, ...) expect(what, sizeof((u8[]){__VA_ARGS__}), (u8[]){__VA_ARGS__})

/* Command byte without translation: what the keyboard says comes through as it is. */
static void untranslated(void)
{
	cmd(0x60);
	data(0x05);
}

TestSuite(i8042, .init = setup);

Test(i8042, controller_tests)
{
	cmd(0xaa);
	cr_expect(status() & I8042_STR_CMD);
	EXPECT("self-test", 0x55);
	cr_expect(status() & I8042_STR_SYS);
	cmd(0xab);
	EXPECT("keyboard interface", 0x00);
	cmd(0xa4);
	EXPECT("no password", 0xf1);
	cmd(0xc0);
	EXPECT("input port", 0x80);
}

Test(i8042, command_byte_and_ram)
{
	cmd(0x20);
	EXPECT("after reset", 0x65);
	cmd(0x60);
	data(0x47);
	cmd(0x20);
	EXPECT("written", 0x47);
	cmd(0xad);
	cmd(0x20);
	EXPECT("keyboard off", 0x57);
	cmd(0xae);
	cmd(0xa7);
	cmd(0x20);
	EXPECT("aux off", 0x67);
	cmd(0xa8);
	cmd(0x20);
	EXPECT("aux on", 0x47);
	cmd(0x7f);
	data(0x99);
	cmd(0x3f);
	EXPECT("last byte of RAM", 0x99);
	cmd(0x60);
	data(0x40);
	cr_expect_not(status() & I8042_STR_SYS);
}

Test(i8042, output_port)
{
	cmd(0xd0);
	EXPECT("A20 on, no reset", 0xc3);
	cmd(0xd1);
	data(0x01); /* A20 off is not obeyed */
	cmd(0xd0);
	EXPECT("A20 stays on", 0xc3);
	cr_expect_eq(rig.resets, 0);
	cmd(0xd1);
	data(0xfe);
	cr_expect_eq(rig.resets, 1);
	cmd(0xdd);
	cmd(0xdf);
	cr_expect_not(status() & I8042_STR_OBF, "A20 commands answer nothing");
}

Test(i8042, pulse)
{
	cmd(0xff);
	cmd(0xf1);
	cr_expect_eq(rig.resets, 0);
	cmd(0xfe);
	cr_expect_eq(rig.resets, 1);
	cmd(0xf0);
	cr_expect_eq(rig.resets, 2);
}

Test(i8042, no_aux_port)
{
	cmd(0xa9);
	cr_expect(status() & I8042_STR_OBF);
	u8 got = rig_in(&rig, DATA);
	cr_expect(got != 0x00 && got != 0xfa && got != 0xff, "%02x", got);
	cmd(0xd3);
	data(0x5a);
	cr_expect_not(status() & I8042_STR_AUX, "the loop does not answer as AUX");
	EXPECT("loop", 0x5a);
	cmd(0xd4);
	data(0xff);
	cr_expect_eq(status() & (I8042_STR_AUX | I8042_STR_TIMEOUT),
		     I8042_STR_AUX | I8042_STR_TIMEOUT);
	cr_expect_eq(rig.level, 0, "not an IRQ 1");
	EXPECT("time-out", 0xfe);
}

Test(i8042, keyboard_commands)
{
	untranslated();
	data(0xff);
	EXPECT("reset", 0xfa, 0xaa);
	data(0xf2);
	EXPECT("identify", 0xfa, 0xab, 0x83);
	data(0xee);
	EXPECT("echo", 0xee);
	data(0xed);
	EXPECT("leds", 0xfa);
	data(0x07);
	EXPECT("leds argument", 0xfa);
	cr_expect_eq(kbc.kbd.leds, 7);
	data(0xf3);
	EXPECT("rate", 0xfa);
	data(0x20);
	EXPECT("rate argument", 0xfa);
	data(0xf0);
	EXPECT("scan code set", 0xfa);
	data(0x00);
	EXPECT("which", 0xfa, 0x02);
	data(0xf4);
	EXPECT("enable", 0xfa);
	data(0xf5);
	EXPECT("disable", 0xfa);
	data(0xf6);
	EXPECT("defaults", 0xfa);
	data(0xfa);
	EXPECT("all keys", 0xfa);
	data(0xfe);
	EXPECT("again", 0xfa);
	data(0x13);
	EXPECT("unknown", 0xfe);
	data(0xf0);
	EXPECT("scan code set", 0xfa);
	data(0x03);
	EXPECT("set 3: not here", 0xfe);
}

Test(i8042, command_instead_of_argument)
{
	untranslated();
	data(0xed);
	EXPECT("leds", 0xfa);
	data(0xf2);
	EXPECT("identify", 0xfa, 0xab, 0x83);
	data(0x02);
	EXPECT("no longer an argument", 0xfe);
}

Test(i8042, translated_identification)
{
	data(0xf2);
	EXPECT("identify", 0xfa, 0xab, 0x41);
}

Test(i8042, interrupts)
{
	data(0xf2);
	for (unsigned i = 1; i <= 3; i++) {
		cr_expect_eq(rig.level, 1);
		cr_expect_eq(rig.edges, i, "an edge for each byte");
		(void)rig_in(&rig, DATA);
	}
	cr_expect_eq(rig.level, 0);
	cmd(0x60);
	data(0x44);
	data(0xee);
	cr_expect_eq(rig.level, 0, "switched off");
	cr_expect(status() & I8042_STR_OBF);
}

Test(i8042, keys_translated)
{
	static const u8 down[] = {0x1c}, up[] = {0xf0, 0x1c}, right[] = {0xe0, 0x74},
			right_up[] = {0xe0, 0xf0, 0x74}, f7[] = {0x83, 0xf0, 0x83};

	cr_expect(i8042_send_key(&kbc, down, 1));
	EXPECT("a", 0x1e);
	cr_expect(i8042_send_key(&kbc, up, 2));
	EXPECT("a up", 0x9e);
	cr_expect(i8042_send_key(&kbc, right, 2));
	EXPECT("right", 0xe0, 0x4d);
	cr_expect(i8042_send_key(&kbc, right_up, 3));
	EXPECT("right up", 0xe0, 0xcd);
	cr_expect(i8042_send_key(&kbc, f7, 3));
	EXPECT("F7", 0x41, 0xc1);
	untranslated();
	cr_expect(i8042_send_key(&kbc, up, 2));
	EXPECT("untranslated", 0xf0, 0x1c);
	data(0xf0);
	EXPECT("scan code set", 0xfa);
	data(0x01);
	EXPECT("set 1", 0xfa);
	cr_expect(i8042_send_key(&kbc, up, 2));
	EXPECT("keyboard's own set 1", 0x9e);
}

Test(i8042, break_prefix_waits_for_its_code)
{
	static const u8 prefix[] = {0xf0}, code[] = {0x1c};

	cr_expect(i8042_send_key(&kbc, prefix, 1));
	cr_expect_not(status() & I8042_STR_OBF);
	cr_expect_eq(rig.level, 0);
	cr_expect(i8042_send_key(&kbc, code, 1));
	EXPECT("a up", 0x9e);
}

Test(i8042, keyboard_held)
{
	static const u8 key[] = {0x1c};

	cmd(0xad);
	cr_expect(i8042_send_key(&kbc, key, 1));
	cr_expect_not(status() & I8042_STR_OBF);
	cmd(0x20);
	EXPECT("the controller still answers", 0x75);
	cmd(0xae);
	EXPECT("let go", 0x1e);
	cmd(0xad);
	data(0xf4);
	EXPECT("writing to the keyboard lets it go too", 0xfa);
}

Test(i8042, not_scanning)
{
	static const u8 key[] = {0x1c};

	data(0xf5);
	EXPECT("disable", 0xfa);
	cr_expect_not(i8042_send_key(&kbc, key, 1));
	data(0xf4);
	EXPECT("enable", 0xfa);
	cr_expect(i8042_send_key(&kbc, key, 1));
	EXPECT("a", 0x1e);
}

Test(i8042, answers_overtake_keys)
{
	static const u8 keys[] = {0x1c, 0x32, 0x21};

	cr_expect(i8042_send_key(&kbc, keys, 3));
	data(0xee);
	EXPECT("first is in the buffer already", 0x1e, 0xee, 0x30, 0x2e);
}

Test(i8042, floods_end)
{
	static const u8 key[] = {0x1c};
	unsigned taken = 0;

	while (i8042_send_key(&kbc, key, 1))
		taken++;
	cr_expect_eq(taken, I8042_SCANCODES + 1);
	for (unsigned i = 0; i < 1000; i++) {
		cmd(0xaa);
		data(0xf2);
	}
	for (unsigned i = 0; i < 1000 && (status() & I8042_STR_OBF); i++)
		(void)rig_in(&rig, DATA);
	cr_expect_not(status() & I8042_STR_OBF);
	cmd(0xaa);
	EXPECT("alive", 0x55);
}

Test(i8042, reset)
{
	data(0xf2);
	cmd(0xd1);
	i8042_reset(&kbc);
	cr_expect_eq(rig.level, 0);
	cr_expect_eq(status(), I8042_STR_UNLOCKED | I8042_STR_SYS);
	data(0xee);
	EXPECT("no argument is awaited any more", 0xee);
}
