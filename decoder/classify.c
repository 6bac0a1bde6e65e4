/*
 * Which class an instruction belongs to, and why a sensitive one is sensitive.
 *
 * Popek and Goldberg call an instruction sensitive if its result depends on, or changes, the state
 * that makes a processor "this machine": privilege, interrupt flag, descriptor tables, control
 * registers, I/O. On a machine made for virtualization all of them trap in user mode. On x86 some
 * twenty do not (they silently do something else), which is why guest kernel code is translated
 * here and not just run. The table below is that list, with the merely privileged ones.
 *
 * What the table does not name: it is STACK_DATA if RSP is an operand, MEMORY if it has a memory
 * operand, else IDENTICAL.
 */
#include "optable.h"

enum {
	ANY = 0,
	MEM = 1,
	REG = 2,
};

struct class_row {
	u8 map, first, last;
	u8 digits; /* bit per ModRM.reg; 0: all */
	u8 form;   /* ANY, MEM, REG */
	u8 prefix; /* mandatory prefix; 0: any */
	u8 rms;    /* bit per ModRM.rm; 0: all */
	bool vex;  /* the VEX encoding too */
	u8 class, why;
};

#define D(n)      .digits = 1 << (n)
#define DIGITS(m) .digits = (m)
#define RMS(m)    .rms = (m)
#define SENSITIVE(m, lo, hi, reason, ...)                                                          \
	{                                                                                          \
		.map = INSN_MAP_##m, .first = lo, .last = hi, .class = CLASS_SENSITIVE,            \
		.why = WHY_##reason, __VA_ARGS__                                                   \
	}
#define CLASS(m, lo, hi, kind, ...)                                                                \
	{                                                                                          \
		.map = INSN_MAP_##m, .first = lo, .last = hi, .class = CLASS_##kind, __VA_ARGS__   \
	}

