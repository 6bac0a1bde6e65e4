/*
 * What an image is by its first bytes. Formats we cannot open are known as well: they must not be
 * taken for raw disks, nor may a guest make a raw disk look like one (docs/disks.md).
 */
#include <string.h>

#include "disk_impl.h"

static const struct {
	const char *format;
	unsigned at, len;
	const char *magic;
} known[] = {
    {"qcow2", 0, 8, "QFI\xfb\0\0\0\x02"},
    {"qcow2", 0, 8, "QFI\xfb\0\0\0\x03"},
    {"qcow", 0, 4, "QFI\xfb"},
    {"qed", 0, 4, "QED\0"},
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 4, "COWD"},
    {"vmdk", 0, 21, "# Disk DescriptorFile"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vpc", 0, 8, "conectix"},
    {"luks", 0, 6, "LUKS\xba\xbe"},
    {"parallels", 0, 16, "WithoutFreeSpace"},
    {"parallels", 0, 16, "WithouFreSpacExt"},
    {"bochs", 0, 24, "Bochs Virtual HD Image\0\0"},
    {"cloop", 0, 24, "#!/bin/sh\n#V2.0 Format\nm"},
};

const char *disk_probe(const u8 *head)
{
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		if (!memcmp(head + known[i].at, known[i].magic, known[i].len))
			return known[i].format;
	return NULL;
}
