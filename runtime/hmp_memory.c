/*
 * Guest memory as text: x and xp, and info mem. Nothing here changes the guest, not even the
 * accessed bits of its page tables; whatever those tables hold, the work is bounded.
 */
#include <ctype.h>
#include <string.h>

#include "insn.h"
#include "hmp.h"

#define COUNT_MAX 65536u

/* ---- expressions: a number or $register, and sums ---- */

static bool take_register(struct vm *vm, const char **s, u64 *val)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					    "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					    "r12", "r13", "r14", "r15", "rip", "cr3"};
	size_t n = strspn(*s, "abcdefghijklmnopqrstuvwxyz0123456789");

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (strlen(names[i]) != n || memcmp(names[i], *s, n))
			continue;
		*val = i < 16 ? vm->cpu->gpr[i] : i == 16 ? vm->cpu->rip : vm->cpu->cr3;
		*s += n;
		return true;
	}
	return false;
}

static bool take_term(struct vm *vm, const char **s, u64 *val)
{
	char *end;

	*s += strspn(*s, " ");
	if (**s == '$') {
		++*s;
		return take_register(vm, s, val);
	}
	if (!isdigit((unsigned char)**s))
		return false;
	*val = strtoull(*s, &end, 0);
	*s = end;
	return true;
}

static bool take_sum(struct vm *vm, const char *s, u64 *val)
{
	u64 term;

	if (!take_term(vm, &s, val))
		return false;
	for (;;) {
		s += strspn(s, " ");
		if (*s != '+' && *s != '-')
			return !*s;
		bool minus = *s++ == '-';

		if (!take_term(vm, &s, &term))
			return false;
		*val += minus ? -term : term;
	}
}

/* ---- x, xp ---- */

struct dump {
	struct vm *vm;
	FILE *out;
	bool physical;
	unsigned count, size;
	char format;
	u64 at;
};

/* "/8xg ADDR". */
static bool parse_dump(struct dump *d, const char *args)
{
	d->count = 1;
	d->size = 4;
	d->format = 'x';
	if (*args == '/') {
		char *end;

		args++;
		if (isdigit((unsigned char)*args)) {
			d->count = (unsigned)MIN(strtoul(args, &end, 10), COUNT_MAX);
			args = end;
		}
		for (; *args && *args != ' '; args++) {
			static const char sizes[] = "bhw g";
			const char *size = strchr(sizes, *args);

			if (size)
				d->size = 1u << (size - sizes > 2 ? 3 : size - sizes);
			else if (strchr("xduoci", *args))
				d->format = *args;
			else
				return false;
		}
	}
	if (d->format == 'c')
		d->size = 1;
	return take_sum(d->vm, args, &d->at);
}

/* How many of len bytes could be read. */
static size_t read_some(const struct dump *d, u64 at, u8 *buf, size_t len)
{
	struct vm *vm = d->vm;
	size_t done = 0;

	while (done < len) {
		u64 va = at + done, gpa = va, n = MIN(len - done, PAGE_SIZE - va % PAGE_SIZE);
		struct walk w;

		if (!d->physical) {
			if (mmu_probe(&vm->ram, &vm->cpu->mmu.pg, va, MMU_READ, false, &w))
				break;
			gpa = w.gpa;
		}
		if (ram_read(&vm->ram, gpa, buf + done, n))
			break;
		done += n;
	}
	return done;
}

static void print_value(const struct dump *d, u64 v)
{
	unsigned bits = 8 * d->size;
	u64 sign = 1ull << (bits - 1);

	switch (d->format) {
	case 'd':
		fprintf(d->out, " %*lld", 3 * (int)d->size, (long long)((v ^ sign) - sign));
		break;
	case 'u': fprintf(d->out, " %*llu", 3 * (int)d->size, (unsigned long long)v); break;
	case 'o': fprintf(d->out, " 0%0*llo", (int)(bits + 2) / 3, (unsigned long long)v); break;
	case 'c': fprintf(d->out, isprint((int)v) ? " '%c'" : " '\\x%02x'", (unsigned)v); break;
	default: fprintf(d->out, " 0x%0*llx", 2 * (int)d->size, (unsigned long long)v); break;
	}
}

static void dump_values(const struct dump *d)
{
	unsigned per_line = d->format == 'c' ? 8 : MAX(16 / d->size / (d->size == 1 ? 2 : 1), 2);

	for (unsigned i = 0; i < d->count; i++) {
		u64 at = d->at + (u64)i * d->size, v = 0;

		if (i % per_line == 0)
			fprintf(d->out, "%s%016llx:", i ? "\n" : "", (unsigned long long)at);
		if (read_some(d, at, (u8 *)&v, d->size) < d->size) {
			fprintf(d->out, "\nCannot access memory\n");
			return;
		}
		print_value(d, v);
	}
	fprintf(d->out, "\n");
}

