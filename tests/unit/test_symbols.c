/* --symbols: what is found in System.map and ELF files, and that no file does harm. */
#include <criterion/criterion.h>
#include <gelf.h>
#include <string.h>
#include <unistd.h>

#include "symbols.h"

/* A file with these contents; its name. */
static const char *file_with(const void *bytes, size_t len)
{
	static char path[64];
	int fd;

	strcpy(path, "/tmp/test_symbols.XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, bytes, len), (ssize_t)len);
	close(fd);
	return path;
}

static struct symbols *load(const void *bytes, size_t len, char err[256])
{
	const char *path = file_with(bytes, len);
	struct symbols *s;

	memset(err, 0, 256);
	s = symbols_load(path, err, 256);
	unlink(path);
	cr_assert(s ? !err[0] : !strncmp(err, path, strlen(path)), "\"%s\"", err);
	cr_assert_null(strchr(err, '\n'));
	return s;
}

static struct symbols *map(const char *text)
{
	char err[256];
	struct symbols *s = load(text, strlen(text), err);

	cr_assert_not_null(s, "%s", err);
	return s;
}

/* "name+off", or "" */
static const char *at(struct symbols *s, u64 addr)
{
	static char buf[128];
	u64 off = ~0ull;
	const char *name = symbols_find(s, addr, &off);

	snprintf(buf, sizeof(buf), name ? "%s+%#lx" : "", name, off);
	return buf;
}

Test(symbols, system_map)
{
	struct symbols *s = map("0000000000000000 D __per_cpu_start\n"
				"0000000000014000 A cpu_offset\n"
				"ffffffff82000000 D data\n"
				"ffffffff81000000 t local_alias\n"
				"ffffffff81000000 T _text\n"
				"ffffffff81000000 T third\n"
				"ffffffff81000040 t helper\n");

	cr_expect_str_eq(at(s, 0xffffffff81000000), "_text+0", "a global name is preferred");
	cr_expect_str_eq(at(s, 0xffffffff8100003f), "_text+0x3f");
	cr_expect_str_eq(at(s, 0xffffffff81000040), "helper+0");
	cr_expect_str_eq(at(s, 0xffffffff81000040 + MIB - 1), "helper+0xfffff");
	cr_expect_str_eq(at(s, 0xffffffff81000040 + MIB), "", "too far");
	cr_expect_str_eq(at(s, 0xffffffff81ffffff), "");
	cr_expect_str_eq(at(s, 0xffffffff82000001), "data+0x1");
	cr_expect_str_eq(at(s, 0xffffffff80ffffff), "");
	cr_expect_str_eq(at(s, 0), "");
	cr_expect_str_eq(at(s, 0x14000), "", "absolute symbols are no addresses");
	cr_expect_str_eq(at(s, ~0ull), "");
	symbols_free(s);
}

Test(symbols, kallsyms_names_modules)
{
	struct symbols *s = map("ffffffffc0000000 t init_foo\t[foo]\r\n"
				"ffffffffc0000010 t exit_foo [foo]");

	cr_expect_str_eq(at(s, 0xffffffffc000000f), "init_foo+0xf");
	cr_expect_str_eq(at(s, 0xffffffffc0000011), "exit_foo+0x1");
	symbols_free(s);
}

Test(symbols, many_in_any_order)
{
	const unsigned n = 20000;
	char *text = malloc(n * 40), *p = text, want[32];
	struct symbols *s;

	for (unsigned i = 0; i < n; i++) {
		unsigned k = i * 7919 % n;

		p += sprintf(p, "%016lx t f%u\n", 0xffffffff81000000 + k * 16ul, k);
	}
	s = map(text);
	for (unsigned k = 0; k < n; k++) {
		sprintf(want, "f%u+0x5", k);
		cr_assert_str_eq(at(s, 0xffffffff81000000 + k * 16ul + 5), want);
	}
	symbols_free(s);
	free(text);
}

Test(symbols, refusals)
{
	static const struct {
		const char *text, *err;
	} bad[] = {
	    {"", "holds no symbols"},
	    {"0000000000000000 T zero\n", "holds no symbols"},
	    {"root:x:0:0\n", "line 1 is not"},
	    {"ffffffff81000000 T _text\n\n", "line 2 is not"},
	    {"ffffffff81000000 T\n", "line 1 is not"},
	    {"ffffffff81000000 T \n", "line 1 is not"},
	    {"ffffffff81000000  T x\n", "line 1 is not"},
	    {"ffffffff810000000 T x\n", "line 1 is not"},
	    {"-1 T x\n", "line 1 is not"},
	    {"1 9 x\n", "line 1 is not"},
	    {"1 T a\x1b[0m\n", "line 1 is not"},
	    {"\177ELF", "is no readable ELF file"},
	    {"\177ELF\2\1\1", "is no readable ELF file"},
	};
	char err[256];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		cr_expect_null(load(bad[i].text, strlen(bad[i].text), err), "\"%s\"", bad[i].text);
		cr_expect_not_null(strstr(err, bad[i].err), "\"%s\" gave \"%s\"", bad[i].text, err);
	}
	cr_expect_null(symbols_load("/nonexistent/map", err, sizeof(err)));
	cr_expect_str_eq(err, "/nonexistent/map: No such file or directory");
	cr_expect_null(symbols_load("/tmp", err, sizeof(err)));
	cr_expect_str_eq(err, "/tmp: Is a directory");
	cr_expect_null(symbols_load("/dev/null", err, sizeof(err)));
	cr_expect_null(symbols_load("/dev/zero", err, sizeof(err)));
}

