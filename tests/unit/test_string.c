/*
 * String instructions: random ones against the host CPU, whole, interrupted and single-stepped;
 * then what the host cannot show in user mode: faults on the way, segment limits, ports.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "cpu_rig.h"

#define AREA      0x40000u /* guest-physical; the host's copy lies at the same offset */
#define AREA_SIZE 0x20000u

/* A machine of ports: reads count up, writes are recorded. */
struct ports {
	struct cpu *c;
	u32 next;
	u16 port;
	unsigned size, reads, writes;
	u32 last;
	unsigned attention_after; /* reads */
	bool reset_on_write;
};

static u32 port_read(void *vm, u16 port, unsigned size)
{
	struct ports *p = vm;

	p->port = port;
	p->size = size;
	if (++p->reads == p->attention_after)
		p->c->attention = 1;
	return p->next++;
}

static void port_write(void *vm, u16 port, unsigned size, u32 val)
{
	struct ports *p = vm;

	p->port = port;
	p->size = size;
	p->writes++;
	p->last = val;
	if (p->reset_on_write)
		cpu_reset(p->c);
}

static const struct cpu_ops ops = {.port_read = port_read, .port_write = port_write};

static struct rig *rig_with_ports(struct ports *p)
{
	struct rig *r = rig_new();

	memset(p, 0, sizeof(*p));
	p->c = &r->c;
	r->c.ops = &ops;
	r->c.vm = p;
	return r;
}

/* --- against the host --- */

struct native {
	u64 rax, rcx, rsi, rdi, flags;
};

static void run_native(const void *code, struct native *n)
{
	u64 fl = n->flags;

	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "push %[fl]\n\tpopfq\n\t"
		     "call *%[code]\n\t"
		     "pushfq\n\tpop %[fl]\n\t"
		     "cld\n\t"
		     "lea 128(%%rsp), %%rsp"
		     : "+a"(n->rax), "+c"(n->rcx), "+S"(n->rsi), "+D"(n->rdi), [fl] "+&r"(fl)
		     : [code] "r"(code)
		     : "memory", "cc");
	n->flags = fl;
}

struct host {
	u8 *code, *mem; /* both below 4 GiB, for 32-bit addresses */
};

static struct host host_new(void)
{
	struct host h;

	h.code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	h.mem = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	cr_assert(h.code != MAP_FAILED && h.mem != MAP_FAILED);
	return h;
}

static void host_free(struct host *h)
{
	munmap(h->code, 4096);
	munmap(h->mem, AREA_SIZE);
}

static u64 pick(u64 *seed, u64 n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % n;
}

/* Execute until RIP moves on, as the run loop would; how many calls that took. */
static unsigned run_guest(struct rig *r, const u8 *bytes, size_t n)
{
	u64 rip = r->c.rip;
	unsigned calls = 0;

	while (r->c.rip == rip) {
		cr_assert_eq(rig_exec(r, exec_string, bytes, n), RIG_OK);
		calls++;
	}
	cr_assert_eq(r->c.rip, rip + n);
	return calls;
}

enum pace { WHOLE, INTERRUPTED, STEPPED };

