/*
 * Thunks that fault: operands of which a mask switches off the absent part, and the host's
 * exceptions as the guest's.
 */
#include "engine_rig.h"
#include "xstate.h"

#define AT(n) (RIG_CODE + (n))
#define ONES  0xffffffffffffffffull

#define NEED(feature)                                                                              \
	do {                                                                                       \
		__builtin_cpu_init();                                                              \
		if (!__builtin_cpu_supports(feature))                                              \
			cr_skip("the host lacks " feature);                                        \
	} while (0)

/* --- masked operands --- */

#define LOAD_Z  0x62, 0xf1, 0x7e, 0xc9, 0x6f, 0x07 /* vmovdqu32 zmm0{k1}{z},[rdi] */
#define LOAD_M  0x62, 0xf1, 0x7e, 0x49, 0x6f, 0x07 /* vmovdqu32 zmm0{k1},[rdi] */
#define STORE_M 0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x07 /* vmovdqu32 [rdi]{k1},zmm0 */

/* The page below ERIG_NEXT is there, ERIG_NEXT is not, the one above is. */
static struct erig *new_masked(bool user)
{
	struct erig *e = erig_new_long(user ? 3 : 0);

	erig_small_pages(e);
	erig_vectors(e);
	erig_map(e, ERIG_NEXT + 0x1000, 0x50000 | PTE_P | PTE_W | PTE_U);
	for (unsigned i = 0; i < 16; i++) {
		rig_put(e->r, ERIG_NEXT - 64 + 4 * i, 4, 0x100 + i);
		rig_put(e->r, 0x50000 + 4 * i, 4, 0x200 + i);
	}
	memset(e->c->vec.zmm[0], 0xee, 64);
	return e;
}

static u32 lane(const struct erig *e, unsigned i)
{
	u32 v;

	memcpy(&v, e->c->vec.zmm[0] + 4 * i, 4);
	return v;
}

Test(thunk_fault, masked_loads_beside_an_absent_page)
{
	static const struct {
		s64 at; /* from ERIG_NEXT */
		u16 mask;
		bool fault;
	} cases[] = {
	    {-32, 0x00ff, false},                              /* lower half present, and wanted */
	    {-32, 0x0001, false},         {-32, 0x0100, true}, /* the first lane that is absent */
	    {-32, 0xffff, true},          {-32, 0x8000, true},         {-32, 0x0000, false},
	    {-30, 0x007f, false},         {-30, 0x0080, true}, /* a lane across the border */
	    {0x1000 - 32, 0xff00, false},                      /* upper half present */
	    {0x1000 - 32, 0xfe00, false}, {0x1000 - 32, 0x0080, true}, {0x1000 - 32, 0x0001, true},
	    {0x100, 0x0000, false}, /* none of it present */
	    {0x100, 0x0010, true},        {0x123, 0x0000, false},
	};

	NEED("avx512bw");
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		for (unsigned zero = 0; zero < 2; zero++) {
			struct erig *e = new_masked(true);
			unsigned v;

			e->c->vec.k[1] = cases[i].mask;
			e->c->gpr[GPR_RDI] = ERIG_NEXT + cases[i].at;
			if (zero)
				v = ERIG_RUN(e, cases[i].fault ? 10 : 1, LOAD_Z);
			else
				v = ERIG_RUN(e, cases[i].fault ? 10 : 1, LOAD_M);
			cr_assert_eq(v, cases[i].fault ? EXC_PF : RIG_OK, "case %u: %#x", i, v);
			if (cases[i].fault) {
				cr_expect_eq(e->c->cr2 & PAGE_MASK, ERIG_NEXT, "case %u: %llx", i,
					     (unsigned long long)e->c->cr2);
				cr_expect_eq(erig_frame(e, 0), PF_U);
				cr_expect_eq(lane(e, 0), 0xeeeeeeee);
			}
			for (unsigned k = 0; !cases[i].fault && k < 16; k++) {
				gpa_t at = ERIG_NEXT + cases[i].at + 4 * k;
				u32 want = zero ? 0 : 0xeeeeeeee;

				if (cases[i].mask >> k & 1)
					want = rig_get(e->r,
						       at >= ERIG_NEXT + 0x1000
							   ? at - ERIG_NEXT - 0x1000 + 0x50000
							   : at,
						       4);
				cr_expect_eq(lane(e, k), want, "case %u, lane %u: %x", i, k,
					     lane(e, k));
			}
			erig_free(e);
		}
	}
}

