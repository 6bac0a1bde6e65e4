/*
 * What the decoder remembers of instructions (decoder/shapes.c) against decoding them: the whole
 * struct insn has to be the same. Two parts, in all three modes:
 *
 *  - every legacy opcode with every prefix that may select, all of ModRM.reg in a memory and a
 *    register form, and behind it every byte that an immediate or a displacement can begin with;
 *  - the code of kernel images: each offset of what is packed in them is taken for an instruction.
 *
 *	shapes [--part=K/N] [bzImage...]
 */
#include <asm/bootparam.h>
#include <elf.h>
#include <string.h>
#include <unistd.h>

#include "optable.h"
#include "unpack.h"

static struct {
	struct decoder *d;
	struct stats stats;
	u64 compared;
} run;

static int differ(const u8 *bytes, size_t avail, enum insn_mode mode)
{
	fprintf(stderr, "%d-bit, %zu bytes:", 16 << mode, avail);
	for (size_t i = 0; i < avail; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fprintf(stderr, ": not what is decoded afresh\n");
	return -1;
}

static int compare(const u8 *bytes, size_t avail, enum insn_mode mode)
{
	struct insn a, b;
	const struct op *row;
	int n, m;

	memset(&a, 0, sizeof(a)); /* padding */
	n = decoder_decode(run.d, bytes, avail, mode, &a);
	m = decoder_decode_afresh(run.d, bytes, avail, mode, &b, &row);
	run.compared++;
	if (n != m || (n > 0 && memcmp(&a, &b, sizeof(a))))
		return differ(bytes, avail, mode);
	return 0;
}

static u64 random64(void)
{
	static u64 seed = 0x9e3779b97f4a7c15ull;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* A head of n bytes with all that can come behind; some of that is one byte short. */
static int each_tail(const u8 *head, size_t n, enum insn_mode mode)
{
	u8 bytes[2 * INSN_MAX_LEN];

	memcpy(bytes, head, n);
	for (unsigned i = 0; i < 256; i++) {
		u64 rest[2] = {random64(), random64()};

		memcpy(bytes + n, rest, INSN_MAX_LEN);
		bytes[n] = i;
		if (compare(bytes, INSN_MAX_LEN, mode) ||
		    (i % 16 == 0 && compare(bytes, n + i / 16 % 8, mode)))
			return -1;
	}
	return 0;
}

static int each_form(u8 *head, size_t n, enum insn_mode mode)
{
	static const u8 forms[] = {0x00, 0x45, 0x84, 0xc1, 0xc4};

	for (size_t i = 0; i < ARRAY_LEN(forms); i++)
		for (unsigned reg = 0; reg < 8; reg++) {
			head[n] = forms[i] | reg << 3;
			head[n + 1] = 0x24; /* SIB, or the first byte of what comes behind */
			if (each_tail(head, n + 1 + (forms[i] == 0x84), mode))
				return -1;
		}
	return 0;
}

static int each_opcode(unsigned part, unsigned parts)
{
	static const char *const prefixes[] = {"",         "\x66",     "\xf2",     "\xf3",
					       "\x48",     "\x66\x49", "\xf2\x48", "\xf3\x41",
					       "\xf0\x44", "\x67",     "\x65\x4f", "\x66\xf2"};
	static const char *const escapes[] = {"", "\x0f", "\x0f\x38", "\x0f\x3a"};
	u8 head[2 * INSN_MAX_LEN];
	unsigned mode, i, k, opcode, number = 0;

	for (mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++)
		for (i = 0; i < ARRAY_LEN(prefixes); i++)
			for (k = 0; k < ARRAY_LEN(escapes); k++)
				for (opcode = 0; opcode < 256; opcode++) {
					size_t n = strlen(prefixes[i]), more = strlen(escapes[k]);

					if (number++ % parts != part)
						continue;
					memcpy(head, prefixes[i], n);
					memcpy(head + n, escapes[k], more);
					head[n + more] = opcode;
					if (each_tail(head, n + more + 1, mode) ||
					    each_form(head, n + more + 1, mode))
						return -1;
				}
	return 0;
}

/* --- kernels --- */

#define SKIPPED 77 /* a kernel is not there: ctest's SKIP_RETURN_CODE */

static u8 *read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	u8 *p = NULL;
	long size = -1;

	if (f && !fseek(f, 0, SEEK_END))
		size = ftell(f);
	if (size > 0)
		p = malloc(size);
	if (p && (fseek(f, 0, SEEK_SET) || fread(p, size, 1, f) != 1)) {
		free(p);
		p = NULL;
	}
	if (f)
		fclose(f);
	*n = size;
	return p;
}

static int each_offset(const u8 *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (compare(p + i, MIN(n - i, (size_t)INSN_MAX_LEN), INSN_MODE_64))
			return -1;
	return 0;
}

static int each_code_segment(const u8 *elf, size_t n)
{
	const Elf64_Ehdr *e = (const Elf64_Ehdr *)elf;
	const Elf64_Phdr *p = (const Elf64_Phdr *)(elf + e->e_phoff);

	if (n < sizeof(*e) || memcmp(e->e_ident, ELFMAG, SELFMAG) ||
	    e->e_phoff + e->e_phnum * sizeof(*p) > n)
		return -1;
	for (unsigned i = 0; i < e->e_phnum; i++, p++) {
		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		if (p->p_offset > n || p->p_filesz > n - p->p_offset ||
		    each_offset(elf + p->p_offset, p->p_filesz))
			return -1;
	}
	return 0;
}

static int each_kernel(const char *path)
{
	size_t n, at, size;
	const char *why = "is none";
	struct setup_header h;
	u8 *image = read_file(path, &n), *elf = NULL;
	int result = -1;

	if (image && n > 4096) {
		memcpy(&h, image + 0x1f1, sizeof(h));
		at = (h.setup_sects + 1) * 512u + h.payload_offset;
		if (h.header == 0x53726448 && at < n && h.payload_length <= n - at) {
			size = unpack_size(image + at, h.payload_length);
			elf = malloc(size);
			if (elf && !unpack_payload(image + at, h.payload_length, elf, size, &why))
				result = each_code_segment(elf, size);
		}
	}
	if (result)
		fprintf(stderr, "%s: failed (its payload %s)\n", path, why);
	free(elf);
	free(image);
	return result;
}

int main(int argc, char **argv)
{
	unsigned part = 0, parts = 0;
	int result = 0, i;

	for (i = 1; i < argc; i++)
		if (argv[i][0] != '-' && access(argv[i], F_OK))
			return SKIPPED;
	run.d = decoder_new();
	BUG_ON(!run.d);
	decoder_count(run.d, &run.stats);
	for (i = 1; i < argc && !result; i++) {
		if (sscanf(argv[i], "--part=%u/%u", &part, &parts) == 2 && part < parts)
			result = each_opcode(part, parts);
		else
			result = each_kernel(argv[i]);
	}
	printf("%llu compared, %llu by shape, %llu in full\n", (unsigned long long)run.compared,
	       (unsigned long long)run.stats.n[STAT_decoded_by_shape],
	       (unsigned long long)run.stats.n[STAT_decoded]);
	decoder_free(run.d);
	return result || !run.stats.n[STAT_decoded_by_shape];
}
