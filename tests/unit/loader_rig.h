/*
 * Images for the loader tests, built in memory: packed payloads, ELF files, bzImages; a memfd makes
 * a file of them. Blobs are not freed, since each test is a process, but kept in a list, lest they
 * count as leaked.
 */
#ifndef RINGSHIFT_LOADER_RIG_H
#define RINGSHIFT_LOADER_RIG_H

#include <asm/bootparam.h>
#include <criterion/criterion.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "loader.h"

struct blob {
	u8 *p;
	size_t n;
};

/* --- files --- */

struct rig_path {
	char s[32];
};

static inline struct rig_path rig_file(const void *bytes, size_t n)
{
	struct rig_path path;
	int fd = memfd_create("image", 0);

	cr_assert(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
	snprintf(path.s, sizeof(path.s), "/proc/self/fd/%d", fd);
	return path;
}

static inline void rig_file_close(const struct rig_path *path)
{
	close(atoi(path->s + strlen("/proc/self/fd/")));
}

/* --- packers --- */

enum rig_pack { PACK_RAW, PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_LZ4, PACK_ZSTD, PACK_COUNT };

struct rig_node {
	struct rig_node *next;
	u8 *p;
};

static inline struct blob rig_alloc(size_t n)
{
	static struct rig_node *all;
	struct rig_node *node = malloc(sizeof(*node));

	cr_assert(node);
	*node = (struct rig_node){all, calloc(1, n ? n : 1)};
	cr_assert(node->p);
	all = node;
	return (struct blob){node->p, n};
}

static inline size_t rig_lzma_run(lzma_stream *s, lzma_ret r, const u8 *in, size_t n,
				  struct blob *b)
{
	cr_assert(r == LZMA_OK);
	s->next_in = in;
	s->avail_in = n;
	s->next_out = b->p;
	s->avail_out = b->n;
	cr_assert(lzma_code(s, LZMA_FINISH) == LZMA_STREAM_END);
	n = s->total_out;
	lzma_end(s);
	return n;
}

static inline size_t rig_lz4(const u8 *in, size_t n, struct blob *b)
{
	size_t pos = 4, block;

	memcpy(b->p, "\x02\x21\x4c\x18", 4);
	for (; n; n -= block, in += block) {
		u32 packed;

		block = MIN(n, 8 * MIB);
		packed = (u32)LZ4_compress_default((const char *)in, (char *)b->p + pos + 4,
						   (int)block, (int)(b->n - pos - 4));
		cr_assert(packed);
		memcpy(b->p + pos, &packed, 4);
		pos += 4 + packed;
	}
	return pos;
}

static inline size_t rig_gzip(const u8 *in, size_t n, struct blob *b)
{
	z_stream z = {.next_in = (u8 *)in, .avail_in = (uInt)n, .next_out = b->p};

	z.avail_out = (uInt)b->n;
	cr_assert(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	cr_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
	n = z.total_out;
	deflateEnd(&z);
	return n;
}

/* Pack as Linux's build does: with the unpacked size behind, but for gzip and raw. */
static inline struct blob rig_pack(enum rig_pack kind, const u8 *in, size_t n)
{
	struct blob b = rig_alloc(n + n / 4 + 4096);
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_options_lzma opt;
	lzma_filter filters[] = {{LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &opt}, {0, NULL}};
	u32 size = (u32)n;

	filters[2].id = LZMA_VLI_UNKNOWN;
	cr_assert(!lzma_lzma_preset(&opt, 1));
	switch (kind) {
	case PACK_GZIP: b.n = rig_gzip(in, n, &b); return b;
	case PACK_XZ:
		b.n =
		    rig_lzma_run(&s, lzma_stream_encoder(&s, filters, LZMA_CHECK_CRC32), in, n, &b);
		break;
	case PACK_LZMA: b.n = rig_lzma_run(&s, lzma_alone_encoder(&s, &opt), in, n, &b); break;
	case PACK_LZ4: b.n = rig_lz4(in, n, &b); break;
	case PACK_ZSTD: b.n = ZSTD_compress(b.p, b.n, in, n, 3); break;
	default:
		memcpy(b.p, in, n);
		b.n = n;
		return b;
	}
	memcpy(b.p + b.n, &size, 4);
	b.n += 4;
	return b;
}

/* --- ELF --- */

struct rig_seg {
	u64 paddr, vaddr, filesz, memsz;
	u8 fill; /* the bytes in the file */
	bool exec;
};

struct rig_elf {
	bool is32;
	u16 machine; /* 0: what belongs to the class */
	u64 entry;
	struct rig_seg seg[4];
	unsigned n_seg;
	u64 note;          /* PVH entry, 0: no note */
	unsigned note_len; /* of its descriptor; 0: 4 */
	bool multiboot;    /* a header behind the ELF headers */
	u32 mb_flags;
};

#define RIG_ELF_DATA 0x400 /* offset of the first segment's bytes */

static inline void rig_put_phdr(const struct rig_elf *e, u8 *at, Elf64_Phdr ph)
{
	if (!e->is32) {
		memcpy(at, &ph, sizeof(ph));
	} else {
		Elf32_Phdr p32 = {.p_type = ph.p_type,
				  .p_offset = (u32)ph.p_offset,
				  .p_vaddr = (u32)ph.p_vaddr,
				  .p_paddr = (u32)ph.p_paddr,
				  .p_filesz = (u32)ph.p_filesz,
				  .p_memsz = (u32)ph.p_memsz,
				  .p_flags = ph.p_flags};

		memcpy(at, &p32, sizeof(p32));
	}
}

static inline void rig_put_ehdr(const struct rig_elf *e, u8 *at, unsigned n)
{
	u8 ident[EI_NIDENT] = {0x7f, 'E', 'L', 'F', e->is32 ? 1 : 2, 1, 1};
	Elf64_Ehdr h64 = {.e_type = ET_EXEC,
			  .e_machine = e->machine ? e->machine : EM_X86_64,
			  .e_version = 1,
			  .e_entry = e->entry,
			  .e_phoff = 64,
			  .e_ehsize = 64,
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = (u16)n};
	Elf32_Ehdr h32 = {.e_type = ET_EXEC,
			  .e_machine = e->machine ? e->machine : EM_386,
			  .e_version = 1,
			  .e_entry = (u32)e->entry,
			  .e_phoff = 64,
			  .e_ehsize = 52,
			  .e_phentsize = sizeof(Elf32_Phdr),
			  .e_phnum = (u16)n};

	memcpy(h64.e_ident, ident, sizeof(ident));
	memcpy(h32.e_ident, ident, sizeof(ident));
	if (e->is32)
		memcpy(at, &h32, sizeof(h32));
	else
		memcpy(at, &h64, sizeof(h64));
}

static inline void rig_put_multiboot(u8 *at, u32 flags)
{
	u32 h[3] = {0x1badb002, flags, 0u - 0x1badb002u - flags};

	memcpy(at, h, sizeof(h));
}

static inline struct blob rig_elf(const struct rig_elf *e)
{
	size_t size = RIG_ELF_DATA, at = RIG_ELF_DATA;
	size_t step = e->is32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);
	unsigned desc = e->note_len ? e->note_len : 4;
	u32 note[6] = {4, desc, 18, 0x6e6558 /* "Xen" */};
	struct blob b;

	for (unsigned i = 0; i < e->n_seg; i++)
		size += e->seg[i].filesz;
	b = rig_alloc(size);
	rig_put_ehdr(e, b.p, e->n_seg + !!e->note);
	for (unsigned i = 0; i < e->n_seg; i++) {
		const struct rig_seg *s = &e->seg[i];

		rig_put_phdr(e, b.p + 64 + i * step,
			     (Elf64_Phdr){.p_type = PT_LOAD,
					  .p_flags = PF_R | (s->exec ? PF_X : 0),
					  .p_offset = at,
					  .p_vaddr = s->vaddr,
					  .p_paddr = s->paddr,
					  .p_filesz = s->filesz,
					  .p_memsz = s->memsz});
		memset(b.p + at, s->fill, s->filesz);
		at += s->filesz;
	}
	if (e->note) {
		memcpy(note + 4, &e->note, 8);
		memcpy(b.p + 0x300, note, sizeof(note));
		rig_put_phdr(e, b.p + 64 + e->n_seg * step,
			     (Elf64_Phdr){.p_type = PT_NOTE,
					  .p_offset = 0x300,
					  .p_filesz = 16 + desc,
					  .p_memsz = 16 + desc});
	}
	if (e->multiboot)
		rig_put_multiboot(b.p + 0x380, e->mb_flags);
	return b;
}

/* --- bzImage --- */

/* A header as a current x86-64 kernel has it; tests change what they are about. */
static inline struct setup_header rig_header(void)
{
	return (struct setup_header){.setup_sects = 1,
				     .boot_flag = 0xaa55,
				     .jump = 0x6aeb,
				     .header = 0x53726448,
				     .version = 0x20f,
				     .loadflags = LOADED_HIGH,
				     .code32_start = 0x100000,
				     .initrd_addr_max = 0x7fffffff,
				     .kernel_alignment = 0x200000,
				     .relocatable_kernel = 1,
				     .min_alignment = 21,
				     .xloadflags = XLF_KERNEL_64,
				     .cmdline_size = 2047,
				     .pref_address = 0x1000000,
				     .init_size = 0x200000};
}

#define RIG_PAYLOAD 0x400 /* offset in the protected-mode part */
#define RIG_PROT    0x400 /* offset of that part in the file */

/* The protected-mode part is filled with 0x90 but for the payload, which may be NULL. syssize is
 * filled in. */
static inline struct blob rig_bzimage(struct setup_header h, const struct blob *payload)
{
	size_t prot = ALIGN_UP(RIG_PAYLOAD + (payload ? payload->n : 0), 16);
	struct blob b = rig_alloc(RIG_PROT + prot);

	memset(b.p + RIG_PROT, 0x90, prot);
	if (payload) {
		h.payload_offset = RIG_PAYLOAD;
		h.payload_length = (u32)payload->n;
		memcpy(b.p + RIG_PROT + RIG_PAYLOAD, payload->p, payload->n);
	}
	h.syssize = (u32)(prot / 16);
	memcpy(b.p + 0x1f1, &h, sizeof(h));
	return b;
}

/* The kernel inside: 64 KiB of 0xab at 16 MiB, 64 KiB of 0xcd with as much bss at 17 MiB. */
static inline struct blob rig_vmlinux(void)
{
	const struct rig_elf e = {
	    .entry = 0x1000040,
	    .n_seg = 2,
	    .seg = {{0x1000000, 0xffffffff81000000, 0x10000, 0x10000, 0xab, 1},
		    {0x1100000, 0xffffffff81100000, 0x10000, 0x20000, 0xcd}}};

	return rig_elf(&e);
}

/* --- RAM --- */

static inline struct ram rig_ram(u64 size)
{
	struct ram ram;

	cr_assert_eq(ram_init(&ram, size, NULL), 0);
	return ram;
}

static inline bool rig_filled(const struct ram *ram, gpa_t at, u64 len, u8 byte)
{
	const u8 *p = ram_ptr(ram, at, len);

	cr_assert(p);
	for (u64 i = 0; i < len; i++)
		if (p[i] != byte)
			return false;
	return true;
}

#endif
