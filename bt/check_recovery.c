/*
 * --check-recovery: is every place of a block one that the fault handler (recover.c) can turn back
 * into the guest's state?
 *
 *	records		the first at offset 0, each at a guest instruction of the block or
 *			behind its last one
 *	host code	each instruction that accesses memory, other than the CPU structure's
 *			and the front table's (absolute addresses without a segment prefix), has
 *			a record without RECOVER_NEVER. The exceptions: the five quadwords at
 *			RSP, which the block has just pushed or looked at, and the landing
 *			tables, behind a push
 */
#include "translate.h"

struct check {
	struct bt *bt;
	const struct block *b;
	u8 boundary[PAGE_SIZE + 1]; /* guest offsets where an instruction starts, and the end */
};

static NORETURN void wrong(const struct check *k, u32 host, const char *what)
{
	char text[160];
	u32 i;

	fprintf(stderr, "block at %#llx, host offset %#x:", (unsigned long long)k->b->pc, host);
	for (i = host; i < MIN(host + 16, k->b->host_len); i++)
		fprintf(stderr, " %02x", k->bt->rw[k->b->host + i]);
	snprintf(text, sizeof(text), "recovery check: %s", what);
	fprintf(stderr, "\n");
	bug_at(__FILE__, __LINE__, text);
}

static void mark_boundaries(struct check *k, const u8 *code)
{
	struct insn in;
	u32 done = 0;
	int n;

	while (done < k->b->len) {
		k->boundary[done] = 1;
		n = decoder_decode(k->bt->c->engine->decoder, code + done,
				   MIN(k->b->len - done, (u32)INSN_MAX_LEN), INSN_MODE_64, &in);
		if (n <= 0)
			break; /* it ends at bytes that are none, or of which not all are there */
		done += n;
	}
	k->boundary[k->b->len] = 1;
}

static void check_records(const struct check *k)
{
	struct records s = bt_records(k->bt, k->b);
	bool any = false;

	while (records_next(&s)) {
		if (!any && s.at.host)
			wrong(k, 0, "no record for the start");
		any = true;
		if (s.at.host > k->b->host_len)
			wrong(k, s.at.host, "a record lies behind the block");
		if (s.at.guest > k->b->len || !k->boundary[s.at.guest])
			wrong(k, s.at.host, "a record is at no guest instruction");
	}
	if (!any)
		wrong(k, 0, "no record");
}

static bool accesses_guest_memory(const struct insn *in)
{
	bool explicit = in->has_mem && in->access != ACCESS_NONE;
	bool absolute =
	    in->base == REG_NONE && in->index == REG_NONE && in->seg < SEG_FS && in->disp >= 0;

	if (in->class == CLASS_STRING)
		return true;
	if (explicit && !absolute)
		return true;
	/* push pop call ret pushf popf leave enter: implicit stack accesses */
	if (in->map != INSN_MAP_1B)
		return false;
	switch (in->opcode) {
	case 0x50 ... 0x5f:
	case 0x68:
	case 0x6a:
	case 0x8f:
	case 0x9c:
	case 0x9d:
	case 0xc2:
	case 0xc3:
	case 0xc8:
	case 0xc9:
	case 0xe8: return true;
	case 0xff: {
		unsigned ext = in->modrm >> 3 & 7;

		return ext == 2 || ext == 6; /* call, push */
	}
	default: return false;
	}
}

/* IRET moves RSP to the flags of its frame and pops them. */
static bool pops_frame_flags(const struct insn *before, const struct insn *in)
{
	return in->map == INSN_MAP_1B && in->opcode == 0x9d && before->map == INSN_MAP_1B &&
	       before->opcode == 0x8d && before->base == GPR_RSP && before->reg == GPR_RSP &&
	       before->disp == 16;
}

static bool touched_before(const struct insn *in)
{
	return in->has_mem && in->base == GPR_RSP && in->index == REG_NONE && in->disp >= 0 &&
	       in->disp + in->mem_size <= 40;
}

static bool is_landing(const struct bt *bt, const struct insn *in)
{
	enum regime r = regime_of(bt->c->rip);

	return in->has_mem && in->base == REG_NONE && in->index == GPR_RCX &&
	       in->disp == (s64)(uintptr_t)bt->landing[r][VIA_JUMP];
}

void bt_check_recovery(struct bt *bt, const struct block *b, const u8 *code)
{
	struct check k = {.bt = bt, .b = b};
	struct insn before = {.len = 0};
	u32 at = 0;

	mark_boundaries(&k, code);
	check_records(&k);
	while (at < b->host_len) {
		struct insn in;
		int n = decoder_decode(bt->c->engine->decoder, bt->rw + b->host + at,
				       MIN(b->host_len - at, (u32)INSN_MAX_LEN), INSN_MODE_64, &in);

		if (n <= 0)
			wrong(&k, at, "host code that does not decode");
		if (accesses_guest_memory(&in) && !touched_before(&in) &&
		    !pops_frame_flags(&before, &in) && !is_landing(bt, &in) &&
		    (records_find(bt_records(bt, b), at).spills & RECOVER_NEVER))
			wrong(&k, at, "an access to guest memory has no recovery");
		before = in;
		at += n;
	}
}
