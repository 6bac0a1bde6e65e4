/* The command line parser, fed words separated by zero bytes: it must answer, and every refusal
 * must be a line of text. */
#include <string.h>

#include "cmdline.h"

#define MAX_ARGS 64

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	char *words = malloc(size + 1), *argv[MAX_ARGS + 1], err[128] = "";
	struct config cfg;
	int argc = 0;

	if (!words)
		return 0;
	memcpy(words, data, size);
	words[size] = 0;
	argv[argc++] = (char *)"ringshift";
	for (char *w = words; w <= words + size && argc < MAX_ARGS; w += strlen(w) + 1)
		argv[argc++] = w;
	argv[argc] = NULL;
	if (cmdline_parse(&cfg, argc, argv, err, sizeof(err)))
		BUG_ON(!err[0] || strlen(err) >= sizeof(err));
	free(words);
	return 0;
}
