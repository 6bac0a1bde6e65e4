/*
 * ELF images: what all loaders of ELF share, and the PVH protocol, in which a note names a 32-bit
 * entry point (Xen, docs/misc/pvh.pandoc; public/elfnote.h, public/arch-x86/hvm/start_info.h).
 *
 * libelf takes the headers apart; the sizes in them are checked here. Notes are walked by hand, for
 * libelf's walker wants sections or a copy.
 */
#include <errno.h>
#include <gelf.h>

#include "load.h"

#define NOTE_XEN_PHYS32_ENTRY 18

#define INFO_START       0x9000ull
#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_SIZE  56 /* version 1 */
#define START_MOD_SIZE   32
#define START_MEM_SIZE   24
/* Of 32-bit kernels: the end of what they map at first. */
#define INITRD_MAX_32 0x38000000ull

/* --- images --- */

bool elf_image_contains(const struct elf_image *img, u64 paddr)
{
	for (unsigned i = 0; i < img->n_seg; i++)
		if (paddr >= img->seg[i].paddr && paddr - img->seg[i].paddr < img->seg[i].memsz)
			return true;
	return false;
}

/* The descriptor is the physical address in 4 or 8 bytes. */
static void read_notes(struct elf_image *img, const GElf_Phdr *ph)
{
	const u8 *p = img->bytes + ph->p_offset;
	u64 left = ph->p_filesz;
	u64 align = ph->p_align == 8 ? 8 : 4;

	while (left >= 12) {
		u64 name = get32(p), desc = get32(p + 4);
		u64 desc_at = 12 + ALIGN_UP(name, align);
		u64 next = desc_at + ALIGN_UP(desc, align);

		if (desc_at + desc > left)
			return;
		if (get32(p + 8) == NOTE_XEN_PHYS32_ENTRY && name == 4 &&
		    !memcmp(p + 12, "Xen", 4) && (desc == 4 || desc == 8)) {
			img->pvh = true;
			img->pvh_entry = get32(p + desc_at);
			return;
		}
		if (next > left)
			return;
		p += next;
		left -= next;
	}
}

static int add_segment(struct load *l, const char *what, struct elf_image *img, const GElf_Phdr *ph,
		       unsigned index)
{
	struct elf_segment *s = &img->seg[img->n_seg];

	if (ph->p_filesz > ph->p_memsz)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "%s: segment %u is larger in the file than in memory", what,
				 index);
	if (ph->p_paddr + ph->p_memsz < ph->p_paddr)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "%s: segment %u goes beyond the end of the address space", what,
				 index);
	if (img->n_seg == LOAD_MAX_SEGMENTS)
		return load_fail(l, l->kernel.path, -ENOEXEC, "%s: more than %d segments", what,
				 LOAD_MAX_SEGMENTS);
	*s = (struct elf_segment){ph->p_offset, ph->p_filesz, ph->p_memsz,
				  ph->p_paddr,  ph->p_vaddr,  ph->p_flags & PF_X};
	if (!img->n_seg || s->paddr < img->start)
		img->start = s->paddr;
	img->end = MAX(img->end, s->paddr + s->memsz);
	img->n_seg++;
	return 0;
}

static int read_segments(struct load *l, const char *what, Elf *elf, struct elf_image *img)
{
	size_t count;

	if (elf_getphdrnum(elf, &count))
		return load_fail(l, l->kernel.path, -ENOEXEC, "%s: damaged ELF header", what);
	for (size_t i = 0; i < count; i++) {
		GElf_Phdr ph;
		int r;

		if (i > UINT16_MAX || !gelf_getphdr(elf, (int)i, &ph))
			return load_fail(l, l->kernel.path, -ENOEXEC,
					 "%s: the program headers are not all in the file", what);
		if (ph.p_type != PT_LOAD && ph.p_type != PT_NOTE)
			continue;
		if (!ph.p_filesz)
			ph.p_offset = 0;
		if (ph.p_offset > img->size || ph.p_filesz > img->size - ph.p_offset)
			return load_fail(l, l->kernel.path, -ENOEXEC,
					 "%s: cut short: segment %zu is not all in the file", what,
					 i);
		if (ph.p_type == PT_NOTE) {
			read_notes(img, &ph);
		} else if (ph.p_memsz) {
			r = add_segment(l, what, img, &ph, (unsigned)i);
			if (r)
				return r;
		}
	}
	if (!img->n_seg)
		return load_fail(l, l->kernel.path, -ENOEXEC, "%s: no segment to load", what);
	return 0;
}

static int read_header(struct load *l, const char *what, Elf *elf, struct elf_image *img)
{
	GElf_Ehdr eh;

	if (elf_kind(elf) != ELF_K_ELF || !gelf_getehdr(elf, &eh))
		return load_fail(l, l->kernel.path, -ENOEXEC, "%s: damaged ELF header", what);
	if (eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    (eh.e_machine != EM_386 && eh.e_machine != EM_X86_64))
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "%s: an ELF file, but not for x86 (machine %u)", what,
				 eh.e_machine);
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "%s: an ELF file, but not an executable one (type %u)", what,
				 eh.e_type);
	img->is64 = eh.e_ident[EI_CLASS] == ELFCLASS64;
	img->entry = eh.e_entry;
	return read_segments(l, what, elf, img);
}

