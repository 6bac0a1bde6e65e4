/*
 * What the loaders share: files, and places in guest RAM.
 *
 * Buffers are mapped, not allocated on the heap, which has little room in lowland; they live in the
 * free range behind the RAM window, at a fixed address each. A guard page behind a buffer turns a
 * read past the end of a hostile file into a crash instead of a leak.
 *
 * Places: whatever goes into guest RAM takes its range first (struct load, taken), so nothing can
 * overlap anything. Usable is RAM of the memory map that the guest gets.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load.h"
#include "lowland.h"
#include "pci.h"

#define BUFFER_AREA  LOWLAND_RAM_END
#define BUFFER_SLOT  (64 * GIB)
#define BUFFER_ALIGN 16
#define READ_CHUNK   (64 * MIB)

int load_fail(struct load *l, const char *path, int error, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (!l->errlen)
		return error;
	snprintf(l->err, l->errlen, "%s: ", path);
	n = strlen(l->err);
	va_start(ap, fmt);
	vsnprintf(l->err + n, l->errlen - n, fmt, ap);
	va_end(ap);
	for (char *p = l->err; *p; p++)
		if ((u8)*p < ' ' || *p == 0x7f)
			*p = '?';
	return error;
}

/* --- buffers and files --- */

int load_buffer_alloc(struct load_buffer *b, enum load_slot slot, u64 size)
{
	u64 bytes = ALIGN_UP(size, BUFFER_ALIGN);
	u64 len = ALIGN_UP(bytes, PAGE_SIZE) + PAGE_SIZE;
	void *at = lowland_at(BUFFER_AREA + slot * BUFFER_SLOT);
	u8 *map;

	if (size > BUFFER_SLOT - 2 * PAGE_SIZE)
		return -ENOMEM;
	map = mmap(at, len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1,
		   0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	*b = (struct load_buffer){map + (len - PAGE_SIZE - bytes), map, len};
	if (mprotect(map + (len - PAGE_SIZE), PAGE_SIZE, PROT_NONE)) {
		load_buffer_free(b);
		return -ENOMEM;
	}
	return 0;
}

void load_buffer_free(struct load_buffer *b)
{
	if (b->map)
		munmap(b->map, b->map_len);
	*b = (struct load_buffer){0};
}

/* Read up to want bytes from where the file stands. Number of bytes, or a negative errno. */
static s64 read_all(int fd, u8 *to, u64 want)
{
	u64 done = 0;

	while (done < want) {
		ssize_t n = read(fd, to + done, MIN(want - done, READ_CHUNK));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (u64)n;
	}
	return (s64)done;
}

static int too_large(struct load *l, const char *path, u64 limit)
{
	return load_fail(l, path, -EFBIG, "larger than the %llu MiB that can be loaded",
			 (unsigned long long)(limit / MIB));
}

/* A file whose size is known only when it has been read. */
static int slurp_stream(struct load *l, struct load_file *f, u64 limit)
{
	s64 n;

	if (load_buffer_alloc(&f->buf, f->slot, limit + 1))
		return load_fail(l, f->path, -ENOMEM, "no memory to read it");
	n = read_all(f->fd, f->buf.bytes, limit + 1);
	if (n < 0)
		return load_fail(l, f->path, (int)n, "%s", strerror((int)-n));
	if ((u64)n > limit)
		return too_large(l, f->path, limit);
	f->size = (u64)n;
	return 0;
}

static int file_open(struct load *l, struct load_file *f, u64 limit)
{
	struct stat st;

	f->fd = load_keep_open(l->cfg->files, f->path);
	if (f->fd < 0)
		return load_fail(l, f->path, f->fd, "%s", strerror(-f->fd));
	if (fstat(f->fd, &st))
		return load_fail(l, f->path, -errno, "%s", strerror(errno));
	if (S_ISDIR(st.st_mode))
		return load_fail(l, f->path, -EISDIR, "%s", strerror(EISDIR));
	if (!S_ISREG(st.st_mode))
		return slurp_stream(l, f, limit);
	if ((u64)st.st_size > limit)
		return too_large(l, f->path, limit);
	f->size = (u64)st.st_size;
	return 0;
}

int load_file_open(struct load *l, struct load_file *f, const char *path, enum load_slot slot,
		   u64 limit)
{
	int r;

	*f = (struct load_file){.path = path, .fd = -1, .slot = slot};
	r = file_open(l, f, limit);
	if (r)
		load_file_close(f);
	return r;
}

static int read_whole(struct load *l, struct load_file *f, u8 *to)
{
	s64 n = read_all(f->fd, to, f->size);

	if (n < 0)
		return load_fail(l, f->path, (int)n, "%s", strerror((int)-n));
	if ((u64)n != f->size)
		return load_fail(l, f->path, -EIO, "became shorter while it was read");
	return 0;
}

int load_file_slurp(struct load *l, struct load_file *f)
{
	if (f->buf.bytes)
		return 0;
	if (load_buffer_alloc(&f->buf, f->slot, f->size))
		return load_fail(l, f->path, -ENOMEM, "no memory to read it");
	return read_whole(l, f, f->buf.bytes);
}

int load_file_copy(struct load *l, struct load_file *f, gpa_t to)
{
	u8 *host;

	if (!f->size)
		return 0;
	host = load_host(l, to, f->size);
	if (!f->buf.bytes)
		return read_whole(l, f, host);
	memcpy(host, f->buf.bytes, f->size);
	return 0;
}

void load_file_close(struct load_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	load_buffer_free(&f->buf);
}

/* --- places --- */

unsigned load_mem_map(const struct ram *ram, struct load_mem map[LOAD_MEM_MAX])
{
	unsigned n = 0;

	map[n++] = (struct load_mem){0, LOAD_BASE_END, LOAD_MEM_RAM};
	map[n++] =
	    (struct load_mem){LOAD_BASE_END, RAM_VGA_START - LOAD_BASE_END, LOAD_MEM_RESERVED};
	map[n++] = (struct load_mem){LOAD_ROM_START, MIB - LOAD_ROM_START, LOAD_MEM_RESERVED};
	if (ram->low_end > MIB)
		map[n++] = (struct load_mem){MIB, ram->low_end - MIB, LOAD_MEM_RAM};
	map[n++] = (struct load_mem){PCI_ECAM_BASE, PCI_ECAM_SIZE, LOAD_MEM_RESERVED};
	if (ram->high_end > RAM_HIGH_START)
		map[n++] =
		    (struct load_mem){RAM_HIGH_START, ram->high_end - RAM_HIGH_START, LOAD_MEM_RAM};
	return n;
}

static bool is_usable(const struct ram *ram, gpa_t start, u64 len)
{
	struct load_mem map[LOAD_MEM_MAX];
	unsigned n = load_mem_map(ram, map);

	for (unsigned i = 0; i < n; i++)
		if (map[i].type == LOAD_MEM_RAM && start >= map[i].start &&
		    start - map[i].start < map[i].size &&
		    len <= map[i].size - (start - map[i].start))
			return true;
	return false;
}

/* The place in the way of [start, end), or NULL. */
static const struct span *find_taken(const struct load *l, gpa_t start, gpa_t end)
{
	for (unsigned i = 0; i < l->n_taken; i++)
		if (l->taken[i].start < end && start < l->taken[i].end)
			return &l->taken[i];
	return NULL;
}

int load_take_over(struct load *l, gpa_t start, u64 len)
{
	if (!len)
		return 0;
	if (!is_usable(l->ram, start, len))
		return -EFAULT;
	BUG_ON(l->n_taken == LOAD_MAX_TAKEN);
	l->taken[l->n_taken++] = (struct span){start, start + len};
	return 0;
}

int load_take(struct load *l, gpa_t start, u64 len)
{
	if (len && is_usable(l->ram, start, len) && find_taken(l, start, start + len))
		return -EEXIST;
	return load_take_over(l, start, len);
}

/* Highest place in one piece of RAM, or 0. len is not 0 and not larger than RAM. */
static gpa_t highest_in(const struct load *l, struct span piece, u64 len, u64 align)
{
	gpa_t end = piece.end;

	while (end > piece.start && end - piece.start >= len) {
		gpa_t start = ALIGN_DOWN(end - len, align);
		const struct span *s;

		if (start < piece.start)
			break;
		s = find_taken(l, start, start + len);
		if (!s)
			return start;
		end = s->start;
	}
	return 0;
}

static gpa_t lowest_in(const struct load *l, struct span piece, u64 len, u64 align)
{
	gpa_t start = ALIGN_UP(piece.start, align);

	while (start < piece.end && len <= piece.end - start) {
		const struct span *s = find_taken(l, start, start + len);

		if (!s)
			return start;
		start = ALIGN_UP(s->end, align);
	}
	return 0;
}

static gpa_t take_free(struct load *l, u64 len, u64 align, struct span within, bool high)
{
	struct load_mem map[LOAD_MEM_MAX];
	unsigned n = load_mem_map(l->ram, map);

	len = MAX(len, 1);
	for (unsigned i = 0; i < n; i++) {
		const struct load_mem *m = &map[high ? n - 1 - i : i];
		struct span piece = {MAX(m->start, within.start),
				     MIN(m->start + m->size, within.end)};
		gpa_t at;

		if (m->type != LOAD_MEM_RAM || piece.start >= piece.end)
			continue;
		at = high ? highest_in(l, piece, len, align) : lowest_in(l, piece, len, align);
		if (at && !load_take(l, at, len))
			return at;
	}
	return 0;
}

gpa_t load_take_high(struct load *l, u64 len, u64 align, gpa_t floor, gpa_t ceiling)
{
	return take_free(l, len, align, (struct span){floor, ceiling}, true);
}

gpa_t load_take_low(struct load *l, u64 len, u64 align, gpa_t floor, gpa_t ceiling)
{
	return take_free(l, len, align, (struct span){floor, ceiling}, false);
}

int load_take_info(struct load *l, u64 len, gpa_t floor, gpa_t *gpa, u8 **host)
{
	*gpa = load_take_low(l, len, PAGE_SIZE, floor, l->ram->low_end);
	if (!*gpa)
		return load_fail(l, l->kernel.path, -ENOSPC,
				 "no room in %llu MiB of RAM for the %llu KiB of boot information",
				 (unsigned long long)(l->ram->size / MIB),
				 (unsigned long long)(len / KIB));
	*host = load_host(l, *gpa, len);
	memset(*host, 0, len);
	return 0;
}

u8 *load_host(struct load *l, gpa_t gpa, u64 len)
{
	u8 *host = ram_ptr(l->ram, gpa, len);

	BUG_ON(!host);
	ram_note_write(l->ram, gpa, len);
	return host;
}

int load_initrd(struct load *l, gpa_t ceiling, struct span *out)
{
	struct load_file f;
	gpa_t at;
	int r;

	*out = (struct span){0};
	if (!l->cfg->initrd)
		return 0;
	r = load_file_open(l, &f, l->cfg->initrd, LOAD_SLOT_INITRD, l->ram->size);
	if (r)
		return r;
	ceiling = MIN(ceiling, l->ram->low_end);
	if (!f.size) {
		r = load_fail(l, f.path, -EINVAL, "the initial RAM disk is empty");
		goto out;
	}
	at = load_take_high(l, f.size, PAGE_SIZE, MIB, ceiling);
	if (!at) {
		r = load_fail(l, f.path, -ENOSPC,
			      "the initial RAM disk of %llu KiB does not fit into RAM beside the "
			      "kernel (%llu MiB, usable for it: up to %llu MiB)",
			      (unsigned long long)((f.size + KIB - 1) / KIB),
			      (unsigned long long)(l->ram->size / MIB),
			      (unsigned long long)(ceiling / MIB));
		goto out;
	}
	*out = (struct span){at, at + f.size};
	r = load_file_copy(l, &f, at);
out:
	load_file_close(&f);
	return r;
}

/* --- descriptor tables --- */

void load_write_gdt(struct boot_state *s, u8 *at, gpa_t gdt, u16 cs)
{
	memset(at, 0, LOAD_GDT_SIZE);
	/* Present, ring 0, accessed, 4 GiB; code readable, data writable. */
	put64(at + cs, s->kind == BOOT_LONG64 ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
	put64(at + cs + 8, 0x00cf93000000ffffull);
	s->gdt = gdt;
	s->gdt_limit = LOAD_GDT_SIZE - 1;
	s->cs = cs;
	s->ds = cs + 8;
}
