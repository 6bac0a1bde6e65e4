/* What each loader leaves in guest RAM and in the processor's entry state. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdalign.h>

#include "cpu.h"
#include "loader_rig.h"

#define RSDP 0xe0000ull

static u32 get32(const struct ram *ram, gpa_t at)
{
	u32 v;

	cr_assert_eq(ram_read(ram, at, &v, sizeof(v)), 0);
	return v;
}

static u64 get64(const struct ram *ram, gpa_t at)
{
	u64 v;

	cr_assert_eq(ram_read(ram, at, &v, sizeof(v)), 0);
	return v;
}

static const char *get_string(const struct ram *ram, gpa_t at)
{
	const char *s = ram_ptr(ram, at, 1);

	cr_assert(s);
	return s;
}

/* Load something that must load; RAM is dirty, as after a reset. */
static struct boot_state load_with(struct ram *ram, const struct boot_config *cfg)
{
	struct boot_state s;
	char err[256];

	memset(ram->window, 0xee, MIN(ram->low_end, 64 * MIB));
	int r = loader_load(ram, cfg, &s, err, sizeof(err));
	cr_assert_eq(r, 0, "%d %s", r, err);
	return s;
}

static struct boot_state load(struct ram *ram, const struct blob *image)
{
	struct rig_path path = rig_file(image->p, image->n);

	return load_with(ram, &(struct boot_config){.kernel = path.s});
}

static struct boot_params get_params(const struct ram *ram, const struct boot_state *s)
{
	struct boot_params bp;

	cr_assert_eq(ram_read(ram, s->rsi, &bp, sizeof(bp)), 0);
	return bp;
}

static void expect_gdt(const struct ram *ram, const struct boot_state *s, u16 cs)
{
	cr_expect_eq(s->cs, cs);
	cr_expect_eq(s->ds, cs + 8);
	cr_expect_geq(s->gdt_limit, 0x1f);
	cr_expect_eq(get64(ram, s->gdt), 0);
	cr_expect_eq(get64(ram, s->gdt + s->cs),
		     s->kind == BOOT_LONG64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
	cr_expect_eq(get64(ram, s->gdt + s->ds), 0x00cf93000000ffff);
}

/* --- bzImage --- */

static void expect_vmlinux(const struct ram *ram)
{
	cr_expect(rig_filled(ram, 0x1000000, 0x10000, 0xab));
	cr_expect(rig_filled(ram, 0x1100000, 0x10000, 0xcd));
	cr_expect(rig_filled(ram, 0x1110000, 0x10000, 0), "bss");
	cr_expect(rig_filled(ram, 0x1120000, 16, 0xee), "behind bss");
}

Test(bzimage, unpacked)
{
	struct blob vmlinux = rig_vmlinux();
	struct ram ram = rig_ram(64 * MIB);

	for (int kind = 0; kind < PACK_COUNT; kind++) {
		struct blob packed = rig_pack(kind, vmlinux.p, vmlinux.n);
		struct blob image = rig_bzimage(rig_header(), &packed);
		struct boot_state s = load(&ram, &image);

		cr_expect_eq(s.kind, BOOT_LONG64);
		cr_expect_eq(s.rip, 0x1000040);
		expect_vmlinux(&ram);
		expect_gdt(&ram, &s, 0x10);
	}
	ram_destroy(&ram);
}

Test(bzimage, boot_params)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct rig_path path = rig_file(image.p, image.n);
	struct boot_config cfg = {.kernel = path.s, .cmdline = "console=ttyS0 a=b", .rsdp = RSDP};
	struct ram ram = rig_ram(64 * MIB);
	struct boot_state s = load_with(&ram, &cfg);
	struct boot_params bp = get_params(&ram, &s);

	cr_expect_lt(s.rsi, 0x9fc00);
	cr_expect_eq(bp.hdr.type_of_loader, 0xff);
	cr_expect_eq(bp.hdr.header, 0x53726448);
	cr_expect_eq(bp.hdr.version, 0x20f);
	cr_expect_eq(bp.hdr.pref_address, 0x1000000);
	cr_expect_eq(bp.hdr.ramdisk_image, 0);
	cr_expect_eq(bp.hdr.ramdisk_size, 0);
	cr_expect_str_eq(get_string(&ram, bp.hdr.cmd_line_ptr), "console=ttyS0 a=b");
	cr_expect_eq(bp.acpi_rsdp_addr, RSDP);
	cr_expect_eq(bp.alt_mem_k, 63 * 1024);
	cr_expect_eq(bp.screen_info.ext_mem_k, 63 * 1024);
	cr_expect_eq(bp.sentinel, 0);
	/* All that is not said is 0, though RAM was not. */
	bp.hdr = (struct setup_header){0};
	bp.acpi_rsdp_addr = bp.alt_mem_k = bp.screen_info.ext_mem_k = bp.e820_entries = 0;
	memset(bp.e820_table, 0, sizeof(bp.e820_table));
	cr_expect_eq(memcmp(&bp, &(struct boot_params){0}, sizeof(bp)), 0);
	ram_destroy(&ram);
}