int elf_image_read(struct load *l, const char *what, u8 *bytes, u64 size, struct elf_image *img)
{
	Elf *elf;
	u64 virt;
	int r;

	*img = (struct elf_image){.bytes = bytes, .size = size};
	elf_version(EV_CURRENT);
	elf = elf_memory((char *)bytes, size);
	if (!elf)
		return load_fail(l, l->kernel.path, -ENOEXEC, "%s: damaged ELF header", what);
	r = read_header(l, what, elf, img);
	elf_end(elf);
	if (r)
		return r;
	virt = img->entry;
	for (unsigned i = 0; i < img->n_seg; i++) {
		const struct elf_segment *s = &img->seg[i];

		if (s->exec && s->vaddr != s->paddr && virt >= s->vaddr &&
		    virt - s->vaddr < s->filesz)
			img->entry = virt - s->vaddr + s->paddr;
	}
	return 0;
}

int elf_image_load(struct load *l, const char *what, const struct elf_image *img)
{
	for (unsigned i = 0; i < img->n_seg; i++) {
		const struct elf_segment *s = &img->seg[i];
		int r = load_take(l, s->paddr, s->memsz);

		if (r == -EEXIST)
			return load_fail(l, l->kernel.path, -ENOEXEC,
					 "%s: segments overlap at physical address %#llx", what,
					 (unsigned long long)s->paddr);
		if (r)
			return load_fail(l, l->kernel.path, -ENOSPC,
					 "%s: a segment of %llu KiB at physical address %#llx does "
					 "not fit into %llu MiB of RAM",
					 what, (unsigned long long)((s->memsz + KIB - 1) / KIB),
					 (unsigned long long)s->paddr,
					 (unsigned long long)(l->ram->size / MIB));
	}
	for (unsigned i = 0; i < img->n_seg; i++) {
		const struct elf_segment *s = &img->seg[i];
		u8 *to = load_host(l, s->paddr, s->memsz);

		memcpy(to, img->bytes + s->offset, s->filesz);
		memset(to + s->filesz, 0, s->memsz - s->filesz);
	}
	return 0;
}

/* --- PVH --- */

static void write_start_info(const struct load *l, u8 *at, gpa_t gpa, u64 cmdline_at,
			     const struct span *initrd)
{
	struct load_mem map[LOAD_MEM_MAX];
	unsigned n = load_mem_map(l->ram, map);
	u64 mods = START_INFO_SIZE, mem = mods + START_MOD_SIZE;
	bool has_mod = initrd->end > initrd->start;

	put32(at, START_INFO_MAGIC);
	put32(at + 4, 1); /* version */
	put32(at + 12, has_mod);
	put64(at + 16, has_mod ? gpa + mods : 0);
	put64(at + 24, gpa + cmdline_at);
	put64(at + 32, l->cfg->rsdp);
	put64(at + 40, gpa + mem);
	put32(at + 48, n);
	if (has_mod) {
		put64(at + mods, initrd->start);
		put64(at + mods + 8, initrd->end - initrd->start);
	}
	for (unsigned i = 0; i < n; i++) {
		u8 *e = at + mem + i * START_MEM_SIZE;

		put64(e, map[i].start);
		put64(e + 8, map[i].size);
		put32(e + 16, map[i].type);
	}
	memcpy(at + cmdline_at, l->cmdline, strlen(l->cmdline) + 1);
}

int pvh_load(struct load *l, const struct elf_image *img, struct boot_state *out)
{
	const u64 gdt_at = START_INFO_SIZE + START_MOD_SIZE + LOAD_MEM_MAX * START_MEM_SIZE;
	const u64 cmdline_at = gdt_at + LOAD_GDT_SIZE;
	struct span initrd;
	gpa_t gpa;
	u8 *host;
	int r;

	if (strlen(l->cmdline) >= LOAD_MAX_CMDLINE)
		return load_fail(l, l->kernel.path, -E2BIG,
				 "the command line is longer than %llu bytes",
				 LOAD_MAX_CMDLINE - 1);
	if (!elf_image_contains(img, img->pvh_entry))
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "the PVH entry point %#x lies in no segment", img->pvh_entry);
	r = elf_image_load(l, "ELF", img);
	if (r)
		return r;
	r = load_initrd(l, img->is64 ? l->ram->low_end : INITRD_MAX_32, &initrd);
	if (r)
		return r;
	r = load_take_info(l, cmdline_at + strlen(l->cmdline) + 1, INFO_START, &gpa, &host);
	if (r)
		return r;
	*out = (struct boot_state){.kind = BOOT_PROT32, .rip = img->pvh_entry, .rbx = gpa};
	load_write_gdt(out, host + gdt_at, gpa + gdt_at, LOAD_CS_OTHER);
	write_start_info(l, host, gpa, cmdline_at, &initrd);
	return 0;
}
