/*
 * Symbol tables, kept as an array sorted by address with the names in one pool.
 *
 * A System.map, and /proc/kallsyms too, has lines "address type name", the address in hexadecimal.
 * Absolute and undefined symbols are left out: on x86 the former are offsets, not addresses. Of
 * several names for one address a global one is preferred, then the first in the file.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "symbols.h"

#define MAX_REACH MIB /* of a symbol without a size */
#define MAX_LINE  4096

struct symbol {
	u64 addr, size; /* size 0: not known */
	u32 name;       /* offset in the pool */
	bool global;
	u32 order;
};

struct symbols {
	struct symbol *sym;
	u32 n, cap;
	char *pool;
	u32 pool_used, pool_cap;
};

static int fail(char *err, size_t errlen, const char *path, const char *what)
{
	snprintf(err, errlen, "%s: %s", path, what);
	return -EINVAL;
}

static bool pool_add(struct symbols *s, const char *name, size_t len, u32 *at)
{
	if (len >= UINT_MAX / 4 - s->pool_used)
		return false;
	if (s->pool_used + len + 1 > s->pool_cap) {
		u32 cap = MAX(65536u, 2 * (s->pool_used + (u32)len + 1));
		char *pool = realloc(s->pool, cap);

		if (!pool)
			return false;
		s->pool = pool;
		s->pool_cap = cap;
	}
	*at = s->pool_used;
	memcpy(s->pool + *at, name, len);
	s->pool[*at + len] = 0;
	s->pool_used += (u32)len + 1;
	return true;
}

/* False: out of memory. */
static bool add(struct symbols *s, struct symbol sym, const char *name, size_t len)
{
	if (s->n == s->cap) {
		u32 cap = MAX(4096u, 2 * s->cap);
		struct symbol *p =
		    s->cap > UINT_MAX / 4 ? NULL : realloc(s->sym, cap * sizeof(s->sym[0]));

		if (!p)
			return false;
		s->sym = p;
		s->cap = cap;
	}
	if (!pool_add(s, name, len, &sym.name))
		return false;
	sym.order = s->n;
	s->sym[s->n++] = sym;
	return true;
}

/* --- System.map --- */

/* "address type name"; false: it is not. */
static bool parse_line(char *line, u64 *addr, char *type, char **name, size_t *len)
{
	char *end;

	if (!isxdigit((unsigned char)line[0]))
		return false;
	errno = 0;
	*addr = strtoull(line, &end, 16);
	if (errno || end - line > 16 || end[0] != ' ' || !isalpha((unsigned char)end[1]) ||
	    end[2] != ' ')
		return false;
	*type = end[1];
	*name = end + 3;
	*len = strcspn(*name, " \t\r\n");
	for (size_t i = 0; i < *len; i++)
		if (!isgraph((unsigned char)(*name)[i]))
			return false;
	return *len > 0;
}

static int load_map(struct symbols *s, FILE *f, const char *path, char *err, size_t errlen)
{
	char line[MAX_LINE], what[96], type, *name;
	unsigned number = 0;
	size_t len;
	u64 addr;

	while (fgets(line, sizeof(line), f)) {
		number++;
		if (!parse_line(line, &addr, &type, &name, &len)) {
			snprintf(what, sizeof(what),
				 "line %u is not \"address type name\", and it is no ELF file",
				 number);
			return fail(err, errlen, path, what);
		}
		if (strchr("AaUN", type) || !addr)
			continue;
		if (!add(s, (struct symbol){.addr = addr, .global = isupper((unsigned char)type)},
			 name, len))
			return fail(err, errlen, path, "out of memory");
	}
	return ferror(f) ? fail(err, errlen, path, strerror(errno)) : 0;
}

/* --- ELF --- */

static bool wanted(const GElf_Sym *sym)
{
	unsigned type = GELF_ST_TYPE(sym->st_info);

	return sym->st_shndx != SHN_UNDEF && sym->st_shndx != SHN_ABS && sym->st_name &&
	       sym->st_value && (type == STT_FUNC || type == STT_OBJECT || type == STT_NOTYPE);
}