/* Legacy encodings; the first row that fits counts. */
static const struct class_row table[] = {
    /* near transfers of control */
    CLASS(1B, 0x70, 0x7f, CONTROL),               /* jcc */
    CLASS(0F, 0x80, 0x8f, CONTROL),               /* jcc */
    CLASS(1B, 0xe0, 0xe3, CONTROL),               /* loopne loope loop jcxz */
    CLASS(1B, 0xe8, 0xe9, CONTROL),               /* call jmp */
    CLASS(1B, 0xeb, 0xeb, CONTROL),               /* jmp */
    CLASS(1B, 0xc2, 0xc3, CONTROL),               /* ret */
    CLASS(1B, 0xff, 0xff, CONTROL, DIGITS(0x14)), /* call, jmp indirect */

    /* implicit memory operands */
    CLASS(1B, 0xa4, 0xa7, STRING),              /* movs cmps */
    CLASS(1B, 0xaa, 0xaf, STRING),              /* stos lods scas */
    CLASS(1B, 0xd7, 0xd7, STRING),              /* xlat */
    CLASS(0F, 0xf7, 0xf7, STRING, .vex = true), /* maskmovq maskmovdqu */

    /* implicit RSP */
    CLASS(1B, 0x50, 0x5f, STACK_DATA),                                    /* push pop */
    CLASS(1B, 0x60, 0x61, STACK_DATA),                                    /* pusha popa */
    CLASS(1B, 0x68, 0x68, STACK_DATA),                                    /* push imm */
    CLASS(1B, 0x6a, 0x6a, STACK_DATA), CLASS(1B, 0x8f, 0x8f, STACK_DATA), /* pop */
    CLASS(1B, 0xc8, 0xc9, STACK_DATA),                                    /* enter leave */
    CLASS(1B, 0xff, 0xff, STACK_DATA, D(6)),                              /* push */

    /* interrupts and flags */
    SENSITIVE(1B, 0x9c, 0x9d, FLAGS),                              /* pushf popf */
    SENSITIVE(1B, 0xfa, 0xfb, INTERRUPT_FLAG),                     /* cli sti */
    SENSITIVE(1B, 0xf4, 0xf4, HALT),                               /* hlt */
    SENSITIVE(1B, 0xcc, 0xce, SOFT_INTERRUPT),                     /* int3 int into */
    SENSITIVE(1B, 0xf1, 0xf1, SOFT_INTERRUPT),                     /* int1 */
    SENSITIVE(0F, 0x01, 0x01, SMAP, D(1), .form = REG, RMS(0x0c)), /* clac stac */

    /* port I/O; 6C-6F repeat and have memory operands like strings */
    SENSITIVE(1B, 0x6c, 0x6f, PORT), /* ins outs */
    SENSITIVE(1B, 0xe4, 0xe7, PORT), /* in out imm */
    SENSITIVE(1B, 0xec, 0xef, PORT), /* in out dx */

    /* segment registers */
    SENSITIVE(1B, 0x8c, 0x8c, SEGMENT_READ),                          /* mov from sreg */
    SENSITIVE(1B, 0x8e, 0x8e, SEGMENT_LOAD),                          /* mov to sreg */
    SENSITIVE(1B, 0x06, 0x06, SEGMENT_READ),                          /* push es */
    SENSITIVE(1B, 0x07, 0x07, SEGMENT_LOAD),                          /* pop es */
    SENSITIVE(1B, 0x0e, 0x0e, SEGMENT_READ),                          /* push cs */
    SENSITIVE(1B, 0x16, 0x16, SEGMENT_READ),                          /* push ss */
    SENSITIVE(1B, 0x17, 0x17, SEGMENT_LOAD),                          /* pop ss */
    SENSITIVE(1B, 0x1e, 0x1e, SEGMENT_READ),                          /* push ds */
    SENSITIVE(1B, 0x1f, 0x1f, SEGMENT_LOAD),                          /* pop ds */
    SENSITIVE(0F, 0xa0, 0xa0, SEGMENT_READ),                          /* push fs */
    SENSITIVE(0F, 0xa1, 0xa1, SEGMENT_LOAD),                          /* pop fs */
    SENSITIVE(0F, 0xa8, 0xa8, SEGMENT_READ),                          /* push gs */
    SENSITIVE(0F, 0xa9, 0xa9, SEGMENT_LOAD),                          /* pop gs */
    SENSITIVE(1B, 0xc4, 0xc5, SEGMENT_LOAD),                          /* les lds */
    SENSITIVE(0F, 0xb2, 0xb2, SEGMENT_LOAD),                          /* lss */
    SENSITIVE(0F, 0xb4, 0xb5, SEGMENT_LOAD),                          /* lfs lgs */
    SENSITIVE(0F, 0x01, 0x01, GS_BASE, D(7), .form = REG, RMS(0x01)), /* swapgs */
    SENSITIVE(0F, 0xae, 0xae, GS_BASE, DIGITS(0x0f), .form = REG, .prefix = 0xf3), /* fsgsbase */

    /* descriptor tables */
    SENSITIVE(0F, 0x00, 0x00, DESCRIPTOR_TABLE, DIGITS(0x0f)), /* sldt str lldt ltr */
    SENSITIVE(0F, 0x00, 0x00, DESCRIPTOR_QUERY, DIGITS(0x30)), /* verr verw */
    SENSITIVE(0F, 0x01, 0x01, DESCRIPTOR_TABLE, DIGITS(0x0f),
	      .form = MEM),                      /* sgdt sidt lgdt lidt */
    SENSITIVE(0F, 0x02, 0x03, DESCRIPTOR_QUERY), /* lar lsl */
    SENSITIVE(1B, 0x63, 0x63, DESCRIPTOR_QUERY), /* arpl (movsxd is taken out) */

    /* far transfers and system calls */
    SENSITIVE(1B, 0x9a, 0x9a, FAR_TRANSFER),               /* call far */
    SENSITIVE(1B, 0xea, 0xea, FAR_TRANSFER),               /* jmp far */
    SENSITIVE(1B, 0xca, 0xcb, FAR_TRANSFER),               /* retf */
    SENSITIVE(1B, 0xcf, 0xcf, FAR_TRANSFER),               /* iret */
    SENSITIVE(1B, 0xff, 0xff, FAR_TRANSFER, DIGITS(0x28)), /* call, jmp far indirect */
    SENSITIVE(0F, 0x05, 0x05, SYSTEM_CALL),                /* syscall */
    SENSITIVE(0F, 0x07, 0x07, SYSTEM_CALL),                /* sysret */
    SENSITIVE(0F, 0x34, 0x35, SYSTEM_CALL),                /* sysenter sysexit */

    /* control, debug, model-specific and extended control registers */
    SENSITIVE(0F, 0x01, 0x01, CONTROL_REGISTER, DIGITS(0x50)),               /* smsw lmsw */
    SENSITIVE(0F, 0x06, 0x06, CONTROL_REGISTER),                             /* clts */
    SENSITIVE(0F, 0x20, 0x20, CONTROL_REGISTER),                             /* mov from cr */
    SENSITIVE(0F, 0x22, 0x22, CONTROL_REGISTER),                             /* mov to cr */
    SENSITIVE(0F, 0x21, 0x21, DEBUG_REGISTER),                               /* mov from dr */
    SENSITIVE(0F, 0x23, 0x23, DEBUG_REGISTER),                               /* mov to dr */
    SENSITIVE(0F, 0x30, 0x30, MSR),                                          /* wrmsr */
    SENSITIVE(0F, 0x32, 0x32, MSR),                                          /* rdmsr */
    SENSITIVE(0F, 0x31, 0x31, COUNTER),                                      /* rdtsc */
    SENSITIVE(0F, 0x33, 0x33, COUNTER),                                      /* rdpmc */
    SENSITIVE(0F, 0x01, 0x01, COUNTER, D(7), .form = REG, RMS(0x02)),        /* rdtscp */
    SENSITIVE(0F, 0xc7, 0xc7, COUNTER, D(7), .form = REG, .prefix = 0xf3),   /* rdpid */
    SENSITIVE(0F, 0x01, 0x01, XCR, D(2), .form = REG, RMS(0x03)),            /* xgetbv xsetbv */
    SENSITIVE(0F, 0x01, 0x01, PROTECTION_KEY, D(5), .form = REG, RMS(0xc0)), /* rdpkru wrpkru */
    SENSITIVE(0F, 0xa2, 0xa2, CPUID),

    /* caches and translations */
    SENSITIVE(0F, 0x01, 0x01, TLB, D(7), .form = MEM), /* invlpg */
    SENSITIVE(0F38, 0x82, 0x82, TLB),                  /* invpcid */
    SENSITIVE(0F, 0x08, 0x09, CACHE_CONTROL),          /* invd wbinvd wbnoinvd */
    SENSITIVE(0F, 0x01, 0x01, MACHINE_STATE, D(5), .form = REG, RMS(0x01)), /* serialize */

    /* register files as a whole */
    SENSITIVE(0F, 0xae, 0xae, PROCESSOR_STATE, DIGITS(0x33), .form = MEM), /* fxsave xsave ... */
    CLASS(0F, 0xae, 0xae, MEMORY, D(6), .form = MEM, .prefix = 0x66),      /* clwb */
    SENSITIVE(0F, 0xae, 0xae, PROCESSOR_STATE, D(6), .form = MEM),         /* xsaveopt */
    SENSITIVE(0F, 0xc7, 0xc7, PROCESSOR_STATE, DIGITS(0x38), .form = MEM), /* xsavec xsaves ... */

    /* waiting */
    SENSITIVE(0F, 0x01, 0x01, WAIT, D(1), .form = REG, RMS(0x03)),      /* monitor mwait */
    SENSITIVE(0F, 0x01, 0x01, WAIT, D(7), .form = REG, RMS(0x0c)),      /* monitorx mwaitx */
    SENSITIVE(0F, 0xae, 0xae, WAIT, D(6), .form = REG, .prefix = 0x66), /* tpause */
    SENSITIVE(0F, 0xae, 0xae, WAIT, D(6), .form = REG, .prefix = 0xf2), /* umwait */
    SENSITIVE(0F, 0xae, 0xae, WAIT, D(6), .form = REG, .prefix = 0xf3), /* umonitor */

    /* virtualization and other modes */
    SENSITIVE(0F, 0x01, 0x01, VIRTUALIZATION, D(0), .form = REG), /* vmcall vmlaunch ... */
    SENSITIVE(0F, 0x01, 0x01, VIRTUALIZATION, D(2), .form = REG, RMS(0x10)), /* vmfunc */
    SENSITIVE(0F, 0x01, 0x01, VIRTUALIZATION, D(3), .form = REG),            /* SVM */
    SENSITIVE(0F, 0x78, 0x79, VIRTUALIZATION),                               /* vmread vmwrite */
    SENSITIVE(0F, 0xc7, 0xc7, VIRTUALIZATION, DIGITS(0xc0), .form = MEM),    /* vmptrld ... */
    SENSITIVE(0F38, 0x80, 0x81, VIRTUALIZATION),                             /* invept invvpid */
    SENSITIVE(0F, 0x01, 0x01, MODE, .form = REG),                            /* encls enclu */
    SENSITIVE(0F, 0x37, 0x37, MODE),                                         /* getsec */
    SENSITIVE(0F, 0xaa, 0xaa, MODE),                                         /* rsm */

    /* the rest */
    SENSITIVE(0F, 0x0b, 0x0b, UNDEFINED), /* ud2 */
    SENSITIVE(0F, 0xb9, 0xb9, UNDEFINED), /* ud1 */
    SENSITIVE(0F, 0xff, 0xff, UNDEFINED), /* ud0 */
    SENSITIVE(1B, 0x27, 0x27, LEGACY),    /* daa */
    SENSITIVE(1B, 0x2f, 0x2f, LEGACY),    /* das */
    SENSITIVE(1B, 0x37, 0x37, LEGACY),    /* aaa */
    SENSITIVE(1B, 0x3f, 0x3f, LEGACY),    /* aas */
    SENSITIVE(1B, 0xd4, 0xd6, LEGACY),    /* aam aad salc */
    SENSITIVE(1B, 0x62, 0x62, BOUNDS),    /* bound */
};

