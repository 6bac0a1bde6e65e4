/* Kernels and RAM disks that are missing, damaged or hostile: one line of error, nothing worse. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/stat.h>

#include "loader_rig.h"

/* An error line is one line and begins with the file it is about. */
static void check_line(const char *err, const char *path)
{
	cr_expect(!strncmp(err, path, strlen(path)) && !strncmp(err + strlen(path), ": ", 2),
		  "'%s' does not begin with %s", err, path);
	cr_expect(!strpbrk(err, "\r\n\033"), "%s", err);
	cr_expect_gt(strlen(err), strlen(path) + 4, "%s", err);
}

static void expect_failure(u64 ram_size, const struct boot_config *cfg, const char *path, int error,
			   const char *text)
{
	struct ram ram = rig_ram(ram_size);
	struct boot_state s;
	char err[256];
	int r = loader_load(&ram, cfg, &s, err, sizeof(err));

	cr_expect_eq(r, error, "%d instead of %d: %s", r, error, err);
	if (r) {
		check_line(err, path);
		cr_expect(strstr(err, text), "'%s' lacks '%s'", err, text);
	}
	ram_destroy(&ram);
}

static void expect_bad_in(u64 ram_size, const struct blob *image, int error, const char *text)
{
	struct rig_path path = rig_file(image->p, image->n);

	expect_failure(ram_size, &(struct boot_config){.kernel = path.s}, path.s, error, text);
	rig_file_close(&path);
}

static void expect_bad(const struct blob *image, int error, const char *text)
{
	expect_bad_in(64 * MIB, image, error, text);
}

/* --- files --- */

Test(bad_file, missing_or_unreadable)
{
	struct boot_config cfg = {.kernel = "/nonexistent/vmlinuz"};

	expect_failure(16 * MIB, &cfg, cfg.kernel, -ENOENT, "No such file");
	cfg.kernel = "/";
	expect_failure(16 * MIB, &cfg, cfg.kernel, -EISDIR, "directory");
	cfg.kernel = "";
	expect_failure(16 * MIB, &cfg, cfg.kernel, -ENOENT, "No such file");
	cfg.kernel = "/dev/zero";
	expect_failure(16 * MIB, &cfg, cfg.kernel, -EFBIG, "larger than");
	cfg.kernel = "/dev/null";
	expect_failure(16 * MIB, &cfg, cfg.kernel, -ENOEXEC, "empty");
}

Test(bad_file, name_with_control_characters)
{
	struct boot_config cfg = {.kernel = "a\nb\033[2Jc"};

	expect_failure(16 * MIB, &cfg, "a?b?[2Jc", -ENOENT, "No such file");
}

Test(bad_file, error_line_too_short)
{
	struct boot_config cfg = {.kernel = "/nonexistent/vmlinuz"};
	struct ram ram = rig_ram(MIB);
	struct boot_state s;
	char err[8] = "1234567";

	cr_expect_eq(loader_load(&ram, &cfg, &s, err, 0), -ENOENT);
	cr_expect_eq(loader_load(&ram, &cfg, &s, err, 5), -ENOENT);
	cr_expect_eq(memcmp(err,
			    "/non\0"
			    "67",
			    8),
		     0);
	ram_destroy(&ram);
}

Test(bad_file, too_large)
{
	struct rig_path path = rig_file("", 0);
	struct boot_config cfg = {.kernel = path.s};

	cr_assert_eq(truncate(path.s, (off_t)(3 * GIB)), 0);
	expect_failure(16 * MIB, &cfg, path.s, -EFBIG, "larger than the 1024 MiB");
}

Test(bad_file, not_a_kernel)
{
	struct blob text = {(u8 *)"#!/bin/sh\n", 10}, zeros = rig_alloc(100000);
	unsigned seed = 5;

	expect_bad(&(struct blob){NULL, 0}, -ENOEXEC, "empty");
	expect_bad(&text, -ENOEXEC, "not a kernel");
	expect_bad(&zeros, -ENOEXEC, "not a kernel");
	for (int i = 0; i < 50; i++) {
		struct blob noise = rig_alloc((size_t)rand_r(&seed) % 20000 + 1);

		for (size_t k = 0; k < noise.n; k++)
			noise.p[k] = (u8)rand_r(&seed);
		expect_bad(&noise, -ENOEXEC, "not a kernel");
	}
}

