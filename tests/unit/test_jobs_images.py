"""The image jobs on a real photograph, on odd pictures, and on files made to hurt."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image, ImageCms, ImageDraw

from esteira import Cancelled, GiveUp, LocalContext
from esteira.errors import InvalidParameters
from esteira.job_types.context import MemoryHost
from jobs.images import _picture, convert, thumbnails

PHOTO = (
    Path(__file__).resolve().parent.parent.parent / "jobs" / "images" / "samples" / "coffee.jpg"
).read_bytes()
FORMATS = {"webp": "WEBP", "avif": "AVIF", "jpeg": "JPEG", "png": "PNG"}
REF = str(uuid4())


class NamedFile(io.BytesIO):
    name = ""


class Upload(MemoryHost):
    """One upload that knows its name, as stored ones do."""

    name = "photo.jpg"

    def open(self, ref):
        stream = NamedFile(self.uploads[ref])
        stream.name = self.name
        return stream


def upload(data: bytes, name: str = "photo.jpg") -> LocalContext:
    ctx = LocalContext()
    ctx.host = Upload(uploads={REF: data})
    ctx.host.name = name
    return ctx


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def saved(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def converted(data: bytes, to: str = "png", **params) -> Image.Image:
    ctx = upload(data)
    convert.run_with(ctx, picture=REF, format=to, **params)
    (made,) = ctx.files.values()
    return opened(made)


def four_corners(width: int = 60, height: int = 40) -> Image.Image:
    """A picture whose corners tell which way up it is: red, green below it, blue to the right, white across."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 2, height // 2), fill=(250, 0, 0))
    draw.rectangle((0, height // 2, width // 2, height), fill=(0, 250, 0))
    draw.rectangle((width // 2, 0, width, height // 2), fill=(0, 0, 250))
    return picture


def pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = picture.getpixel((x, y))
    return value if isinstance(value, tuple) else (int(value or 0),)


def assert_upright(picture: Image.Image) -> None:
    pixels = picture.convert("RGB")
    right, bottom = pixels.width - 3, pixels.height - 3
    corners = [
        pixel(pixels, 2, 2),
        pixel(pixels, 2, bottom),
        pixel(pixels, right, 2),
        pixel(pixels, right, bottom),
    ]
    assert [tuple(round(part / 255) for part in corner) for corner in corners] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 1, 1),
    ]


# Results


@pytest.mark.parametrize("to", FORMATS)
def test_a_photograph_becomes_thumbnails_that_open(to):
    ctx = upload(PHOTO, "coffee.jpg")

    result = thumbnails.run_with(ctx, picture=REF, sizes=[64, 128, 512], format=to)

    ending = "jpg" if to == "jpeg" else to
    assert list(ctx.files) == [f"coffee-{size}.{ending}" for size in (64, 128, 512)]
    for told, (name, data) in zip(result["files"], ctx.files.items(), strict=True):
        picture = opened(data)
        assert picture.format == FORMATS[to]
        assert max(picture.size) == int(name.split("-")[1].split(".")[0])
        assert abs(picture.width / picture.height - 1.5) < 0.03  # upright, although it is stored turned
        assert told == {"name": name, "width": picture.width, "height": picture.height, "bytes": len(data)}
    assert ctx.progress_calls[-1] == (3, 3, "Making thumbnails")


@pytest.mark.parametrize("to", FORMATS)
def test_a_photograph_converts_to_every_format(to):
    ctx = upload(PHOTO, "coffee.jpg")

    result = convert.run_with(ctx, picture=REF, format=to)

    (told,) = result["files"]
    picture = opened(ctx.files[told["name"]])
    assert picture.format == FORMATS[to]
    assert picture.size == (600, 400) == (told["width"], told["height"])


@pytest.mark.parametrize("to", FORMATS)
def test_no_metadata_is_left(to):
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(four_corners(), "JPEG", exif=exif, icc_profile=icc, comment=b"SecretComment", dpi=(300, 300))

    ctx = upload(data)
    convert.run_with(ctx, picture=REF, format=to)
    thumbnails.run_with(ctx, picture=REF, format=to, sizes=[16])

    assert len(ctx.files) == 2
    for made in ctx.files.values():
        picture = opened(made)
        assert b"Secret" not in made
        assert not dict(picture.getexif())
        assert not {"exif", "icc_profile", "comment", "xmp", "dpi"} & picture.info.keys()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned_back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = four_corners()
    if turned_back in _picture.TURN:
        stored = stored.transpose(_picture.TURN[turned_back])
    data = saved(stored, kind, exif=exif)

    ctx = upload(data)
    thumbnails.run_with(ctx, picture=REF, sizes=[48], format="png")

    (made,) = ctx.files.values()
    assert opened(made).size == (48, 32)
    assert_upright(opened(made))
    assert_upright(converted(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_broken_metadata_does_not_cost_the_picture(exif):
    assert_upright(converted(saved(four_corners(), "JPEG", exif=b"Exif\0\0" + exif, quality=95)))


def test_an_embedded_colour_profile_is_applied_before_it_is_dropped():
    """The profile says that the red channel is green: whoever merely drops it shows other colours."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = icc.index(b"rXYZ", 128), icc.index(b"gXYZ", 128)
    icc[red : red + 4], icc[green : green + 4] = b"gXYZ", b"rXYZ"
    data = saved(Image.new("RGB", (40, 40), (220, 10, 10)), "PNG", icc_profile=bytes(icc))

    red, green, blue = pixel(converted(data), 20, 20)

    assert green > 180 > red + blue


@pytest.mark.parametrize("profile", [b"", b"not a profile", b"\0" * 200])
def test_a_broken_colour_profile_is_as_good_as_none(profile):
    data = saved(four_corners(), "PNG", icc_profile=profile)

    assert_upright(converted(data))


def test_a_picture_is_never_made_larger():
    ctx = upload(saved(four_corners(60, 40)))

    result = thumbnails.run_with(ctx, picture=REF, sizes=[32, 4096], format="png")

    assert [(f["width"], f["height"]) for f in result["files"]] == [(32, 21), (60, 40)]


def test_square_thumbnails_are_cut_from_the_middle():
    ctx = upload(PHOTO)

    result = thumbnails.run_with(ctx, picture=REF, sizes=[64, 2000], square=True)

    assert [(f["width"], f["height"]) for f in result["files"]] == [(64, 64), (400, 400)]


def test_sizes_are_made_once_each_and_may_be_typed_as_text():
    ctx = upload(PHOTO)

    result = thumbnails.run_with(ctx, picture=REF, sizes="64, 32;64")

    assert [max(f["width"], f["height"]) for f in result["files"]] == [32, 64]


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_a_side_never_vanishes(size):
    ctx = upload(saved(Image.new("RGB", size, "red")))

    (small,) = thumbnails.run_with(ctx, picture=REF, sizes=[16], format="png")["files"]

    assert sorted((small["width"], small["height"])) == [1, 16]


def test_convert_scales_down_if_asked():
    assert converted(PHOTO, longest_side=300).size == (300, 200)


@pytest.mark.parametrize("to", ["webp", "avif", "png"])
def test_transparency_stays_where_the_format_has_it(to):
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 20, 40))

    result = converted(saved(picture), to)

    assert result.mode == "RGBA"
    assert pixel(result, 35, 20)[3] == 0
    assert pixel(result, 5, 20)[3] == 255


def test_transparency_becomes_white_in_a_jpeg():
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))

    assert min(pixel(converted(saved(picture), "jpeg"), 20, 20)) > 250


def odd_pictures() -> dict[str, bytes]:
    corners = four_corners()
    frames = [corners, Image.new("RGB", corners.size, "black")]
    palette = corners.convert("P", palette=Image.Palette.ADAPTIVE)
    return {
        "palette": saved(palette),
        "palette with a transparent colour": saved(palette, transparency=255),
        "gif": saved(palette, "GIF"),
        "animated gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "animated png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "avif": saved(corners, "AVIF", quality=95),
        "bmp": saved(corners, "BMP"),
        "tiff": saved(corners, "TIFF"),
        "lzw tiff": saved(corners, "TIFF", compression="tiff_lzw"),
        "progressive jpeg": saved(corners, "JPEG", progressive=True, quality=95),
        "cmyk jpeg": saved(corners.convert("CMYK"), "JPEG", quality=95),
        "two pictures in one jpeg": saved(
            frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95
        ),
        "rgba": saved(corners.convert("RGBA")),
    }


@pytest.mark.parametrize("what", odd_pictures())
@pytest.mark.parametrize("to", FORMATS)
def test_any_common_kind_of_picture_is_read(what, to):
    assert_upright(converted(odd_pictures()[what], to, quality=95))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16", "I", "F"])
def test_gray_of_any_depth_keeps_its_light(mode, to):
    gradient = Image.linear_gradient("L")
    deep = {"I;16": 257, "I": 1000, "F": 0.5}
    picture = gradient.convert("I").point(lambda v: v * deep.get(mode, 1)) if mode in deep else gradient
    if mode == "LA":
        picture.putalpha(255)
    data = saved(picture.convert(mode), "TIFF" if mode in ("I", "F") else "PNG")

    result = converted(data, to).convert("L").resize((3, 3))

    light = [pixel(result, 1, y)[0] for y in range(3)]
    assert light == pytest.approx([42, 127, 212], abs=12)


# Names


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("férias 休暇.JPG", "férias 休暇.webp"),
        ("no-ending", "no-ending.webp"),
        ("two.dots.png", "two.dots.webp"),
        ("", "picture.webp"),
        (".png", ".png.webp"),
        ("x" * 250 + ".jpg", "x" * 100 + ".webp"),
    ],
)
def test_results_are_named_after_the_picture(name, made):
    ctx = upload(PHOTO, name)

    convert.run_with(ctx, picture=REF, format="webp")

    assert list(ctx.files) == [made]


# What is refused


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6325, 9000, 10_000, 50_000, 2_000_000_000])
@pytest.mark.parametrize("run", [thumbnails, lambda ctx, **p: convert.run_with(ctx, format="webp", **p)])
def test_a_decompression_bomb_is_refused_before_it_goes_off(side, run):
    ctx = upload(png_that_says(side, side))
    run = getattr(run, "run_with", run)

    with pytest.raises(GiveUp, match="the limit is 40 million pixels|damaged"):
        run(ctx, picture=REF)


def test_a_bomb_is_told_with_its_size():
    with pytest.raises(GiveUp, match="picture: it is 8000 × 7000 pixels; the limit is 40 million"):
        convert.run_with(upload(png_that_says(8000, 7000)), picture=REF, format="png")


def test_a_compressed_text_in_a_png_does_not_go_off_either():
    body = b"key\0\0" + zlib.compress(bytes(80 * 1024**2), 9)
    bomb = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = saved(four_corners())
    data = data[:33] + bomb + data[33:]

    with pytest.raises(GiveUp, match="damaged"):
        converted(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\0" * 1000,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"PK\x03\x04" + bytes(100),
        b"8BPS\0\1" + bytes(100),
        "𝄞 not a picture".encode(),
    ],
)
def test_what_is_no_picture_is_refused_with_what_would_be(data):
    with pytest.raises(GiveUp, match="not a picture that can be read; upload JPEG, PNG, WebP"):
        thumbnails.run_with(upload(data), picture=REF)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_refused(kind, part):
    noise = Image.effect_noise((120, 80), 90).convert("RGB")
    data = saved(noise, kind)
    ctx = upload(data[: int(len(data) * part)])

    with pytest.raises(GiveUp, match="damaged or cut off|not a picture"):
        convert.run_with(ctx, picture=REF, format="png")
    assert not ctx.files


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_damaged_files_are_refused_or_read_and_never_crash(kind):
    chance = random.Random(7)
    whole = saved(Image.open(io.BytesIO(PHOTO)).resize((40, 60)), kind)

    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(min(len(data), chance.choice([64, 600, 10**6])))] = chance.randrange(256)
        try:
            thumbnails.run_with(upload(bytes(data)), picture=REF, sizes=[32], format="jpeg")
        except GiveUp as refused:
            assert str(refused).startswith("picture: ")


def test_a_picture_too_long_for_a_format_is_refused_with_the_way_out():
    data = saved(Image.new("L", (20_000, 10)))

    with pytest.raises(
        GiveUp, match="in webp, a side may have at most 16383 pixels; this picture has 20000 × 10"
    ):
        converted(data, "webp")
    assert converted(data, "webp", longest_side=1000).size == (1000, 1)


def test_a_picture_too_large_for_an_encoder_is_refused_before_it_is_decoded():
    with pytest.raises(GiveUp, match="in avif, a picture may have at most 16 million pixels"):
        convert.run_with(upload(png_that_says(6000, 6000)), picture=REF, format="avif")


def test_a_picture_that_is_gone_is_said_and_not_tried_again():
    with pytest.raises(GiveUp, match="picture: .* upload it again"):
        thumbnails.run(picture=str(uuid4()))


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"picture": "photo.jpg"}, "picture"),
        ({"picture": ""}, "picture"),
        ({"picture": None}, "picture"),
        ({"picture": REF, "sizes": []}, "sizes"),
        ({"picture": REF, "sizes": [8]}, "sizes/0"),
        ({"picture": REF, "sizes": [64, 5000]}, "sizes/1"),
        ({"picture": REF, "sizes": "wide"}, "sizes/0"),
        ({"picture": REF, "sizes": [64] * 13}, "sizes"),
        ({"picture": REF, "format": "gif"}, "format"),
        ({"picture": REF, "quality": 0}, "quality"),
        ({"picture": REF, "quality": 101}, "quality"),
        ({"picture": REF, "colour": "blue"}, "colour"),
        ({}, "picture"),
    ],
)
def test_wrong_parameters_are_refused_and_named(params, field):
    with pytest.raises(InvalidParameters, match=f"#/params/{field}:"):
        thumbnails.run(**params)


def test_convert_needs_a_format():
    with pytest.raises(InvalidParameters, match="#/params/format: is required"):
        convert.run(picture=REF)


def test_a_cancelled_job_writes_nothing():
    ctx = upload(PHOTO)
    ctx.cancel()

    with pytest.raises(Cancelled):
        thumbnails.run_with(ctx, picture=REF)
    assert not ctx.files


def test_every_parameter_has_a_title():
    for job_type in (thumbnails, convert):
        schema = job_type.schema()
        assert all(p.get("title") or p.get("$ref") for p in schema["properties"].values())


def test_the_sample_is_free_and_says_so():
    note = (
        Path(__file__).resolve().parent.parent.parent / "jobs" / "images" / "samples" / "coffee.txt"
    ).read_text()

    assert "CC0" in note
    assert len(PHOTO) < 200_000
    assert opened(PHOTO).getexif()[0x0112] == 6
