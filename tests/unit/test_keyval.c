/* Option values: what is taken apart how, and in which words the rest is refused. */
#include <errno.h>
#include <string.h>

#include <criterion/criterion.h>

#include "keyval.h"

static struct keyval k;
static char err[200];

static int parse(const char *arg, const char *first)
{
	return keyval_parse(&k, "-device", arg, first, err, sizeof(err));
}

static void good(const char *arg, const char *first)
{
	cr_assert_eq(parse(arg, first), 0, "'%s': %s", arg, err);
}

static void is(const char *key, const char *val)
{
	const char *got = keyval_get(&k, key);

	if (val)
		cr_assert_str_eq(got ? got : "(none)", val, "%s is %s", key, got);
	else
		cr_assert_null(got, "%s is %s", key, got);
}

Test(keyval, items)
{
	good("virtio-blk-pci,drive=d0,addr=3", "driver");
	is("driver", "virtio-blk-pci");
	is("drive", "d0");
	is("addr", "3");
	is("id", NULL);
	cr_assert_eq(keyval_rest(&k), 0);
}

Test(keyval, forms)
{
	good("file=a,,b=c,,,readonly,x=", NULL);
	is("file", "a,b=c,");
	is("readonly", "on");
	is("x", "");
	good("/dir/a=b,format=raw", "file");
	is("file", "/dir/a=b");
	good("driver=x", "driver");
	is("driver", "x");
	good("a=1,a=2", NULL);
	is("a", "2");
	cr_assert_eq(keyval_rest(&k), 0);
}

Test(keyval, numbers)
{
	u64 n = 7;

	good("a=0x10,b=12,c=2K,d=3G,e=5", NULL);
	cr_assert_eq(keyval_number(&k, "absent", &n, 1), 0);
	cr_assert_eq(n, 7);
	cr_assert_eq(keyval_number(&k, "a", &n, 16), 0);
	cr_assert_eq(n, 16);
	cr_assert_eq(keyval_number(&k, "b", &n, 11), -EINVAL);
	cr_assert_str_eq(err, "-device: b=12: 11 is the most");
	cr_assert_eq(keyval_size(&k, "c", &n), 0);
	cr_assert_eq(n, 2048);
	cr_assert_eq(keyval_size(&k, "d", &n), 0);
	cr_assert_eq(n, 3 * GIB);
	cr_assert_eq(keyval_size(&k, "e", &n), 0);
	cr_assert_eq(n, 5);
}

Test(keyval, no_numbers)
{
	static const char *const bad[] = {"a=",    "a=-1", "a=+1",  "a= 1",
					  "a=1KB", "a=1Q", "a=K",   "a=18446744073709551616",
					  "a=0x",  "a=on", "a=1 M", "a=17179869184G"};
	u64 n = 7;

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		good(bad[i], NULL);
		cr_assert_eq(keyval_size(&k, "a", &n), -EINVAL, "%s", bad[i]);
		cr_assert_eq(keyval_number(&k, "a", &n, ~0ull), -EINVAL, "%s", bad[i]);
		cr_assert_eq(n, 7);
	}
}

Test(keyval, words)
{
	static const char *const names[] = {"raw", "qcow2"};
	unsigned which = 9;
	bool on = false;

	good("a=on,b=off,c=maybe,f=qcow2,g=vmdk,true=true", NULL);
	cr_assert_eq(keyval_bool(&k, "a", &on), 0);
	cr_assert(on);
	cr_assert_eq(keyval_bool(&k, "b", &on), 0);
	cr_assert_not(on);
	cr_assert_eq(keyval_bool(&k, "true", &on), 0);
	cr_assert(on);
	cr_assert_eq(keyval_bool(&k, "c", &on), -EINVAL);
	cr_assert_str_eq(err, "-device: c=maybe: on and off are what it takes");
	cr_assert_eq(keyval_choice(&k, "f", names, 2, &which), 0);
	cr_assert_eq(which, 1);
	cr_assert_eq(keyval_choice(&k, "g", names, 2, &which), -EINVAL);
	cr_assert_str_eq(err, "-device: g=vmdk: it is one of raw, qcow2");
}

Test(keyval, refusals)
{
	char many[KEYVAL_MAX * 4 + 5] = "", large[KEYVAL_TEXT + 1];

	good("a=1,b=2", NULL);
	is("b", "2");
	cr_assert_eq(keyval_rest(&k), -EINVAL);
	cr_assert_str_eq(err, "-device: 'a' is not known here");
	cr_assert_eq(parse("a=1,", NULL), -EINVAL);
	cr_assert_str_eq(err, "-device: an item is empty");
	for (unsigned i = 0; i <= KEYVAL_MAX; i++)
		strcat(many, i ? ",a=1" : "a=1");
	cr_assert_eq(parse(many, NULL), -EINVAL);
	cr_assert_str_eq(err, "-device: more than 32 items");
	memset(large, 'a', KEYVAL_TEXT);
	large[KEYVAL_TEXT] = 0;
	cr_assert_eq(parse(large, "driver"), -EINVAL);
	large[KEYVAL_TEXT - 1] = 0;
	good(large, "driver");
	is("driver", large);
}
