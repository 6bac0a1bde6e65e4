/* Code that changes while it is in use, and 32-bit code in a 64-bit process. */
#define _GNU_SOURCE
#include "user.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

/* mov $value, %eax; ret */
static void put_function(volatile u8 *p, u32 value)
{
	p[0] = 0xb8;
	memcpy((u8 *)p + 1, &value, 4);
	p[5] = 0xc3;
}

static u32 call(const volatile void *p)
{
	return ((u32(*)(void))(unsigned long)p)();
}

void code_modified(void)
{
	u8 *p = map_pages(2, RWX);
	unsigned i;
	pid_t pid;

	for (i = 0; i < 5000; i++) {
		put_function(p + i % 64, i);
		EQUAL(call(p + i % 64), i);
		if (i % 100)
			continue;
		put_function(p + PAGE - 3, i); /* across the page's end */
		EQUAL(call(p + PAGE - 3), i);
		pid = fork();
		if (!pid) {
			put_function(p, i + 1);
			EQUAL(call(p), i + 1);
			_exit(0);
		}
		put_function(p, i + 2);
		EQUAL(call(p), i + 2);
		join(pid);
		EQUAL(call(p), i + 2);
	}
}

void code_aliased(void)
{
	int fd = memfd_create("x", 0);
	u8 *code, *data;
	unsigned i;

	CHECK(fd >= 0 && !ftruncate(fd, PAGE));
	code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	data = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(code != MAP_FAILED && data != MAP_FAILED);
	for (i = 0; i < 2000; i++) {
		put_function(data, i);
		EQUAL(call(code), i);
	}
	put_function(data, 1);
	CHECK(pwrite(fd, "\x2a", 1, 1) == 1); /* the kernel writes it */
	EQUAL(call(code), 42);
}

#ifdef __x86_64__
/*
 * A far call's work by hand: into a compatibility-mode segment and back. The 32-bit piece adds 1 to
 * EAX by 0x40 (a prefix in 64-bit code), ECX times, and asks for its process's number by INT 0x80.
 */
extern u8 piece32[], piece32_end[], piece32_fault[];
__asm__(".pushsection .rodata; .code32; .globl piece32, piece32_end, piece32_fault;"
	"piece32: inc %eax; dec %ecx; jnz piece32;"
	"mov %eax, %ebp; mov $20, %eax; int $0x80; xchg %eax, %ebp;"
	"test %ebx, %ebx; jz 1f; piece32_fault: movl $1, (%ebx); 1: lret;"
	"piece32_end: .code64; .popsection");

static u32 far_call(u8 *code, u8 *stack, u32 count, u32 bad, u32 *pid)
{
	u32 eax = 0;
	u64 top = (u64)(stack + PAGE);

	/* The other registers: the piece is free to change what it names, and R8-R15 may be lost.
	 */
	__asm__ volatile("mov %%rsp, %%r12; mov %[top], %%rsp; sub $8, %%rsp;"
			 "lea 2f(%%rip), %%edx; movl %%edx, (%%rsp); movl $0x33, 4(%%rsp);"
			 "pushq $0x23; pushq %[code]; lretq;"
			 "2: mov %%r12, %%rsp; mov %%ebp, %[pid]"
			 : "+a"(eax), "+c"(count), [pid] "=m"(*pid)
			 : "b"(bad), [code] "r"((u64)code), [top] "r"(top)
			 : "rdx", "rbp", "r12", "r8", "r9", "r10", "r11", "cc", "memory");
	return eax;
}

static u8 *low_code(void)
{
	u8 *p = mmap(NULL, 2 * PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	CHECK(p != MAP_FAILED);
	memcpy(p, piece32, (size_t)(piece32_end - piece32));
	return p;
}

static void run32(unsigned id)
{
	u8 *p = low_code();
	double end = now() + 1;
	u32 pid, n = 1000 + id;

	do {
		pid = 0;
		EQUAL(far_call(p, p + PAGE, n, 0, &pid), n);
		EQUAL(pid, getpid());
		n += 10007;
	} while (now() < end);
}

void code32(void)
{
	in_processes(3, run32);
}

static u8 *code32_page;

void far_call_bad(void *);
void far_call_bad(void *arg)
{
	u32 pid;

	far_call(code32_page, code32_page + PAGE, 3, (u32)(unsigned long)arg, &pid);
}

static struct caught fault32(u16 ds)
{
	const unsigned length = 6; /* movl $1, (%ebx) */
	struct caught c;

	__asm__ volatile("mov %0, %%ds" : : "r"(ds));
	c = try(far_call_bad, (void *)0x1234,
		(char *)code32_page + (piece32_fault - piece32) + length);
	__asm__ volatile("mov %0, %%ds" : : "r"((u16)0));
	EQUAL(c.sig, SIGSEGV);
	EQUAL(c.cs, 0x23);
	EQUAL(c.ip, (unsigned long)code32_page + (unsigned long)(piece32_fault - piece32));
	return c;
}

void code32_fault(void)
{
	struct caught c;

	code32_page = low_code();
	c = fault32(0x2b);
	EQUAL(c.trapno, 14);
	EQUAL(c.addr, 0x1234);
	EQUAL(c.err, 6);
}

void code32_null(void)
{
	struct caught c;

	code32_page = low_code();
	c = fault32(0); /* which 64-bit code does not mind */
	EQUAL(c.trapno, 13);
	EQUAL(c.addr, 0);
}
#endif

#ifdef __x86_64__
#define SITES_PAGES 300ul

/* mov $110, %eax; syscall; ret: getppid */
static void put_getppid(u8 *p)
{
	static const u8 code[] = {0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3};

	memcpy(p, code, sizeof(code));
}

/*
 * So many system calls, each of them hot, that whoever replaces them by something faster runs out
 * of room and has to take some back.
 */
void code_many_calls(void)
{
	u8 *code = map_pages(SITES_PAGES, PROT_READ | PROT_WRITE);
	u32 parent = (u32)getppid();
	unsigned i, page, off;

	memset(code, 0xcc, SITES_PAGES * PAGE);
	for (page = 0; page < SITES_PAGES; page++)
		for (off = 16; off < 48; off += 16)
			put_getppid(code + page * PAGE + off);
	CHECK(!mprotect(code, SITES_PAGES * PAGE, PROT_READ | PROT_EXEC));
	for (page = 0; page < SITES_PAGES; page++)
		for (off = 16; off < 48; off += 16)
			for (i = 0; i < 66; i++)
				EQUAL(call(code + page * PAGE + off), parent);
	/* And once more, those that are left and those that are not. */
	for (page = 0; page < SITES_PAGES; page++)
		for (off = 16; off < 48; off += 16)
			EQUAL(call(code + page * PAGE + off), parent);
	munmap(code, SITES_PAGES * PAGE);
}
#endif
