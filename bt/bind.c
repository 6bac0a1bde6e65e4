/*
 * Which function executes an instruction. Ordinary ones run in a thunk; the exceptions are listed
 * here by opcode map, in opcode order: implicit memory, control transfers, and the sensitive class.
 */
#include "op.h"

static exec_fn *bind_group_ff(const struct insn *in)
{
	switch (in->modrm >> 3 & 7) {
	case 2: return exec_call_ind;
	case 3: return in->has_mem ? exec_call_far : exec_ud;
	case 4: return exec_jmp_ind;
	case 5: return in->has_mem ? exec_jmp_far : exec_ud;
	case 6: return exec_push_rm;
	case 7: return exec_ud;
	default: return NULL;
	}
}

static exec_fn *bind_x87(const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	if (in->has_mem && ((in->opcode == 0xd9 && (ext == 4 || ext == 6)) ||
			    (in->opcode == 0xdd && (ext == 4 || ext == 6))))
		return exec_xstate; /* fldenv fnstenv frstor fnsave */
	return exec_x87;
}

static exec_fn *bind_one_byte(const struct insn *in)
{
	switch (in->opcode) {
	case 0x06:
	case 0x0e:
	case 0x16:
	case 0x1e: return exec_push_sreg;
	case 0x07:
	case 0x17:
	case 0x1f: return exec_pop_sreg;
	case 0x27:
	case 0x2f:
	case 0x37:
	case 0x3f: return exec_bcd;
	case 0x50 ... 0x57: return exec_push;
	case 0x58 ... 0x5f: return exec_pop;
	case 0x60: return exec_pusha;
	case 0x61: return exec_popa;
	case 0x62: return exec_bound;
	case 0x63: return in->mode == INSN_MODE_64 ? NULL : exec_arpl;
	case 0x68:
	case 0x6a: return exec_push_imm;
	case 0x6c ... 0x6f: return exec_string;
	case 0x70 ... 0x7f: return exec_jcc;
	case 0x8c: return exec_mov_from_sreg;
	case 0x8d: return in->has_mem ? exec_lea : exec_ud;
	case 0x8e: return exec_mov_to_sreg;
	case 0x8f: return exec_pop_rm;
	case 0x90: return in->rex & 1 ? NULL : exec_nop; /* xchg r8, rax; nop, pause */
	case 0x9a: return exec_call_far;
	case 0x9b: return exec_x87;
	case 0x9c:
	case 0x9d: return exec_system;
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf: return exec_string;
	case 0xc2:
	case 0xc3: return exec_ret;
	case 0xc4:
	case 0xc5: return exec_load_far_ptr;
	case 0xc8: return exec_enter;
	case 0xc9: return exec_leave;
	case 0xca:
	case 0xcb: return exec_ret_far;
	case 0xcc ... 0xce: return exec_system;
	case 0xcf: return exec_iret;
	case 0xd4 ... 0xd6: return exec_bcd;
	case 0xd7: return exec_xlat;
	case 0xd8 ... 0xdf: return bind_x87(in);
	case 0xe0 ... 0xe3: return exec_loop;
	case 0xe4 ... 0xe7:
	case 0xec ... 0xef: return exec_system;
	case 0xe8: return exec_call;
	case 0xe9:
	case 0xeb: return exec_jmp;
	case 0xea: return exec_jmp_far;
	case 0xf1:
	case 0xf4:
	case 0xfa ... 0xfd: return exec_system;
	case 0xff: return bind_group_ff(in);
	default: return NULL;
	}
}

static exec_fn *bind_group_0f01(const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	if (in->modrm == 0xd0 || in->modrm == 0xd1) /* xgetbv xsetbv */
		return exec_xstate;
	if (in->has_mem && ext <= 3)
		return exec_descriptor_table;
	return exec_system;
}

static exec_fn *bind_group_0fae(const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	if (!in->has_mem)
		return in->mandatory == 0xf3 && ext <= 3 ? exec_system /* rdfsbase... */
		       : ext >= 5 && !in->mandatory      ? exec_nop    /* fences */
							 : exec_ud;
	if (in->mandatory == 0x66 && ext >= 6)
		return exec_probe; /* clwb clflushopt */
	if (in->mandatory)
		return exec_ud;
	return ext == 7 ? exec_probe : exec_xstate;
}

