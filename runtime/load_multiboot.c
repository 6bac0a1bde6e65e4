/*
 * Multiboot 1 images, as QEMU's -kernel takes them (Multiboot Specification 0.6.96):
 *
 *   - ELF, or the a.out kludge if header flag 16 is set; segments may lie as low as RAM goes;
 *     ELF64 is entered in 32-bit state, too;
 *   - the command line begins with the file name of the image;
 *   - -initrd "a args,b args" gives modules, each with its string; ",," is a comma in one;
 *   - the video mode that an image may ask for (flag 2) is not set, and the flag not refused.
 *
 * Modules follow the kernel, page by page. The information structure lies at 0x9000 if the kernel
 * leaves that free, in one piece:
 *
 *	0x000  information structure      0x070  "ringshift"      0x080  GDT
 *	0x0a0  memory map                 0x140  module list
 *	then   command line and the modules' strings
 */
#include <errno.h>

#include "load.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_RANGE 8192u
#define HEADER_LEN   12u
#define HEADER_AOUT  32u /* with the address fields */
#define FLAG_AOUT    BIT(16)
#define FLAGS_UNKNOWN                                                                              \
	0xfff8u /* of those that must be understood: 0 page-align, 1 memory, 2 video */

#define ENTRY_MAGIC 0x2badb002u

#define MBI_FLAGS   (BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(6) | BIT(9))
#define BOOT_DEVICE 0x8000ffffu /* first BIOS disk, as QEMU says */

#define INFO_START 0x9000ull
#define NAME_AT    0x70u
#define GDT_AT     0x80u
#define MAP_AT     0xa0u
#define MAP_ENTRY  24u
#define MODS_AT    0x140u
#define MOD_ENTRY  16u
#define STRINGS_AT (MODS_AT + LOAD_MAX_MODULES * MOD_ENTRY)

_Static_assert(MAP_AT + LOAD_MEM_MAX * MAP_ENTRY <= MODS_AT, "memory map runs into module list");

struct module {
	gpa_t start, end;
	u64 string; /* offset in the strings */
};

struct modules {
	struct module mod[LOAD_MAX_MODULES];
	unsigned n;
	char *strings; /* all strings, each with its NUL: first the command line */
	u64 strings_len;
};

int multiboot_probe(const struct load *l)
{
	const u8 *p = l->kernel.buf.bytes;
	u64 end = MIN(l->kernel.size, HEADER_RANGE);

	for (u64 i = 0; i + HEADER_LEN <= end; i += 4)
		if (get32(p + i) == HEADER_MAGIC &&
		    get32(p + i) + get32(p + i + 4) + get32(p + i + 8) == 0)
			return (int)i;
	return -1;
}

/* --- the kernel --- */

static int bad_header(struct load *l, const char *what)
{
	return load_fail(l, l->kernel.path, -ENOEXEC, "multiboot: %s", what);
}

static int load_aout(struct load *l, u32 at, struct boot_state *out)
{
	const u8 *h = l->kernel.buf.bytes + at;
	u64 header, load, load_end, bss_end, offset, load_len;

	if (l->kernel.size - at < HEADER_AOUT)
		return bad_header(l, "the header is cut short");
	header = get32(h + 12);
	load = get32(h + 16);
	load_end = get32(h + 20);
	bss_end = get32(h + 24);
	if (header < load || header - load > at)
		return bad_header(l, "header_addr and load_addr do not fit the header's place");
	offset = at - (header - load);
	load_len = load_end ? load_end - load : l->kernel.size - offset;
	if (load_end && load_end < load)
		return bad_header(l, "load_end_addr lies before load_addr");
	if (load_len > l->kernel.size - offset)
		return bad_header(l, "cut short: the file ends before load_end_addr");
	if (!bss_end)
		bss_end = load + load_len;
	if (bss_end < load + load_len)
		return bad_header(l, "bss_end_addr lies before the end of the data");
	if (load_take(l, load, bss_end - load))
		return load_fail(l, l->kernel.path, -ENOSPC,
				 "multiboot: %llu KiB at %#llx do not fit into %llu MiB of RAM",
				 (unsigned long long)((bss_end - load + KIB - 1) / KIB),
				 (unsigned long long)load,
				 (unsigned long long)(l->ram->size / MIB));
	if (bss_end > load) {
		u8 *to = load_host(l, load, bss_end - load);

		memcpy(to, l->kernel.buf.bytes + offset, load_len);
		memset(to + load_len, 0, bss_end - load - load_len);
	}
	out->rip = get32(h + 28);
	return 0;
}

static int load_elf(struct load *l, struct boot_state *out)
{
	struct elf_image img;
	int r;

	if (!elf_has_magic(l->kernel.buf.bytes, l->kernel.size))
		return bad_header(l, "neither an ELF file nor load addresses in the header");
	r = elf_image_read(l, "multiboot", l->kernel.buf.bytes, l->kernel.size, &img);
	if (r)
		return r;
	if (img.entry > UINT32_MAX)
		return bad_header(l, "the entry point lies above 4 GiB");
	out->rip = img.entry;
	return elf_image_load(l, "multiboot", &img);
}

/* --- strings and modules --- */

/* Append parts, ended by NULL, and a NUL. */
static void add_string(struct modules *m, const char *a, const char *b, const char *c)
{
	const char *parts[] = {a, b, c};

	for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
		size_t n = strlen(parts[i]);

		memcpy(m->strings + m->strings_len, parts[i], n);
		m->strings_len += n;
	}
	m->strings[m->strings_len++] = 0;
}