static void random_case(struct rig *r, struct host *h, u64 *seed, enum pace pace)
{
	static const u8 opcodes[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
	const u64 arith = FL_ARITH;
	u64 host_base = (u64)h->mem, span = AREA_SIZE / 2, count, at, gap, calls;
	bool df = pick(seed, 4) == 0, addr32 = pick(seed, 5) == 0, rep = pick(seed, 8) != 0;
	u8 code[8], fillers = pick(seed, 3) ? 1 : 3;
	struct native n;
	unsigned len = 0, i;

	if (addr32)
		code[len++] = 0x67;
	if (pick(seed, 4) == 0)
		code[len++] = 0x66;
	if (rep)
		code[len++] = pick(seed, 2) ? 0xf3 : 0xf2;
	if (pick(seed, 3) == 0)
		code[len++] = 0x48;
	code[len++] = opcodes[pick(seed, sizeof(opcodes))];
	memcpy(h->code, code, len);
	h->code[len] = 0xc3;
	/* Mostly equal bytes, so that comparisons go some way; every now and then a difference. */
	for (i = 0; i < AREA_SIZE; i++)
		h->mem[i] = fillers == 1 ? 0x5a : (u8)(0x80 + (i & 3));
	for (i = pick(seed, 20); i; i--)
		h->mem[pick(seed, AREA_SIZE)] = (u8)pick(seed, 256);
	memcpy(r->ram.window + AREA, h->mem, AREA_SIZE);
	count = pick(seed, 3) ? pick(seed, 40) : pick(seed, pace == STEPPED ? 200 : span / 32);
	at = span / 2 + pick(seed, span);
	gap = pick(seed, 3) ? pick(seed, 40) - 20 : pick(seed, span / 2) - span / 4;
	n = (struct native){
	    .rax = 0x5a5a5a5a5a5a5a5aull ^ (pick(seed, 3) ? 0 : pick(seed, 1 << 16) << 3),
	    .rcx = count | (addr32 ? 0xabc00000000ull : 0),
	    .rsi = host_base + at,
	    .rdi = host_base + at + gap,
	    .flags = FL_FIXED1 | (df ? FL_DF : 0) | (pick(seed, 2) ? arith : 0),
	};
	if (addr32) {
		n.rsi |= 0x12300000000ull;
		n.rdi |= 0x45600000000ull;
	}
	r->c.rip = RIG_CODE;
	r->c.gpr[GPR_RAX] = n.rax;
	r->c.gpr[GPR_RCX] = n.rcx;
	r->c.gpr[GPR_RSI] = n.rsi - host_base + AREA;
	r->c.gpr[GPR_RDI] = n.rdi - host_base + AREA;
	cpu_set_rflags(&r->c, n.flags);
	r->c.attention = pace == INTERRUPTED;
	r->c.slow = pace == STEPPED;
	run_native(h->code, &n);
	calls = run_guest(r, code, len);
	if (pace == STEPPED && rep && count)
		cr_assert_geq(calls, 1);
	cr_assert_eq(r->c.gpr[GPR_RAX], n.rax);
	cr_assert_eq(r->c.gpr[GPR_RCX], n.rcx, "op %02x rcx %#llx, host %#llx", code[len - 1],
		     (unsigned long long)r->c.gpr[GPR_RCX], (unsigned long long)n.rcx);
	cr_assert_eq(r->c.gpr[GPR_RSI] - AREA, n.rsi - host_base, "op %02x", code[len - 1]);
	cr_assert_eq(r->c.gpr[GPR_RDI] - AREA, n.rdi - host_base, "op %02x", code[len - 1]);
	cr_assert_eq(cpu_rflags(&r->c) & (arith | FL_DF), n.flags & (arith | FL_DF),
		     "op %02x flags %#llx, host %#llx", code[len - 1],
		     (unsigned long long)cpu_rflags(&r->c), (unsigned long long)n.flags);
	cr_assert_eq(memcmp(r->ram.window + AREA, h->mem, AREA_SIZE), 0, "op %02x memory",
		     code[len - 1]);
}

static void random_cases(enum pace pace, unsigned n)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	struct host h = host_new();
	u64 seed = 1 + pace;

	rig_long(r, S_CODE64, 0);
	while (n--)
		random_case(r, &h, &seed, pace);
	host_free(&h);
	rig_free(r);
}

Test(string, like_the_host)
{
	random_cases(WHOLE, 6000);
}

Test(string, like_the_host_when_interrupted)
{
	random_cases(INTERRUPTED, 2000);
}

Test(string, like_the_host_step_by_step)
{
	random_cases(STEPPED, 2000);
}

/* --- interruption --- */

Test(string, one_iteration_per_call_in_careful_mode)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	const u8 rep_movsb[] = {0xf3, 0xa4};
	unsigned i;

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RCX] = 5;
	r->c.gpr[GPR_RSI] = AREA;
	r->c.gpr[GPR_RDI] = AREA + 0x100;
	r->c.slow = true;
	for (i = 1; i < 5; i++) {
		cr_assert_eq(rig_exec(r, exec_string, rep_movsb, 2), RIG_OK);
		cr_assert_eq(r->c.rip, RIG_CODE);
		cr_assert_eq(r->c.gpr[GPR_RCX], 5 - i);
		cr_assert_eq(r->c.gpr[GPR_RSI], AREA + i);
	}
	cr_assert_eq(rig_exec(r, exec_string, rep_movsb, 2), RIG_OK);
	cr_assert_eq(r->c.rip, RIG_CODE + 2);
	rig_free(r);
}

