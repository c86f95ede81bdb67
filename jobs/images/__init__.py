"""Pictures: thumbnails in several sizes, and conversion to another format.

Both job types read an uploaded picture of any common format and write plain files: upright, in sRGB, without metadata.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from PIL import Image, ImageOps
from pydantic import BeforeValidator, Field

from esteira import Context, FileRef, job
from jobs._lists import split_list
from jobs.images._picture import FORMATS, encoded, opened, plain, refuse_too_large

Kind = Annotated[Literal["webp", "avif", "jpeg", "png"], Field(title="Format")]
Picture = Annotated[
    FileRef, Field(title="Picture", description="An uploaded JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP.")
]
Quality = Annotated[
    int,
    Field(ge=1, le=100, title="Quality", description="Higher is better and larger; PNG is always lossless."),
]
Side = Annotated[int, Field(ge=16, le=4096)]


@job(retries=2, timeout=300)
def thumbnails(
    ctx: Context,
    picture: Picture,
    sizes: Annotated[
        tuple[Side, ...],
        BeforeValidator(split_list),
        Field(
            min_length=1,
            max_length=12,
            title="Sizes",
            description="The longest side of each, 16 to 4096 pixels.",
        ),
    ] = (128, 256, 512),
    square: Annotated[
        bool, Field(title="Square", description="Crop to the middle, so that all sides are equal.")
    ] = False,
    format: Kind = "webp",  # noqa: A002
    quality: Quality = 80,
) -> dict[str, Any]:
    """Make thumbnails of a picture.

    It makes one file per size, named after the picture. A picture is never enlarged.
    """
    wanted = sorted(set(sizes))
    with opened(ctx, picture) as (source, name):
        whole = plain(source, about=wanted[-1])
    files = []
    for size in ctx.each(wanted, "Making thumbnails"):
        small = _square(whole, size) if square else _within(whole, size)
        files.append(_write(ctx, small, f"{name}-{size}", format, quality))
    return {"files": files}


@job(retries=2, timeout=600)
def convert(
    ctx: Context,
    picture: Picture,
    format: Kind,  # noqa: A002
    quality: Quality = 80,
    longest_side: Annotated[
        int | None,
        Field(
            ge=16,
            le=30_000,
            title="Longest side",
            description="Scale the picture down to this; if empty, it keeps its size.",
        ),
    ] = None,
) -> dict[str, Any]:
    """Convert a picture to another format.

    Only the first picture of an animation is used. Transparency becomes white in a JPEG.
    """
    ctx.progress(0, 2, "Reading")
    with opened(ctx, picture) as (source, name):
        size = _size_within(source.size, longest_side or max(source.size))
        refuse_too_large(format, *size)
        whole = plain(source)
    if longest_side:
        whole = _within(whole, longest_side)
    ctx.progress(1, 2, "Writing")
    file = _write(ctx, whole, name, format, quality)
    ctx.progress(2, 2, "Done")
    return {"files": [file]}


def _within(picture: Image.Image, side: int) -> Image.Image:
    """Scale down until the longest side fits."""
    size = _size_within(picture.size, side)
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _size_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size that fits; no side becomes 0."""
    longest = max(size)
    if longest <= side:
        return size
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def _square(picture: Image.Image, side: int) -> Image.Image:
    side = min(side, *picture.size)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)


def _write(ctx: Context, picture: Image.Image, name: str, kind: str, quality: int) -> dict[str, Any]:
    data = encoded(picture, kind, quality)
    made = FORMATS[kind]
    full_name = f"{name}.{made.ending}"
    with ctx.file(full_name, made.content_type) as out:
        out.write(data)
    return {"name": full_name, "width": picture.width, "height": picture.height, "bytes": len(data)}
