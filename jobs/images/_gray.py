"""Scale gray pictures of more than 8 bits, as scientific scanners and cameras make them, to 8 bits.

Pillow reads them as native integers or floats; the tags of a TIFF define their meaning. A picture is processed in bands
of some rows, because each step on a whole picture would take four bytes per pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from PIL import Image, ImageMath

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, NO_DATA = (
    258,
    262,
    339,
    42113,
)  # tags of TIFF; the last one is GDAL's
SIGNED, WHITE_IS_ZERO = 2, 0
#: Values beyond this are no brightness: infinity, or a mark for "not measured".
MOST_LIGHT = 3e38
BAND_PIXELS = 2**20


def from_deep_gray(picture: Image.Image) -> Image.Image:
    """Return deep gray as L, or as LA if one value is transparent; return other pictures unchanged.

    16 bits keep their range; in other depths the darkest value becomes black, and the lightest white. A value that is
    no brightness (NaN, infinity, "no data") is shown like the darkest. Raises ValueError if there are no other values.
    """
    kind = _Kind.of(picture)
    if kind is None:
        return picture
    low, high = kind.range or _range(kind, picture)
    result = Image.new("L" if kind.gap is None else "LA", picture.size)
    for box in _bands(picture):
        result.paste(_scaled(kind, picture.crop(box), low, high), box)
    return result


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """The meaning of the numbers in a picture."""

    range: tuple[float, float] | None
    # Numbers from `wraps_at` on mean `wraps_by` less; if `wraps_by` is negative, numbers below `wraps_at` mean more.
    wraps_at: float
    wraps_by: float
    no_data: float | None
    inverted: bool
    gap: float | None

    @classmethod
    def of(cls, picture: Image.Image) -> Self | None:
        tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
        signed = SIGNED in tags.get(SAMPLE_FORMAT, ())
        if picture.mode[0] not in "IF" and not (signed and picture.mode == "L"):
            return None
        sixteen = picture.mode.startswith("I;16")
        bits = min(tags.get(BITS_PER_SAMPLE, (16,)))
        wraps = {"L": (128.0, 256.0), "I": (0.0, -(2.0**32))}.get(picture.mode, (0.0, 0.0))
        if picture.mode == "I" and (signed or not tags):
            wraps = (0.0, 0.0)
        gap = picture.info.get("transparency")
        return cls(
            range=(0.0, 2.0**bits - 1) if sixteen else None,
            wraps_at=wraps[0],
            wraps_by=wraps[1],
            no_data=_number(tags.get(NO_DATA)),
            inverted=bool(tags) and tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO,
            gap=float(gap) if isinstance(gap, int) else None,
        )


def _bands(picture: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield 0, top, picture.width, min(top + rows, picture.height)


def _light(kind: _Kind, band: Image.Image) -> Image.Image:
    light = band.convert("F")
    if kind.wraps_by > 0:
        return _computed(lambda a: a["x"] - a["float"](a["x"] >= kind.wraps_at) * kind.wraps_by, light)
    if kind.wraps_by < 0:
        return _computed(lambda a: a["x"] - a["float"](a["x"] < kind.wraps_at) * kind.wraps_by, light)
    return light


def _known(kind: _Kind, light: Image.Image) -> Image.Image:
    """Return a mask of the values that are a brightness; NaN is excluded, because its comparisons are all false."""
    no_data = MOST_LIGHT if kind.no_data is None else kind.no_data
    known = _computed(
        lambda a: (a["x"] > -MOST_LIGHT) * (a["x"] < MOST_LIGHT) * (a["x"] != no_data) * 255, light
    )
    return known.convert("L").convert("1")


def _range(kind: _Kind, picture: Image.Image) -> tuple[float, float]:
    lows, highs = [MOST_LIGHT], [-MOST_LIGHT]
    for box in _bands(picture):
        light = _light(kind, picture.crop(box))
        known = _known(kind, light)
        lows.append(_least_and_most(_filled(light, known, MOST_LIGHT))[0])
        highs.append(_least_and_most(_filled(light, known, -MOST_LIGHT))[1])
    if min(lows) > max(highs):
        raise ValueError("none of its values is a number")
    return min(lows), max(highs)


def _scaled(kind: _Kind, band: Image.Image, low: float, high: float) -> Image.Image:
    light = _light(kind, band)
    if not kind.range:
        light = _filled(light, _known(kind, light), low)
    scale = 255.0 / ((high - low) or 1.0)
    gray = light.point(lambda value: value * scale - low * scale).convert("L")
    if kind.inverted:
        gray = gray.point(lambda value: 255 - value)
    if kind.gap is None:
        return gray
    solid = _computed(lambda a: (a["x"] != kind.gap) * 255, light).convert("L")
    return Image.merge("LA", (gray, solid))


def _least_and_most(light: Image.Image) -> tuple[float, float]:
    return cast(tuple[float, float], light.getextrema())


def _computed(expression: Any, light: Image.Image) -> Image.Image:
    return cast(Image.Image, ImageMath.lambda_eval(expression, x=light))


def _filled(light: Image.Image, known: Image.Image, value: float) -> Image.Image:
    filled = Image.new("F", light.size, value)
    filled.paste(light, mask=known)
    return filled


def _number(value: Any) -> float | None:
    try:
        return float(str(value).strip("\0 "))
    except ValueError:
        return None