Test(thunk_fault, masked_stores_beside_an_absent_page)
{
	static const struct {
		s64 at;
		u16 mask;
		bool fault;
	} cases[] = {
	    {-32, 0x00a5, false}, {-32, 0x01a5, true},          {-32, 0, false},
	    {0x100, 0, false},    {0x1000 - 32, 0xa500, false}, {0x1000 - 32, 0xa580, true},
	    {-64, 0x8001, false}, /* wholly present */
	};

	NEED("avx512bw");
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = new_masked(false);
		unsigned v;

		e->c->vec.k[1] = cases[i].mask;
		e->c->gpr[GPR_RDI] = ERIG_NEXT + cases[i].at;
		v = ERIG_RUN(e, cases[i].fault ? 10 : 1, STORE_M);
		cr_assert_eq(v, cases[i].fault ? EXC_PF : RIG_OK, "case %u: %#x", i, v);
		if (cases[i].fault) {
			cr_expect_eq(e->c->cr2 & PAGE_MASK, ERIG_NEXT);
			cr_expect_eq(erig_frame(e, 0), PF_W);
		}
		for (unsigned k = 0; k < 16; k++) {
			u64 low = ERIG_NEXT - 64 + 4 * k, high = 0x50000 + 4 * k;
			s64 lane_low = (s64)(low - ERIG_NEXT - cases[i].at) / 4;
			s64 lane_high = (s64)(0x1000 + 4 * k - cases[i].at) / 4;
			bool hit_low = !cases[i].fault && lane_low >= 0 && lane_low < 16 &&
				       (cases[i].mask >> lane_low & 1);
			bool hit_high = !cases[i].fault && lane_high >= 0 && lane_high < 16 &&
					(cases[i].mask >> lane_high & 1);

			cr_expect_eq(rig_get(e->r, low, 4), hit_low ? 0xeeeeeeee : 0x100 + k,
				     "case %u, low %u", i, k);
			cr_expect_eq(rig_get(e->r, high, 4), hit_high ? 0xeeeeeeee : 0x200 + k,
				     "case %u, high %u", i, k);
		}
		erig_free(e);
	}
}

/* Present, but not writable: as bad as absent for the lanes that are stored to. */
Test(thunk_fault, masked_stores_to_a_read_only_page)
{
	struct erig *e = new_masked(true);

	NEED("avx512bw");
	erig_map(e, ERIG_NEXT, 0x51000 | PTE_P | PTE_U);
	e->c->vec.k[1] = 0x0001;
	e->c->gpr[GPR_RDI] = ERIG_NEXT - 32;
	cr_assert_eq(ERIG_RUN(e, 1, STORE_M), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_NEXT - 32, 4), 0xeeeeeeee);
	cr_expect_eq(rig_get(e->r, 0x51000, 8), 0);
	e->c->vec.k[1] = 0x8000;
	cr_assert_eq(ERIG_RUN(e, 10, STORE_M), EXC_PF);
	cr_expect_eq(erig_frame(e, 0), PF_P | PF_W | PF_U);
	erig_free(e);
}

