"""Pictures of rare kinds: they come out right, or are refused with the reason, in one try."""

from __future__ import annotations

import io
import random
import struct
import zlib
from uuid import uuid4

import pytest
from PIL import Image, ImageCms

from esteira import GiveUp, LocalContext
from jobs.images import _gray, convert, thumbnails

REF = str(uuid4())
SIDE = 32
RAMP = [x / (SIDE - 1) for x in range(SIDE)]
GRAY = {0: 0, 16: 131, 31: 255}
INVERTED = {0: 255, 16: 123, 31: 0}
nan, inf = float("nan"), float("inf")


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", right if checksum is None else checksum)
    )


def png(depth: int, colour: int, rows: bytes, *extra: bytes, side: int = SIDE) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(entries: dict[int, tuple[int, int | bytes | list[int]]], data: bytes) -> bytes:
    """A TIFF by hand: type and value of each tag; 273, where the pixels begin, is put right if it is 0."""
    names = {3: "H", 4: "I"}
    base, blob, written = 8 + 2 + 12 * len(entries) + 4, b"", []
    for tag, (kind, value) in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        body = value if isinstance(value, bytes) else struct.pack(f"<{len(values)}{names[kind]}", *values)
        count = len(body) if isinstance(value, bytes) else len(values)
        if len(body) > 4:
            body, blob = struct.pack("<I", base + len(blob)), blob + body + b"\0" * (len(body) % 2)
        written.append((tag, kind, count, body.ljust(4, b"\0")))
    start = struct.pack("<I", base + len(blob))
    table = b"".join(
        struct.pack("<HHI", tag, kind, count) + (start if tag == 273 and body == bytes(4) else body)
        for tag, kind, count, body in written
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + blob + data


def ramp(
    code: str, most: float, low: float = 0, *, photometric=1, sample_format=1, values=None, **more
) -> bytes:
    """A gray TIFF, from black on the left to white on the right, whatever its numbers are."""
    values = values or [low + v * (most - low) for v in RAMP]
    whole = [v if code in "fd" else int(v) for v in values]
    data = struct.pack(f"<{SIDE}{code}", *whole) * SIDE
    entries: dict[int, tuple[int, int | bytes | list[int]]] = {
        256: (4, SIDE),
        257: (4, SIDE),
        258: (3, 8 * struct.calcsize(code)),
        259: (3, 1),
        262: (3, photometric),
        273: (4, 0),
        277: (3, 1),
        278: (4, SIDE),
        279: (4, len(data)),
        **({339: (3, sample_format)} if sample_format != 1 else {}),
    }
    return tiff({**entries, **{int(tag[1:]): value for tag, value in more.items()}}, data)


def gray16(gap: int | None = None) -> bytes:
    row = b"\0" + b"".join(struct.pack(">H", int(v * 65535)) for v in RAMP)
    return png(16, 0, row * SIDE, *([chunk(b"tRNS", struct.pack(">H", gap))] if gap is not None else []))


def twelve_bits() -> bytes:
    """Two values in three bytes."""
    values = [int(v * 4095) for v in RAMP]
    row = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(values[::2], values[1::2], strict=True)
    )
    data = row * SIDE
    entries: dict[int, tuple[int, int | bytes | list[int]]] = {
        256: (4, SIDE),
        257: (4, SIDE),
        258: (3, 12),
        259: (3, 1),
        262: (3, 1),
        273: (4, 0),
        277: (3, 1),
        278: (4, SIDE),
        279: (4, len(data)),
    }
    return tiff(entries, data)


