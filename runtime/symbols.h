/*
 * --symbols: names for guest addresses, from a System.map or an ELF file's symbol table.
 */
#ifndef RINGSHIFT_SYMBOLS_H
#define RINGSHIFT_SYMBOLS_H

#include "base.h"

struct symbols;

/* Load a file. NULL and a line of text in err ("path: what") if it cannot be read or holds no
 * symbols. */
MUST_CHECK struct symbols *symbols_load(const char *path, char *err, size_t errlen);
void symbols_free(struct symbols *s);

/*
 * The name of the symbol an address lies in, and how far in; NULL if there is none. Where no size
 * is known a symbol reaches to the next one, but at most 1 MiB. opaque: struct symbols. The name
 * lives as long as the symbols. Async-signal-safe.
 */
const char *symbols_find(void *opaque, u64 addr, u64 *off);

#endif