Test(string, attention_stops_between_chunks_but_not_before_the_first)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RCX] = 0x3000;
	r->c.gpr[GPR_RDI] = AREA + 0x10;
	r->c.attention = 1;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), RIG_OK);
	cr_assert_eq(r->c.rip, RIG_CODE);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0x3000 - 0xff0);
	r->c.attention = 0;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), RIG_OK);
	cr_assert_eq(r->c.rip, RIG_CODE + 2);
	cr_assert_eq(r->c.gpr[GPR_RDI], AREA + 0x3010);
	rig_free(r);
}

/* --- faults --- */

#define END 0x200000u /* nothing is mapped from here on */

Test(string, a_fault_leaves_what_was_done)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RAX] = 0x77;
	r->c.gpr[GPR_RCX] = 0x1234;
	r->c.gpr[GPR_RDI] = END - 0x1100;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), EXC_PF);
	cr_assert_eq(r->c.cr2, END);
	cr_assert_eq(r->error, PF_W);
	cr_assert_eq(r->c.rip, RIG_CODE);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0x134);
	cr_assert_eq(r->c.gpr[GPR_RDI], END);
	cr_assert_eq(rig_get(r, END - 1, 1), 0x77);
	rig_free(r);
}

Test(string, an_element_across_the_end_writes_nothing)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RAX] = ~0ull;
	r->c.gpr[GPR_RCX] = 9;
	r->c.gpr[GPR_RDI] = END - 12;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x48, 0xab), EXC_PF);
	cr_assert_eq(r->c.gpr[GPR_RCX], 8);
	cr_assert_eq(r->c.gpr[GPR_RDI], END - 4);
	cr_assert_eq(rig_get(r, END - 4, 4), 0);
	cr_assert_eq(r->c.cr2, END);
	rig_free(r);
}

/* Those of the start, or of the last comparison: 0x10 with 0. */
Test(string, flags_at_a_fault)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	unsigned keeps;

	rig_long(r, S_CODE64, 0);
	for (keeps = 0; keeps < 2; keeps++) {
		r->c.host.rep_fault_flags = keeps;
		r->c.gpr[GPR_RAX] = 0x10;
		r->c.gpr[GPR_RCX] = 0x3000;
		r->c.gpr[GPR_RDI] = END - 0x1800;
		cpu_set_rflags(&r->c, FL_ZF | FL_OF);
		cr_assert_eq(RIG_EXEC(r, exec_string, 0xf2, 0xae), EXC_PF);
		cr_assert_eq(r->c.gpr[GPR_RDI], END);
		cr_expect_eq(cpu_rflags(&r->c) & FL_ARITH, keeps ? 0 : FL_ZF | FL_OF);
		/* at the first comparison there is no other */
		cpu_set_rflags(&r->c, FL_ZF | FL_OF);
		cr_assert_eq(RIG_EXEC(r, exec_string, 0xf2, 0xae), EXC_PF);
		cr_expect_eq(cpu_rflags(&r->c) & FL_ARITH, FL_ZF | FL_OF);
	}
	rig_free(r);
}

Test(string, source_fault_of_movs_writes_nothing)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RSI] = END;
	r->c.gpr[GPR_RDI] = AREA;
	rig_put(r, AREA, 8, 0x1122334455667788);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x48, 0xa5), EXC_PF);
	cr_assert_eq(rig_get(r, AREA, 8), 0x1122334455667788);
	cr_assert_eq(r->c.gpr[GPR_RSI], END);
	rig_free(r);
}