/* VMASKMOVPS: the mask is in a vector register. */
Test(thunk_fault, vmaskmov_beside_an_absent_page)
{
	struct erig *e = new_masked(false);
	u32 mask[8] = {0x80000000, 0, 0x80000000, 0, 0, 0, 0, 0};

	NEED("avx2");
	memcpy(e->c->vec.zmm[1], mask, sizeof(mask));
	e->c->gpr[GPR_RDI] = ERIG_NEXT - 16;
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe2, 0x75, 0x2c, 0x07), RIG_OK);
	cr_expect_eq(lane(e, 0), 0x10c);
	cr_expect_eq(lane(e, 1), 0);
	cr_expect_eq(lane(e, 2), 0x10e);
	cr_expect_eq(lane(e, 7), 0);
	memset(e->c->vec.zmm[0], 0x99, 32);
	cr_assert_eq(ERIG_RUN(e, 1, 0xc4, 0xe2, 0x75, 0x2e, 0x07), RIG_OK);
	cr_expect_eq(rig_get(e->r, ERIG_NEXT - 16, 8), 0x0000010d99999999);
	cr_expect_eq(rig_get(e->r, ERIG_NEXT - 8, 8), 0x0000010f99999999);
	mask[4] = 0x80000000;
	memcpy(e->c->vec.zmm[1], mask, sizeof(mask));
	cr_assert_eq(ERIG_RUN(e, 10, 0xc4, 0xe2, 0x75, 0x2e, 0x07), EXC_PF);
	cr_expect_eq(e->c->cr2 & ~3ull, ERIG_NEXT); /* some report the byte of the mask bit */
	erig_free(e);
}

/* --- the host's exceptions --- */

Test(thunk_fault, divide_errors)
{
	static const struct {
		u8 code[4];
		u64 rax, rdx, rcx;
	} cases[] = {
	    {{0xf6, 0xf1}, 5, 0, 0},                      /* div cl by 0 */
	    {{0xf7, 0xf1}, 5, 1, 1},                      /* div ecx: the quotient has 33 bits */
	    {{0x48, 0xf7, 0xf9}, 1ull << 63, ONES, ONES}, /* idiv rcx: -2^63 / -1 */
	    {{0x66, 0xf7, 0xf1}, 0, 0, 0},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);

		e->c->gpr[GPR_RAX] = cases[i].rax;
		e->c->gpr[GPR_RDX] = cases[i].rdx;
		e->c->gpr[GPR_RCX] = cases[i].rcx;
		e->c->aflags = FL_CF;
		erig_put_code(e, RIG_CODE, cases[i].code, 4);
		cr_expect_eq(erig_run(e, 10), EXC_DE);
		cr_expect_eq(erig_frame(e, 0), AT(0));
		cr_expect_eq(erig_frame(e, 2), FL_CF | FL_RF | FL_FIXED1);
		cr_expect_eq(e->c->gpr[GPR_RAX], cases[i].rax);
		cr_expect_eq(e->c->gpr[GPR_RDX], cases[i].rdx);
		cr_expect_eq(e->r->stats.n[STAT_thunk_faults], 1);
		erig_free(e);
	}
}

/* In a row: the handler is not left in a state of its own. */
Test(thunk_fault, many_divide_errors)
{
	struct erig *e = erig_new_long(0);

	ERIG_CODE_AT(e, ERIG_HANDLERS, 0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xff, 0xc3, 0x48, 0xcf);
	/* 1: div cl; inc esi; cmp esi,1000; jb 1b; hlt elsewhere */
	cr_assert_eq(ERIG_RUN(e, 8000, 0xf6, 0xf1, 0xff, 0xc6, 0x81, 0xfe, 0xe8, 0x03, 0, 0, 0x72,
			      0xf4, 0xcd, 0x22),
		     0x22);
	cr_expect_eq(e->c->gpr[GPR_RBX], 1000);
	cr_expect_eq(e->r->stats.n[STAT_thunk_faults], 1000);
	erig_free(e);
}

