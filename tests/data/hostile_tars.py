"""Tars that nobody's packer writes by accident."""

import io
import tarfile

from mae_fast.data.sources.tar import BLOCK


def member(name, content=b"", **fields):
    """Header and content of one member, as ustar, GNU or pax has it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def with_checksum(block):
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    return bytes(block)


def edited(name, content, at, field):
    """A member with `field` written into its header at byte `at`, and a checksum that says all is well."""
    whole = member(name, content)
    block = whole[:at] + field + whole[at + len(field) : BLOCK]
    return with_checksum(block) + whole[BLOCK:]


def raw(name, kind, content=b""):
    """A member of any kind, size as given."""
    return edited(name, content, 156, kind)


def jpeg(size=(24, 20), colour=0):
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", size, (colour, 90, 30)).save(content, "JPEG")
    return content.getvalue()


END = bytes(2 * BLOCK)
GOOD = member("a.jpg", jpeg()) + member("a.cls", b"0")
PAX_SPARSE = b"22 GNU.sparse.major=1\n"
assert len(PAX_SPARSE) == 22

# what, the bytes, and the reason that is given
REFUSED = {
    "symbolic link": (GOOD + raw("b.jpg", b"2") + END, r"b\.jpg is a symbolic link"),
    "hard link": (GOOD + raw("../../etc/passwd", b"1") + END, r"\.\./etc/passwd is a hard link"),
    "character device": (GOOD + raw("b.jpg", b"3") + END, "is a device"),
    "block device": (GOOD + raw("b.jpg", b"4") + END, "is a device"),
    "pipe": (GOOD + raw("b.jpg", b"6") + END, "is a pipe"),
    "sparse, GNU": (GOOD + raw("b.jpg", b"S") + END, "is a sparse file"),
    "sparse, pax": (GOOD + raw("b.jpg", b"x", PAX_SPARSE) + END, "is a sparse file"),
    "a kind of its own": (GOOD + raw("b.jpg", b"Z") + END, "unknown kind"),
    "a size past the end": (GOOD + edited("b.jpg", b"x", 124, b"77777777777\0") + END, r"truncated: b\.jpg ends at"),
    "a size of 2^88": (GOOD + edited("b.jpg", b"x", 124, b"\x80" + b"\xff" * 11) + END, "truncated"),
    "a negative size": (GOOD + edited("b.jpg", b"x", 124, b"\xff" * 12) + END, "a number that is none"),
    "a size with a sign": (GOOD + edited("b.jpg", b"x", 124, b"-0000000001\0") + END, "a number that is none"),
    "a pax size with a sign": (
        GOOD + raw("b.jpg", b"x", b"12 size=-12\n") + END,
        "a pax header with a size",
    ),
    "a pax size of 10^18": (GOOD + raw("b", b"x", b"28 size=1000000000000000000\n") + GOOD + END, "truncated"),
    "a pax header of no length": (GOOD + raw("b.jpg", b"x", b"0 a=b\n") + END, "pax header that is none"),
    "a pax header of 1 MB": (GOOD + raw("b.jpg", b"x", b"a" * 2**20) + END, "at most 65536 are read"),
    "a long name of 1 MB": (GOOD + raw("b.jpg", b"L", b"a" * 2**20) + END, "at most 65536 are read"),
    "a wrong checksum": (GOOD + b"x" + member("b.jpg", b"x")[1:] + END, r"checksum is wrong at byte 2560"),
    "cut between members": (GOOD, "truncated: 2560 bytes with no end-of-archive block"),
    "cut inside of a member": (GOOD[:700], "truncated: a.jpg ends at byte"),
    "cut inside of a header": (GOOD + member("b.jpg")[:300], "truncated"),
    "zero bytes": (b"", "truncated: 0 bytes"),
    "text": (b"hello " * 200, "not a tar file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), r"compressed \(gzip\)"),
    "a class that is none": (member("a.jpg", jpeg()) + member("a.cls", b"cat") + END, "is no class number: cat"),
    "a class of 10^9": (member("a.jpg", jpeg()) + member("a.cls", b"1000000000") + END, "is no class number"),
    "a negative class": (member("a.jpg", jpeg()) + member("a.cls", b"-1") + END, "is no class number"),
    "classes of some": (GOOD + member("b.jpg", jpeg()) + END, "1 of 2 images have no .cls"),
    "no image": (member("a.txt", b"x") + END, "no images in its 1 tar files"),
}
