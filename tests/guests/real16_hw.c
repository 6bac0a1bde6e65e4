/*
 * Segment limits in real mode, which QEMU TCG does not check, and LOCK where it is not allowed.
 * SDM vol. 3, 20.1.1 and table 20-6.
 */
#include "real.h"

#define CASES(X)                                                                                   \
	X(word_top, "word at 0xffff", "mov 0xffff,%ax\n")                                          \
	X(word_ok, "word at 0xfffe", "mov 0xfffe,%ax\n")                                           \
	X(dword_top, "dword at 0xfffd", "mov 0xfffd,%eax\n")                                       \
	X(write_top, "write at 0xffff", "mov %ax,0xffff\n")                                        \
	X(rmw_top, "inc at 0xffff", "incw 0xffff\n")                                               \
	X(bp_top, "bp 0xffff", "mov $0xffff,%bp; mov (%bp),%ax\n")                                 \
	X(es_top, "es: bp 0xffff", "mov $0xffff,%bp; mov %es:(%bp),%ax\n")                         \
	X(pop_top, "pop at 0xffff", "mov $0xffff,%sp; pop %ax\n")                                  \
	X(far, "32-bit offset beyond 64 KiB", "mov $0x10000,%ebx; mov (%ebx),%al\n")               \
	X(far_lea, "lea beyond 64 KiB", "mov $0x10000,%ebx; lea (%ebx),%eax\n")                    \
	X(far_stack, "32-bit stack offset", "mov $0x10000,%ebp; mov (%ebp),%al\n")                 \
	X(movs_top, "movsw at 0xffff", "mov $0xffff,%si; movsw\n")                                 \
	X(stos_top, "rep stosw up to 0xffff",                                                      \
	  "mov $0x2000,%ax; mov %ax,%es; mov $0xfffb,%di\n"                                        \
	  "mov $5,%cx; rep stosw\n")                                                               \
	X(les_top, "les at 0xfffe", "les 0xfffe,%ax\n")                                            \
	X(x87_top, "x87 load at 0xfffe", "flds 0xfffe\n")                                          \
	X(jmp_far, "jmp beyond 64 KiB", "mov $0x10000,%eax; jmpl *%eax\n")                         \
	X(ret_far, "32-bit far ret beyond 64 KiB", "pushl $0; pushl $0x10000; lretl\n")            \
	X(iret_far, "32-bit iret beyond 64 KiB", "pushl $2; pushl $0; pushl $0x10000; iretl\n")    \
	X(lock_mov, "lock mov", ".byte 0xf0; mov %ax,0x1800\n")                                    \
	X(lock_cmp, "lock cmp", ".byte 0xf0; cmp %ax,0x1800\n")
#define CASE16(name, text, code) SNIPPET16(name, code STOP);
CASES(CASE16)
static const struct test_case cases[] = {CASES(CASE_ENTRY)};

static void report(const char *name, const struct regs *r)
{
	put(name);
	put(": vector ");
	put_hex(r->vector);
	put(" at +");
	put_hex(r->ip - r->start);
	put(" sp ");
	put_hex(r->sp);
	put("\n");
}

void guest_main(void)
{
	struct regs r;
	unsigned i;

	real_init();
	for (i = 0; i < COUNT(cases); i++) {
		r = regs_real(cases[i].code);
		real_run(&r);
		report(cases[i].text, &r);
		if (cases[i].code == stos_top) {
			say("  cx", r.cx);
			say("  di", r.di);
		}
	}
	/* mov $imm,%ax whose last byte lies beyond 0xffff. */
	*(volatile u32 *)0x1fffe = 0x90341290 | 0xb8;
	r = regs_real((void *)0xfffe);
	r.cs = 0x1000;
	real_run(&r);
	report("code at 0xfffe", &r);
}