/* --- initial RAM disk --- */

static void expect_bad_initrd(struct setup_header h, u64 ram_size, const char *initrd, int error,
			      const char *text)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(h, &vmlinux);
	struct rig_path path = rig_file(image.p, image.n);
	struct boot_config cfg = {.kernel = path.s, .initrd = initrd};

	expect_failure(ram_size, &cfg, initrd, error, text);
}

Test(bad_initrd, files)
{
	struct setup_header h = rig_header();
	struct rig_path empty = rig_file("", 0), large = rig_file("", 0);

	expect_bad_initrd(h, 64 * MIB, "/nonexistent/initrd", -ENOENT, "No such file");
	expect_bad_initrd(h, 64 * MIB, "/", -EISDIR, "directory");
	expect_bad_initrd(h, 64 * MIB, empty.s, -EINVAL, "empty");
	expect_bad_initrd(h, 64 * MIB, "/dev/zero", -EFBIG, "larger than");

	cr_assert_eq(truncate(large.s, (off_t)(100 * MIB)), 0);
	expect_bad_initrd(h, 64 * MIB, large.s, -EFBIG, "larger than the 64 MiB");
	cr_assert_eq(truncate(large.s, (off_t)(60 * MIB)), 0);
	expect_bad_initrd(h, 64 * MIB, large.s, -ENOSPC, "61440 KiB does not fit");
}

Test(bad_initrd, limit_of_the_kernel)
{
	struct setup_header h = rig_header();
	struct rig_path file = rig_file("12345678", 8);

	for (u32 max = 0; max <= 0x100000; max += 0x80000) {
		h.initrd_addr_max = max;
		expect_bad_initrd(h, 64 * MIB, file.s, -ENOSPC, "does not fit");
	}
}

/* --- bzImage --- */

Test(bad_bzimage, header)
{
	struct blob vmlinux = rig_vmlinux(), image;
	struct setup_header h = rig_header();

	h.version = 0x201;
	image = rig_bzimage(h, &vmlinux);
	expect_bad(&image, -ENOEXEC, "protocol 2.01 is too old");
	h = rig_header();
	h.loadflags = 0;
	image = rig_bzimage(h, &vmlinux);
	expect_bad(&image, -ENOEXEC, "zImage");
	h = rig_header();
	h.jump = 0; /* says how long the header is */
	image = rig_bzimage(h, &vmlinux);
	expect_bad(&image, -ENOEXEC, "too old");
}

Test(bad_bzimage, truncated)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	size_t whole = image.n;

	image.n = whole - 16;
	expect_bad(&image, -ENOEXEC, "cut short");
	image.n = RIG_PROT + 1;
	expect_bad(&image, -ENOEXEC, "cut short");
	image.n = RIG_PROT;
	expect_bad(&image, -ENOEXEC, "cut short");
	image.n = 0x210;
	expect_bad(&image, -ENOEXEC, "not a kernel");
	image.n = whole;
	image.p[0x1f1] = 0xff; /* setup_sects: almost all is setup */
	expect_bad(&image, -ENOEXEC, "cut short");
}

Test(bad_bzimage, command_line_too_long)
{
	struct setup_header h = rig_header();
	struct blob vmlinux = rig_vmlinux(), image;
	char *line = (char *)rig_alloc(70000).p;
	struct rig_path path;
	struct boot_config cfg = {.cmdline = line};

	memset(line, 'x', 2048);
	image = rig_bzimage(h, &vmlinux);
	path = rig_file(image.p, image.n);
	cfg.kernel = path.s;
	expect_failure(64 * MIB, &cfg, path.s, -E2BIG, "2048 bytes, but this kernel takes 2047");

	h.version = 0x205; /* does not say: 255 */
	image = rig_bzimage(h, &vmlinux);
	path = rig_file(image.p, image.n);
	line[256] = 0;
	expect_failure(64 * MIB, &cfg, path.s, -E2BIG, "256 bytes, but this kernel takes 255");

	h = rig_header();
	h.cmdline_size = 0xffffffff;
	image = rig_bzimage(h, &vmlinux);
	path = rig_file(image.p, image.n);
	memset(line, 'x', 69999);
	expect_failure(64 * MIB, &cfg, path.s, -E2BIG, "69999 bytes, but this kernel takes 65535");
}

