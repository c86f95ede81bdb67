"""Why a picture cannot be read: damaged, of a kind that is not supported, or no picture at all. No try helps."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import Image, TiffTags

from esteira import GiveUp

READABLE = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
READABLE_NAMES = "JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP"
#: What Pillow's readers raise on files that are cut off, damaged or made to hurt; no database and no time limit does.
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, RuntimeError, ArithmeticError),
    *(LookupError, TypeError, AttributeError, AssertionError, struct.error, zlib.error),
)
UNSUPPORTED = re.compile(
    r"(un|not (yet )?)supported(?! operand)|unknown (pixel|data|compression|BMP|mode)|unrecognized|"
    r"cannot handle|not available",
    re.IGNORECASE,
)
PNG = b"\x89PNG\r\n\x1a\n"
CHUNK_HEAD = 8


def refusal(error: BaseException, kind: str | None = None) -> GiveUp:
    """Say what is wrong with a picture of this kind, from what its reader raised."""
    reason = _reason(error)
    if UNSUPPORTED.search(reason):
        said = f"a {kind or 'picture'} of this sort is not supported ({reason})"
        return GiveUp(f"picture: {said}. Save it anew as a JPEG or a plain PNG, and upload that.")
    return GiveUp(f"picture: the file is damaged or cut off ({reason}). Upload it again.")


def _reason(error: BaseException) -> str:
    text = str(error)
    missed = error if isinstance(error, KeyError) else error.__cause__
    if isinstance(missed, KeyError) and text == str(
        missed
    ):  # the reader of TIFF looks up tags and compressions
        tag = TiffTags.lookup(missed.args[0]).name if isinstance(missed.args[0], int) else "unknown"
        return f"unknown compression {text}" if tag == "unknown" else f"{tag} is missing"
    if "not identified by this driver" in text:
        return "its header names no size, or no kind of pixels"
    return text[:200] or type(error).__name__


def why_unread(stream: IO[bytes]) -> GiveUp:
    """Say why no reader took a file: ask the one whose beginning the file has."""
    Image.init()
    stream.seek(0)
    head = stream.read(16)
    for kind in READABLE:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(head) is not True:
            continue
        stream.seek(0)
        try:
            factory(stream, "")
        except DAMAGED as error:
            return refusal(error, kind)
    return GiveUp(f"picture: this file is not a picture that can be read; upload {READABLE_NAMES}.")


def mended(stream: IO[bytes]) -> IO[bytes] | None:
    """Return a PNG without those additions that are damaged: texts, times and the like, which no pixel needs.

    None if it has none, or is no PNG.
    """
    stream.seek(0)
    if stream.read(len(PNG)) != PNG:
        return None
    kept, dropped = [PNG], False
    for chunk in _chunks(stream):
        needless = chunk[4] & 0x20 and chunk[4:8] != b"tRNS"  # a small first letter
        damaged = struct.unpack(">I", chunk[-4:])[0] != zlib.crc32(chunk[4:-4])
        if needless and (damaged or (chunk[4:8] == b"acTL" and len(chunk) != 20)):
            dropped = True
        else:
            kept.append(chunk)
    return io.BytesIO(b"".join(kept)) if dropped else None


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield whole chunks, with length and checksum; what is cut off at the end is no chunk."""
    while len(head := stream.read(CHUNK_HEAD)) == CHUNK_HEAD:
        length = struct.unpack(">I", head[:4])[0]
        body = stream.read(length + 4)
        if len(body) < length + 4:
            return
        yield head + body
