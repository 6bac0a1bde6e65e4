/*
 * The runtime of the test guests, for 32-bit and (GUEST64) 64-bit ones.
 *
 * The one idea: guest_run() loads a complete register state, at any privilege level and in any mode
 * a descriptor can express, and comes back when something traps, with the complete state at that
 * moment. So a test is a SNIPPET of assembly, a state to start it in, and a look at the state it
 * left. Vectors with a handler in `handlers` do not end the run: they are handled and resumed.
 *
 * All memory up to 4 GiB is mapped one to one (64-bit guests) or unpaged (32-bit guests until they
 * turn paging on). Output goes to COM1.
 */
#ifndef GUEST_LIB_H
#define GUEST_LIB_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long ulong; /* as wide as a register */
typedef _Bool bool;
#define true 1
#define false 0
#define NULL       ((void *)0)
#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))
#define ALIGNED(n) __attribute__((aligned(n)))

/* Assembly that is run, not called. GNU as syntax; 32-bit or 64-bit code as the guest is. */
#define SNIPPET(name, code)                                                                        \
	extern u8 name[];                                                                          \
	asm(".pushsection .text\n.globl " #name "\n" #name ":\n" code "\n.popsection\n")
/* 16-bit code in conventional memory (below 64 KiB: its segment may be 0). */
#ifdef GUEST64
#define NATIVE_CODE ".code64"
#else
#define NATIVE_CODE ".code32"
#endif
#define SNIPPET16(name, code)                                                                      \
	extern u8 name[];                                                                          \
	asm(".pushsection .low,\"ax\"\n.code16\n.globl " #name "\n" #name ":\n" code               \
	    "\n" NATIVE_CODE "\n.popsection\n")
#ifdef GUEST64
#define SNIPPET32(name, code)                                                                      \
	extern u8 name[];                                                                          \
	asm(".pushsection .text\n.code32\n.globl " #name "\n" #name ":\n" code                     \
	    "\n.code64\n.popsection\n")
#endif

/* A list of cases, X(symbol, "text", "code"), becomes snippets and a table. */
struct test_case {
	const char *text;
	const u8 *code;
};
#define CASE_SNIPPET(name, text, code) SNIPPET(name, code STOP);
#define CASE_ENTRY(name, text, code)   {text, name},

#define STOP_VECTOR 0x40 /* gate open to CPL 3; "int $0x40" ends a snippet */
#define STOP        "int $0x40\n"

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

#define F_CF    0x1
#define F_PF    0x4
#define F_AF    0x10
#define F_ZF    0x40
#define F_SF    0x80
#define F_TF    0x100
#define F_IF    0x200
#define F_DF    0x400
#define F_OF    0x800
#define F_NT    0x4000
#define F_RF    0x10000
#define F_VM    0x20000
#define F_AC    0x40000
#define F_IOPL3 0x3000
#define F_ARITH (F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF)

/* Selectors. The order suits SYSCALL, SYSENTER and their returns. */
#define KCODE 0x08
#define KDATA 0x10
#ifdef GUEST64
#define UCODE32 0x1b
#define UDATA   0x23
#define UCODE   0x2b
#define TSS_SEL 0x30
#define KCODE32 0x40
#else
#define UCODE   0x1b
#define UDATA   0x23
#define TSS_SEL 0x28
#endif
#define FREE_SEL  0x48 /* the first of the slots that tests fill */
#define GDT_SLOTS 64

/* The state a run starts with and ends with. lib.S knows the layout. */
struct regs {
#ifdef GUEST64
	ulong es, ds, r15, r14, r13, r12, r11, r10, r9, r8;
#else
	ulong gs, fs, es, ds;
#endif
	ulong di, si, bp, spare, bx, dx, cx, ax;
	ulong vector, error, ip, cs, flags, sp, ss;
#ifndef GUEST64
	ulong v_es, v_ds, v_fs, v_gs; /* v86 */
#endif
	ulong cr2, start; /* start: where the run began */
};

extern u64 gdt[GDT_SLOTS];
extern u64 idt[];
#ifdef GUEST64
struct tss {
	u32 reserved0;
	u64 rsp[3] __attribute__((packed));
	u64 reserved1 __attribute__((packed));
	u64 ist[7] __attribute__((packed));
	u64 reserved2 __attribute__((packed));
	u16 reserved3, iomap;
} __attribute__((packed));
#else
struct tss {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], seg[6], ldt;
	u16 trap, iomap;
	u8 bits[0x400 + 1]; /* I/O bitmap for ports 0 to 0x1fff */
};
#endif
extern struct tss tss;
extern ulong boot_magic, boot_info;
extern u8 low_start[], image_end[];
extern u8 user_stack[], user_stack_top[], kernel_stack_top[], snippet_stack_top[];

