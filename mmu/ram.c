/*
 * Guest RAM on one memfd.
 *
 * Host addresses, from the window upwards:
 *
 *     window + 0         low RAM, memfd offset 0; includes pages under the VGA hole, so that the
 *                        mapping is one piece, although ram_contains denies them
 *     window + low_end   PROT_NONE up to 4 GiB
 *     window + 4 GiB     high RAM, memfd offset low_end
 *     window + high_end  PROT_NONE guard
 *     + RAM_GUARD        the code marks, one byte per page, anonymous and lazily touched
 *     behind them        the counts of writable mappings, four bytes per page, likewise
 *     behind these       room for others' arrays (ram_page_array)
 *
 * Everything is one reservation, so a caller who chooses the address knows where all of it lies.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ram.h"

/* Physical addresses end here: 40 bits is the least that every host with long mode offers. */
#define RAM_HIGH_LIMIT BIT(40)
#define RAM_GUARD      (64 * KIB)

static u64 code_bytes(const struct ram *ram)
{
	return ALIGN_UP(ram->high_end >> 12, PAGE_SIZE);
}

static u64 writable_bytes(const struct ram *ram)
{
	return ALIGN_UP((ram->high_end >> 12) * sizeof(ram->writable[0]), PAGE_SIZE);
}

static u64 array_bytes(const struct ram *ram, unsigned size)
{
	return ALIGN_UP((ram->high_end >> 12) * size, PAGE_SIZE);
}

/* What lies behind the guard. */
static u64 marks_bytes(const struct ram *ram)
{
	return code_bytes(ram) + writable_bytes(ram) + array_bytes(ram, RAM_ARRAYS_SIZE);
}

static u64 reservation_bytes(const struct ram *ram)
{
	return ram->high_end + RAM_GUARD + marks_bytes(ram);
}

static int map_over(u8 *at, u64 len, int flags, int fd, u64 offset)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd,
		       (off_t)offset);

	return p == MAP_FAILED ? -errno : 0;
}

/* Reserve the address range and map the parts over it. ram->fd is open and sized. */
static int map_window(struct ram *ram, void *at)
{
	u64 len = reservation_bytes(ram);
	u64 high = ram->high_end - RAM_HIGH_START;
	u8 *w;
	int r;

	w = mmap(at, len, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1,
		 0);
	if (w == MAP_FAILED)
		return -errno;
	r = 0;
	if (at && w != at) /* a kernel that takes the address for a hint */
		r = -EEXIST;
	if (!r)
		r = map_over(w, ram->low_end, MAP_SHARED, ram->fd, 0);
	if (!r && high)
		r = map_over(w + RAM_HIGH_START, high, MAP_SHARED, ram->fd, ram->low_end);
	if (!r)
		r = map_over(w + ram->high_end + RAM_GUARD, marks_bytes(ram),
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r) {
		munmap(w, len);
		return r;
	}
	ram->window = w;
	ram->code = w + ram->high_end + RAM_GUARD;
	ram->writable = (u32 *)(ram->code + code_bytes(ram));
	ram->arrays = (u8 *)ram->writable + writable_bytes(ram);
	return 0;
}

int ram_init(struct ram *ram, u64 size, void *at)
{
	int r;

	*ram = (struct ram){.fd = -1};
	if (size < RAM_MIN_SIZE || size % PAGE_SIZE ||
	    size > RAM_HIGH_LIMIT - RAM_HIGH_START + RAM_HOLE_START)
		return -EINVAL;
	ram->size = size;
	ram->low_end = MIN(size, RAM_HOLE_START);
	ram->high_end = RAM_HIGH_START + (size - ram->low_end);

	ram->fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (ram->fd < 0) {
		r = -errno;
		goto fail;
	}
	if (ftruncate(ram->fd, (off_t)size) < 0) {
		r = -errno;
		goto fail_fd;
	}
	r = map_window(ram, at);
	if (r)
		goto fail_fd;
	return 0;

fail_fd:
	close(ram->fd);
fail:
	*ram = (struct ram){.fd = -1};
	return r;
}

void ram_destroy(struct ram *ram)
{
	if (!ram->window)
		return;
	munmap(ram->window, reservation_bytes(ram));
	close(ram->fd);
	*ram = (struct ram){.fd = -1};
}

void *ram_page_array(struct ram *ram, unsigned size)
{
	u64 len = array_bytes(ram, size);
	void *p = ram->arrays + ram->arrays_used;

	if (len > array_bytes(ram, RAM_ARRAYS_SIZE) - ram->arrays_used)
		return NULL;
	ram->arrays_used += len;
	return p;
}

void ram_page_array_free(struct ram *ram, void *array, unsigned size)
{
	u64 len = array_bytes(ram, size);

	if (!array)
		return;
	if ((u8 *)array + len == ram->arrays + ram->arrays_used)
		ram->arrays_used -= len;
	BUG_ON(madvise(array, len, MADV_DONTNEED)); /* zero again */
}

u64 ram_offset(const struct ram *ram, gpa_t gpa)
{
	if (gpa < ram->low_end)
		return gpa;
	BUG_ON(gpa < RAM_HIGH_START || gpa >= ram->high_end);
	return gpa - RAM_HIGH_START + ram->low_end;
}

/* First address past the gap-free stretch of RAM that holds gpa. */
static gpa_t stretch_end(const struct ram *ram, gpa_t gpa)
{
	if (gpa >= RAM_HIGH_START)
		return ram->high_end;
	return gpa < RAM_VGA_START ? RAM_VGA_START : ram->low_end;
}

void *ram_ptr(const struct ram *ram, gpa_t gpa, u64 len)
{
	if (!ram_contains(ram, gpa) || len > stretch_end(ram, gpa) - gpa)
		return NULL;
	return ram->window + gpa;
}

int ram_read(const struct ram *ram, gpa_t gpa, void *buf, u64 len)
{
	const void *p;

	if (!len)
		return 0;
	p = ram_ptr(ram, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int ram_write(struct ram *ram, gpa_t gpa, const void *buf, u64 len)
{
	void *p;

	if (!len)
		return 0;
	p = ram_ptr(ram, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	ram_note_write(ram, gpa, len);
	return 0;
}

void ram_note_write(struct ram *ram, gpa_t gpa, u64 len)
{
	gpa_t end;

	if (gpa >= ram->high_end || !ram->code_written)
		return;
	end = gpa + MIN(len, ram->high_end - gpa);
	while (gpa < end) {
		gpa_t next = MIN(ALIGN_DOWN(gpa, PAGE_SIZE) + PAGE_SIZE, end);

		if (ram->code[gpa >> 12])
			ram->code_written(ram->code_opaque, gpa, next - gpa);
		gpa = next;
	}
}

/* A hole in the file takes the pages out of all mappings of it, ours and those of user spaces; the
 * next touch, wherever, finds a new page. */
int ram_discard(struct ram *ram, gpa_t gpa, u64 len)
{
	BUG_ON((gpa | len) % PAGE_SIZE);
	if (!len)
		return 0;
	if (!ram_ptr(ram, gpa, len))
		return -EFAULT;
	ram_note_write(ram, gpa, len);
	if (fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)ram_offset(ram, gpa), (off_t)len))
		return -errno;
	return 0;
}
