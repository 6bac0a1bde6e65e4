/*
 * Guest RAM: one memfd, mapped as a window in which host = window + guest-physical. Low RAM ends at
 * RAM_HOLE_START at the latest; what does not fit goes on at 4 GiB. The legacy VGA range 0xa0000 ..
 * 0xbffff is not RAM (it is a bus matter).
 *
 * The code bitmap (a byte per page) marks pages from which instructions have been decoded or
 * translated. Whoever writes guest RAM other than through a TLB write entry must call
 * ram_note_write; TLB write entries are never handed out for marked pages.
 */
#ifndef RINGSHIFT_RAM_H
#define RINGSHIFT_RAM_H

#include "base.h"

#define RAM_HOLE_START (3 * GIB)
#define RAM_HIGH_START (4 * GIB)
#define RAM_VGA_START  0xa0000ull
#define RAM_VGA_END    0xc0000ull
#define RAM_MIN_SIZE   MIB

struct ram {
	u8 *window;    /* host address of guest-physical 0 */
	u64 size;      /* bytes of RAM as asked for */
	u64 low_end;   /* first address past low RAM */
	u64 high_end;  /* first address past high RAM; RAM_HIGH_START if there is none */
	int fd;        /* the memfd: low RAM at offset 0, high RAM behind it */
	u8 *code;      /* [high_end >> 12], 1: page holds decoded code */
	u32 *writable; /* [high_end >> 12]: writable mappings of the page in all shadows together */
	u8 *arrays;    /* ram_page_array; bytes of it in use */
	u64 arrays_used;
	void (*code_written)(void *opaque, gpa_t gpa, u64 len); /* range lies within one page */
	void *code_opaque;
};

/*
 * Make size bytes of RAM (a multiple of 4 KiB, at least RAM_MIN_SIZE). at: fixed host address for
 * the window, or NULL for any. A guard of 64 KiB and the code bitmap (a byte per page of the
 * window) and the counts of writable mappings lie directly behind the window. Negative errno on
 * failure (-EINVAL: size; -EEXIST: something is mapped at `at`), nothing left behind.
 */
MUST_CHECK int ram_init(struct ram *ram, u64 size, void *at);
void ram_destroy(struct ram *ram);

/*
 * A zeroed array with `size` bytes for each page of the window: with much RAM too large for the
 * heap, and mostly never touched. NULL: there is no more room (64 bytes per page in all). It goes
 * with the RAM; ram_page_array_free makes the room of the last one made available again.
 */
#define RAM_ARRAYS_SIZE 64u
void *ram_page_array(struct ram *ram, unsigned size);
void ram_page_array_free(struct ram *ram, void *array, unsigned size);

/* File offset in the memfd of a RAM address. */
u64 ram_offset(const struct ram *ram, gpa_t gpa);

static inline bool ram_contains(const struct ram *ram, gpa_t gpa)
{
	return (gpa < ram->low_end && (gpa < RAM_VGA_START || gpa >= RAM_VGA_END)) ||
	       (gpa >= RAM_HIGH_START && gpa < ram->high_end);
}

/* Host address of [gpa, gpa+len) if that is RAM without a gap, else NULL. */
void *ram_ptr(const struct ram *ram, gpa_t gpa, u64 len);

/* Copy out of and into RAM, for loaders and devices; -EFAULT if any byte is not RAM (then nothing
 * is written). ram_write tells code_written about marked pages. */
MUST_CHECK int ram_read(const struct ram *ram, gpa_t gpa, void *buf, u64 len);
MUST_CHECK int ram_write(struct ram *ram, gpa_t gpa, const void *buf, u64 len);

/* Give the memory of [gpa, gpa+len), whole pages, back to the host: they read as zero from now on,
 * in every mapping, and code_written hears of it. -EFAULT if any of it is not RAM, or the host's
 * errno; then nothing has changed but that translations are gone. */
MUST_CHECK int ram_discard(struct ram *ram, gpa_t gpa, u64 len);

/* Tell code_written about each marked page of a range that was, or is about to be, written. */
void ram_note_write(struct ram *ram, gpa_t gpa, u64 len);

#endif