typedef void handler_fn(struct regs *r);
extern handler_fn *handlers[256];

/* --- output --- */
void put_char(char c);
void put(const char *s);
void put_hex(u64 v);
void put_dec(u32 v);
void say(const char *name, u64 v);     /* name: 0x... */
void say_dec(const char *name, u32 v); /* name: 123 */
void say_str(const char *name, const char *s);
void check(const char *name, bool ok); /* name: ok, or FAIL */
/* name: #PF(0x6) at +0x3 [cr2 0x...] : how a run ended; "stop" for the STOP vector. The place is
 * relative to where the run began. */
void say_trap(const char *name, const struct regs *r);
/* The same without the place. */
void say_trap_kind(const char *name, const struct regs *r);
/* Say "done" and end with a status of 2 * code + 1. */
void finish(u32 code) __attribute__((noreturn));

/* --- descriptors --- */
#define D_DATA   0x92u /* present, writable, DPL 0 */
#define D_CODE   0x9au
#define D_DPL(n) ((n) << 5)
#define D_BIG    0x4000u
#define D_LONG   0x2000u
#define D_PAGES  0x8000u                       /* limit counts 4 KiB */
u64 descriptor(u32 base, u32 limit, u32 attr); /* attr: bits 40-55 of the descriptor */
void set_gdt(unsigned sel, u32 base, u32 limit, u32 attr);
void set_gate(unsigned vector, void *handler, unsigned sel, unsigned attr); /* attr 0x8e, 0xee... */
/* Vector's own stub (what lib_init puts into the gates). */
void *stub_of(unsigned vector);

/* --- running --- */
void guest_run(struct regs *r);
/* A fresh state: kernel or user code, flat segments, own stack, interrupts off. */
struct regs regs_kernel(const void *code);
struct regs regs_user(const void *code);
/* Start kernel code and report in one go. */
struct regs try_kernel(const char *name, const void *code);
struct regs try_user(const char *name, const void *code);

/* --- paging: identity, everything user and writable, split on demand --- */
void paging_on(void);    /* 32-bit guests: two-level tables with 4 MiB pages; 64-bit: is on */
ulong *pte_of(ulong va); /* its 4 KiB entry (32-bit: two-level); the caller flushes */
void set_pte(ulong va, ulong entry); /* and INVLPG */

#define PTE_P  1ul
#define PTE_W  2ul
#define PTE_U  4ul
#define PTE_A  0x20ul
#define PTE_D  0x40ul
#define PTE_PS 0x80ul
#define PTE_G  0x100ul

void guest_main(void);

/* --- small things --- */
void *memset(void *p, int c, ulong n);
void *memcpy(void *d, const void *s, ulong n);
int memcmp(const void *a, const void *b, ulong n);
u32 checksum(const void *p, ulong n);

#define ASM asm volatile
static inline void outb(u16 port, u8 v)
{
	ASM("outb %0,%1" : : "a"(v), "Nd"(port) : "memory");
}
static inline u8 inb(u16 port)
{
	u8 v;

	ASM("inb %1,%0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline void outl(u16 port, u32 v)
{
	ASM("outl %0,%1" : : "a"(v), "Nd"(port) : "memory");
}
static inline u32 inl(u16 port)
{
	u32 v;

	ASM("inl %1,%0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline void wrmsr(u32 msr, u64 v)
{
	ASM("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	ASM("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}
struct cpuid {
	u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;

	ASM("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
	return r;
}
#define READ_REG(name)                                                                             \
	static inline ulong read_##name(void)                                                      \
	{                                                                                          \
		ulong v;                                                                           \
		ASM("mov %%" #name ",%0" : "=r"(v) : : "memory");                                  \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##name(ulong v)                                                   \
	{                                                                                          \
		ASM("mov %0,%%" #name : : "r"(v) : "memory");                                      \
	}
READ_REG(cr0)
READ_REG(cr2)
READ_REG(cr3)
READ_REG(cr4)
READ_REG(dr0)
READ_REG(dr1)
READ_REG(dr2)
READ_REG(dr3)
READ_REG(dr6)
READ_REG(dr7)
static inline void invlpg(const void *p)
{
	ASM("invlpg (%0)" : : "r"(p) : "memory");
}
static inline void cli(void)
{
	ASM("cli" : : : "memory");
}
static inline void sti(void)
{
	ASM("sti" : : : "memory");
}

#endif
