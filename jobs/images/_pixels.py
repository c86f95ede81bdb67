"""Convert the colours of a file to 8 bits and sRGB, with transparency if there is some."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from jobs.images._damage import DAMAGED
from jobs.images._gray import from_deep_gray

#: The valid pairs of picture mode and profile mode; a profile for another mode is treated as broken.
MEANT_FOR = {
    ("L", "L"),
    ("LA", "L"),
    ("L", "RGB"),
    ("LA", "RGB"),
    ("RGB", "RGB"),
    ("RGBA", "RGB"),
    ("CMYK", "CMYK"),
}


def shown(picture: Image.Image) -> Image.Image:
    """Return a decoded picture in sRGB and one of the modes L, RGB and RGBA; raises one of DAMAGED."""
    profile = picture.info.get("icc_profile")
    return _plain(_in_srgb(_spread(from_deep_gray(picture)), profile))


def _spread(picture: Image.Image) -> Image.Image:
    """Return L, LA, RGB, RGBA, CMYK or LAB: without a palette, and with transparency as a channel."""
    if picture.mode in {"P", "PA"} and not (picture.palette and picture.palette.palette):
        raise ValueError("its colours refer to a palette, which is missing")
    if picture.mode in {"La", "RGBa"}:  # Pillow supports no other conversion from these modes
        picture = picture.convert(picture.mode.upper())
    if picture.has_transparency_data:
        return picture if picture.mode in {"LA", "RGBA"} else picture.convert("RGBA")
    if picture.mode in {"L", "RGB", "CMYK", "LAB"}:
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile, because it is removed; otherwise a wide-gamut photograph would look pale."""
    if not profile or picture.mode == "LAB":
        return picture
    alpha = picture.getchannel("A") if picture.mode in {"LA", "RGBA"} else None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
        if (picture.mode, mode) not in MEANT_FOR:
            return picture
        colours = picture if picture.mode == mode else picture.convert(mode)
        target = ImageCms.createProfile("sRGB")
        result = ImageCms.profileToProfile(colours, source, target, outputMode="RGB") or picture
    except (ImageCms.PyCMSError, *DAMAGED):  # a broken profile is ignored
        return picture
    if picture.mode in {"L", "LA"}:
        result = result.convert("L")
    if alpha:
        result.putalpha(alpha)
    return result


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode in {"L", "RGB", "RGBA"}:
        return picture
    return picture.convert("RGBA" if picture.mode == "LA" else "RGB")