_Static_assert(ARRAY_LEN(table) <= UINT8_MAX, "insn_first_class");

static bool row_fits(const struct class_row *r, const struct insn *in)
{
	bool mem = in->modrm < 0xc0;

	if (in->enc == INSN_EVEX || (in->enc == INSN_VEX && !r->vex))
		return false;
	if (r->map != in->map || in->opcode < r->first || in->opcode > r->last)
		return false;
	if (r->digits && !(r->digits >> (in->modrm >> 3 & 7) & 1))
		return false;
	if (r->rms && !(r->rms >> (in->modrm & 7) & 1))
		return false;
	if (r->prefix && r->prefix != in->mandatory)
		return false;
	return r->form == ANY || (r->form == MEM) == mem;
}

/* RSP's value, not the memory it points to, is what the instruction works on. */
static bool uses_rsp_as_data(const struct insn *in)
{
	const u16 rsp = 1u << GPR_RSP;
	bool is_lea = in->enc == INSN_LEGACY && in->map == INSN_MAP_1B && in->opcode == 0x8d;

	return (in->gpr_written & rsp) || in->rsp_operand || (is_lea && (in->gpr_read & rsp));
}

u8 insn_first_class(enum insn_map map, u8 opcode)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(table); i++)
		if (table[i].map == map && opcode >= table[i].first && opcode <= table[i].last)
			break;
	return i;
}