Test(bzimage, header_pointers_of_the_file_are_not_believed)
{
	struct setup_header h = rig_header();
	struct ram ram = rig_ram(64 * MIB);

	h.setup_data = 0x1234;
	h.ramdisk_image = h.ramdisk_size = h.cmd_line_ptr = 0x55aa55;
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(h, &vmlinux);
	struct boot_state s = load(&ram, &image);
	struct boot_params bp = get_params(&ram, &s);
	cr_expect_eq(bp.hdr.setup_data, 0);
	cr_expect_eq(bp.hdr.ramdisk_image, 0);
	cr_expect_eq(bp.hdr.ramdisk_size, 0);
	cr_expect_str_eq(get_string(&ram, bp.hdr.cmd_line_ptr), "");
	ram_destroy(&ram);
}

static void expect_e820(const struct boot_params *bp, unsigned i, u64 start, u64 end, u32 type)
{
	cr_expect_eq(bp->e820_table[i].addr, start, "entry %u", i);
	cr_expect_eq(bp->e820_table[i].addr + bp->e820_table[i].size, end, "entry %u", i);
	cr_expect_eq(bp->e820_table[i].type, type, "entry %u", i);
}

Test(bzimage, memory_map)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct ram ram = rig_ram(5 * GIB);
	struct boot_state s = load(&ram, &image);
	struct boot_params bp = get_params(&ram, &s);

	cr_assert_eq(bp.e820_entries, 6);
	expect_e820(&bp, 0, 0, 0x9fc00, 1);
	expect_e820(&bp, 1, 0x9fc00, 0xa0000, 2);
	expect_e820(&bp, 2, 0xe0000, MIB, 2);
	expect_e820(&bp, 3, MIB, 3 * GIB, 1);
	expect_e820(&bp, 4, 0xe0000000, 0xe0100000, 2); /* ECAM */
	expect_e820(&bp, 5, 4 * GIB, 6 * GIB, 1);
	cr_expect_eq(bp.screen_info.ext_mem_k, 0xfc00);
	cr_expect_eq(bp.alt_mem_k, (3 * GIB - MIB) / KIB);
	ram_destroy(&ram);
}

Test(bzimage, page_tables)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct ram ram = rig_ram(64 * MIB);
	struct boot_state s = load(&ram, &image);
	struct paging pg = {.cr0 = CR0_PE | CR0_PG,
			    .cr4 = CR4_PAE,
			    .efer = EFER_LME | EFER_LMA,
			    .cr3 = s.cr3,
			    .maxphyaddr = 40};
	struct walk w;

	for (u64 va = 0x123; va < 4 * GIB; va += 2 * MIB) {
		cr_assert_eq(mmu_walk(&ram, &pg, va, MMU_WRITE, false, &w), 0);
		cr_assert_eq(w.gpa, va);
		cr_assert_eq(mmu_walk(&ram, &pg, va, MMU_EXEC, false, &w), 0);
	}
	cr_expect_lt(mmu_walk(&ram, &pg, 4 * GIB, MMU_READ, false, &w), 0);
	ram_destroy(&ram);
}

static struct blob noise(size_t n)
{
	struct blob b = rig_alloc(n);
	unsigned seed = 3;

	for (size_t i = 0; i < n; i++)
		b.p[i] = (u8)rand_r(&seed);
	return b;
}