Test(bad_bzimage, does_not_fit)
{
	struct setup_header h = rig_header();
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(h, &vmlinux);

	expect_bad_in(MIB, &image, -ENOSPC, "does not fit into 1 MiB");
	expect_bad_in(16 * MIB, &image, -ENOSPC, "does not fit into 16 MiB");
	static const u32 sizes[] = {48 * MIB + 1, 0xffffffff, 0x80000000};
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		h.init_size = sizes[i];
		image = rig_bzimage(h, &vmlinux);
		expect_bad(&image, -ENOSPC, "does not fit into 64 MiB");
	}
	h = rig_header();
	static const u64 places[] = {0, 0x9f000, 0xa0000, 0xf0000, 64 * MIB, ~0ull, 0xfffffffff000};
	for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
		h.pref_address = places[i];
		h.init_size = 0x200000;
		h.xloadflags = 0;
		image = rig_bzimage(h, &vmlinux);
		expect_bad(&image, -ENOSPC, "does not fit into 64 MiB");
		h.xloadflags = XLF_KERNEL_64;
		image = rig_bzimage(h, &vmlinux);
		expect_bad(&image, -ENOSPC, "does not fit into 64 MiB");
	}
}

Test(bad_bzimage, payload)
{
	struct blob vmlinux = rig_vmlinux();

	for (int kind = PACK_GZIP; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, vmlinux.p, vmlinux.n);
		struct blob image = rig_bzimage(rig_header(), &packed);
		u8 *payload = image.p + RIG_PROT + RIG_PAYLOAD;
		struct setup_header *h = (void *)(image.p + 0x1f1);
		u32 big = 65 * MIB;

		/* The second half overwritten. */
		memset(payload + packed.n / 2, 0xff, packed.n / 2 - 4);
		expect_bad(&image, -EBADMSG, "the payload is corrupt");
		/* No magic number any more. */
		memset(payload, 0, 8);
		expect_bad(&image, -ENOTSUP, "do not know");
		memcpy(payload, packed.p, packed.n);
		memcpy(payload + packed.n - 4, &big, 4);
		expect_bad(&image, -EFBIG, "65 MiB, more than the 64 MiB");
		memset(payload + packed.n - 4, 0, 4);
		expect_bad(&image, -EBADMSG, "corrupt");
		/* Partly, wholly and absurdly outside the file. */
		h->payload_length += 32;
		expect_bad(&image, -ENOEXEC, "not all in the file");
		h->payload_offset = 0xfffffff0;
		expect_bad(&image, -ENOEXEC, "not all in the file");
		h->payload_length = 0x20;
		expect_bad(&image, -ENOEXEC, "not all in the file");
		h->payload_offset = RIG_PAYLOAD;
		h->payload_length = 1;
		expect_bad(&image, -ENOTSUP, "do not know");
	}
}

static void expect_bad_inside(const struct rig_elf *e, int error, const char *text)
{
	struct blob vmlinux = rig_elf(e), packed = rig_pack(PACK_LZ4, vmlinux.p, vmlinux.n);
	struct blob image = rig_bzimage(rig_header(), &packed);

	expect_bad(&image, error, text);
}

Test(bad_bzimage, elf_inside)
{
	const struct rig_elf good = {.entry = 0x1000000,
				     .n_seg = 2,
				     .seg = {{0x1000000, 0xffffffff81000000, 0x1000, 0x1000, 1, 1},
					     {0x1100000, 0xffffffff81100000, 0x1000, 0x1000, 2}}};
	struct rig_elf e = good;

	e.entry = 0x2000000;
	expect_bad_inside(&e, -ENOEXEC, "entry point lies in no segment");
	e = good;
	e.is32 = true;
	expect_bad_inside(&e, -ENOEXEC, "32-bit ELF");
	e = good;
	e.seg[1].paddr = 6 * GIB;
	expect_bad_inside(&e, -ENOEXEC, "above 4 GiB");
	e = good;
	e.seg[1].paddr = 0x1000800;
	expect_bad_inside(&e, -ENOEXEC, "segments overlap");
	e = good;
	e.seg[1].memsz = 60 * MIB;
	expect_bad_inside(&e, -ENOSPC, "does not fit into 64 MiB");
	e = good;
	e.n_seg = 0;
	expect_bad_inside(&e, -ENOEXEC, "no segment");
	struct blob text = {(u8 *)"no kernel in here, just some text", 33};
	struct blob packed = rig_pack(PACK_ZSTD, text.p, text.n);
	struct blob image = rig_bzimage(rig_header(), &packed);
	expect_bad(&image, -ENOEXEC, "damaged ELF header");
}