Test(thunk_fault, misaligned_vectors)
{
	static const u8 movaps_load[] = {0x0f, 0x28, 0x07}, movaps_store[] = {0x0f, 0x29, 0x07},
			paddd[] = {0x66, 0x0f, 0xfe, 0x07}, cmpxchg16b[] = {0x48, 0x0f, 0xc7, 0x0f};
	static const struct {
		const u8 *code;
		unsigned len;
	} cases[] = {{movaps_load, 3}, {movaps_store, 3}, {paddd, 4}, {cmpxchg16b, 4}};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		static const u64 where[] = {ERIG_FREE + 8, ERIG_FREE + 0xff8, ERIG_MMIO + 8};

		for (unsigned k = 0; k < ARRAY_LEN(where); k++) {
			struct erig *e = erig_new_long(0);

			erig_vectors(e);
			e->c->gpr[GPR_RDI] = where[k];
			erig_put_code(e, RIG_CODE, cases[i].code, cases[i].len);
			cr_expect_eq(erig_run(e, 10), EXC_GP, "case %u", i);
			cr_expect_eq(erig_frame(e, 0), 0);
			cr_expect_eq(erig_frame(e, 1), AT(0));
			e->c->rip = RIG_CODE;
			e->c->gpr[GPR_RDI] = ERIG_FREE + 16;
			cr_expect_eq(erig_run(e, 1), RIG_OK, "case %u, aligned", i);
			erig_free(e);
		}
	}
}

Test(thunk_fault, simd_exceptions)
{
	static const float one[4] = {1, 1, 1, 1};

	for (unsigned enabled = 0; enabled < 2; enabled++) {
		struct erig *e = erig_new_long(0);

		erig_vectors(e);
		if (!enabled)
			e->c->cr4 &= ~CR4_OSXMMEXCPT;
		e->c->vec.mxcsr = 0x1d80; /* division by zero unmasked */
		memcpy(e->c->vec.zmm[0], one, 16);
		cr_expect_eq(ERIG_RUN(e, 10, 0x0f, 0x5e, 0xc1), enabled ? EXC_XM : EXC_UD);
		cr_expect_eq(erig_frame(e, 0), AT(0));
		cr_expect_eq(e->c->vec.mxcsr, 0x1d84);
		cr_expect_eq(memcmp(e->c->vec.zmm[0], one, 16), 0);
		/* Masked: the flag alone. */
		e->c->vec.mxcsr = 0x1f80;
		e->c->rip = RIG_CODE;
		cr_expect_eq(erig_run(e, 1), RIG_OK);
		cr_expect_eq(e->c->vec.mxcsr, 0x1f84);
		erig_free(e);
	}
}

/* Rounding and flushing to zero are the guest's, and the monitor's own arithmetic is not touched.
 */
Test(thunk_fault, mxcsr_is_the_guests)
{
	static const float third[2] = {1, 3};
	struct erig *e = erig_new_long(0);
	u32 bits[2], own;

	erig_vectors(e);
	for (unsigned i = 0; i < 2; i++) {
		e->c->vec.mxcsr = i ? 0x5f80 : 0x3f80; /* up, down */
		memcpy(e->c->vec.zmm[0], &third[0], 4);
		memcpy(e->c->vec.zmm[1], &third[1], 4);
		e->c->rip = RIG_CODE;
		cr_assert_eq(ERIG_RUN(e, 1, 0xf3, 0x0f, 0x5e, 0xc1), RIG_OK);
		memcpy(&bits[i], e->c->vec.zmm[0], 4);
	}
	cr_expect_eq(bits[1], bits[0] + 1, "%x %x", bits[0], bits[1]);
	asm volatile("stmxcsr %0" : "=m"(own));
	cr_expect_eq(own & 0xffc0, 0x1f80);
	erig_free(e);
}

/* fldcw [rdi]; fld1; fldz; fdivp; then fwait. */
#define X87_ERROR 0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9