/* Load with an initial RAM disk; check its place and contents. */
static gpa_t expect_initrd(struct setup_header h, u64 ram_size, size_t size)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(h, &vmlinux), disk = noise(size);
	struct rig_path path = rig_file(image.p, image.n), disk_path = rig_file(disk.p, disk.n);
	struct boot_config cfg = {.kernel = path.s, .initrd = disk_path.s};
	struct ram ram = rig_ram(ram_size);
	struct boot_state s = load_with(&ram, &cfg);
	struct boot_params bp = get_params(&ram, &s);
	const u8 *p = ram_ptr(&ram, bp.hdr.ramdisk_image, size);

	cr_expect_eq(bp.hdr.ramdisk_size, size);
	cr_expect_eq(bp.hdr.ramdisk_image % PAGE_SIZE, 0);
	cr_expect_eq(bp.ext_ramdisk_image, 0);
	cr_assert(p);
	cr_expect_eq(memcmp(p, disk.p, size), 0);
	expect_vmlinux(&ram);
	ram_destroy(&ram);
	return bp.hdr.ramdisk_image;
}

Test(bzimage, initrd)
{
	struct setup_header h = rig_header();

	cr_expect_eq(expect_initrd(h, 64 * MIB, 5000), 64 * MIB - 2 * PAGE_SIZE);
	cr_expect_eq(expect_initrd(h, 64 * MIB, 4096), 64 * MIB - PAGE_SIZE);
	cr_expect_eq(expect_initrd(h, 5 * GIB, 4096), 2 * GIB - PAGE_SIZE);
	h.initrd_addr_max = 0xffffffff;
	cr_expect_eq(expect_initrd(h, 5 * GIB, 4096), 3 * GIB - PAGE_SIZE);
	h.initrd_addr_max = 0x2000fff;
	cr_expect_eq(expect_initrd(h, 64 * MIB, 4096), 0x2000000);
	/* No room above the kernel: below it. */
	h.initrd_addr_max = 0x1ffffff;
	h.init_size = 0x1000000;
	cr_expect_eq(expect_initrd(h, 64 * MIB, 4096), 0x1000000 - PAGE_SIZE);
}

Test(bzimage, init_size_is_kept_free)
{
	struct setup_header h = rig_header();

	h.init_size = 40 * MIB;
	/* 16 + 40 MiB are the kernel's, so 8 MiB are left at the top. */
	cr_expect_eq(expect_initrd(h, 64 * MIB, 8 * MIB), 56 * MIB);
	cr_expect_lt(expect_initrd(h, 64 * MIB, 8 * MIB + 1), 16 * MIB);
}

Test(bzimage, stub)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct rig_path path = rig_file(image.p, image.n);
	struct ram ram = rig_ram(64 * MIB);
	struct boot_config cfg = {.kernel = path.s, .stub = true};
	struct boot_state s = load_with(&ram, &cfg);
	struct boot_params bp = get_params(&ram, &s);

	cr_expect_eq(s.kind, BOOT_LONG64);
	cr_expect_eq(s.rip, 0x1000200);
	cr_expect(rig_filled(&ram, 0x1000000, RIG_PAYLOAD, 0x90));
	cr_expect_eq(memcmp(ram.window + 0x1000000 + RIG_PAYLOAD, vmlinux.p, vmlinux.n), 0);
	cr_expect_eq(bp.hdr.code32_start, 0x1000000);
	ram_destroy(&ram);
}

/* memtest86+ for x86-64. */
Test(bzimage, without_payload)
{
	struct setup_header h = rig_header();
	struct ram ram = rig_ram(16 * MIB);

	h.version = 0x20c;
	h.relocatable_kernel = 0;
	h.pref_address = 0x100000;
	h.xloadflags = XLF_KERNEL_64 | XLF_EFI_HANDOVER_64;
	struct blob image = rig_bzimage(h, NULL);
	struct boot_state s = load(&ram, &image);
	cr_expect_eq(s.kind, BOOT_LONG64);
	cr_expect_eq(s.rip, 0x100200);
	cr_expect(rig_filled(&ram, 0x100000, RIG_PAYLOAD, 0x90));
	ram_destroy(&ram);
}

