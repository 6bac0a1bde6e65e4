/*
 * Says what time it is, as clock.py asks: for each line on stdin one on stdout, in nanoseconds of
 * CLOCK_MONOTONIC. Ends at "end".
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

int main(void)
{
	struct timespec t;
	char line[16];

	puts("CLOCK ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "end\n")) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		printf("CLOCK %lld\n", t.tv_sec * 1000000000ll + t.tv_nsec);
		fflush(stdout);
	}
	return 0;
}
