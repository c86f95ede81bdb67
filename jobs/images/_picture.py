"""Read a picture from an untrusted file, and write a plain one.

The file is checked before it is decoded: the format by its content, the size by its header. The written picture is
upright, in sRGB, and has pixels only: no EXIF, no place, no camera, no embedded profile.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from esteira import Context, GiveUp
from esteira.errors import NotFound
from jobs.images._damage import DAMAGED, READABLE, mended, refusal, why_unread
from jobs.images._pixels import shown

#: A decoded picture takes 4 bytes per pixel, and twice that while it is rotated or encoded.
MAX_PIXELS = 40_000_000
ORIENTATION = 0x0112
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """The options to write one kind of file.

    `longest` is the format's limit for a side, in pixels; `pixels` is the most that its encoder does in about 500 MB.
    """

    pillow: str
    ending: str
    content_type: str
    longest: int
    pixels: int
    lossy: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


FORMATS = {
    "webp": Format(
        pillow="WEBP", ending="webp", content_type="image/webp", longest=16_383, pixels=28_000_000
    ),
    "avif": Format(
        pillow="AVIF",
        ending="avif",
        content_type="image/avif",
        longest=32_768,
        pixels=4096**2,
        options={"max_threads": 2},  # each thread takes memory, and other jobs need the cores too
    ),
    "jpeg": Format(pillow="JPEG", ending="jpg", content_type="image/jpeg", longest=65_500, pixels=MAX_PIXELS),
    "png": Format(
        pillow="PNG",
        ending="png",
        content_type="image/png",
        longest=MAX_PIXELS,
        pixels=MAX_PIXELS,
        lossy=False,
    ),
}


@contextmanager
def opened(ctx: Context, ref: str) -> Iterator[tuple[Image.Image, str]]:
    """Open an uploaded picture without decoding it; yield it and its name without the ending.

    Raises GiveUp if the file does not exist, is not a picture, or is larger than MAX_PIXELS.
    """
    try:
        stream = ctx.open(ref)
    except NotFound as error:
        raise GiveUp(f"picture: {error} The file may have been deleted; upload it again.") from None
    with stream:
        picture = _identified(stream)
        _refuse_bomb(*picture.size)
        yield picture, PurePath(str(getattr(stream, "name", "picture"))).stem[:100] or "picture"


def _identified(stream: IO[bytes]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower
            return _read(stream)
    except UnidentifiedImageError:
        raise why_unread(stream) from None
    except Image.DecompressionBombError:
        raise GiveUp(f"picture: {_too_many()}") from None
    except DAMAGED as error:
        raise refusal(error) from error


def _read(stream: IO[bytes]) -> Image.Image:
    try:
        return Image.open(stream, formats=READABLE)
    except DAMAGED:
        without = mended(stream)
        if without is None:
            raise
        return Image.open(without, formats=READABLE)


def _refuse_bomb(width: int, height: int) -> None:
    """Refuse the size before decoding: the header of a 1 KB file may announce a gigabyte of pixels."""
    if width * height > MAX_PIXELS:
        raise GiveUp(f"picture: it is {width} × {height} pixels; {_too_many()}")
    if not width or not height:
        raise GiveUp("picture: it has no pixels.")


def _too_many() -> str:
    return f"the limit is {MAX_PIXELS // 1_000_000} million pixels. Make the picture smaller first."


def plain(picture: Image.Image, *, about: int | None = None) -> Image.Image:
    """Decode a picture: upright, sRGB, mode L, RGB or RGBA, no metadata. Raises GiveUp if it cannot be read.

    `about` is the longest side that is needed: a JPEG can be decoded at half, a quarter or an eighth of its size, with
    proportionally less time and memory.
    """
    kind = picture.format
    try:
        if about:
            picture.draft("RGB", (2 * about, 2 * about))
        picture.load()
        orientation = _orientation(picture)
        result = shown(picture)
        if orientation in TURN:
            result = result.transpose(TURN[orientation])
    except Image.DecompressionBombError:
        raise GiveUp(f"picture: {_too_many()}") from None
    except DAMAGED as error:
        raise refusal(error, kind) from error
    result.info = {}  # writers would copy profiles and comments from here
    return result


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except DAMAGED:  # a picture with broken metadata is still usable
        return 1


def refuse_too_large(kind: str, width: int, height: int) -> None:
    """Raise GiveUp if a picture of this size cannot be written; this is checked before it is decoded."""
    made = FORMATS[kind]
    if max(width, height) > made.longest:
        limit = f"a side may have at most {made.longest} pixels"
    elif width * height > made.pixels:
        limit = f"a picture may have at most {made.pixels // 1_000_000} million pixels"
    else:
        return
    raise GiveUp(
        f"format: in {kind}, {limit}; this picture has {width} × {height}. Set a longest side, or use png."
    )


def encoded(picture: Image.Image, kind: str, quality: int) -> bytes:
    """Return the file's bytes; transparency becomes white in a JPEG."""
    made = FORMATS[kind]
    if kind == "jpeg" and picture.mode == "RGBA":
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    buffer = io.BytesIO()
    picture.save(buffer, made.pillow, **({"quality": quality} if made.lossy else {}), **made.options)
    return buffer.getvalue()
