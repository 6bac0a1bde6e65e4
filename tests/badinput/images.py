"""Tiny kernels of every kind ringshift loads, as bytes, with a knob for each way to break them.

Each is a few instructions that end with a value written to isa-debug-exit at 0xf4, so an image that
is in order ends with STATUS. The same bytes do in 32-bit and in 64-bit mode.
"""
import gzip
import lzma
import struct

EXIT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
STATUS = 0x10 * 2 + 1

# mov $0x10,%al; out %al,$0xf4; 1: hlt; jmp 1b
CODE_EXIT = bytes.fromhex("b010 e6f4 f4 ebfd")
# mov $0x3f8,%dx; 1: mov $'A',%al; out %al,(%dx); jmp 1b
CODE_SHOUT = bytes.fromhex("66baf803 b041 ee ebfb")
# 1: pause; jmp 1b
CODE_SPIN = bytes.fromhex("f390 ebfc")


def pad(data, size):
    return data + bytes(-len(data) % size)


# --- ELF ---

PT_LOAD, PT_NOTE = 1, 4
EM_386, EM_X86_64 = 3, 62
HEADER_SIZE = {32: 52, 64: 64}
PHENT_SIZE = {32: 32, 64: 56}


def program_header(bits, kind, offset, vaddr, paddr, filesz, memsz, flags=7, align=4):
    if bits == 64:
        return struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, paddr, filesz, memsz, align)
    return struct.pack("<IIIIIIII", kind, offset, vaddr, paddr, filesz, memsz, flags, align)


