/*
 * Logs for the eyes.
 *
 * Guest and host code stand side by side, paired by the block's recovery records: the host code of
 * the instruction at guest offset g begins at the first record that says "before g, nothing
 * spilled" (what restores spilled registers behind an instruction still belongs to it). Behind the
 * last instruction come the exits' stubs and the tail that a dropped block leaves by. The log shows
 * a block as it was made; jumps that are chained later still lead to their stubs here.
 *
 * Host code names no symbols, so what it refers to is told apart by value: offsets of the common
 * code (exit, lookup), the block's own code, and addresses within struct cpu.
 *
 * The shadow reports from the handler of the fault that it fills for. Such a fault interrupts
 * translated code, never the C library, so printing is safe there.
 */
#include "bt_log.h"

#include <string.h>

#include "translate.h"

#define TEXT_LEN   128
#define GUEST_COLS 78 /* where the host's column begins */

typedef unsigned long long ull;

const char *log_name(const struct cpu *c, u64 addr, char buf[LOG_NAME_LEN])
{
	const struct engine *e = c->engine;
	const char *name = NULL;
	u64 off = 0;

	buf[0] = 0;
	if (e && e->symbol)
		name = e->symbol(e->symbol_opaque, addr, &off);
	if (name)
		snprintf(buf, LOG_NAME_LEN, " <%.*s+%#llx>", LOG_NAME_LEN - 32, name, (ull)off);
	return buf;
}

/* --- blocks --- */

/* A field of struct cpu that emitted code refers to, or NULL. */
static const char *field_at(const struct cpu *c, u64 addr, char buf[32])
{
	static const struct {
		const char *name;
		unsigned off, size;
	} field[] = {
#define FIELD(f) {#f, offsetof(struct cpu, f), sizeof(((struct cpu *)0)->f)}
	    FIELD(rip),
	    FIELD(aflags),
	    FIELD(sflags),
	    FIELD(intr),
	    FIELD(attention),
	    FIELD(gpr),
	    FIELD(bt.spill),
	    FIELD(bt.flags),
	    FIELD(bt.site_flags),
	    FIELD(bt.jump),
	    FIELD(bt.fs_base),
	    FIELD(bt.host_fs),
	    FIELD(bt.step),
	    FIELD(bt.op),
	    FIELD(bt.unfit),
	    FIELD(bt.distance[0]),
	    FIELD(bt.distance[1]),
	    FIELD(bt.link),
	    FIELD(seg),
	    FIELD(cr0),
	    FIELD(cr2),
	    FIELD(cr3),
	    FIELD(cr4),
	    FIELD(kernel_gs_base),
	    FIELD(bt.vec_missing),
#undef FIELD
	};
	u64 at = addr - (u64)(uintptr_t)c;
	unsigned i;

	for (i = 0; i < ARRAY_LEN(field); i++)
		if (at >= field[i].off && at - field[i].off < field[i].size) {
			u64 rest = at - field[i].off;

			snprintf(buf, 32, rest ? "%s+%llu" : "%s", field[i].name, (ull)rest);
			return buf;
		}
	return NULL;
}

/* What part of the common code a host address is, or NULL. */
static const char *place_name(const struct bt *bt, u64 addr, char buf[32])
{
	u64 off = addr - (u64)(uintptr_t)bt->rx;

	if (off == bt->exit_at)
		return "exit";
	if (off == bt->lookup_at[R64H][VIA_OTHER] || off == bt->lookup_at[R64L][VIA_OTHER])
		return "lookup";
	if (off == bt->light_at[LIGHT_FS_BACK] || off == bt->light_at[LIGHT_FS_LEFT] ||
	    off == bt->light_at[LIGHT_FS_HOST])
		return "light callout";
	if (off == bt->miss_at || off == bt->miss_leave_at)
		return "checked_miss";
	if (off >= bt->fixed)
		return NULL; /* the block itself */
	if (off >= bt->vec_load_at[0] && off <= bt->vec_load_at[VEC_CLASSES - 1])
		return "vector_load";
	snprintf(buf, 32, "common+%#llx", (ull)off);
	return buf;
}