/* --- ELF --- */

static struct rig_elf good_elf(void)
{
	return (struct rig_elf){.entry = 0x100000,
				.n_seg = 2,
				.seg = {{0x100000, 0x100000, 0x3000, 0x5000, 0x11, 1},
					{0x200000, 0x200000, 0x1000, 0x1000, 0x22}},
				.note = 0x101000};
}

static void expect_bad_elf(const struct rig_elf *e, int error, const char *text)
{
	struct blob image = rig_elf(e);

	expect_bad(&image, error, text);
}

Test(bad_elf, segments)
{
	struct rig_elf e = good_elf();

	e.seg[1].paddr = 0x104fff;
	expect_bad_elf(&e, -ENOEXEC, "segments overlap at physical address 0x104fff");
	e.seg[1].paddr = 0xff001;
	expect_bad_elf(&e, -ENOSPC, "0xff001");
	e.seg[1].paddr = 0x9ec01; /* into the EBDA */
	expect_bad_elf(&e, -ENOSPC, "0x9ec01");
	e.seg[1].paddr = 0xa0000;
	expect_bad_elf(&e, -ENOSPC, "0xa0000");
	e.seg[1].paddr = 0xe0000;
	expect_bad_elf(&e, -ENOSPC, "0xe0000");
	e.seg[1].paddr = 64 * MIB - 1;
	expect_bad_elf(&e, -ENOSPC, "0x3ffffff");
	e.seg[1].paddr = 3 * GIB;
	expect_bad_elf(&e, -ENOSPC, "0xc0000000");
	e.seg[1].paddr = ~0ull - 0xffe;
	expect_bad_elf(&e, -ENOEXEC, "end of the address space");
	e.seg[1].paddr = 0x200000;
	e.seg[1].memsz = ~0ull;
	expect_bad_elf(&e, -ENOEXEC, "end of the address space");
	e.seg[1].memsz = ~0ull - 0x200000;
	expect_bad_elf(&e, -ENOSPC, "does not fit");
	e.seg[1].memsz = 0xfff;
	expect_bad_elf(&e, -ENOEXEC, "larger in the file than in memory");
}

Test(bad_elf, headers)
{
	struct rig_elf e = good_elf();
	struct blob image = rig_elf(&e);
	Elf64_Ehdr *h = (void *)image.p;
	Elf64_Phdr *ph = (void *)(image.p + 64);
	Elf64_Ehdr good = *h;

	h->e_phoff = ~0ull - 10;
	expect_bad(&image, -ENOEXEC, "");
	h->e_phoff = image.n - 60;
	expect_bad(&image, -ENOEXEC, "");
	*h = good;
	h->e_phnum = 0xffff;
	expect_bad(&image, -ENOEXEC, "");
	*h = good;
	h->e_ident[EI_CLASS] = 7;
	expect_bad(&image, -ENOEXEC, "damaged ELF header");
	*h = good;
	h->e_ident[EI_DATA] = ELFDATA2MSB;
	expect_bad(&image, -ENOEXEC, "");
	*h = good;
	h->e_machine = EM_AARCH64;
	expect_bad(&image, -ENOEXEC, "not for x86");
	*h = good;
	h->e_type = ET_REL;
	expect_bad(&image, -ENOEXEC, "not an executable");
	*h = good;
	ph[1].p_offset = ~0ull - 5;
	expect_bad(&image, -ENOEXEC, "not all in the file");
	ph[1].p_offset = image.n - 0xfff;
	expect_bad(&image, -ENOEXEC, "not all in the file");
}

Test(bad_elf, too_many_segments)
{
	struct blob image = rig_alloc(64 + 100 * sizeof(Elf64_Phdr));
	struct rig_elf e = {.n_seg = 0};

	rig_put_ehdr(&e, image.p, 100);
	for (unsigned i = 0; i < 100; i++)
		rig_put_phdr(
		    &e, image.p + 64 + i * sizeof(Elf64_Phdr),
		    (Elf64_Phdr){.p_type = PT_LOAD, .p_paddr = MIB + i * 16, .p_memsz = 16});
	expect_bad(&image, -ENOEXEC, "more than 64 segments");
}