def saved(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def converted(data: bytes, job_type=convert, **params) -> Image.Image:
    ctx = LocalContext(files={REF: data})
    job_type.run_with(ctx, picture=REF, **{"format": "png", **params})
    (made,) = ctx.files.values()
    picture = Image.open(io.BytesIO(made))
    picture.load()
    return picture


def pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = picture.getpixel((x, y))
    return value if isinstance(value, tuple) else (int(value or 0),)


def both(data: bytes) -> list[Image.Image]:
    return [converted(data), converted(data, thumbnails, sizes=[SIDE])]


@pytest.mark.parametrize(
    ("what", "data", "expected"),
    [
        ("float", ramp("f", 1, sample_format=3), GRAY),
        ("one NaN", ramp("f", 1, sample_format=3, values=[nan, *RAMP[1:]]), {16: 127, 31: 255}),
        ("infinities", ramp("f", 1, sample_format=3, values=[inf, -inf, *RAMP[2:]]), {16: 123, 31: 255}),
        (
            "the lowest float for no data",
            ramp("f", 1, sample_format=3, values=[-3.4e38, *RAMP[1:]]),
            {16: 127, 31: 255},
        ),
        (
            "a number for no data",
            ramp("f", 1, sample_format=3, values=[-9999, *RAMP[1:]], t42113=(2, b"-9999\0")),
            {0: 0, 16: 127, 31: 255},
        ),
        ("float, white is 0", ramp("f", 1, sample_format=3, photometric=0), INVERTED),
        ("uint16", ramp("H", 65535), GRAY),
        ("uint16, white is 0", ramp("H", 65535, photometric=0), INVERTED),
        ("uint8, white is 0", ramp("B", 255, photometric=0), INVERTED),
        ("uint32", ramp("I", 2**32 - 1), GRAY),
        ("uint32, low", ramp("I", 2**31 - 1), GRAY),
        ("int32", ramp("i", 2**31 - 1, -(2**31), sample_format=2), GRAY),
        ("int16", ramp("h", 32767, -32768, sample_format=2), GRAY),
        ("int8", ramp("b", 127, -128, sample_format=2), GRAY),
        ("12 bits", twelve_bits(), GRAY),
        ("16 bits PNG", gray16(), GRAY),
    ],
)
def test_deep_gray_keeps_its_light(what, data, expected):
    for made in both(data):
        line = {x: pixel(made.convert("L"), x, 20)[0] for x in expected}
        assert all(abs(line[x] - expected[x]) <= 2 for x in expected), line


@pytest.mark.parametrize("gap", [0, 65535, int(RAMP[16] * 65535)])
def test_one_transparent_value_of_16_bit_gray_leaves_the_others_as_they_are(gap):
    for made in both(gray16(gap)):
        pixels = [pixel(made.convert("RGBA"), x, 20) for x in range(SIDE)]
        values = [int(v * 65535) for v in RAMP]

        assert [alpha == 0 for _, _, _, alpha in pixels] == [value == gap for value in values]
        assert all(
            abs(red - value / 257) <= 2
            for (red, *_, alpha), value in zip(pixels, values, strict=True)
            if alpha
        )


def test_deep_gray_is_worked_on_in_bands_and_comes_out_whole(monkeypatch):
    monkeypatch.setattr(_gray, "BAND_PIXELS", 5 * SIDE)

    made = converted(ramp("f", 1, sample_format=3))

    assert [pixel(made, x, y)[0] for x, y in ((0, 0), (31, 0), (0, 31), (31, 31))] == [0, 255, 0, 255]


def swapped() -> bytes:
    """A profile whose red and blue changed places: what is red by it is blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    at = {bytes(profile[p : p + 4]): p + 4 for p in range(132, 132 + 12 * count, 12)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red : red + 8], profile[blue : blue + 8] = profile[blue : blue + 8], profile[red : red + 8]
    return bytes(profile)


def linear_gray() -> bytes:
    """A gray profile in which half the number is half the light: 128 is shown as 188."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(79)
    tags = [(b"desc", text), (b"wtpt", white), (b"kTRC", curve)]
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(128 - 40)
    head = head[:68] + struct.pack(">iii", 63190, 65536, 54061) + head[80:]
    return head[:128] + table + body


def red_and_blue(mode: str) -> Image.Image:
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 255), (20, 0, 40, 40))
    return (
        picture.quantize(8)
        if mode == "PA"
        else picture.convert("RGB").quantize(8)
        if mode == "P"
        else picture.convert(mode)
    )