static int add_section(struct symbols *s, Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	u64 n = data ? data->d_size / gelf_fsize(elf, ELF_T_SYM, 1, EV_CURRENT) : 0, i;
	GElf_Sym sym;

	for (i = 0; i < n && i < INT_MAX && gelf_getsym(data, (int)i, &sym); i++) {
		const char *name = wanted(&sym) ? elf_strptr(elf, sh->sh_link, sym.st_name) : NULL;
		struct symbol e = {.addr = sym.st_value,
				   .size = sym.st_size,
				   .global = GELF_ST_BIND(sym.st_info) != STB_LOCAL};

		if (name && *name && !add(s, e, name, strlen(name)))
			return -ENOMEM;
	}
	return 0;
}

/* The full table if there is one, else that of dynamic linking. */
static int load_elf(struct symbols *s, int fd, const char *path, char *err, size_t errlen)
{
	static const unsigned types[] = {SHT_SYMTAB, SHT_DYNSYM};
	Elf *elf;
	int rc = 0;

	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL); /* reads, maps nothing: this may be lowland */
	if (!elf || elf_kind(elf) != ELF_K_ELF)
		rc = fail(err, errlen, path, "is no readable ELF file");
	for (unsigned t = 0; !rc && !s->n && t < ARRAY_LEN(types); t++) {
		Elf_Scn *scn = NULL;
		GElf_Shdr sh;

		while (!rc && (scn = elf_nextscn(elf, scn)))
			if (gelf_getshdr(scn, &sh) && sh.sh_type == types[t] &&
			    add_section(s, elf, scn, &sh))
				rc = fail(err, errlen, path, "out of memory");
	}
	elf_end(elf);
	return rc;
}

/* --- both --- */

static int compare(const void *pa, const void *pb)
{
	const struct symbol *a = pa, *b = pb;

	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->global != b->global)
		return a->global ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

/* Sort, and keep the best name of each address. */
static void settle(struct symbols *s)
{
	u32 i, n = 0;

	qsort(s->sym, s->n, sizeof(s->sym[0]), compare);
	for (i = 0; i < s->n; i++)
		if (!n || s->sym[n - 1].addr != s->sym[i].addr)
			s->sym[n++] = s->sym[i];
	s->n = n;
}

static int load(struct symbols *s, const char *path, char *err, size_t errlen)
{
	FILE *f = fopen(path, "re");
	char magic[SELFMAG];
	struct stat st;
	int rc;

	if (!f)
		return fail(err, errlen, path, strerror(errno));
	if (fstat(fileno(f), &st) || S_ISDIR(st.st_mode)) {
		rc = fail(err, errlen, path, strerror(EISDIR));
	} else if (S_ISREG(st.st_mode) &&
		   pread(fileno(f), magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
		   !memcmp(magic, ELFMAG, SELFMAG)) {
		rc = load_elf(s, fileno(f), path, err, errlen);
	} else {
		rc = load_map(s, f, path, err, errlen);
	}
	fclose(f);
	if (!rc && !s->n)
		rc = fail(err, errlen, path, "holds no symbols");
	return rc;
}

struct symbols *symbols_load(const char *path, char *err, size_t errlen)
{
	struct symbols *s = calloc(1, sizeof(*s));

	if (!s) {
		fail(err, errlen, path, "out of memory");
		return NULL;
	}
	if (load(s, path, err, errlen)) {
		symbols_free(s);
		return NULL;
	}
	settle(s);
	return s;
}

void symbols_free(struct symbols *s)
{
	if (!s)
		return;
	free(s->sym);
	free(s->pool);
	free(s);
}

const char *symbols_find(void *opaque, u64 addr, u64 *off)
{
	const struct symbols *s = opaque;
	u32 lo = 0, hi = s->n;

	while (lo < hi) { /* the first one beyond addr */
		u32 mid = lo + (hi - lo) / 2;

		if (s->sym[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo ||
	    addr - s->sym[lo - 1].addr >= (s->sym[lo - 1].size ? s->sym[lo - 1].size : MAX_REACH))
		return NULL;
	*off = addr - s->sym[lo - 1].addr;
	return s->pool + s->sym[lo - 1].name;
}