static const struct class_row *find_row(const struct insn *in, u8 first)
{
	if (in->map == INSN_MAP_1B && in->opcode == 0x63 && in->mode == INSN_MODE_64)
		return NULL; /* movsxd */
	for (size_t i = first; i < ARRAY_LEN(table); i++)
		if (row_fits(&table[i], in))
			return &table[i];
	return NULL;
}

void insn_classify(const struct optable *t, struct insn *in)
{
	const struct class_row *row = find_row(in, t->at[in->map][in->opcode].first_class);

	in->why = WHY_NONE;
	if (row) {
		in->class = row->class;
		in->why = row->why;
	} else if (uses_rsp_as_data(in)) {
		in->class = CLASS_STACK_DATA;
	} else {
		in->class = in->has_mem ? CLASS_MEMORY : CLASS_IDENTICAL;
	}
}

const char *insn_class_name(enum insn_class c)
{
	static const char *const names[] = {
	    [CLASS_IDENTICAL] = "identical",   [CLASS_MEMORY] = "memory",
	    [CLASS_STACK_DATA] = "stack data", [CLASS_STRING] = "string",
	    [CLASS_CONTROL] = "control",       [CLASS_SENSITIVE] = "sensitive",
	};

	return (size_t)c < ARRAY_LEN(names) ? names[c] : "?";
}

const char *insn_why_text(enum insn_why w)
{
	static const char *const texts[] = {
#define WHY(id, text) [WHY_##id] = text,
#include "classify.def"
#undef WHY
	};

	return (size_t)w < ARRAY_LEN(texts) ? texts[w] : "?";
}