Test(bzimage, entered_in_32_bit)
{
	struct setup_header h = rig_header();
	struct blob vmlinux = rig_vmlinux(), image;
	struct ram ram = rig_ram(64 * MIB);
	struct boot_state s;

	h.xloadflags = 0;
	image = rig_bzimage(h, &vmlinux);
	s = load(&ram, &image);
	cr_expect_eq(s.kind, BOOT_PROT32);
	cr_expect_eq(s.rip, 0x1000000);
	cr_expect_eq(get_params(&ram, &s).hdr.code32_start, 0x1000000);
	expect_gdt(&ram, &s, 0x10);

	/* The flag means nothing before protocol 2.12, nor does pref_address before 2.10. */
	h.xloadflags = XLF_KERNEL_64;
	h.version = 0x209;
	image = rig_bzimage(h, &vmlinux);
	s = load(&ram, &image);
	cr_expect_eq(s.kind, BOOT_PROT32);
	cr_expect_eq(s.rip, 0x100000);
	ram_destroy(&ram);
}

Test(bzimage, longest_command_line)
{
	struct setup_header h = rig_header();
	struct ram ram = rig_ram(64 * MIB);
	char line[256] = {0};

	h.cmdline_size = 255;
	memset(line, 'x', 255);
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(h, &vmlinux);
	struct rig_path path = rig_file(image.p, image.n);
	struct boot_config cfg = {.kernel = path.s, .cmdline = line};
	struct boot_state s = load_with(&ram, &cfg);
	cr_expect_str_eq(get_string(&ram, get_params(&ram, &s).hdr.cmd_line_ptr), line);
	ram_destroy(&ram);
}

/* --- PVH --- */

static struct rig_elf pvh_elf(void)
{
	return (struct rig_elf){.entry = 0x100000,
				.n_seg = 2,
				.seg = {{0x100000, 0xffffffff80100000, 0x3000, 0x5000, 0x11, 1},
					{0x200000, 0xffffffff80200000, 0x1000, 0x1000, 0x22}},
				.note = 0x101000};
}

Test(pvh, start_info)
{
	struct rig_elf e = pvh_elf();
	struct blob image = rig_elf(&e), disk = noise(5000);
	struct rig_path path = rig_file(image.p, image.n), disk_path = rig_file(disk.p, disk.n);
	struct boot_config cfg = {
	    .kernel = path.s, .initrd = disk_path.s, .cmdline = "hello", .rsdp = RSDP};
	struct ram ram = rig_ram(16 * MIB);
	struct boot_state s = load_with(&ram, &cfg);
	gpa_t info = s.rbx, mod, mem;

	cr_expect_eq(s.kind, BOOT_PROT32);
	cr_expect_eq(s.rip, 0x101000);
	expect_gdt(&ram, &s, 0x08);
	cr_expect(rig_filled(&ram, 0x100000, 0x3000, 0x11));
	cr_expect(rig_filled(&ram, 0x103000, 0x2000, 0));
	cr_expect(rig_filled(&ram, 0x200000, 0x1000, 0x22));

	cr_expect_eq(get32(&ram, info), 0x336ec578);
	cr_expect_eq(get32(&ram, info + 4), 1);
	cr_expect_eq(get32(&ram, info + 8), 0);
	cr_assert_eq(get32(&ram, info + 12), 1);
	mod = get64(&ram, info + 16);
	cr_expect_str_eq(get_string(&ram, get64(&ram, info + 24)), "hello");
	cr_expect_eq(get64(&ram, info + 32), RSDP);
	mem = get64(&ram, info + 40);
	cr_assert_eq(get32(&ram, info + 48), 5);

	cr_expect_eq(get64(&ram, mod), 16 * MIB - 2 * PAGE_SIZE);
	cr_expect_eq(get64(&ram, mod + 8), 5000);
	cr_expect_eq(get64(&ram, mod + 16), 0);
	cr_expect_eq(memcmp(ram.window + get64(&ram, mod), disk.p, disk.n), 0);
	cr_expect_eq(get64(&ram, mem + 3 * 24), MIB);
	cr_expect_eq(get64(&ram, mem + 3 * 24 + 8), 15 * MIB);
	cr_expect_eq(get32(&ram, mem + 3 * 24 + 16), 1);
	cr_expect_eq(get32(&ram, mem + 24 + 16), 2);
	ram_destroy(&ram);
}