Test(string, zero_count_touches_nothing)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RSI] = r->c.gpr[GPR_RDI] = END;
	cpu_set_rflags(&r->c, FL_CF);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xa6), RIG_OK);
	cr_assert_eq(cpu_rflags(&r->c) & FL_ARITH, FL_CF);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x6d), RIG_OK);
	cr_assert_eq(p.reads, 0);
	rig_free(r);
}

/* Either way that processors do it; random_case checks that ours is the host's. */
Test(string, zero_count_with_32_bit_addresses)
{
	const u64 high = 0xabc00000010ull;
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	unsigned cut;

	rig_long(r, S_CODE64, 0);
	for (cut = 0; cut < 2; cut++) {
		r->c.host.rep_zero_cuts[host_rep_index(0xa5)] =
		    cut ? 1u << GPR_RCX | 1u << GPR_RSI : 0;
		r->c.gpr[GPR_RCX] = high - 0x10;
		r->c.gpr[GPR_RSI] = r->c.gpr[GPR_RDI] = high;
		cr_assert_eq(RIG_EXEC(r, exec_string, 0x67, 0xf3, 0xa5), RIG_OK);
		cr_expect_eq(r->c.gpr[GPR_RCX], cut ? 0 : high - 0x10);
		cr_expect_eq(r->c.gpr[GPR_RSI], cut ? 0x10 : high);
		cr_expect_eq(r->c.gpr[GPR_RDI], high);
	}
	rig_free(r);
}

/* --- segments --- */

Test(string, sixteen_bit_indices_wrap)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	seg_load_real(&r->c, SEG_ES, 0x2000);
	r->c.gpr[GPR_RAX] = 0x5a;
	r->c.gpr[GPR_RCX] = 0xaaaa0020;
	r->c.gpr[GPR_RDI] = 0xbbbbfff0;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), RIG_OK);
	cr_assert_eq(rig_get(r, 0x2ffff, 1), 0x5a);
	cr_assert_eq(rig_get(r, 0x20010, 1), 0);
	cr_assert_eq(rig_get(r, 0x20000, 8), 0x5a5a5a5a5a5a5a5a);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0xaaaa0000);
	cr_assert_eq(r->c.gpr[GPR_RDI], 0xbbbb0010);
	rig_free(r);
}

Test(string, a_word_at_the_limit_faults)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	r->c.gpr[GPR_RCX] = 8;
	r->c.gpr[GPR_RDI] = 0xfff9;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xab), EXC_GP);
	cr_assert_eq(r->c.gpr[GPR_RCX], 5);
	cr_assert_eq(r->c.gpr[GPR_RDI], 0xffff);
	rig_free(r);
}

Test(string, expand_down_destination)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_protected(r, 0);
	rig_segment(r, SEG_ES, S_DOWN); /* valid offsets: 0x1000 to 0xffff */
	r->c.gpr[GPR_RCX] = 0x30;
	r->c.gpr[GPR_RDI] = 0xfff0;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), EXC_GP);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0x20);
	r->c.gpr[GPR_RDI] = 0x0fff;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), EXC_GP);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0x20);
	rig_free(r);
}

Test(string, source_override_and_types)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_protected(r, 0);
	rig_segment(r, SEG_FS, S_READONLY); /* base 0x1000 */
	rig_put(r, 0x1000 + AREA, 1, 0x99);
	r->c.gpr[GPR_RSI] = r->c.gpr[GPR_RDI] = AREA;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x64, 0xa4), RIG_OK);
	cr_assert_eq(rig_get(r, AREA, 1), 0x99);
	/* The override does not reach the destination, which must be writable. */
	rig_segment(r, SEG_ES, S_READONLY);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x64, 0xa4), EXC_GP);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), RIG_OK); /* count 0 */
	rig_free(r);
}

static void note_code(void *opaque, gpa_t gpa, u64 len)
{
	u64 *seen = opaque;

	seen[0] = gpa;
	seen[1] = len;
}

Test(string, writes_to_code_pages_are_told)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	u64 seen[2] = {0};

	rig_long(r, S_CODE64, 0);
	r->ram.code_written = note_code;
	r->ram.code_opaque = seen;
	r->ram.code[AREA >> 12] = 1;
	r->c.gpr[GPR_RCX] = 0x20;
	r->c.gpr[GPR_RDI] = AREA + 0x40;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0xaa), RIG_OK);
	cr_assert_eq(seen[0], AREA + 0x40);
	cr_assert_eq(seen[1], 0x20);
	rig_free(r);
}