/* What a host instruction refers to; "" if there is nothing to tell. */
static void annotate(const struct bt *bt, const struct insn *in, u64 pc, char *out, size_t size)
{
	const char *what = NULL;
	char buf[32];

	out[0] = 0;
	if (in->class == CLASS_CONTROL && !in->has_modrm && in->imm_size)
		what = place_name(bt, pc + in->len + in->imm, buf);
	else if (in->has_mem && in->base == REG_NONE && in->seg != SEG_GS && in->seg != SEG_FS) {
		if (in->index == REG_NONE)
			what = field_at(bt->c, in->disp, buf);
		else if (in->disp == (s64)(uintptr_t)bt->front_tag[R64H] ||
			 in->disp == (s64)(uintptr_t)bt->front_tag[R64L])
			what = "front_tag";
		else if (in->disp == (s64)(uintptr_t)bt->front_host[R64H] ||
			 in->disp == (s64)(uintptr_t)bt->front_host[R64L])
			what = "front_host";
		else if (in->disp == (s64)(uintptr_t)bt->landing[R64H][VIA_RETURN] ||
			 in->disp == (s64)(uintptr_t)bt->landing[R64L][VIA_RETURN])
			what = "return pads";
		else if (in->disp == (s64)(uintptr_t)bt->landing[R64H][VIA_JUMP] ||
			 in->disp == (s64)(uintptr_t)bt->landing[R64L][VIA_JUMP])
			what = "jump pads";
	}
	if (what)
		snprintf(out, size, " ; %s", what);
	if (what && what == buf && !strcmp(what, "rip") && in->imm_size == 4) {
		char name[LOG_NAME_LEN];

		snprintf(out, size, " ; rip = %#llx%s", (ull)in->imm,
			 log_name(bt->c, in->imm, name));
	}
}

static void print_bytes(FILE *f, const u8 *p, unsigned n, unsigned cols)
{
	unsigned i;

	for (i = 0; i < n; i++)
		fprintf(f, " %02x", p[i]);
	if (n < cols)
		fprintf(f, "%*s", 3 * (cols - n), "");
}

/* One host instruction at an offset of the area; its length. */
static unsigned print_host(const struct bt *bt, u32 off, u32 end)
{
	struct engine *e = bt->c->engine;
	u64 pc = (u64)(uintptr_t)bt->rx + off;
	char text[TEXT_LEN], note[TEXT_LEN + LOG_NAME_LEN];
	struct insn in;
	int len = decoder_decode(e->decoder, bt->rw + off, MIN(end - off, (u32)INSN_MAX_LEN),
				 INSN_MODE_64, &in);

	fprintf(e->log, "| %08llx ", (ull)pc);
	if (len <= 0) { /* emitted, so it is an instruction, but not one we decode: show one byte */
		print_bytes(e->log, bt->rw + off, 1, 12);
		fprintf(e->log, " (byte)\n");
		return 1;
	}
	annotate(bt, &in, pc, note, sizeof(note));
	print_bytes(e->log, in.bytes, len, 12);
	fprintf(e->log, " %s%s\n", decoder_format(e->decoder, &in, pc, text, sizeof(text)), note);
	return len;
}

/* Host code [from, to) of the area; the first line continues what has been printed up to column
 * `at`. */
static void print_host_range(const struct bt *bt, u32 from, u32 to, unsigned at)
{
	FILE *f = bt->c->engine->log;

	if (from >= to)
		fprintf(f, "%*s|\n", MAX(1, (int)GUEST_COLS - (int)at), "");
	while (from < to) {
		fprintf(f, "%*s", MAX(1, (int)GUEST_COLS - (int)at), "");
		from += print_host(bt, from, to);
		at = 0;
	}
}

/* Area offset of the first host byte of the instruction at guest offset g, or of `otherwise`. */
static u32 host_start(const struct bt *bt, const struct block *b, u32 g, u32 otherwise)
{
	struct records s = bt_records(bt, b);

	while (records_next(&s))
		if (s.at.guest == g && !s.at.spills)
			return b->host + s.at.host;
	return otherwise;
}

/* Area offset of the first stub: where the state is nobody's and RIP is set. */
static u32 stubs_start(const struct bt *bt, const struct block *b)
{
	static const u8 set_rip[] = {0xc7, 0x04, 0x25}; /* as a whole, behind REX.W, or by halves */
	u32 rip = (u32)(uintptr_t)&bt->c->rip, end = b->host + b->host_len;
	struct records s = bt_records(bt, b);

	while (records_next(&s)) {
		const u8 *p = bt->rw + b->host + s.at.host;

		p += *p == 0x48;
		if ((s.at.spills & RECOVER_NEVER) && b->host + s.at.host + 8 <= end &&
		    !memcmp(p, set_rip, sizeof(set_rip)) && !memcmp(p + 3, &rip, sizeof(rip)))
			return b->host + s.at.host;
	}
	return end;
}