Test(pvh, without_modules)
{
	struct rig_elf e = pvh_elf();
	struct ram ram = rig_ram(16 * MIB);
	struct boot_state s;

	e.note_len = 8; /* as 64-bit kernels write it */
	struct blob image = rig_elf(&e);
	s = load(&ram, &image);
	cr_expect_eq(s.rip, 0x101000);
	cr_expect_eq(get32(&ram, s.rbx + 12), 0);
	cr_expect_eq(get64(&ram, s.rbx + 16), 0);
	cr_expect_str_eq(get_string(&ram, get64(&ram, s.rbx + 24)), "");
	ram_destroy(&ram);
}

Test(pvh, elf32)
{
	struct rig_elf e = pvh_elf();
	struct ram ram = rig_ram(16 * MIB);

	e.is32 = true;
	struct blob image = rig_elf(&e);
	struct boot_state s = load(&ram, &image);
	cr_expect_eq(s.rip, 0x101000);
	cr_expect(rig_filled(&ram, 0x200000, 0x1000, 0x22));
	ram_destroy(&ram);
}

Test(pvh, image_over_the_usual_place_of_start_info)
{
	struct rig_elf e = pvh_elf();
	struct ram ram = rig_ram(16 * MIB);

	e.seg[1].paddr = 0x8000;
	e.seg[1].filesz = e.seg[1].memsz = 0x4123;
	struct blob image = rig_elf(&e);
	struct boot_state s = load(&ram, &image);
	cr_expect(rig_filled(&ram, 0x8000, 0x4123, 0x22));
	cr_expect_eq(s.rbx, 0xd000);
	ram_destroy(&ram);
}

/* --- multiboot --- */

static struct rig_elf multiboot_elf(void)
{
	return (struct rig_elf){.is32 = true,
				.entry = 0x100010,
				.n_seg = 1,
				.seg = {{0x100000, 0x100000, 0x2000, 0x4000, 0x33, 1}},
				.multiboot = true,
				.mb_flags = 3};
}

Test(multiboot, information)
{
	struct rig_elf e = multiboot_elf();
	struct blob image = rig_elf(&e);
	struct rig_path path = rig_file(image.p, image.n);
	struct boot_config cfg = {.kernel = path.s, .cmdline = "a b"};
	struct ram ram = rig_ram(16 * MIB);
	struct boot_state s = load_with(&ram, &cfg);
	char line[64];

	cr_expect_eq(s.kind, BOOT_PROT32);
	cr_expect_eq(s.rip, 0x100010);
	cr_expect_eq(s.rax, 0x2badb002);
	expect_gdt(&ram, &s, 0x08);
	cr_expect(rig_filled(&ram, 0x100000, 0x2000, 0x33));
	cr_expect(rig_filled(&ram, 0x102000, 0x2000, 0));

	cr_expect_eq(get32(&ram, s.rbx), 0x24f);
	cr_expect_eq(get32(&ram, s.rbx + 4), 639);
	cr_expect_eq(get32(&ram, s.rbx + 8), 15 * 1024);
	snprintf(line, sizeof(line), "%s a b", path.s);
	cr_expect_str_eq(get_string(&ram, get32(&ram, s.rbx + 16)), line);
	cr_expect_eq(get32(&ram, s.rbx + 20), 0);
	cr_expect_str_eq(get_string(&ram, get32(&ram, s.rbx + 64)), "ringshift");

	u32 left = get32(&ram, s.rbx + 44), at = get32(&ram, s.rbx + 48);
	static const u64 want[][3] = {{0, 0x9fc00, 1},
				      {0x9fc00, 0xa0000, 2},
				      {0xe0000, MIB, 2},
				      {MIB, 16 * MIB, 1},
				      {0xe0000000, 0xe0100000, 2}};
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		u32 size = get32(&ram, at) + 4;

		cr_assert_geq(left, size);
		cr_expect_eq(get64(&ram, at + 4), want[i][0]);
		cr_expect_eq(get64(&ram, at + 4) + get64(&ram, at + 12), want[i][1]);
		cr_expect_eq(get32(&ram, at + 20), want[i][2]);
		at += size;
		left -= size;
	}
	cr_expect_eq(left, 0);
	ram_destroy(&ram);
}