/* --- ports --- */

Test(string, ins_fills_pages)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	unsigned i;

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RDX] = 0x1f0;
	r->c.gpr[GPR_RCX] = 5000;
	r->c.gpr[GPR_RDI] = AREA + 0x123; /* elements across pages */
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x66, 0x6d), RIG_OK);
	cr_assert_eq(p.reads, 5000);
	cr_assert_eq(p.port, 0x1f0);
	cr_assert_eq(p.size, 2);
	cr_assert_eq(r->stats.n[STAT_pio_reads], 5000);
	for (i = 0; i < 5000; i++)
		cr_assert_eq(rig_get(r, AREA + 0x123 + 2 * i, 2), i);
	cr_assert_eq(r->c.gpr[GPR_RDI], AREA + 0x123 + 10000);
	/* REX.W does not make it eight bytes. */
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x48, 0x6d), RIG_OK);
	cr_assert_eq(p.size, 4);
	rig_free(r);
}

Test(string, ins_stops_for_attention)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	p.attention_after = 7;
	r->c.gpr[GPR_RCX] = 100;
	r->c.gpr[GPR_RDI] = AREA;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x6c), RIG_OK);
	cr_assert_eq(r->c.rip, RIG_CODE);
	cr_assert_eq(r->c.gpr[GPR_RCX], 93);
	cr_assert_eq(p.reads, 7);
	rig_free(r);
}

Test(string, ins_probes_memory_before_the_port)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.gpr[GPR_RDI] = END;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), EXC_PF);
	cr_assert_eq(p.reads, 0);
	rig_free(r);
}

Test(string, outs_and_a_device_that_resets)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	rig_put(r, AREA, 4, 0x04030201);
	r->c.gpr[GPR_RSI] = AREA;
	r->c.gpr[GPR_RCX] = 4;
	r->c.gpr[GPR_RDX] = 0xe9;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x6e), RIG_OK);
	cr_assert_eq(p.writes, 4);
	cr_assert_eq(p.last, 4);
	cr_assert_eq(r->c.rip, RIG_CODE + 2);
	p.reset_on_write = true;
	r->c.gpr[GPR_RSI] = AREA;
	r->c.gpr[GPR_RCX] = 4;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0xf3, 0x6e), RIG_OK);
	cr_assert_eq(p.writes, 5);
	cr_assert_eq(r->c.rip, 0xfff0);
	cr_assert_eq(r->c.gpr[GPR_RCX], 0);
	rig_free(r);
}

Test(string, io_permission)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_protected(r, 3);
	r->c.tr.limit = 0x68 + 32;
	rig_put(r, RIG_TSS + 0x66, 2, 0x68);
	memset(r->ram.window + RIG_TSS + 0x68, 0, 33);
	rig_put(r, RIG_TSS + 0x68 + 2, 1, 0x80); /* port 0x17 is closed */
	r->c.gpr[GPR_RDI] = AREA;
	r->c.gpr[GPR_RDX] = 0x16;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), RIG_OK);
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x66, 0x6d), EXC_GP); /* 0x16 and 0x17 */
	cr_assert_eq(r->error, 0);
	r->c.gpr[GPR_RDX] = 0x18;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6d), RIG_OK);
	r->c.gpr[GPR_RDX] = 0xf8; /* needs the byte behind the last of the bitmap's ports */
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), RIG_OK);
	r->c.gpr[GPR_RDX] = 0x100;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), EXC_GP);
	r->c.sflags |= FL_IOPL;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), RIG_OK);
	rig_free(r);
	/* In v86 mode IOPL does not help. */
	r = rig_with_ports(&p);
	rig_v86(r, 3);
	rig_put(r, RIG_TSS + 0x66, 2, 0x68); /* beyond the TSS: no bitmap */
	r->c.gpr[GPR_RDX] = 0x16;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), EXC_GP);
	rig_free(r);
}