/* One guest instruction, and with out_asm its host code; its length, 0: the end. */
static unsigned print_guest(const struct bt *bt, const struct block *b, const u8 *code, u32 at,
			    u32 stubs)
{
	struct engine *e = bt->c->engine;
	char text[TEXT_LEN];
	struct insn in;
	int n, len = decoder_decode(e->decoder, code + at, MIN(b->len - at, (u32)INSN_MAX_LEN),
				    INSN_MODE_64, &in);

	if (len <= 0) {
		n = fprintf(e->log, "  %016llx  (undecodable, or the next page is not there)",
			    (ull)(b->pc + at));
		len = b->len - at;
	} else {
		n = fprintf(e->log, "  %016llx ", (ull)(b->pc + at));
		print_bytes(e->log, in.bytes, len, 10);
		n += 3 * MAX(len, 10);
		n += fprintf(e->log, " %s",
			     decoder_format(e->decoder, &in, b->pc + at, text, sizeof(text)));
	}
	if (e->log_items & LOG_OUT_ASM)
		print_host_range(bt, host_start(bt, b, at, stubs),
				 at + len < b->len ? host_start(bt, b, at + len, stubs) : stubs, n);
	else
		fprintf(e->log, "\n");
	return len;
}

void bt_log_block(struct bt *bt, const struct block *b, gpa_t gpa, const u8 *code)
{
	struct engine *e = bt->c->engine;
	u32 stubs = stubs_start(bt, b), end = b->host + b->host_len, at = 0;
	char name[LOG_NAME_LEN];

	fprintf(e->log, "block %016llx%s at gpa %#llx: %u bytes, %u of host code\n", (ull)b->pc,
		log_name(bt->c, b->pc, name), (ull)gpa, b->len, b->host_len);
	while (at < b->len)
		at += print_guest(bt, b, code, at, stubs);
	if (!(e->log_items & LOG_OUT_ASM))
		return;
	if (stubs < end)
		print_host_range(bt, stubs, end, fprintf(e->log, "  exits"));
}

/* --- writes to code --- */

void bt_log_dropped(const struct cpu *c, const struct block *b)
{
	char name[LOG_NAME_LEN];

	fprintf(c->engine->log, "smc: block %016llx%s, %u bytes, dropped\n", (ull)b->pc,
		log_name(c, b->pc, name), b->len);
}

void bt_log_code_write(const struct cpu *c, gpa_t gpa, u64 len, unsigned slots, u64 blocks)
{
	char name[LOG_NAME_LEN];

	fprintf(c->engine->log,
		"smc: gpa %#llx, %llu bytes written at rip %016llx%s: %llu blocks, %u decoded "
		"instructions dropped\n",
		(ull)gpa, (ull)len, (ull)c->rip, log_name(c, c->rip, name), (ull)blocks, slots);
}

void bt_log_give_up(const struct cpu *c, gpa_t page)
{
	fprintf(c->engine->log, "smc: page %#llx is written too often: no longer code\n",
		(ull)page);
}

/* --- paging --- */

void bt_log_moved(const struct cpu *c, gva_t page, gpa_t gpa)
{
	char name[LOG_NAME_LEN];

	fprintf(c->engine->log, "mmu: code page %016llx%s has left gpa %#llx: its blocks dropped\n",
		(ull)page, log_name(c, page, name), (ull)gpa);
}

static void on_shadow_event(void *opaque, const struct shadow_event *ev)
{
	struct cpu *c = opaque;
	FILE *f = c->engine->log;
	char name[LOG_NAME_LEN];

	switch (ev->kind) {
	case SHADOW_EV_FILL:
		fprintf(f, "mmu: fill %016llx%s -> gpa %#llx, %llu KiB, %s%s\n", (ull)ev->va,
			log_name(c, ev->va, name), (ull)ev->gpa, (ull)(ev->size / KIB),
			ev->write ? "rw" : "r-", ev->global ? ", global" : "");
		break;
	case SHADOW_EV_INVLPG:
		fprintf(f, "mmu: invlpg %016llx%s, %u mappings dropped\n", (ull)ev->va,
			log_name(c, ev->va, name), ev->count);
		break;
	case SHADOW_EV_REVALIDATE:
		fprintf(f, "mmu: comparison with the page tables, %u mappings dropped\n",
			ev->count);
		break;
	case SHADOW_EV_FLUSH_ALL:
		fprintf(f, "mmu: flush of everything, %u mappings dropped\n", ev->count);
		break;
	case SHADOW_EV_READ_ONLY:
		fprintf(f, "mmu: %016llx%s holds code: read-only\n", (ull)ev->va,
			log_name(c, ev->va, name));
		break;
	}
}

void bt_log_watch_shadow(struct cpu *c)
{
	bool on = c->translator && (c->engine->log_items & LOG_MMU);

	enum regime r;

	for (r = 0; c->translator && r < REGIMES; r++)
		shadow_watch(c->translator->shadows[r], on ? on_shadow_event : NULL, c);
}