Test(symbols, a_line_longer_than_the_buffer)
{
	char *text = malloc(10000), err[256];

	memset(text, 'a', 10000);
	memcpy(text, "ffffffff81000000 T ", 19);
	cr_expect_null(load(text, 10000, err), "its rest is no line");
	free(text);
}

/* --- ELF: this very executable --- */

int symbols_test_landmark(int x);
int symbols_test_landmark(int x)
{
	return x * 3 + 1;
}

static u8 *read_self(size_t *len)
{
	FILE *f = fopen("/proc/self/exe", "rb");
	u8 *buf;

	cr_assert_not_null(f);
	fseek(f, 0, SEEK_END);
	*len = ftell(f);
	rewind(f);
	buf = malloc(*len);
	cr_assert_eq(fread(buf, 1, *len, f), *len);
	fclose(f);
	return buf;
}

Test(symbols, elf)
{
	char err[256] = "";
	struct symbols *s = symbols_load("/proc/self/exe", err, sizeof(err));

	cr_assert_not_null(s, "%s", err);
	cr_expect_str_eq(at(s, (u64)(uintptr_t)symbols_test_landmark), "symbols_test_landmark+0");
	cr_expect_str_eq(at(s, (u64)(uintptr_t)symbols_test_landmark + 1),
			 "symbols_test_landmark+0x1");
	cr_expect_str_eq(at(s, 1), "");
	symbols_free(s);
}

/* Cut short, or with a header or a section table of rubbish: an error or symbols, never a crash. */
Test(symbols, broken_elf, .timeout = 120)
{
	size_t len;
	u8 *good = read_self(&len), *bad = malloc(len);
	Elf64_Ehdr eh;
	char err[256];

	memcpy(&eh, good, sizeof(eh));
	for (size_t cut = 1; cut < 20; cut++)
		symbols_free(load(good, len * cut / 20, err));
	for (unsigned i = 0; i < 200; i++) {
		size_t span = eh.e_shnum * sizeof(Elf64_Shdr);
		size_t where = i % 4 ? eh.e_shoff + i * 2654435761u % span : 5 + i % 58;

		memcpy(bad, good, len);
		bad[where] ^= (u8)(0x11 * (i % 15 + 1));
		bad[MIN(where + 1, len - 1)] ^= (u8)(i & 0x80);
		symbols_free(load(bad, len, err));
	}
	free(bad);
	free(good);
}