Test(multiboot, modules)
{
	struct rig_elf e = multiboot_elf();
	struct blob image = rig_elf(&e), one = noise(5000), two = noise(4096), none = {NULL, 0};
	struct rig_path path = rig_file(image.p, image.n), p1 = rig_file(one.p, one.n),
			p2 = rig_file(two.p, two.n), p3 = rig_file("", none.n);
	char list[256], want[3][96];
	struct boot_config cfg = {.kernel = path.s, .initrd = list};
	struct ram ram = rig_ram(16 * MIB);

	snprintf(list, sizeof(list), "%s x=1,,2 y,  %s,%s last,", p1.s, p2.s, p3.s);
	snprintf(want[0], sizeof(want[0]), "%s x=1,2 y", p1.s);
	snprintf(want[1], sizeof(want[1]), "%s", p2.s);
	snprintf(want[2], sizeof(want[2]), "%s last", p3.s);
	struct boot_state s = load_with(&ram, &cfg);
	cr_assert_eq(get32(&ram, s.rbx + 20), 3);
	u32 at = get32(&ram, s.rbx + 24);
	static const u32 starts[] = {0x104000, 0x106000, 0x107000};
	static const u32 sizes[] = {5000, 4096, 0};
	for (unsigned i = 0; i < 3; i++, at += 16) {
		cr_expect_eq(get32(&ram, at), starts[i]);
		cr_expect_eq(get32(&ram, at + 4), starts[i] + sizes[i]);
		cr_expect_str_eq(get_string(&ram, get32(&ram, at + 8)), want[i]);
		cr_expect_eq(get32(&ram, at + 12), 0);
	}
	cr_expect_eq(memcmp(ram.window + starts[0], one.p, one.n), 0);
	cr_expect_eq(memcmp(ram.window + starts[1], two.p, two.n), 0);
	ram_destroy(&ram);
}

Test(multiboot, elf64_and_video_flag)
{
	struct rig_elf e = multiboot_elf();
	struct ram ram = rig_ram(16 * MIB);

	e.is32 = false;
	e.mb_flags = 7;
	struct blob image = rig_elf(&e);
	struct boot_state s = load(&ram, &image);
	cr_expect_eq(s.kind, BOOT_PROT32);
	cr_expect_eq(s.rip, 0x100010);
	ram_destroy(&ram);
}

Test(multiboot, entry_points)
{
	struct rig_elf e = multiboot_elf();
	struct ram ram = rig_ram(16 * MIB);
	struct blob image;

	/* Virtual, in an executable segment. */
	e.seg[0].vaddr = 0xc0100000;
	e.entry = 0xc0100020;
	image = rig_elf(&e);
	cr_expect_eq(load(&ram, &image).rip, 0x100020);
	/* The same in one that is not: taken as it is. */
	e.seg[0].exec = false;
	image = rig_elf(&e);
	cr_expect_eq(load(&ram, &image).rip, 0xc0100020);
	/* In no segment. */
	e.entry = 0x500000;
	image = rig_elf(&e);
	cr_expect_eq(load(&ram, &image).rip, 0x500000);
	ram_destroy(&ram);
}

/* An image over all places where the information could lie below it. */
Test(multiboot, low_image)
{
	struct rig_elf e = multiboot_elf();
	struct ram ram = rig_ram(16 * MIB);
	struct boot_state s;
	struct blob image;

	e.entry = 0x8000;
	e.seg[0] = (struct rig_seg){0x8000, 0x8000, 0x1800, 0x1800, 0x44, 1};
	image = rig_elf(&e);
	s = load(&ram, &image);
	cr_expect_eq(s.rip, 0x8000);
	cr_expect(rig_filled(&ram, 0x8000, 0x1800, 0x44));
	cr_expect_eq(s.rbx, 0xa000);

	e.seg[0].filesz = e.seg[0].memsz = 0x9fc00 - 0x8000;
	image = rig_elf(&e);
	s = load(&ram, &image);
	cr_expect(rig_filled(&ram, 0x8000, 0x9fc00 - 0x8000, 0x44));
	cr_expect_eq(s.rbx, MIB);
	ram_destroy(&ram);
}