@pytest.mark.parametrize("mode", ["P", "PA", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_colour_profile_of_every_kind_of_colours_is_applied(mode, kind):
    made = converted(saved(red_and_blue(mode), kind, icc_profile=swapped())).convert("RGB")

    left, right = pixel(made, 5, 5), pixel(made, 35, 5)
    assert (left[0] < 60, left[2] > 200) == (True, True)
    assert (right[0] > 200, right[2] < 60) == (True, True)


def test_a_transparent_colour_is_found_before_a_profile_changes_it():
    data = saved(red_and_blue("RGB"), icc_profile=swapped(), transparency=(255, 0, 0))

    made = converted(data).convert("RGBA")

    assert [pixel(made, x, 5)[3] for x in (5, 35)] == [0, 255]


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_the_profile_of_a_gray_picture_is_applied(mode):
    made = converted(saved(Image.new("L", (8, 8), 128).convert(mode), icc_profile=linear_gray()))

    assert abs(pixel(made.convert("L"), 3, 3)[0] - 188) <= 3


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_profile_for_other_colours_is_as_good_as_none(mode):
    cmyk_or_gray = linear_gray() if mode != "L" else swapped()
    source = Image.new("RGB", (8, 8), (100, 100, 100)).convert(mode)

    made = converted(saved(source, icc_profile=cmyk_or_gray)).convert("L")

    assert abs(pixel(made, 3, 3)[0] - 100) <= 3


def gray_tiff(**changed) -> bytes:
    entries: dict[int, tuple[int, int | bytes | list[int]]] = {
        256: (4, 80),
        257: (4, 60),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (4, 0),
        277: (3, 1),
        278: (4, 60),
        279: (4, 4800),
    }
    for tag, value in changed.items():
        entries.pop(int(tag[1:]), None)
        if value is not None:
            entries[int(tag[1:])] = value
    return tiff(entries, bytes(4800))


GOOD = saved(Image.new("RGB", (40, 40), "red"))
JPEG = saved(Image.new("RGB", (8, 8)), "JPEG")
DEPTH_AT = JPEG.find(b"\xff\xc0") + 4
DAMAGED = {
    "no palette in a PNG": png(8, 3, (b"\0" + bytes(SIDE)) * SIDE),
    "no palette in a TIFF": gray_tiff(t262=(3, 3)),
    "text for where the pixels are": gray_tiff(t273=(2, b"abc\0")),
    "text for how long the rows are": gray_tiff(t279=(2, b"abc\0"), t278=(2, b"x\0")),
    "text for a width": gray_tiff(t256=(2, b"80\0")),
    "no width": gray_tiff(t256=None),
    "no rows in a strip": gray_tiff(t278=(4, 0)),
    "nothing but NaN": ramp("f", 1, sample_format=3, values=[nan] * SIDE),
    "a broken header": GOOD[:20] + b"\xff" + GOOD[21:],
    "a cut header": GOOD[:30],
    "only the beginning of a JPEG": b"\xff\xd8\xff",
    "a GIF without a picture": b"GIF89a\x10\0\x10\0\x80\0\0\xff\0\0\0\xff\0;",
    "a broken palette": png(8, 3, (b"\0" + bytes(SIDE)) * SIDE, chunk(b"PLTE", bytes(9), checksum=1)),
    "an animation without a first frame": GOOD[:33]
    + chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 800, 600, 0, 0, 1, 1, 0, 0))
    + GOOD[33:],
}
UNSUPPORTED = {
    "floats of 64 bits": ramp("d", 1, sample_format=3),
    "3 bits a sample": gray_tiff(t258=(3, 3)),
    "an unknown compression": gray_tiff(t259=(3, 34892)),
    "text for a compression": gray_tiff(t259=(2, b"a\0")),
    "gray of 16 bits, white is 0, big-endian": b"MM\0*"
    + bytes([0, 0, 0, 8, 0, 6])
    + b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0)
        for tag, value in ((256, 8), (257, 8), (258, 16), (259, 1), (262, 0), (273, 100))
    )
    + bytes(400),
    "a JPEG of 12 bits": JPEG[:DEPTH_AT] + b"\x0c" + JPEG[DEPTH_AT + 1 :],
}


