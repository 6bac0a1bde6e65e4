/* Which loader is for which file. */
#include "loader.h"

#include <errno.h>

#include "load.h"

static int load_by_kind(struct load *l, struct boot_state *out)
{
	const u8 *bytes = l->kernel.buf.bytes;
	u64 size = l->kernel.size;
	struct elf_image img;
	int r;

	if (!size)
		return load_fail(l, l->kernel.path, -ENOEXEC, "the kernel file is empty");
	if (bzimage_probe(l))
		return bzimage_load(l, out);
	if (multiboot_probe(l) >= 0)
		return multiboot_load(l, out);
	if (elf_has_magic(bytes, size)) {
		r = elf_image_read(l, "ELF", l->kernel.buf.bytes, size, &img);
		if (r)
			return r;
		if (img.pvh)
			return pvh_load(l, &img, out);
		return load_fail(l, l->kernel.path, -ENOEXEC,
				 "an ELF file with neither a PVH note nor a multiboot 1 header");
	}
	return load_fail(l, l->kernel.path, -ENOEXEC,
			 "not a kernel: expected a Linux bzImage, a multiboot 1 image or an ELF "
			 "file with a PVH note");
}

int loader_load(struct ram *ram, const struct boot_config *cfg, struct boot_state *out, char *err,
		size_t errlen)
{
	struct load l = {.ram = ram,
			 .cfg = cfg,
			 .cmdline = cfg->cmdline ? cfg->cmdline : "",
			 .err = err,
			 .errlen = errlen};
	int r;

	if (errlen)
		err[0] = 0;
	r = load_file_open(&l, &l.kernel, cfg->kernel, LOAD_SLOT_KERNEL, LOAD_MAX_FILE);
	if (r)
		return r;
	r = load_file_slurp(&l, &l.kernel);
	if (!r)
		r = load_by_kind(&l, out);
	load_file_close(&l.kernel);
	return r;
}
