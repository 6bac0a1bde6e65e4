/*
 * The one header every folder shares: scalar types that carry a meaning, must-check, BUG_ON and the
 * statistics counters. Nothing here has state.
 */
#ifndef RINGSHIFT_BASE_H
#define RINGSHIFT_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

typedef u64 gva_t; /* guest linear (virtual) address */
typedef u64 gpa_t; /* guest physical address */

#define MUST_CHECK        __attribute__((warn_unused_result))
#define NORETURN          __attribute__((noreturn))
#define ALWAYS_INLINE     inline __attribute__((always_inline))
#define NOINLINE          __attribute__((noinline))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define likely(x)         __builtin_expect(!!(x), 1)
#define unlikely(x)       __builtin_expect(!!(x), 0)

#define ARRAY_LEN(a)                  (sizeof(a) / sizeof((a)[0]))
#define BIT(n)                        (1ull << (n))
#define MIN(a, b)                     ((a) < (b) ? (a) : (b))
#define MAX(a, b)                     ((a) > (b) ? (a) : (b))
#define ALIGN_DOWN(x, a)              ((x) & ~((u64)(a)-1))
#define ALIGN_UP(x, a)                (((x) + (u64)(a)-1) & ~((u64)(a)-1))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#define PAGE_SIZE 4096ull
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define KIB       1024ull
#define MIB       (1024ull * KIB)
#define GIB       (1024ull * MIB)

/* An invariant of ours is broken: say which and stop. Kept in release builds. The abort handler of
 * runtime/ adds the guest's state. */
static inline NORETURN void bug_at(const char *file, int line, const char *what)
{
	fprintf(stderr, "ringshift: BUG at %s:%d: %s\n", file, line, what);
	abort();
}
#define BUG_ON(cond)                                                                               \
	do {                                                                                       \
		if (unlikely(cond))                                                                \
			bug_at(__FILE__, __LINE__, #cond);                                         \
	} while (0)

/* Statistics: one list (stats.def), one struct per VM, handed to whoever counts. */
enum stat_id {
#define STAT(id, help) STAT_##id,
#include "stats.def"
#undef STAT
	STAT_COUNT
};

struct stats {
	u64 n[STAT_COUNT];
};

#endif
