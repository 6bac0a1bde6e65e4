/*
 * Unpacking the payload of a Linux kernel image: gzip, xz, lzma, LZ4 (legacy frame), zstd, or an
 * ELF file as it is. The last four bytes of a packed payload are its unpacked size: the build puts
 * them there, gzip has them anyway. So the size is known beforehand and must come out exactly.
 */
#ifndef RINGSHIFT_UNPACK_H
#define RINGSHIFT_UNPACK_H

#include "base.h"

/* The size a payload claims to have when unpacked. */
u64 unpack_size(const u8 *in, u64 len);

/*
 * Unpack a payload into exactly out_len = unpack_size bytes. 0, or a negative errno and in *why
 * what is wrong, as the rest of a sentence that begins with "the payload": -EBADMSG corrupt,
 * -ENOTSUP unknown or unsupported compression, -ENOMEM. What out holds after an error is undefined.
 */
MUST_CHECK int unpack_payload(const u8 *in, u64 len, u8 *out, u64 out_len, const char **why);

#endif
