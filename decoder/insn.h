/*
 * struct insn: one decoded guest instruction, the only form in which the rest of ringshift sees
 * machine code.
 *
 * Three sources fill it. Our own structural parse splits the bytes into prefixes, opcode, ModRM,
 * SIB, displacement and immediate, because re-encoding an instruction needs every field's place.
 * The opcode table (opcodes.def) knows sizes, directions, registers and flags. Capstone names the
 * instruction and must agree on the length, else the instruction counts as undecodable.
 *
 * decoder/ knows nothing of guest state: the same bytes in the same mode give the same struct.
 * Intel SDM vol. 2, chapters 2 and 3; AMD APM vol. 3, chapter 1.
 */
#ifndef RINGSHIFT_INSN_H
#define RINGSHIFT_INSN_H

#include "base.h"

#define INSN_MAX_LEN 15

/* Code size of the segment the bytes come from: CS.L, CS.D. */
enum insn_mode { INSN_MODE_16, INSN_MODE_32, INSN_MODE_64 };

enum insn_enc { INSN_LEGACY, INSN_VEX, INSN_EVEX };

/* Opcode maps: one-byte, 0F, 0F38, 0F3A. (VEX and EVEX maps 1-3 are the last three.) */
enum insn_map { INSN_MAP_1B, INSN_MAP_0F, INSN_MAP_0F38, INSN_MAP_0F3A };

/* Hardware numbers of registers; RIP as a base and "none" have names of their own. */
enum {
	GPR_RAX,
	GPR_RCX,
	GPR_RDX,
	GPR_RBX,
	GPR_RSP,
	GPR_RBP,
	GPR_RSI,
	GPR_RDI,
	GPR_R8,
	GPR_R9,
	GPR_R10,
	GPR_R11,
	GPR_R12,
	GPR_R13,
	GPR_R14,
	GPR_R15,
	REG_RIP = 16,
	REG_NONE = 0xff
};
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* RFLAGS bits. */
#define FL_CF     0x0001u
#define FL_FIXED1 0x0002u
#define FL_PF     0x0004u
#define FL_AF     0x0010u
#define FL_ZF     0x0040u
#define FL_SF     0x0080u
#define FL_TF     0x0100u
#define FL_IF     0x0200u
#define FL_DF     0x0400u
#define FL_OF     0x0800u
#define FL_IOPL   0x3000u
#define FL_NT     0x4000u
#define FL_RF     0x10000u
#define FL_VM     0x20000u
#define FL_AC     0x40000u
#define FL_VIF    0x80000u
#define FL_VIP    0x100000u
#define FL_ID     0x200000u
#define FL_ARITH  (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

enum insn_prefix {
	PFX_LOCK = 1 << 0,
	PFX_REPNE = 1 << 1, /* F2 present and last of F2/F3 */
	PFX_REP = 1 << 2,   /* F3 present and last of F2/F3 */
	PFX_66 = 1 << 3,
	PFX_67 = 1 << 4,
	PFX_SEG = 1 << 5, /* a segment override that has an effect in this mode */
};

enum insn_class {
	CLASS_IDENTICAL,  /* registers only: could be copied as it is */
	CLASS_MEMORY,     /* one explicit memory operand, no use of RSP but as its base */
	CLASS_STACK_DATA, /* RSP is an operand (not a base; lea's base counts as one), or is
			     changed implicitly (push, pop...) */
	CLASS_STRING,     /* implicit (R/E)SI, (R/E)DI: movs cmps stos lods scas, xlat, maskmov; ins
			     and outs (opcodes 6C-6F) are SENSITIVE for their port */
	CLASS_CONTROL,    /* near jumps, calls, returns, loops */
	CLASS_SENSITIVE,  /* privileged, or reads or writes machine state; insn.why says which */
};

/* Why an instruction is sensitive: X-macro list in classify.def, WHY(identifier, "sentence"). */
enum insn_why {
#define WHY(id, text) WHY_##id,
#include "classify.def"
#undef WHY
	WHY_COUNT
};

/* Register files an instruction touches beside the general registers. */
enum insn_state {
	STATE_X87 = 1 << 0,
	STATE_MMX = 1 << 1,
	STATE_SSE = 1 << 2,    /* XMM through legacy encoding (needs CR4.OSFXSR), or MXCSR */
	STATE_AVX = 1 << 3,    /* VEX-encoded vector instruction */
	STATE_AVX512 = 1 << 4, /* EVEX-encoded, or opmask instruction */
	STATE_OPMASK = 1 << 5, /* opmask registers are read or written */
};

enum insn_access { ACCESS_NONE, ACCESS_R = 1, ACCESS_W = 2, ACCESS_RW = 3 };

/* Identities for instructions Capstone 4 has no name for. Which one it is, the opcode tells. */
enum insn_own_id {
	INSN_ID_VECTOR = 0x8000, /* SSE, AVX or AVX-512 */
	INSN_ID_INTEGER,         /* only general registers and memory */
	INSN_ID_SENSITIVE,
};