Test(string, io_breakpoint)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_long(r, S_CODE64, 0);
	r->c.cr4 |= CR4_DE;
	r->c.dr[1] = 0x60;
	r->c.dr[7] = 0x400 | 2u << 1 | 2u << 20; /* G1, I/O, one byte */
	cpu_update_mode(&r->c);
	r->c.gpr[GPR_RDI] = AREA;
	r->c.gpr[GPR_RDX] = 0x61;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), RIG_OK);
	cr_assert_eq(r->c.debug_hits, 0);
	r->c.gpr[GPR_RDX] = 0x60;
	cr_assert_eq(RIG_EXEC(r, exec_string, 0x6c), RIG_OK);
	cr_assert_eq(r->c.debug_hits, 2);
	rig_free(r);
}

/* --- xlat, maskmov --- */

Test(string, xlat)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);

	rig_protected(r, 0);
	rig_put(r, AREA + 0xfe, 1, 0x42);
	r->c.gpr[GPR_RAX] = 0x123456fe;
	r->c.gpr[GPR_RBX] = AREA;
	cr_assert_eq(RIG_EXEC(r, exec_xlat, 0xd7), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 0x12345642);
	/* A 16-bit address wraps. */
	r->c.gpr[GPR_RAX] = 0xff;
	r->c.gpr[GPR_RBX] = 0xff02;
	rig_put(r, 1, 1, 0x43);
	cr_assert_eq(RIG_EXEC(r, exec_xlat, 0x67, 0xd7), RIG_OK);
	cr_assert_eq(r->c.gpr[GPR_RAX], 0x43);
	rig_free(r);
}

Test(string, maskmovdqu)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	unsigned i;

	rig_long(r, S_CODE64, 0);
	for (i = 0; i < 16; i++) {
		r->c.vec.zmm[1][i] = 0x10 + i;
		r->c.vec.zmm[2][i] = i & 1 ? 0xff : 0x7f;
	}
	r->c.gpr[GPR_RDI] = AREA;
	cr_assert_eq(RIG_EXEC(r, exec_maskmov, 0x66, 0x0f, 0xf7, 0xca), EXC_UD); /* no OSFXSR */
	r->c.cr4 |= CR4_OSFXSR;
	cr_assert_eq(RIG_EXEC(r, exec_maskmov, 0x66, 0x0f, 0xf7, 0xca), RIG_OK);
	cr_assert_eq(rig_get(r, AREA, 8), 0x1700150013001100);
	/* The second half would lie beyond the end: nothing is written. */
	r->c.gpr[GPR_RDI] = END - 8;
	cr_assert_eq(RIG_EXEC(r, exec_maskmov, 0x66, 0x0f, 0xf7, 0xca), EXC_PF);
	cr_assert_eq(rig_get(r, END - 8, 8), 0);
	/* Unless the mask leaves it out. */
	memset(r->c.vec.zmm[2] + 8, 0, 8);
	cr_assert_eq(RIG_EXEC(r, exec_maskmov, 0x66, 0x0f, 0xf7, 0xca), RIG_OK);
	rig_free(r);
}

Test(string, maskmovq_enters_mmx_state)
{
	struct ports p;
	struct rig *r = rig_with_ports(&p);
	u8 *fx = r->c.vec.fx;

	rig_long(r, S_CODE64, 0);
	fx[2] = 0;
	fx[3] = 3 << 3;                    /* TOP 3: MM0 is at slot 5 */
	memset(fx + 32 + 16 * 5, 0xab, 8); /* MM0 */
	memset(fx + 32 + 16 * 6, 0x80, 8); /* MM1 */
	r->c.gpr[GPR_RDI] = AREA;
	cr_assert_eq(RIG_EXEC(r, exec_maskmov, 0x0f, 0xf7, 0xc1), RIG_OK);
	cr_assert_eq(rig_get(r, AREA, 8), 0xabababababababab);
	cr_assert_eq(fx[3] & 0x38, 0);
	cr_assert_eq(fx[4], 0xff);
	cr_assert_eq(fx[32], 0xab); /* TOP is 0 now: MM0 is at slot 0 */
	rig_free(r);
}