Test(bad_elf, note)
{
	struct rig_elf e = good_elf();
	struct blob image;
	u32 *note;

	e.note = 0x300000;
	expect_bad_elf(&e, -ENOEXEC, "PVH entry point 0x300000 lies in no segment");
	e.note = 0;
	expect_bad_elf(&e, -ENOEXEC, "neither a PVH note nor a multiboot");
	/* Notes that claim to be longer than they can be. */
	e = good_elf();
	image = rig_elf(&e);
	note = (void *)(image.p + 0x300);
	note[0] = 0xffffffff;
	expect_bad(&image, -ENOEXEC, "neither a PVH note");
	note[0] = 4;
	note[1] = 0xffffffff;
	expect_bad(&image, -ENOEXEC, "neither a PVH note");
	note[1] = 8; /* only 4 are there */
	expect_bad(&image, -ENOEXEC, "neither a PVH note");
	note[1] = 4;
	note[2] = 17;
	expect_bad(&image, -ENOEXEC, "neither a PVH note");
}

Test(bad_elf, command_line_too_long)
{
	struct rig_elf e = good_elf();
	struct blob image = rig_elf(&e), line = rig_alloc(70000);
	struct rig_path path = rig_file(image.p, image.n);
	struct boot_config cfg = {.kernel = path.s, .cmdline = (char *)line.p};

	memset(line.p, 'x', line.n - 1);
	expect_failure(16 * MIB, &cfg, path.s, -E2BIG, "command line");
}

/* --- multiboot --- */

static void expect_bad_aout(const u32 fields[5], int error, const char *text)
{
	struct blob image = rig_alloc(0x2000);

	rig_put_multiboot(image.p + 0x100, 0x10000);
	memcpy(image.p + 0x10c, fields, 20);
	expect_bad(&image, error, text);
}

Test(bad_multiboot, aout)
{
	/* header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr */
	expect_bad_aout((u32[]){0x100000, 0x100100, 0, 0, 0}, -ENOEXEC, "header_addr");
	expect_bad_aout((u32[]){0x100200, 0x100000, 0, 0, 0}, -ENOEXEC, "header_addr");
	expect_bad_aout((u32[]){0x100100, 0x100000, 0xfffff, 0, 0}, -ENOEXEC, "load_end_addr");
	expect_bad_aout((u32[]){0x100100, 0x100000, 0x102001, 0, 0}, -ENOEXEC, "cut short");
	expect_bad_aout((u32[]){0x100100, 0x100000, 0xffffffff, 0, 0}, -ENOEXEC, "cut short");
	expect_bad_aout((u32[]){0x100100, 0x100000, 0x102000, 0x101fff, 0}, -ENOEXEC, "bss_end");
	expect_bad_aout((u32[]){0x100100, 0x100000, 0, 0xffffffff, 0}, -ENOSPC, "do not fit");
	expect_bad_aout((u32[]){0xfffff100, 0xfffff000, 0, 0, 0}, -ENOSPC, "do not fit");
	expect_bad_aout((u32[]){0x9f100, 0x9f000, 0, 0, 0}, -ENOSPC, "do not fit");
}

Test(bad_multiboot, header)
{
	struct blob image = rig_alloc(0x110);

	rig_put_multiboot(image.p + 0x100, 3);
	expect_bad(&image, -ENOEXEC, "neither an ELF file nor load addresses");
	rig_put_multiboot(image.p + 0x100, 0x10000);
	expect_bad(&image, -ENOEXEC, "the header is cut short");
	rig_put_multiboot(image.p + 0x100, 0x10008);
	expect_bad(&image, -ENOEXEC, "unknown features (flags 0x8)");
	image.p[0x108] ^= 1;
	expect_bad(&image, -ENOEXEC, "not a kernel");

	image = rig_alloc(0x3000);
	rig_put_multiboot(image.p + 8192 - 8, 3); /* ends too late */
	expect_bad(&image, -ENOEXEC, "not a kernel");
}

Test(bad_multiboot, elf)
{
	struct rig_elf e = good_elf();

	e.multiboot = true;
	e.entry = 4 * GIB;
	expect_bad_elf(&e, -ENOEXEC, "entry point lies above 4 GiB");
	e.entry = 0;
	e.seg[1].paddr = 0x104000;
	expect_bad_elf(&e, -ENOEXEC, "segments overlap");
}

