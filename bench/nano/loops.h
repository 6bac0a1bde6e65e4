/*
 * The rows that also mean something on the bare host, once for the guest (nano.c) and the host
 * program (native.c): the same instructions, so that the two figures may be divided.
 */
#ifndef NANO_LOOPS_H
#define NANO_LOOPS_H

#include <stdint.h>

enum {
	MEM_WORDS = 1 << 17, /* 1 MiB */
	CHASE_NODES = 4096,  /* of 64 bytes: 256 KiB, beyond most first-level caches */
	COPY_BYTES = 4096,
	UNROLL = 10, /* what REPEAT repeats */
};

#define REPEAT(text) ".rept 10\n\t" text "\n\t.endr\n\t"

/* Ten times text, as often as it takes. */
#define LOOP(n, text, ...)                                                                         \
	__asm__ volatile(".balign 32\n"                                                            \
			 "1:\t" REPEAT(text) "sub $10, %[count]\n\t"                               \
					     "jnz 1b"                                              \
			 : [count] "+r"(n)                                                         \
			 : __VA_ARGS__                                                             \
			 : "rax", "rcx", "rdx", "rbx", "cc", "memory")

struct loops {
	uint64_t *words; /* MEM_WORDS */
	uint64_t *chase; /* CHASE_NODES * 8, after loops_init */
	void *copy_from, *copy_to;
	uint64_t calls; /* what a called function does */
};

/* A cycle through all nodes in an order that prefetchers do not guess (Sattolo's algorithm). */
static void loops_init(struct loops *l)
{
	uint64_t order = 1, at;
	static uint16_t perm[CHASE_NODES];

	for (unsigned i = 0; i < CHASE_NODES; i++)
		perm[i] = i;
	for (unsigned i = CHASE_NODES - 1; i > 0; i--) {
		unsigned j;
		uint16_t t;

		order = order * 6364136223846793005ull + 1442695040888963407ull;
		j = (order >> 33) % i;
		t = perm[i];
		perm[i] = perm[j];
		perm[j] = t;
	}
	at = perm[CHASE_NODES - 1];
	for (unsigned i = 0; i < CHASE_NODES; i++) {
		l->chase[at * 8] = (uint64_t)(uintptr_t)&l->chase[perm[i] * 8ul];
		at = perm[i];
	}
}

/* Each of the following performs its operation n times, n a multiple of its unit (nano.h). */

static void loop_integer(struct loops *l, uint64_t n)
{
	uint64_t a = 1, b = 3;

	(void)l;
	__asm__ volatile(".balign 32\n"
			 "1:\tadd %[b], %[a]\n\t"
			 "lea 7(%[a],%[b],2), %[b]\n\t"
			 "imul $0x5bd1, %[a], %[a]\n\t"
			 "xor %[b], %[a]\n\t"
			 "rol $13, %[b]\n\t"
			 "sub %[n], %[b]\n\t"
			 "dec %[n]\n\t"
			 "jnz 1b"
			 : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n)
			 :
			 : "cc");
}

static void loop_memory(struct loops *l, uint64_t n)
{
	for (uint64_t sum = 0; n; n -= MEM_WORDS) {
		uint64_t *p = l->words, *end = p + MEM_WORDS;

		__asm__ volatile(".balign 32\n"
				 "1:\tadd (%[p]), %[sum]\n\t"
				 "mov %[sum], (%[p])\n\t"
				 "add $8, %[p]\n\t"
				 "cmp %[end], %[p]\n\t"
				 "jne 1b"
				 : [p] "+r"(p), [sum] "+r"(sum)
				 : [end] "r"(end)
				 : "cc", "memory");
	}
}

static void loop_chase(struct loops *l, uint64_t n)
{
	uint64_t *p = l->chase;

	__asm__ volatile(".balign 32\n"
			 "1:\t" REPEAT("mov (%[p]), %[p]") "sub $10, %[n]\n\t"
							   "jnz 1b"
			 : [p] "+r"(p), [n] "+r"(n)
			 :
			 : "cc", "memory");
}

static void loop_call(struct loops *l, uint64_t n)
{
	__asm__ volatile("jmp 1f\n\t"
			 ".balign 32\n"
			 "2:\tincq %[calls]\n\t"
			 "ret\n\t"
			 ".balign 32\n"
			 "1:\t" REPEAT("call 2b") "sub $10, %[n]\n\t"
						  "jnz 1b"
			 : [n] "+r"(n), [calls] "+m"(l->calls)
			 :
			 : "cc", "memory");
}

static void loop_call_indirect(struct loops *l, uint64_t n)
{
	__asm__ volatile("lea 2f(%%rip), %%rax\n\t"
			 "lea 3f(%%rip), %%rdx\n\t"
			 "jmp 1f\n\t"
			 ".balign 32\n"
			 "2:\tincq %[calls]\n\t"
			 "ret\n\t"
			 ".balign 32\n"
			 "3:\tdecq %[calls]\n\t"
			 "ret\n\t"
			 ".balign 32\n"
			 "1:\t" REPEAT("call *%%rax\n\t"
				       "xchg %%rax, %%rdx") "sub $10, %[n]\n\t"
							    "jnz 1b"
			 : [n] "+r"(n), [calls] "+m"(l->calls)
			 :
			 : "rax", "rdx", "cc", "memory");
}

static void loop_rep_movsb(struct loops *l, uint64_t n)
{
	while (n--) {
		void *to = l->copy_to, *from = l->copy_from;
		uint64_t len = COPY_BYTES;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
	}
}

#endif
