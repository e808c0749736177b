"""Picture files that people have: halves that were closed or filled up, odd EXIF, damage, programs that call
themselves pictures.
"""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from mmpt.codecs import picture_files
from mmpt.codecs.media import MediaError, load_image
from mmpt.corpus.manifest import measure

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray((np.cumsum(np.cumsum(RNG.standard_normal((150, 200, 3)), 0), 1) % 256).astype(np.uint8))
END = {"JPEG": b"\xff\xd9", "GIF": b";", "PNG": bytes.fromhex("0000000049454e44ae426082"), "JPEG2000": b"\xff\xd9"}


def stored(form, picture=PHOTO, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def load(tmp_path, data, name="p.bin"):
    (tmp_path / name).write_bytes(data)
    return load_image(tmp_path / name)


def refused(tmp_path, data, match="cut off|not a readable picture"):
    with pytest.raises(MediaError, match=match) as error:
        load(tmp_path, data)
    assert error.value.kind == "unreadable" and "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"optimize": True, "subsampling": 0}),
        ("JPEG", {"restart_marker_blocks": 5}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"speed": 10}),
        ("PNG", {}),
        ("GIF", {}),
        ("JPEG2000", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("ICO", {}),
        ("QOI", {}),
    ],
)
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_half_a_picture_is_refused_however_it_was_closed(tmp_path, form, options, share):
    data = stored(form, **options)
    whole = load(tmp_path, data)
    assert np.array_equal(load(tmp_path, data + bytes(3000)), whole)  # a file may end in padding
    half = data[: int(len(data) * share)]
    filled = half + bytes(len(data) - len(half))
    refused(tmp_path, half)
    refused(tmp_path, filled)
    if form in END:
        refused(tmp_path, half + END[form])
        refused(tmp_path, filled + END[form])