Test(bad_multiboot, modules)
{
	struct rig_elf e = good_elf();
	struct rig_path path, large = rig_file("", 0), mod = rig_file("x", 1);
	struct boot_config cfg;
	char *list = (char *)rig_alloc(8192).p;

	e.multiboot = true;
	struct blob image = rig_elf(&e);
	path = rig_file(image.p, image.n);
	cfg = (struct boot_config){.kernel = path.s, .initrd = "/nonexistent/m args"};
	expect_failure(16 * MIB, &cfg, "/nonexistent/m", -ENOENT, "No such file");
	cfg.initrd = ",";
	expect_failure(16 * MIB, &cfg, path.s, -EINVAL, "module 1 has no file name");
	cfg.initrd = "   ";
	expect_failure(16 * MIB, &cfg, path.s, -EINVAL, "module 1 has no file name");

	cr_assert_eq(truncate(large.s, (off_t)(15 * MIB)), 0);
	cfg.initrd = large.s;
	expect_failure(16 * MIB, &cfg, large.s, -ENOSPC, "15360 KiB does not fit");

	for (int i = 0; i < 65; i++) {
		strcat(list, mod.s);
		strcat(list, ",");
	}
	cfg.initrd = list;
	expect_failure(16 * MIB, &cfg, path.s, -E2BIG, "more than 64 modules");
}

/* --- damage at random: whatever happens, it ends in an error line or a kernel within RAM --- */

static void try_damaged(struct ram *ram, const struct blob *image)
{
	struct rig_path path = rig_file(image->p, image->n);

	for (int stub = 0; stub < 2; stub++) {
		struct boot_config cfg = {.kernel = path.s, .stub = stub};
		struct boot_state s;
		char err[256];
		int r = loader_load(ram, &cfg, &s, err, sizeof(err));

		cr_expect_leq(r, 0);
		if (r)
			check_line(err, path.s);
		else
			cr_expect(ram_contains(ram, s.gdt) && s.rip <= UINT32_MAX);
	}
	rig_file_close(&path);
}

static struct blob damaged_sample(unsigned n)
{
	struct rig_elf e = good_elf();
	struct blob vmlinux = rig_vmlinux(), packed;

	switch (n) {
	case 0: return rig_elf(&e);
	case 1: e.is32 = e.multiboot = true; return rig_elf(&e);
	case 2: e.multiboot = true; return rig_elf(&e);
	default:
		packed = rig_pack(n - 3, vmlinux.p, vmlinux.n);
		return rig_bzimage(rig_header(), &packed);
	}
}
#define SAMPLES (3 + PACK_COUNT)

Test(damage, truncated_everywhere)
{
	struct ram ram = rig_ram(64 * MIB);

	for (unsigned k = 0; k < SAMPLES; k++) {
		struct blob image = damaged_sample(k), cut = image;

		for (cut.n = 0; cut.n < image.n; cut.n += cut.n < 0x500 ? 7 : image.n / 61)
			try_damaged(&ram, &cut);
	}
	ram_destroy(&ram);
}

/* Headers get most of it. */
static size_t pick(unsigned *seed, const struct blob *image)
{
	return (size_t)rand_r(seed) % (rand_r(seed) % 4 ? MIN(image->n, 0x400) : image->n);
}

Test(damage, bytes)
{
	static const u8 nasty[] = {0, 1, 0x7f, 0x80, 0xff};
	struct ram ram = rig_ram(64 * MIB);
	unsigned seed = 11;

	for (unsigned k = 0; k < SAMPLES; k++) {
		struct blob good = damaged_sample(k), bad = rig_alloc(good.n);

		for (int i = 0; i < 400; i++) {
			memcpy(bad.p, good.p, good.n);
			for (int m = rand_r(&seed) % 6; m >= 0; m--) {
				size_t at = pick(&seed, &good);
				unsigned v = (unsigned)rand_r(&seed);

				bad.p[at] = v % 3 ? (u8)(v >> 8) : nasty[v / 3 % ARRAY_LEN(nasty)];
			}
			try_damaged(&ram, &bad);
		}
	}
	ram_destroy(&ram);
}