struct aout {
	u32 header_addr, load_addr, load_end, bss_end, entry;
};

static struct blob aout_image(u32 at, const struct aout *a, size_t size)
{
	struct blob b = rig_alloc(size);

	memset(b.p, 0x55, size);
	rig_put_multiboot(b.p + at, 0x10003);
	memcpy(b.p + at + 12, a, sizeof(*a));
	return b;
}

Test(multiboot, aout)
{
	struct aout a = {0x200040, 0x200000, 0x203000, 0x205000, 0x200800};
	struct ram ram = rig_ram(16 * MIB);
	/* The header is 0x40 behind load_addr, so loading begins at offset 0x1000. */
	struct blob image = aout_image(0x1040, &a, 0x5000);
	struct boot_state s = load(&ram, &image);

	cr_expect_eq(s.rip, 0x200800);
	cr_expect_eq(memcmp(ram.window + 0x200000, image.p + 0x1000, 0x3000), 0);
	cr_expect(rig_filled(&ram, 0x203000, 0x2000, 0));
	cr_expect(rig_filled(&ram, 0x205000, 16, 0xee));

	/* No load_end: all of the file. No bss_end: no bss. */
	a.load_end = a.bss_end = 0;
	image = aout_image(0x1040, &a, 0x5000);
	s = load(&ram, &image);
	cr_expect_eq(memcmp(ram.window + 0x200000, image.p + 0x1000, 0x4000), 0);
	cr_expect(rig_filled(&ram, 0x204000, 16, 0xee));

	a = (struct aout){0x8000, 0x8000, 0, 0, 0x8020};
	image = aout_image(0, &a, 0x1000);
	s = load(&ram, &image);
	cr_expect_eq(s.rip, 0x8020);
	cr_expect_eq(get32(&ram, 0x8000), 0x1badb002);
	ram_destroy(&ram);
}

Test(multiboot, header_at_the_last_place)
{
	struct aout a = {0x200000 + 8192 - 32, 0x200000, 0, 0, 0x200000};
	struct blob image = aout_image(8192 - 32, &a, 0x3000);
	struct ram ram = rig_ram(16 * MIB);

	cr_expect_eq(load(&ram, &image).rip, 0x200000);
	ram_destroy(&ram);
}

/* --- the front --- */

Test(loader, order)
{
	struct rig_elf e = pvh_elf();
	struct ram ram = rig_ram(64 * MIB);
	struct blob image;

	e.multiboot = true;
	image = rig_elf(&e);
	cr_expect_eq(load(&ram, &image).rax, 0x2badb002, "multiboot before PVH");

	struct blob vmlinux = rig_vmlinux();
	image = rig_bzimage(rig_header(), &vmlinux);
	rig_put_multiboot(image.p + 0x300, 3);
	cr_expect_eq(load(&ram, &image).rax, 0, "bzImage before multiboot");
	ram_destroy(&ram);
}

/* What a shell's <(...) gives. */
static struct rig_path pipe_with(const struct blob *b)
{
	struct rig_path path;
	int fd[2];

	cr_assert_eq(pipe(fd), 0);
	if (fork() == 0) {
		close(fd[0]);
		_exit(write(fd[1], b->p, b->n) != (ssize_t)b->n);
	}
	close(fd[1]);
	snprintf(path.s, sizeof(path.s), "/proc/self/fd/%d", fd[0]);
	return path;
}

Test(loader, pipes)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux),
		    disk = noise(300000);
	struct rig_path path = pipe_with(&image), disk_path = pipe_with(&disk);
	struct boot_config cfg = {.kernel = path.s, .initrd = disk_path.s};
	struct ram ram = rig_ram(64 * MIB);
	struct boot_state s = load_with(&ram, &cfg);
	struct boot_params bp = get_params(&ram, &s);

	expect_vmlinux(&ram);
	cr_assert_eq(bp.hdr.ramdisk_size, disk.n);
	cr_expect_eq(memcmp(ram.window + bp.hdr.ramdisk_image, disk.p, disk.n), 0);
	ram_destroy(&ram);
}

