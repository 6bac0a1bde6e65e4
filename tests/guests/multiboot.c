/*
 * What a multiboot 1 loader hands over: state of the processor, memory sizes and map, command line,
 * modules. Multiboot specification 0.6.96, 3.2 and 3.3.
 */
#include "lib.h"

struct mbi {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	u32 mmap_length, mmap_addr, drives_length, drives_addr, config, loader_name;
};
struct module {
	u32 start, end, string, reserved;
};
struct range {
	u32 size;
	u64 base, length;
	u32 type;
} __attribute__((packed));

#define RAM (64ull << 20)

/* Of a path its last component: where a file lies is the runner's business. */
static const char *without_folder(const char *s)
{
	const char *name = s;

	for (; *s && *s != ' '; s++)
		if (*s == '/')
			name = s + 1;
	return name;
}

static void show_modules(const struct mbi *info)
{
	const struct module *m = (const struct module *)info->mods_addr;
	u32 i, last_end = 0;

	say_dec("modules", info->mods_count);
	for (i = 0; i < info->mods_count; i++) {
		say_str("module", without_folder((const char *)m[i].string));
		say_dec("  bytes", m[i].end - m[i].start);
		say("  sum", checksum((void *)m[i].start, m[i].end - m[i].start));
		check("  on a page", !(m[i].start & 0xfff));
		check("  behind the image and its predecessor",
		      m[i].start >= (u32)image_end && m[i].start >= last_end);
		check("  in RAM", m[i].end <= RAM);
		last_end = m[i].end;
	}
}

/* RAM and nothing else in [base, end) ? */
static bool is_ram(const struct mbi *info, u64 base, u64 end)
{
	const u8 *p = (const u8 *)info->mmap_addr, *stop = p + info->mmap_length;

	while (p < stop) {
		const struct range *r = (const struct range *)p;

		if (r->type == 1 && r->base <= base && r->base + r->length >= end)
			return true;
		p += r->size + 4;
	}
	return false;
}

/* Does any range of RAM touch [base, end) ? */
static bool touches_ram(const struct mbi *info, u64 base, u64 end)
{
	const u8 *p = (const u8 *)info->mmap_addr, *stop = p + info->mmap_length;

	while (p < stop) {
		const struct range *r = (const struct range *)p;

		if (r->type == 1 && r->base < end && r->base + r->length > base)
			return true;
		p += r->size + 4;
	}
	return false;
}

static void show_map(const struct mbi *info)
{
	const u8 *p = (const u8 *)info->mmap_addr, *stop = p + info->mmap_length;
	bool sane = info->mmap_length >= 24;
	u64 end = 0;

	while (p < stop) {
		const struct range *r = (const struct range *)p;

		sane &= r->size >= 20 && r->length && r->base >= end;
		end = r->base + r->length;
		p += r->size + 4;
	}
	check("map sorted, without overlap", sane && p == stop);
	check("conventional memory", is_ram(info, 0x1000, 0x9f000));
	check("no RAM in the hole", !touches_ram(info, 0xa0000, 0x100000));
	check("extended memory", is_ram(info, 0x100000, RAM - 0x40000));
	check("no RAM beyond", !touches_ram(info, RAM, ~0ull));
}

/* Addresses a megabyte apart are not the same. */
static bool a20_open(void)
{
	volatile u32 *low = (u32 *)0x5000, *high = (u32 *)0x105000;
	u32 was = *high;
	bool differ;

	*low = was + 1;
	differ = *high == was;
	*high = was;
	return differ;
}

void guest_main(void)
{
	const struct mbi *info = (const struct mbi *)boot_info;

	say("magic", boot_magic);
	check("cr0: PE, no PG", (read_cr0() & 0x80000001) == 1);
	check("a20", a20_open());
	check("memory sizes present", info->flags & 1);
	check("mem_lower", info->mem_lower >= 600 && info->mem_lower <= 640);
	check("mem_upper", info->mem_upper >= 62 * 1024 && info->mem_upper <= 63 * 1024);
	check("command line present", info->flags & 4);
	say_str("command line", without_folder((const char *)info->cmdline));
	check("modules present", info->flags & 8);
	show_modules(info);
	check("map present", info->flags & 0x40);
	show_map(info);
}
