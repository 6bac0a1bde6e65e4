/*
 * See bt_system.h.
 */
#include "bt_system.h"

#include <string.h>

#include "bt_vector.h"

#define PORT_SUM 0x100000003ull

struct known {
	u32 index;
	enum msr_rule rule;
	size_t at; /* in struct cpu */
};

static const struct known known[] = {
    {0x174, MSR_WRITE_32, offsetof(struct cpu, sysenter_cs)},
    {0x176, MSR_WRITE_CANONICAL, offsetof(struct cpu, sysenter_eip)},
    {0x277, MSR_WRITE_OTHER, offsetof(struct cpu, pat)},
    {0xc0000081, MSR_WRITE_ANY, offsetof(struct cpu, star)},
    {0xc0000082, MSR_WRITE_CANONICAL, offsetof(struct cpu, lstar)},
    {0xc0000084, MSR_WRITE_32, offsetof(struct cpu, fmask)},
    {0xc0000100, MSR_WRITE_CANONICAL, offsetof(struct cpu, seg[SEG_FS].base)},
    {0xc0000101, MSR_WRITE_CANONICAL, offsetof(struct cpu, seg[SEG_GS].base)},
    {0xc0000102, MSR_WRITE_CANONICAL, offsetof(struct cpu, kernel_gs_base)},
};

static u64 *place(struct cpu *c, const struct known *k)
{
	return (u64 *)(void *)((u8 *)c + k->at);
}

static const struct known *find(u32 index)
{
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		if (known[i].index == index)
			return &known[i];
	return NULL;
}

/* --- the machine --- */

static u32 port_read(void *vm, u16 port, unsigned size)
{
	(void)vm, (void)size;
	return port;
}

static void port_write(void *vm, u16 port, unsigned size, u32 val)
{
	(void)vm, (void)port, (void)size, (void)val;
}

static int msr_read(void *vm, u32 index, u64 *val)
{
	const struct known *k = find(index);

	*val = k ? *place(vm, k) : index * PORT_SUM;
	return !k && (index & 8) ? -1 : 0;
}

static int msr_write(void *vm, u32 index, u64 val)
{
	const struct known *k = find(index);

	if (!k || k->rule == MSR_WRITE_OTHER || (k->rule == MSR_WRITE_32 && val >> 32) ||
	    (k->rule == MSR_WRITE_CANONICAL && !cpu_canonical(val)))
		return -1;
	*place(vm, k) = val;
	return 0;
}

static bool msr_word(void *vm, u32 index, struct msr_word *w)
{
	const struct known *k = find(index);

	if (k)
		*w = (struct msr_word){.place = place(vm, k), .writes = k->rule};
	return k;
}

/* Depends on what it may depend on. */
static void cpuid(void *vm, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpu *c = vm;
	unsigned i;

	for (i = 0; i < 4; i++)
		out[i] = (leaf * 17 + subleaf * 5 + i) ^ (u32)(c->cr4 + c->xcr0);
}

static void fpu_error(void *vm)
{
	(void)vm;
}

const struct cpu_ops soak_ops = {.port_read = port_read,
				 .port_write = port_write,
				 .msr_read = msr_read,
				 .msr_write = msr_write,
				 .msr_word = msr_word,
				 .cpuid = cpuid,
				 .fpu_error = fpu_error};

/* --- instructions --- */

struct code {
	u8 *p;
	unsigned n;
};

static void put(struct code *c, const void *bytes, unsigned n)
{
	memcpy(c->p + c->n, bytes, n);
	c->n += n;
}
#define PUT(c, ...) put(c, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* Where GS may point: to data, to nothing, to a user's, into the host's lowland, nowhere. */
static u64 a_base(u64 r, u64 percpu)
{
	const u64 bases[] = {percpu,
			     percpu + 0x40,
			     percpu - 8,
			     0,
			     0x3ffff000,
			     0x40000000,
			     0x7f1200345000,
			     0x800000000000,
			     0xffff800000001000,
			     0xffff880000000000,
			     0xffff7fffffffffff,
			     r};

	return bases[r % (r & 0x10000 ? 3 : ARRAY_LEN(bases))];
}

