#include "report.h"

#include <string.h>

void report_error(const char *text)
{
	char line[1024];
	char *p;

	snprintf(line, sizeof(line), "%s", text);
	for (p = line; *p; p++)
		if ((u8)*p < ' ' || *p == 0x7f)
			*p = '?';
	fprintf(stderr, "ringshift: %s\n", line);
}