Test(thunk_fault, x87_errors)
{
	struct erig *e = erig_new_long(0);

	e->c->cr0 |= CR0_NE;
	rig_put(e->r, ERIG_FREE, 2, 0x37b); /* division by zero unmasked */
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 5, X87_ERROR, 0x90, 0x9b, 0xdb, 0xe2), RIG_OK);
	cr_expect_eq(e->c->rip, AT(9), "not before a waiting instruction");
	cr_expect_eq(e->c->vec.fx[2] & 0x84, 0x84, "ZE and ES");
	cr_expect_eq(rig_get(e->r, 0, 0), 0);
	cr_expect_eq(erig_run(e, 10), EXC_MF);
	cr_expect_eq(erig_frame(e, 0), AT(9));
	cr_expect_eq(*(u64 *)(e->c->vec.fx + 8), AT(6), "FIP is the guest's");
	/* FNCLEX does not wait, and ends it. */
	e->c->rip = AT(10);
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	e->c->rip = AT(9);
	cr_expect_eq(erig_run(e, 1), RIG_OK);
	/* MMX instructions wait, too. */
	e->c->rip = RIG_CODE;
	cr_expect_eq(ERIG_RUN(e, 20, X87_ERROR, 0x0f, 0xfe, 0xc0), EXC_MF);
	cr_expect_eq(erig_frame(e, 0), AT(8));
	erig_free(e);
}

/* CR0.NE clear: FERR# instead of #MF, and the processor stands still until somebody interrupts. */
Test(thunk_fault, x87_errors_as_irq_13)
{
	struct erig *e = erig_new_long(0);

	e->c->cr0 &= ~CR0_NE;
	rig_put(e->r, ERIG_FREE, 2, 0x37b);
	e->c->gpr[GPR_RDI] = ERIG_FREE;
	cr_assert_eq(ERIG_RUN(e, 20, X87_ERROR, 0x9b), RIG_OK);
	cr_expect_eq(e->c->rip, AT(8));
	cr_expect_gt(e->fpu_errors, 0);
	e->c->sflags |= FL_IF;
	cpu_set_intr(e->c, true);
	cr_expect_eq(erig_run(e, 10), ERIG_INTR);
	cr_expect_eq(erig_frame(e, 0), AT(8));
	erig_free(e);
}

/* --- x87 stores that an unmasked exception keeps from being written --- */

struct x87_value {
	const char *what;
	u64 mantissa;
	u16 exponent;
	bool empty;
};

static const struct x87_value x87_values[] = {
    {"an empty register", 1ull << 63, 0x3fff, true},
    {"1", 1ull << 63, 0x3fff, false},
    {"1/3", 0xaaaaaaaaaaaaaaab, 0x3ffd, false},
    {"infinity", 1ull << 63, 0x7fff, false},
    {"a quiet NaN", 3ull << 62, 0x7fff, false},
    {"a signalling NaN", 1ull << 63 | 1, 0x7fff, false},
    {"no number", 1, 0x3fff, false},
    {"a large one", 0xaaaaaaaaaaaaaaab, 0x7000, false},
    {"a small one", 0xaaaaaaaaaaaaaaab, 0x1000, false},
    {"a denormal", 3, 0, false},
};

static const struct x87_store {
	u8 opcode, ext, size;
} x87_stores[] = {
    {0xd9, 2, 4}, {0xd9, 3, 4}, {0xdd, 2, 8}, {0xdd, 3, 8},  {0xdb, 7, 10},
    {0xdf, 2, 2}, {0xdf, 3, 2}, {0xdb, 2, 4}, {0xdb, 3, 4},  {0xdf, 7, 8},
    {0xdf, 1, 2}, {0xdb, 1, 4}, {0xdd, 1, 8}, {0xdf, 6, 10}, {0xd9, 7, 2 /* FNSTCW */},
};