struct insn {
	u8 bytes[INSN_MAX_LEN];
	u8 mode;  /* enum insn_mode */
	s64 disp; /* sign-extended; EVEX disp8 already scaled; moffs: the address */
	s64 imm;  /* sign-extended first immediate */

	/* From here to the end is the shape of the instruction (shapes.c). */
	u8 len;
	u8 enc;       /* enum insn_enc */
	u8 map;       /* enum insn_map */
	u8 opcode;    /* last opcode byte */
	u8 prefixes;  /* enum insn_prefix, as present in the bytes */
	u8 mandatory; /* 0, 0x66, 0xf2, 0xf3: prefix that is part of the opcode (VEX/EVEX: pp) */
	u8 opsize;   /* effective integer operand size in bytes: 2, 4, 8 (byte forms too: see id and
			opcode; 64-bit default of push, pop, near branches is applied) */
	u8 addrsize; /* 2, 4, 8 */
	u8 rex;      /* REX byte, 0 if none */

	/* Extension bits, whichever encoding they come from (positive logic). */
	u8 w;    /* REX.W, VEX.W, EVEX.W */
	u8 vvvv; /* VEX/EVEX.vvvv with V', 0..31; 0 if unused */
	u8 vl;   /* VEX.L / EVEX.L'L: vector bytes 16, 32, 64; 0 for legacy */
	u8 evex_aaa, evex_z, evex_b;

	bool has_modrm;
	bool opsize_66; /* the 66 prefix means operand size here (integer instruction), so 16-bit
			   code must toggle it to run in 64-bit mode */
	u8 modrm;       /* the byte */
	u8 reg;         /* ModRM.reg with R and (EVEX vector) R' */
	u8 rm;          /* ModRM.rm with B and (EVEX vector, mod 3) X, if mod is 3 */
	u8 off_opcode;  /* offset of the last opcode byte; of C4/C5/62 for VEX and EVEX */
	u8 off_modrm;   /* 0 if none */
	u8 off_disp, disp_size; /* bytes */
	u8 off_imm, imm_size;   /* all immediate bytes together (enter: 3, far pointer: 4 or 6) */

	/* Memory operand: ModRM mod 0-2, or moffs. Implicit ones (strings, stack, xlat) are not
	 * here, but seg holds what an override says for them too. */
	bool has_mem; /* ModRM or moffs memory form, LEA and NOP and prefetch included */
	bool moffs;   /* A0-A3 */
	u8 base;      /* GPR_*, REG_RIP, REG_NONE */
	u8 index;     /* GPR_*, or vector register number if vsib, or REG_NONE */
	u8 scale;     /* 1, 2, 4, 8 */
	bool vsib;
	u8 seg;       /* SEG_* the operand uses, defaults and overrides applied */
	u8 access;    /* enum insn_access of the memory operand; NONE for lea, nop, prefetch */
	u16 mem_size; /* bytes touched; 0 where none or variable (xsave); of one element if vsib */

	u16 id;           /* X86_INS_* of Capstone or enum insn_own_id; 0 never */
	u8 class;         /* enum insn_class */
	u8 why;           /* enum insn_why, WHY_NONE unless class is CLASS_SENSITIVE */
	u8 state;         /* enum insn_state */
	bool rsp_operand; /* RSP is named as an operand (not as a base) by ModRM, opcode or vvvv */
	bool lockable;    /* LOCK with a memory destination is legal (else LOCK is #UD) */
	bool flags_partial; /* flags are written, but some arithmetic flag keeps, or may keep, its
			       old value (flags the manual leaves undefined included, if some
			       processor keeps them) */
	u16 flags_read;     /* FL_* arithmetic flags and DF the instruction may read */
	u16 flags_written;  /* FL_* that are written, cleared, set or left undefined, maybe not
			       always */
	u16 gpr_implicit;   /* bit per GPR_*: used without being named in ModRM/opcode/vvvv */
	u16 gpr_read;       /* bit per GPR_*: all that are read, addressing included; also those
			       written in part (8 or 16 bits) or not always */
	u16 gpr_written;
};

struct decoder;

/* One decoder per thread (Capstone handles are not shared). NULL if Capstone cannot be opened. */
struct decoder *decoder_new(void);
void decoder_free(struct decoder *d);
/* Count there from now on. */
void decoder_count(struct decoder *d, struct stats *stats);

/*
 * Decode the instruction that starts at bytes[0]; avail says how many bytes may be read (1..15,
 * more are ignored). Returns its length and fills *out; -ENODATA if more bytes are needed to tell;
 * -EILSEQ if this is no instruction we know or it is longer than 15 bytes (then out->len is the
 * length as far as the structural parse got, for reports).
 */
MUST_CHECK int decoder_decode(struct decoder *d, const u8 *bytes, size_t avail, enum insn_mode mode,
			      struct insn *out);

/* AT&T or Intel text of an instruction, for logs: returns buf. pc in guest linear units. */
const char *decoder_format(struct decoder *d, const struct insn *in, u64 pc, char *buf, size_t len);

const char *insn_class_name(enum insn_class c);
const char *insn_why_text(enum insn_why w);

#endif