@pytest.mark.parametrize("run", [convert, thumbnails])
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_picture_is_called_damaged_and_not_tried_again(run, what):
    with pytest.raises(GiveUp, match=r"picture: the file is damaged or cut off \(.+\)\. Upload it again\."):
        converted(DAMAGED[what], run)


@pytest.mark.parametrize("run", [convert, thumbnails])
@pytest.mark.parametrize("what", UNSUPPORTED)
def test_a_picture_of_a_rare_kind_is_called_not_supported_with_the_way_out(run, what):
    with pytest.raises(GiveUp, match=r"picture: this kind of \w+ is not supported \(.+\)\. Save it as"):
        converted(UNSUPPORTED[what], run)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"a\0bc", checksum=0),
        chunk(b"zTXt", b"a\0\0junk", checksum=0),
        chunk(b"iTXt", b"junk", checksum=0),
        chunk(b"tIME", bytes(7), checksum=0),
        chunk(b"pHYs", bytes(9), checksum=0),
        chunk(b"iCCP", b"x\0\0junk", checksum=0),
        chunk(b"eXIf", b"junk", checksum=0),
    ],
    ids=lambda extra: extra[4:8].decode(),
)
@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
def test_a_damaged_addition_does_not_cost_a_png_its_pixels(extra, place):
    at = 33 if place == "before the pixels" else len(GOOD) - 12
    data = GOOD[:at] + extra + GOOD[at:]

    for made in both(data):
        assert pixel(made.convert("RGB"), 20, 20) == (255, 0, 0)


def test_an_animation_that_cannot_be_one_is_the_picture_that_it_would_be_without():
    for made in both(GOOD[:33] + chunk(b"acTL", b"\0") + GOOD[33:]):
        assert pixel(made.convert("RGB"), 20, 20) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_that_were_multiplied_by_their_transparency_are_read(mode):
    """Extra samples of kind 1 in a TIFF."""
    samples = 2 if mode == "La" else 4
    one = bytes([100] * (samples - 1) + [128])
    entries: dict[int, tuple[int, int | bytes | list[int]]] = {
        256: (4, 8),
        257: (4, 8),
        258: (3, [8] * samples),
        259: (3, 1),
        262: (3, 1 if samples == 2 else 2),
        273: (4, 0),
        277: (3, samples),
        278: (4, 8),
        279: (4, 64 * samples),
        338: (3, 1),
    }

    made = converted(tiff(entries, one * 64)).convert("RGBA")

    red, _, _, alpha = pixel(made, 3, 3)
    assert (abs(red - 199) <= 2, alpha) == (True, 128)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("seed", range(4))
def test_any_changed_byte_of_a_rare_picture_is_read_or_refused(seed):
    dice = random.Random(seed)
    sources = [
        *DAMAGED.values(),
        *UNSUPPORTED.values(),
        twelve_bits(),
        gray16(9),
        ramp("f", 1, sample_format=3),
    ]
    for source in sources:
        for _ in range(6):
            data = bytearray(source)
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(len(data))] = dice.choice([0, 1, 3, 0x7F, 0xFF, dice.randrange(256)])
            try:
                converted(bytes(data))
            except GiveUp as refused:
                assert str(refused).startswith("picture: ") or str(refused).startswith("format: ")