/* FSW afterwards. */
static u16 store_to(struct erig *e, const struct x87_store *s, const struct x87_value *v, u16 fcw,
		    gva_t at)
{
	u8 *fx = e->c->vec.fx;

	x87_init(e->c);
	memcpy(fx + FX_FCW, &fcw, 2);
	fx[FX_FTW] = v->empty ? 0 : 1;
	memcpy(fx + FX_ST, &v->mantissa, 8);
	memcpy(fx + FX_ST + 8, &v->exponent, 2);
	e->c->gpr[GPR_RDI] = at;
	e->c->rip = RIG_CODE;
	cr_assert_eq(ERIG_RUN(e, 1, s->opcode, s->ext << 3 | 7), RIG_OK);
	return fx[FX_FSW] | fx[FX_FSW + 1] << 8;
}

#define UNTOUCHED 0x5a

static void fill(struct erig *e, gpa_t at, unsigned n)
{
	while (n--)
		rig_put(e->r, at + n, 1, UNTOUCHED);
}

/* Within a page the host itself stores, or does not: so must what goes by a buffer. True: it was
 * withheld. */
static bool store_everywhere(struct erig *e, const struct x87_store *s, const struct x87_value *v,
			     u16 fcw)
{
	unsigned n = s->size, i, writes = 0;
	gpa_t two[] = {0x51000 - 1, 0x40000};
	bool withheld = true;
	u16 fsw;

	fill(e, 0x60000, n);
	fill(e, two[0], 1);
	fill(e, two[1], n - 1);
	fsw = store_to(e, s, v, fcw, 0x60000);
	cr_expect_eq(store_to(e, s, v, fcw, ERIG_NEXT + 0xfff), fsw);
	for (i = 0; i < n; i++) {
		u8 there = rig_get(e->r, 0x60000 + i, 1);

		withheld &= there == UNTOUCHED;
		cr_expect_eq(rig_get(e->r, i ? two[1] + i - 1 : two[0], 1), there,
			     "%02x /%u of %s, FCW %x: byte %u", s->opcode, s->ext, v->what, fcw, i);
	}
	e->n_io = 0;
	cr_expect_eq(store_to(e, s, v, fcw, ERIG_MMIO + 0x10), fsw);
	for (i = 0; i < e->n_io; i++)
		writes += e->io[i].write;
	cr_expect_eq(writes, e->n_io, "a device was read");
	cr_expect_eq(writes == 0, withheld, "%02x /%u of %s, FCW %x: MMIO", s->opcode, s->ext,
		     v->what, fcw);
	return withheld;
}

Test(thunk_fault, x87_stores_withheld)
{
	struct erig *e = erig_new_long(0);
	unsigned withheld = 0, all = 0, i, k, bit;

	erig_small_pages(e);
	erig_map(e, ERIG_NEXT, 0x50000 | PTE_P | PTE_W);
	erig_map(e, ERIG_NEXT + 0x1000, 0x40000 | PTE_P | PTE_W);
	for (i = 0; i < ARRAY_LEN(x87_stores); i++)
		for (k = 0; k < ARRAY_LEN(x87_values); k++)
			for (bit = 0; bit < 8; bit++, all++) /* 6: all masked, 7: none */
				withheld += store_everywhere(
				    e, &x87_stores[i], &x87_values[k],
				    bit == 7 ? 0x340 : (0x37f & ~(1u << bit)) | (bit == 6) << 6);
	cr_expect_gt(withheld, 100);
	cr_expect_gt(all - withheld, 100);
	erig_free(e);
}