static void count_write(void *opaque, gpa_t gpa, u64 len)
{
	(void)gpa;
	(void)len;
	++*(unsigned *)opaque;
}

/* Loading again, after a reset, over pages that hold decoded code. */
Test(loader, reports_writes_to_code)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct ram ram = rig_ram(64 * MIB);
	unsigned writes = 0;

	ram.code_written = count_write;
	ram.code_opaque = &writes;
	ram.code[0x1000000 >> 12] = 1; /* text */
	ram.code[0x1118000 >> 12] = 1; /* bss */
	ram.code[0x3000000 >> 12] = 1; /* nothing there */
	load(&ram, &image);
	cr_expect_eq(writes, 2);
	ram_destroy(&ram);
}

/* --- processor state --- */

static struct cpu *make_cpu(struct ram *ram)
{
	static alignas(64) struct cpu cpu;
	static struct stats stats;

	cpu.stats = &stats;
	cpu.maxphyaddr = 40;
	mmu_init(&cpu.mmu, ram, &stats, 40);
	cpu_reset(&cpu);
	return &cpu;
}

static void expect_flat(const struct seg_reg *s, u16 sel, u32 attr)
{
	cr_expect_eq(s->base, 0);
	cr_expect_eq(s->limit, 0xffffffff);
	cr_expect_eq(s->sel, sel);
	cr_expect_eq(s->attr, attr);
}

Test(boot_apply, long64)
{
	struct blob vmlinux = rig_vmlinux(), image = rig_bzimage(rig_header(), &vmlinux);
	struct ram ram = rig_ram(64 * MIB);
	struct boot_state s = load(&ram, &image);
	struct cpu *c = make_cpu(&ram);
	struct walk w;

	boot_apply(c, &s);
	cr_expect_eq(c->rip, 0x1000040);
	cr_expect_eq(c->gpr[GPR_RSI], s.rsi);
	cr_expect_eq(c->gpr[GPR_RDX], 0);
	cr_expect_eq(cpu_rflags(c), 2);
	cr_expect_eq(c->mode, INSN_MODE_64);
	cr_expect_eq(c->cpl, 0);
	cr_expect(cpu_long_mode(c));
	cr_expect_eq(c->cr0, CR0_PG | CR0_PE | CR0_ET);
	cr_expect_eq(c->cr4, CR4_PAE);
	expect_flat(&c->seg[SEG_CS], 0x10, 0xa09b);
	expect_flat(&c->seg[SEG_SS], 0x18, 0xc093);
	expect_flat(&c->seg[SEG_GS], 0x18, 0xc093);
	cr_expect_eq(c->gdtr.base, s.gdt);
	cr_expect_eq(c->gdtr.limit, s.gdt_limit);
	cr_assert_eq(mmu_probe(&ram, &c->mmu.pg, c->rip, MMU_EXEC, false, &w), 0);
	cr_expect_eq(w.gpa, 0x1000040);
	ram_destroy(&ram);
}

Test(boot_apply, prot32)
{
	struct rig_elf e = multiboot_elf();
	struct blob image = rig_elf(&e);
	struct ram ram = rig_ram(16 * MIB);
	struct boot_state s = load(&ram, &image);
	struct cpu *c = make_cpu(&ram);

	boot_apply(c, &s);
	cr_expect_eq(c->rip, 0x100010);
	cr_expect_eq(c->gpr[GPR_RAX], 0x2badb002);
	cr_expect_eq(c->gpr[GPR_RBX], s.rbx);
	cr_expect_eq(cpu_rflags(c), 2);
	cr_expect_eq(c->mode, INSN_MODE_32);
	cr_expect_eq(c->cr0, CR0_PE | CR0_ET);
	cr_expect_eq(c->cr4, 0);
	cr_expect_eq(c->efer, 0);
	expect_flat(&c->seg[SEG_CS], 0x08, 0xc09b);
	expect_flat(&c->seg[SEG_DS], 0x10, 0xc093);
	cr_expect_eq(c->mmu.pg.cr0, c->cr0);
	ram_destroy(&ram);
}
