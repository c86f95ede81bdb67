"""Explain why a picture cannot be read: damaged, not supported, or not a picture. Further tries would not help."""

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
#: Exceptions of Pillow's readers for truncated, damaged or malicious files; databases and time limits raise others.
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
    """Return the error for a picture of this kind, from the exception of its reader."""
    reason = _reason(error)
    if UNSUPPORTED.search(reason):
        said = f"this kind of {kind or 'picture'} is not supported ({reason})"
        return GiveUp(f"picture: {said}. Save it as a JPEG or a plain PNG, and upload that.")
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
        return "its header has no size, or no kind of pixels"
    return text[:200] or type(error).__name__


def why_unread(stream: IO[bytes]) -> GiveUp:
    """Return why no reader accepted a file, from the reader whose signature the file has."""
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
    """Return a PNG without its damaged optional parts: texts, times and others that are not needed for the pixels.

    None if it has no such parts, or is not a PNG.
    """
    stream.seek(0)
    if stream.read(len(PNG)) != PNG:
        return None
    kept, dropped = [PNG], False
    for chunk in _chunks(stream):
        # A lower-case first letter marks an optional chunk.
        needless = chunk[4] & 0x20 and chunk[4:8] != b"tRNS"
        damaged = struct.unpack(">I", chunk[-4:])[0] != zlib.crc32(chunk[4:-4])
        if needless and (damaged or (chunk[4:8] == b"acTL" and len(chunk) != 20)):
            dropped = True
        else:
            kept.append(chunk)
    return io.BytesIO(b"".join(kept)) if dropped else None


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield complete chunks, with length and checksum; an incomplete chunk at the end is left out."""
    while len(head := stream.read(CHUNK_HEAD)) == CHUNK_HEAD:
        length = struct.unpack(">I", head[:4])[0]
        body = stream.read(length + 4)
        if len(body) < length + 4:
            return
        yield head + body