/* Take one comma-separated item off *list, unescaped, without leading blanks, to item. */
static void next_item(const char **list, char *item)
{
	const char *p = *list + strspn(*list, " ");

	for (; *p; p++) {
		if (*p == ',' && *++p != ',')
			break;
		*item++ = *p;
	}
	*item = 0;
	*list = p;
}

static int load_module(struct load *l, struct modules *m, char *item, gpa_t floor)
{
	size_t name_len = strcspn(item, " ");
	struct module *mod = &m->mod[m->n];
	struct load_file f;
	int r;

	if (m->n == LOAD_MAX_MODULES)
		return load_fail(l, l->kernel.path, -E2BIG, "multiboot: more than %d modules",
				 LOAD_MAX_MODULES);
	mod->string = m->strings_len;
	add_string(m, item, "", "");
	item[name_len] = 0;
	if (!name_len)
		return load_fail(l, l->kernel.path, -EINVAL,
				 "multiboot: module %u has no file name", m->n + 1);
	r = load_file_open(l, &f, item, LOAD_SLOT_INITRD, l->ram->size);
	if (r)
		return r;
	mod->start = load_take_low(l, f.size, PAGE_SIZE, floor, l->ram->low_end);
	mod->end = mod->start + f.size;
	if (mod->start)
		r = load_file_copy(l, &f, mod->start);
	else
		r = load_fail(l, f.path, -ENOSPC,
			      "the module of %llu KiB does not fit behind the kernel into %llu MiB "
			      "of RAM",
			      (unsigned long long)((f.size + KIB - 1) / KIB),
			      (unsigned long long)(l->ram->size / MIB));
	load_file_close(&f);
	m->n++;
	return r;
}

/* Kernels take the memory behind themselves for free or for modules, so nothing goes below. */
static gpa_t end_of_kernel(const struct load *l)
{
	gpa_t end = MIB;

	for (unsigned i = 0; i < l->n_taken; i++)
		if (l->taken[i].end < RAM_HIGH_START)
			end = MAX(end, l->taken[i].end);
	return end;
}

static int load_modules(struct load *l, struct modules *m)
{
	const char *list = l->cfg->initrd;
	gpa_t floor = end_of_kernel(l);
	char *item;
	int r = 0;

	if (!list)
		return 0;
	item = malloc(strlen(list) + 1);
	if (!item)
		return load_fail(l, l->kernel.path, -ENOMEM, "out of memory");
	while (!r && *list) {
		next_item(&list, item);
		r = load_module(l, m, item, floor);
	}
	free(item);
	return r;
}

/* --- information structure --- */

static void write_info(const struct load *l, const struct modules *m, u8 *at, u32 gpa)
{
	struct load_mem map[LOAD_MEM_MAX];
	unsigned n = load_mem_map(l->ram, map);

	put32(at, MBI_FLAGS);
	put32(at + 4, LOAD_BASE_END / KIB);
	put32(at + 8, (u32)((l->ram->low_end - MIB) / KIB));
	put32(at + 12, BOOT_DEVICE);
	put32(at + 16, gpa + STRINGS_AT);
	put32(at + 20, m->n);
	put32(at + 24, gpa + MODS_AT);
	put32(at + 44, n * MAP_ENTRY);
	put32(at + 48, gpa + MAP_AT);
	put32(at + 64, gpa + NAME_AT);
	memcpy(at + NAME_AT, "ringshift", sizeof("ringshift"));
	for (unsigned i = 0; i < n; i++) {
		u8 *e = at + MAP_AT + i * MAP_ENTRY;

		put32(e, MAP_ENTRY - 4); /* the size field does not count itself */
		put64(e + 4, map[i].start);
		put64(e + 12, map[i].size);
		put32(e + 20, map[i].type);
	}
	for (unsigned i = 0; i < m->n; i++) {
		u8 *e = at + MODS_AT + i * MOD_ENTRY;

		put32(e, (u32)m->mod[i].start);
		put32(e + 4, (u32)m->mod[i].end);
		put32(e + 8, (u32)(gpa + STRINGS_AT + m->mod[i].string));
	}
	memcpy(at + STRINGS_AT, m->strings, m->strings_len);
}

static int hand_over(struct load *l, struct boot_state *out)
{
	const char *list = l->cfg->initrd ? l->cfg->initrd : "";
	struct modules m = {0};
	gpa_t gpa;
	u8 *host;
	int r;

	/* Unescaped, a module's string is not longer than its part of the list with the comma. */
	m.strings = malloc(strlen(l->kernel.path) + strlen(l->cmdline) + strlen(list) + 4);
	if (!m.strings)
		return load_fail(l, l->kernel.path, -ENOMEM, "out of memory");
	add_string(&m, l->kernel.path, " ", l->cmdline);
	r = load_modules(l, &m);
	if (!r)
		r = load_take_info(l, STRINGS_AT + m.strings_len, INFO_START, &gpa, &host);
	if (!r) {
		out->rbx = gpa;
		write_info(l, &m, host, (u32)gpa);
		load_write_gdt(out, host + GDT_AT, gpa + GDT_AT, LOAD_CS_OTHER);
	}
	free(m.strings);
	return r;
}

int multiboot_load(struct load *l, struct boot_state *out)
{
	u32 at = (u32)multiboot_probe(l);
	u32 flags = get32(l->kernel.buf.bytes + at + 4);
	int r;

	if (flags & FLAGS_UNKNOWN)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "multiboot: the header asks for unknown features (flags %#x)",
				 flags & FLAGS_UNKNOWN);
	*out = (struct boot_state){.kind = BOOT_PROT32, .rax = ENTRY_MAGIC};
	r = flags & FLAG_AOUT ? load_aout(l, at, out) : load_elf(l, out);
	return r ? r : hand_over(l, out);
}