def elf(bits, entry, segments, prefix=b"", **over):
    """An ELF executable. segments: (kind, paddr, bytes, overrides of program_header's arguments).

    prefix follows the ELF header. over: overrides of the header's fields.
    """
    fields = dict(magic=b"\x7fELF", elf_class=1 if bits == 32 else 2, data=1, type=2,
                  machine=EM_386 if bits == 32 else EM_X86_64, entry=entry, phoff=None, shoff=0,
                  ehsize=HEADER_SIZE[bits], phentsize=PHENT_SIZE[bits], phnum=len(segments),
                  shentsize=0, shnum=0, shstrndx=0)
    fields.update(over)
    table_at = HEADER_SIZE[bits] + len(prefix)
    if fields["phoff"] is None:
        fields["phoff"] = table_at
    f = fields
    header = f["magic"] + bytes([f["elf_class"], f["data"], 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH", f["type"],
                          f["machine"], 1, f["entry"], f["phoff"], f["shoff"], 0, f["ehsize"],
                          f["phentsize"], f["phnum"], f["shentsize"], f["shnum"], f["shstrndx"])
    at = table_at + PHENT_SIZE[bits] * len(segments)
    table, body = b"", b""
    for kind, paddr, data, changes in segments:
        values = dict(kind=kind, offset=at + len(body), vaddr=paddr, paddr=paddr,
                      filesz=len(data), memsz=len(data))
        values.update(changes)
        table += program_header(bits, **values)
        body += data
    return header + prefix + table + body


def note(entry, name=b"Xen\0", namesz=None, descsz=None, kind=18):
    """A PVH note: XEN_ELFNOTE_PHYS32_ENTRY."""
    return struct.pack("<III", len(name) if namesz is None else namesz,
                       4 if descsz is None else descsz, kind) + name + struct.pack("<I", entry)


def pvh(bits=32, at=0x100000, code=CODE_EXIT, entry=None, more=(), the_note=None, **over):
    if the_note is None:
        the_note = note(at if entry is None else entry)
    return elf(bits, at, [(PT_LOAD, at, pad(code, 16), {}), (PT_NOTE, 0, the_note, {}), *more],
               **over)


# --- multiboot 1 ---

MAGIC = 0x1badb002
AOUT = 1 << 16


def multiboot_header(flags=0, magic=MAGIC, checksum=None, addresses=()):
    if checksum is None:
        checksum = -(magic + flags) & 0xffffffff
    return struct.pack("<III", magic, flags, checksum) + struct.pack(f"<{len(addresses)}I",
                                                                     *addresses)


def multiboot_elf(bits=32, at=0x100000, code=CODE_EXIT, entry=None, more=(), flags=0, **over):
    return elf(bits, at if entry is None else entry, [(PT_LOAD, at, pad(code, 16), {}), *more],
               prefix=pad(multiboot_header(flags), 16), **over)


def multiboot_aout(load=0x8000, code=CODE_EXIT, header_at=0, header=None, load_end=None,
                   bss_end=None, entry=None):
    """The a.out kludge: header, then code."""
    header = load + header_at if header is None else header
    code_at = load + header_at + 32
    addresses = (header, load, 0 if load_end is None else load_end,
                 0 if bss_end is None else bss_end, code_at if entry is None else entry)
    return bytes(header_at) + multiboot_header(AOUT, addresses=addresses) + code


# --- bzImage ---

BOOT_FLAG = 0xaa55
ENTRY64 = 0x200


def bzimage(prot=None, **over):
    """A bzImage. prot: the protected-mode part; by default code for both entry points."""
    if prot is None:
        prot = pad(CODE_EXIT, ENTRY64) + CODE_EXIT
    prot = pad(prot, 16)
    fields = dict(setup_sects=1, syssize=len(prot) // 16, boot_flag=BOOT_FLAG, magic=b"HdrS",
                  jump=0x66, version=0x20f, loadflags=1, code32_start=0x100000,
                  initrd_addr_max=0x7fffffff, kernel_alignment=0x200000, relocatable=1,
                  xloadflags=1, cmdline_size=255, payload_offset=0, payload_length=0,
                  pref_address=0x100000, init_size=len(prot))
    fields.update(over)
    f = fields
    setup = bytearray(512 * (max(f["setup_sects"], 1) + 1))

    def put(fmt, at, *values):
        struct.pack_into("<" + fmt, setup, at, *values)

    put("B", 0x1f1, f["setup_sects"])
    put("I", 0x1f4, f["syssize"])
    put("H", 0x1fe, f["boot_flag"])
    put("BB", 0x200, 0xeb, f["jump"])
    put("4sH", 0x202, f["magic"], f["version"])
    put("B", 0x211, f["loadflags"])
    put("I", 0x214, f["code32_start"])
    put("II", 0x22c, f["initrd_addr_max"], f["kernel_alignment"])
    put("BBH", 0x234, f["relocatable"], 21, f["xloadflags"])
    put("I", 0x238, f["cmdline_size"])
    put("II", 0x248, f["payload_offset"], f["payload_length"])
    put("QI", 0x258, f["pref_address"], f["init_size"])
    return bytes(setup) + prot


def vmlinux(at=0x1000000, code=CODE_EXIT, entry=None, **over):
    """What a payload holds."""
    return elf(64, at if entry is None else entry, [(PT_LOAD, at, pad(code, 16), {})], **over)


def lz4_legacy(data):
    """A legacy LZ4 frame of one block that is one run of literals."""
    rest = len(data) - 15
    token = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) if rest >= 0 else \
        bytes([len(data) << 4])
    block = token + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def zstd_raw(data):
    """A zstd frame of one raw block."""
    # Single segment, 4-byte content size, no checksum; block: last, raw.
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + \
        struct.pack("<I", len(data) << 3 | 1)[:3] + data


def with_size(packed, data):
    """Linux's build appends the unpacked size to what does not end with it."""
    return packed + struct.pack("<I", len(data))


PACKERS = {
    "gzip": lambda d: gzip.compress(d, mtime=0),
    "xz": lambda d: with_size(lzma.compress(d, lzma.FORMAT_XZ, lzma.CHECK_CRC32), d),
    "lzma": lambda d: with_size(lzma.compress(d, lzma.FORMAT_ALONE), d),
    "lz4": lambda d: with_size(lz4_legacy(d), d),
    "zstd": lambda d: with_size(zstd_raw(d), d),
    "none": lambda d: d,
}


def with_payload(payload, tail=b"", **over):
    """A bzImage whose kernel is in its payload, which lies 0x400 bytes into it."""
    prot = bytes(0x400) + payload
    values = dict(payload_offset=0x400, payload_length=len(payload), init_size=0x1000,
                  pref_address=0x1000000)
    values.update(over)
    return bzimage(prot + tail, **values)
