/*
 * What the loaders share: the job at hand, files, error lines, places in guest RAM, ELF images.
 * Private to loader.c and load_*.c.
 */
#ifndef RINGSHIFT_LOAD_H
#define RINGSHIFT_LOAD_H

#include <string.h>

#include "loader.h"

#define LOAD_BASE_END     0x9fc00ull /* end of base memory; the EBDA follows */
#define LOAD_ROM_START    0xe0000ull /* to 1 MiB: ACPI tables */
#define LOAD_MAX_SEGMENTS 64
#define LOAD_MAX_MODULES  64
#define LOAD_MAX_TAKEN    (LOAD_MAX_SEGMENTS + LOAD_MAX_MODULES + 8)
#define LOAD_MAX_CMDLINE  (64 * KIB)
#define LOAD_MAX_FILE     GIB /* of a kernel */

struct span {
	gpa_t start, end;
};

/* Memory of our own, while loading. */
struct load_buffer {
	u8 *bytes;
	void *map;
	u64 map_len;
};

/* Each buffer has a fixed place in lowland; at most one of each at a time. */
enum load_slot { LOAD_SLOT_KERNEL, LOAD_SLOT_UNPACKED, LOAD_SLOT_INITRD };

/* A file to load. Regular files are read where they are needed, others (pipes) at once. */
struct load_file {
	const char *path;
	int fd;
	u64 size;
	enum load_slot slot;
	struct load_buffer buf; /* the contents, if they have been read */
};

struct load {
	struct ram *ram;
	const struct boot_config *cfg;
	const char *cmdline; /* never NULL */
	struct load_file kernel;
	struct span taken[LOAD_MAX_TAKEN];
	unsigned n_taken;
	char *err;
	size_t errlen;
};

/* Put "path: text" into the error line (control characters replaced); returns error. */
int load_fail(struct load *l, const char *path, int error, const char *fmt, ...) PRINTF(4, 5);

/* --- files; errors are reported --- */

/* -ENOMEM if there is no room. The bytes are zero and end (but for alignment) at a guard page. */
MUST_CHECK int load_buffer_alloc(struct load_buffer *b, enum load_slot slot, u64 size);
void load_buffer_free(struct load_buffer *b);

/* At most limit bytes. After a failure there is nothing to close. */
MUST_CHECK int load_file_open(struct load *l, struct load_file *f, const char *path,
			      enum load_slot slot, u64 limit);
/* Have the contents in f->buf. */
MUST_CHECK int load_file_slurp(struct load *l, struct load_file *f);
/* Read the contents to guest RAM, at a place that has been taken. */
MUST_CHECK int load_file_copy(struct load *l, struct load_file *f, gpa_t to);
void load_file_close(struct load_file *f);

/* --- places in RAM --- */

enum load_mem_type { LOAD_MEM_RAM = 1, LOAD_MEM_RESERVED = 2 };

struct load_mem {
	u64 start, size;
	enum load_mem_type type;
};
#define LOAD_MEM_MAX 6
/* The memory map for the guest, ascending; the types are E820's. Number of entries. */
unsigned load_mem_map(const struct ram *ram, struct load_mem map[LOAD_MEM_MAX]);

/* Take [start, start + len), free RAM. -EFAULT: not all of it is usable RAM; -EEXIST: taken. */
MUST_CHECK int load_take(struct load *l, gpa_t start, u64 len);
/* The same, but it may overlap what is taken already. */
MUST_CHECK int load_take_over(struct load *l, gpa_t start, u64 len);
/* Take the highest (lowest) free place of len bytes within [floor, ceiling). Its address, or 0. */
MUST_CHECK gpa_t load_take_high(struct load *l, u64 len, u64 align, gpa_t floor, gpa_t ceiling);
MUST_CHECK gpa_t load_take_low(struct load *l, u64 len, u64 align, gpa_t floor, gpa_t ceiling);
/* Room for len bytes that a protocol hands over, from floor upwards: usually in base memory.
 * Cleared; its host address in *host. */
MUST_CHECK int load_take_info(struct load *l, u64 len, gpa_t floor, gpa_t *gpa, u8 **host);
/* Host address of a place that has been taken. */
u8 *load_host(struct load *l, gpa_t gpa, u64 len);

/* Load the initial RAM disk as high as possible below ceiling. */
MUST_CHECK int load_initrd(struct load *l, gpa_t ceiling, struct span *out);

/* --- descriptor tables --- */

#define LOAD_GDT_SIZE 32
#define LOAD_CS_LINUX 0x10 /* __BOOT_CS */
#define LOAD_CS_OTHER 0x08 /* left open by multiboot and PVH; QEMU's choice */
/* Write a GDT with the code segment cs (64-bit or 32-bit, by s->kind) and the data segment cs + 8
 * to at, which is guest address gdt, and enter it in s. */
void load_write_gdt(struct boot_state *s, u8 *at, gpa_t gdt, u16 cs);

/* --- ELF (load_elf.c) --- */

struct elf_segment {
	u64 offset, filesz, memsz;
	u64 paddr, vaddr;
	bool exec;
};

struct elf_image {
	u8 *bytes;
	u64 size;
	bool is64;
	u64 entry; /* physical: see elf_image_read */
	struct elf_segment seg[LOAD_MAX_SEGMENTS];
	unsigned n_seg;
	gpa_t start, end; /* first and last physical address (exclusive) */
	bool pvh;
	u32 pvh_entry;
};

static inline bool elf_has_magic(const u8 *bytes, u64 size)
{
	return size >= 4 && !memcmp(bytes, "\177ELF", 4);
}

/*
 * Parse an x86 ELF executable and check that its segments are well formed. what: how to name it in
 * an error line. An entry point that is a virtual address in an executable segment is turned into
 * the physical one, as QEMU does.
 */
MUST_CHECK int elf_image_read(struct load *l, const char *what, u8 *bytes, u64 size,
			      struct elf_image *img);
/* Take the places of all segments and fill them. */
MUST_CHECK int elf_image_load(struct load *l, const char *what, const struct elf_image *img);
/* Does a segment hold this physical address? */
bool elf_image_contains(const struct elf_image *img, u64 paddr);

/* --- the loaders: the kernel file is in l->kernel.buf --- */

bool bzimage_probe(const struct load *l);
MUST_CHECK int bzimage_load(struct load *l, struct boot_state *out);
/* Offset of the header, or -1. */
int multiboot_probe(const struct load *l);
MUST_CHECK int multiboot_load(struct load *l, struct boot_state *out);
MUST_CHECK int pvh_load(struct load *l, const struct elf_image *img, struct boot_state *out);

/* --- little-endian fields --- */

static inline u16 get16(const u8 *p)
{
	u16 v;

	memcpy(&v, p, sizeof(v));
	return v;
}
static inline u32 get32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, sizeof(v));
	return v;
}
static inline void put32(u8 *p, u32 v)
{
	memcpy(p, &v, sizeof(v));
}
static inline void put64(u8 *p, u64 v)
{
	memcpy(p, &v, sizeof(v));
}

#endif