static void dump_code(const struct dump *d)
{
	struct decoder *dec = decoder_new();
	u64 at = d->at;

	for (unsigned i = 0; dec && i < d->count; i++) {
		u8 bytes[15];
		size_t n = read_some(d, at, bytes, sizeof(bytes));
		struct insn in;
		char text[128];
		int len;

		if (!n) {
			fprintf(d->out, "Cannot access memory\n");
			break;
		}
		len = decoder_decode(dec, bytes, n, d->vm->cpu->mode, &in);
		fprintf(d->out, "0x%016llx:  %s\n", (unsigned long long)at,
			len > 0 ? decoder_format(dec, &in, at, text, sizeof(text)) : "(bad)");
		at += len > 0 ? (u64)len : 1;
	}
	decoder_free(dec);
}

static void dump(struct vm *vm, FILE *out, const char *args, bool physical)
{
	struct dump d = {.vm = vm, .out = out, .physical = physical};

	if (!parse_dump(&d, args))
		fprintf(out, "usage: %s/FMT ADDR, as in %s/8xg $rsp\n", physical ? "xp" : "x",
			physical ? "xp" : "x");
	else if (d.format == 'i')
		dump_code(&d);
	else
		dump_values(&d);
}

void hmp_x(struct vm *vm, FILE *out, const char *args)
{
	dump(vm, out, args, false);
}

void hmp_xp(struct vm *vm, FILE *out, const char *args)
{
	dump(vm, out, args, true);
}

/* ---- info mem ---- */

#define ENTRIES_MAX (1u << 23) /* looked at: tables may lead to themselves */
#define LINES_MAX   4096u

struct mem_walk {
	struct vm *vm;
	FILE *out;
	unsigned entry_size, entries, lines;
	u64 start, end; /* of the range being put together; end 0: none */
	u64 flags;
};

static void end_range(struct mem_walk *w)
{
	if (w->end == w->start)
		return;
	if (w->lines++ < LINES_MAX)
		fprintf(w->out, "%016llx-%016llx %016llx %cr%c%c\n", (unsigned long long)w->start,
			(unsigned long long)w->end, (unsigned long long)(w->end - w->start),
			w->flags & PTE_U ? 'u' : '-', w->flags & PTE_W ? 'w' : '-',
			w->flags & PTE_NX ? '-' : 'x');
	w->start = w->end = 0;
}

static void add_leaf(struct mem_walk *w, u64 va, u64 size, u64 flags)
{
	if (w->end != va || w->flags != flags || w->end == w->start) {
		end_range(w);
		w->start = va;
		w->flags = flags;
	}
	w->end = va + size;
}

static u64 canonical(u64 va, unsigned levels)
{
	return levels == 4 ? (u64)((s64)(va << 16) >> 16) : va;
}

/* One table. flags: what the levels above allow (U, W, and NX inverted into "allowed"). */
static void walk_table(struct mem_walk *w, u64 table, unsigned level, unsigned top, u64 va,
		       u64 flags)
{
	unsigned bits = w->entry_size == 8 ? 9 : 10, shift = 12 + bits * (level - 1);
	unsigned count = top == 3 && level == 3 ? 4 : 1u << bits;

	for (unsigned i = 0; i < count && w->entries < ENTRIES_MAX; i++) {
		u64 e = 0, at = va + ((u64)i << shift), f;
		bool large;

		w->entries++;
		if (ram_read(&w->vm->ram, table + (u64)i * w->entry_size, &e, w->entry_size) ||
		    !(e & PTE_P))
			continue;
		/* The top level of PAE has no rights of its own. */
		f = top == 3 && level == 3
			? flags
			: ((flags & e) & (PTE_U | PTE_W)) | ((flags | e) & PTE_NX);
		large = (e & PTE_PS) && level > 1 && level < (top == 3 ? 3u : 4u);
		if (level == 1 || large)
			add_leaf(w, canonical(at, top), 1ull << shift, f);
		else
			walk_table(w, e & 0xffffffffff000ull, level - 1, top, at, f);
	}
}

void hmp_info_mem(struct vm *vm, FILE *out, const char *args)
{
	const struct cpu *c = vm->cpu;
	bool pae = c->cr4 & CR4_PAE, lma = c->efer & EFER_LMA;
	struct mem_walk w = {.vm = vm, .out = out, .entry_size = pae ? 8 : 4};
	unsigned levels = lma ? 4 : pae ? 3 : 2;
	u64 root = c->cr3 & (levels == 3 ? 0xffffffe0ull : 0xffffffffff000ull);

	(void)args;
	if (!(c->cr0 & CR0_PG)) {
		fprintf(out, "PG disabled\n");
		return;
	}
	walk_table(&w, root, levels, levels, 0, PTE_U | PTE_W);
	end_range(&w);
	if (w.lines > LINES_MAX || w.entries >= ENTRIES_MAX)
		fprintf(out, "... and more\n");
}