static exec_fn *bind_group_0fc7(const struct insn *in)
{
	unsigned ext = in->modrm >> 3 & 7;

	if (in->has_mem)
		return ext == 1 ? NULL : ext == 4 ? exec_xstate : exec_ud;
	return ext >= 6 && in->mandatory != 0xf3 ? NULL /* rdrand rdseed */ : exec_system;
}

static exec_fn *bind_0f(const struct insn *in)
{
	bool vex = in->enc != INSN_LEGACY;

	if (vex) {
		switch (in->opcode) {
		case 0x77:
		case 0xae: return exec_xstate; /* vzeroupper vldmxcsr */
		case 0xf7: return exec_maskmov;
		default: return NULL;
		}
	}
	switch (in->opcode) {
	case 0x00:
		switch (in->modrm >> 3 & 7) {
		case 0:
		case 1: return exec_sldt_str;
		case 2:
		case 3: return exec_lldt_ltr;
		case 4:
		case 5: return exec_verr_verw;
		default: return exec_ud;
		}
	case 0x01: return bind_group_0f01(in);
	case 0x02:
	case 0x03: return exec_lar_lsl;
	case 0x05: return exec_syscall;
	case 0x06:
	case 0x08:
	case 0x09:
	case 0x0b: return exec_system;
	case 0x07: return exec_sysret;
	case 0x0d: return in->has_mem ? exec_nop : NULL; /* register form: Intel's NOP, AMD's #UD */
	case 0x18 ... 0x1f: return exec_nop;
	case 0x20 ... 0x23:
	case 0x30 ... 0x33: return exec_system;
	case 0x34: return exec_sysenter;
	case 0x35: return exec_sysexit;
	case 0x80 ... 0x8f: return exec_jcc;
	case 0xa0:
	case 0xa8: return exec_push_sreg;
	case 0xa1:
	case 0xa9: return exec_pop_sreg;
	case 0xa2: return exec_system;
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb: return in->has_mem ? exec_bit_string : NULL;
	case 0xae: return bind_group_0fae(in);
	case 0xb2:
	case 0xb4:
	case 0xb5: return exec_load_far_ptr;
	case 0xb9:
	case 0xff: return exec_ud;
	case 0xc7: return bind_group_0fc7(in);
	case 0xf7: return exec_maskmov;
	default: return NULL;
	}
}

static exec_fn *bind_0f38(const struct insn *in)
{
	u8 op = in->opcode;

	if (in->enc == INSN_LEGACY) {
		if ((op & 0xfe) == 0xf0 && (in->prefixes & PFX_REP))
			return exec_ud; /* MOVBE is for no prefix, CRC32 for F2 */
		return op >= 0x80 && op <= 0x82 ? exec_system : NULL;
	}
	if (in->vsib)
		return exec_gather;
	if (in->enc == INSN_VEX && in->has_mem &&
	    ((op >= 0x2c && op <= 0x2f) || op == 0x8c || op == 0x8e))
		return exec_masked;
	return NULL;
}

exec_fn *op_bind(const struct insn *in, bool *wants_thunk)
{
	exec_fn *f = NULL;
	bool vector = in->state & (STATE_SSE | STATE_AVX | STATE_AVX512 | STATE_MMX);
	bool operand = in->has_mem && in->access != ACCESS_NONE && in->mem_size;

	*wants_thunk = false;
	if ((in->prefixes & PFX_LOCK) && !in->lockable)
		return exec_ud;
	switch (in->map) {
	case INSN_MAP_1B: f = bind_one_byte(in); break;
	case INSN_MAP_0F: f = bind_0f(in); break;
	case INSN_MAP_0F38: f = bind_0f38(in); break;
	default: break;
	}
	if (f == exec_x87 || f == exec_masked)
		*wants_thunk = true;
	if (f)
		return f;
	if (in->class == CLASS_SENSITIVE) /* the rest of them belongs to what we do not offer */
		return exec_ud;
	*wants_thunk = true;
	if (in->state & STATE_MMX)
		return exec_x87;
	if (in->enc == INSN_EVEX && in->evex_aaa && operand)
		return exec_masked;
	if (vector || (in->state & STATE_OPMASK))
		return operand ? exec_vec_mem : exec_vec_reg;
	return operand ? exec_mem : exec_reg;
}