# From here on: tag JPEGTables of a TIFF, the end of these tables; a WebP's chunk EXIF, its tag of how to turn.
@pytest.mark.parametrize(
    ("form", "behind"), [("TIFF", b"\x5b\x01"), ("TIFF", b"\xff\xd9"), ("WEBP", b"IF"), ("WEBP", b"\x01\x12\x00\x03")]
)
def test_notes_behind_the_pixels_that_became_zeros_are_a_loss(tmp_path, form, behind):
    """Without them a picture lies on its side, or has other colours: what a download that was cut there leaves."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a cat"})
    data = stored(form, exif=exif, **({"compression": "jpeg"} if form == "TIFF" else {}))
    at = data.rindex(behind)
    assert load(tmp_path, data).shape != load(tmp_path, stored(form)).shape, "it is turned"
    refused(tmp_path, data[:at] + bytes(len(data) - at))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("picture", [Image.new("RGB", (700, 500), "white"), Image.new("L", (64, 900), 3)])
def test_a_flat_picture_is_whole(tmp_path, form, picture):
    for options in ({}, {"optimize": True}, {"progressive": True}, {"lossless": True}):
        assert load(tmp_path, stored(form, picture, **options)).shape[:2] == picture.size[::-1]


def odd_exif(value):
    """A TIFF head with one field of the given type and count, as cameras and editors write it wrongly."""
    kind, count, content = value
    entries = struct.pack("<HHHII", 2, 0x0112, 3, 1, 1) + struct.pack("<HHI", 0x8769, kind, count) + content
    return b"Exif\0\0II*\0\x08\0\0\0" + entries + b"\0\0\0\0"


@pytest.mark.parametrize(
    "value",
    [
        (2, 4, b"abc\0"),
        (5, 1, b"\xff\xff\xff\x7f"),
        (7, 9_999_999, b"\1\0\0\0"),
        (13, 1, b"\0\0\0\0"),
        (4, 1, b"\x08\0\0\0"),
    ],
)
def test_odd_exif_costs_at_most_its_picture(tmp_path, value):
    data = stored("JPEG")
    exif = odd_exif(value)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    try:
        assert load(tmp_path, data).shape == (150, 200, 3)
    except MediaError as error:
        assert error.kind == "unreadable"


@pytest.mark.parametrize(
    "raised",
    [
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        OverflowError,
        struct.error,
        MemoryError,
        RecursionError,
        ZeroDivisionError,
        AssertionError,
    ],
)
def test_whatever_a_decoder_raises_is_one_bad_record(tmp_path, monkeypatch, raised):
    def broken(self, *args, **kwargs):
        raise raised("odd\x1b[31m\nsecond line")

    monkeypatch.setattr(Image.Image, "convert", broken)
    refused(tmp_path, stored("PNG"), r"not a readable picture; found .*odd\\+x1b")


def test_a_program_is_not_opened_as_a_picture(tmp_path):
    """EPS would be handed to Ghostscript."""
    refused(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "I;16", "CMYK"])
def test_strips_give_the_picture_that_one_piece_gives(tmp_path, monkeypatch, mode):
    picture = PHOTO.convert("L").convert("I;16") if mode == "I;16" else PHOTO.convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    data = stored("TIFF" if mode == "CMYK" else "PNG", picture, **options)
    whole = load(tmp_path, data)
    monkeypatch.setattr(picture_files, "STRIP", 900)
    assert np.array_equal(load(tmp_path, data), whole)


def test_pixels_in_work_are_bounded_over_all_threads():
    import threading

    budget, most, now = picture_files._Budget(10), [0], [0]
    lock = threading.Lock()

    def work(pixels):
        with budget.taken(pixels):
            with lock:
                now[0] += min(pixels, 10)
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.005)
            with lock:
                now[0] -= min(pixels, 10)

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 4, 4, 99, 3, 10, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads) and 0 < most[0] <= 10


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "half \udc80.png", "d/" * 3000 + "p.png"])
def test_a_name_that_no_file_has_is_missing(tmp_path, name):
    from mmpt.codecs.media import inside, is_file

    try:
        assert not is_file(inside(tmp_path, name))
    except MediaError as error:
        assert error.kind == "missing" and len(str(error)) < 600


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_refused(tmp_path, mode):
    """A 32-bit TIFF of levels up to 255 would be black, taken for 16 bits."""
    refused(tmp_path, stored("TIFF", PHOTO.convert("L").convert(mode)), match="pixels with no known white")


def test_a_file_far_larger_than_its_pixels_is_refused_unread(tmp_path):
    data = stored("JPEG")
    (tmp_path / "p.jpg").write_bytes(data)
    os.truncate(tmp_path / "p.jpg", 900 << 20)
    with pytest.raises(MediaError, match="file is too large; found 943718400 bytes for"):
        load_image(tmp_path / "p.jpg")
    os.truncate(tmp_path / "p.jpg", 30 << 20)  # a phone's photo with its seconds of video
    load_image(tmp_path / "p.jpg")


@pytest.mark.parametrize(
    ("form", "options", "one"),
    [
        ("PNG", {}, True),
        ("JPEG", {"quality": 30}, True),
        ("WEBP", {"quality": 80}, True),
        ("AVIF", {"quality": 20}, True),
        ("black frame", {}, True),
        ("transparent", {}, True),
        ("a spot", {}, False),
        ("grey steps", {}, False),
    ],
)
def test_a_picture_without_content_is_known_in_every_form(tmp_path, form, options, one):
    picture, path = Image.new("RGB", (40, 30), (20, 90, 160)), tmp_path / "p"
    if form == "black frame":
        picture = Image.fromarray(np.random.default_rng(0).integers(14, 18, (30, 40, 3)).astype(np.uint8))
    elif form == "transparent":
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 4)).astype(np.uint8)
        noise[..., 3] = 0
        picture = Image.fromarray(noise)
    elif form == "a spot":
        picture.putpixel((3, 3), (28, 90, 160))
    elif form == "grey steps":
        picture = Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) // 16)
    picture.save(path, form if form.isupper() else "PNG", **options)
    record = {"id": "p", "modality": "image", "media": {"root": "r", "path": "p"}}
    assert measure(record, {"r": tmp_path})["image"]["one_colour"] is one