Test(thunk_fault, register_files_that_are_switched_off)
{
	static const struct {
		const char *what;
		u64 cr0, no_cr4;
		u8 code[6];
		unsigned ends;
	} cases[] = {
	    {"fld1 with TS", CR0_TS, 0, {0xd9, 0xe8}, EXC_NM},
	    {"fld1 with EM", CR0_EM, 0, {0xd9, 0xe8}, EXC_NM},
	    {"fwait with TS", CR0_TS, 0, {0x9b}, RIG_OK},
	    {"fwait with EM", CR0_EM, 0, {0x9b}, RIG_OK},
	    {"fwait with TS and MP", CR0_TS | CR0_MP, 0, {0x9b}, EXC_NM},
	    {"paddd mm with EM", CR0_EM, 0, {0x0f, 0xfe, 0xc0}, EXC_UD},
	    {"paddd mm with TS", CR0_TS, 0, {0x0f, 0xfe, 0xc0}, EXC_NM},
	    {"addps with TS", CR0_TS, 0, {0x0f, 0x58, 0xc0}, EXC_NM},
	    {"addps with EM", CR0_EM, 0, {0x0f, 0x58, 0xc0}, EXC_UD},
	    {"addps without OSFXSR", 0, CR4_OSFXSR, {0x0f, 0x58, 0xc0}, EXC_UD},
	    {"vaddps without OSXSAVE", 0, CR4_OSXSAVE, {0xc5, 0xf8, 0x58, 0xc0}, EXC_UD},
	    {"vaddps with TS", CR0_TS, 0, {0xc5, 0xf8, 0x58, 0xc0}, EXC_NM},
	    {"popcnt with everything off",
	     CR0_TS | CR0_EM,
	     CR4_OSFXSR,
	     {0xf3, 0x0f, 0xb8, 0xc0},
	     RIG_OK},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);
		unsigned v;

		erig_vectors(e);
		e->c->cr0 |= cases[i].cr0;
		e->c->cr4 &= ~cases[i].no_cr4;
		erig_put_code(e, RIG_CODE, cases[i].code, sizeof(cases[i].code));
		v = erig_run(e, cases[i].ends == RIG_OK ? 1 : 10);
		cr_expect_eq(v, cases[i].ends, "%s: %#x", cases[i].what, v);
		erig_free(e);
	}
}

/* An instruction the host does not have is one the guest does not have. */
Test(thunk_fault, the_hosts_ud_is_the_guests)
{
	struct erig *e = erig_new_long(0);

	cr_expect_eq(ERIG_RUN(e, 10, 0x0f, 0xaa), EXC_UD); /* RSM outside SMM */
	cr_expect_eq(erig_frame(e, 0), AT(0));
	erig_free(e);
}

/* LOCK where it may not be, or nowhere at all. */
Test(thunk_fault, lock_prefixes)
{
	static const struct {
		u8 code[5];
		unsigned ends;
	} cases[] = {
	    {{0xf0, 0x01, 0x07}, RIG_OK},       /* lock add [rdi],eax */
	    {{0xf0, 0x01, 0xc7}, EXC_UD},       /* a register */
	    {{0xf0, 0x03, 0x07}, EXC_UD},       /* the memory operand is the source */
	    {{0xf0, 0x39, 0x07}, EXC_UD},       /* cmp */
	    {{0xf0, 0x89, 0x07}, EXC_UD},       /* mov */
	    {{0xf0, 0x90}, EXC_UD},             /* nop */
	    {{0xf0, 0x87, 0x07}, RIG_OK},       /* xchg */
	    {{0xf0, 0x0f, 0xc7, 0x0f}, RIG_OK}, /* cmpxchg8b */
	    {{0xf0, 0x0f, 0xa3, 0x07}, EXC_UD}, /* bt */
	    {{0xf0, 0x0f, 0xab, 0x07}, RIG_OK}, /* bts */
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct erig *e = erig_new_long(0);

		e->c->gpr[GPR_RDI] = ERIG_FREE;
		erig_put_code(e, RIG_CODE, cases[i].code, sizeof(cases[i].code));
		cr_expect_eq(erig_run(e, cases[i].ends == RIG_OK ? 1 : 10), cases[i].ends,
			     "case %u", i);
		erig_free(e);
	}
}