/* mov rax, v */
static void put_rax(struct code *c, u64 v)
{
	PUT(c, 0x48, 0xb8);
	put(c, &v, 8);
}

static void put_msr(struct code *c, u64 r, u64 percpu)
{
	u32 index = known[(r >> 8) % ARRAY_LEN(known)].index;
	u64 v = r & 0x80 ? r >> 20 : a_base(r >> 20, percpu);

	if ((r & 0x7000) == 0)
		index += 1;
	PUT(c, 0xb9); /* mov ecx, index */
	put(c, &index, 4);
	if ((r & 0x30000) == 0) /* the index is then known no longer */
		PUT(c, 0x48, 0xff, 0xc9, 0x48, 0xff, 0xc1);
	if (r & 1) {
		PUT(c, 0x0f, 0x32);
		return;
	}
	put_rax(c, v);
	PUT(c, 0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x20, 0x0f, 0x30); /* rdx = rax >> 32; wrmsr */
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE of RAX, RCX, RDX, RBP, RSI or RDI, of 32 or 64 bits. */
static void put_base_insn(struct code *c, u64 r)
{
	static const u8 regs[] = {0, 1, 2, 5, 6, 7};

	PUT(c, 0xf3);
	if (r & 0x10)
		PUT(c, 0x48);
	PUT(c, 0x0f, 0xae, 0xc0 | (r & 3) << 3 | regs[(r >> 8) % sizeof(regs)]);
}

static void put_swapgs(struct code *c)
{
	PUT(c, 0x0f, 0x01, 0xf8);
}

unsigned system_insn(u64 *rng, u64 percpu, u8 out[48])
{
	struct code c = {out, 0};
	u64 r = soak_rnd(rng);

	switch (r % 7) {
	case 0:
	case 1: put_msr(&c, r >> 8, percpu); break;
	case 2:
		if (r & 0x100)
			put_rax(&c, a_base(soak_rnd(rng), percpu));
		put_base_insn(&c, r >> 16);
		break;
	case 3: /* the inactive base, as when a task is switched to */
		put_rax(&c, a_base(soak_rnd(rng), percpu));
		put_swapgs(&c);
		put_base_insn(&c, r >> 16);
		if (r & 0x100)
			put_base_insn(&c, r >> 24);
		put_swapgs(&c);
		break;
	case 4: /* over memory: mov [rbx], al; mov gs:[8], al; add edx, ecx */
		put_swapgs(&c);
		if (r & 0x100)
			PUT(&c, 0x88, 0x03);
		if (r & 0x200)
			PUT(&c, 0x65, 0x88, 0x04, 0x25, 8, 0, 0, 0);
		if (r & 0x400)
			PUT(&c, 0x01, 0xca);
		put_swapgs(&c);
		break;
	case 5: /* mov r14, rbx; mov eax, leaf; mov ecx, subleaf; cpuid; mov rbx, r14 */
		PUT(&c, 0x49, 0x89, 0xde, 0xb8, r >> 8 & 3, 0, 0, r >> 10 & 0x80, 0xb9, r >> 18 & 1,
		    0, 0, 0, 0x0f, 0xa2, 0x4c, 0x89, 0xf3);
		break;
	default: put_swapgs(&c);
	}
	return c.n;
}

/* --- state --- */

void system_state(u64 *rng, struct cpu *bt, struct cpu *step)
{
	unsigned i;

	/* GS and the other base are bt_step's. */
	for (i = 0; i < ARRAY_LEN(known) - 2; i++)
		*place(bt, &known[i]) = *place(step, &known[i]) = soak_rnd(rng);
	cpu_forget_cpuid(bt);
	cpu_forget_cpuid(step);
}

unsigned system_compare(const struct cpu *bt, const struct cpu *step)
{
	unsigned bad = 0, i;

	for (i = 0; i < ARRAY_LEN(known); i++) {
		u64 a = *place((struct cpu *)(uintptr_t)bt, &known[i]);
		u64 b = *place((struct cpu *)(uintptr_t)step, &known[i]);

		if (a == b)
			continue;
		printf("  MSR %x: translated %016llx stepped %016llx\n", known[i].index,
		       (unsigned long long)a, (unsigned long long)b);
		bad++;
	}
	return bad;
}
