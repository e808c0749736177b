"""Loading: pictures come out upright and on white, sounds at the asked rate; damaged files are said."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.codecs import picture_files
from mmpt.codecs.media import MediaError, clip, convert, inside, load_audio, load_image, media_path
from mmpt.store.errors import UserError


def save(tmp_path, picture, name="p.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def test_transparent_pixels_become_white(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (0, 0, 0, 128)
    got = load_image(save(tmp_path, Image.fromarray(pixels)))
    assert got.dtype == np.uint8 and got.shape == (2, 3, 3)
    assert got[0, 0].tolist() == [255, 0, 0] and got[1, 2].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == [127, 127, 127]


def test_palettes_with_a_transparent_entry_are_composited(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    got = load_image(save(tmp_path, picture, transparency=1))
    assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_common_mode_becomes_rgb(tmp_path, mode):
    picture = Image.new("RGB", (4, 3), "white").convert(mode)
    got = load_image(save(tmp_path, picture, "p.tiff" if mode == "CMYK" else "p.png"))
    assert got.shape == (3, 4, 3) and (got == 255).all()


def test_16_bit_grey_keeps_its_range(tmp_path):
    grey = np.array([[0, 256, 32_768, 65_535]], np.uint16)
    assert load_image(save(tmp_path, Image.fromarray(grey)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_turns_the_picture_upright(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it right
    got = load_image(save(tmp_path, picture, exif=exif))
    assert got.shape == (3, 2, 3) and got[0, 1].tolist() == [255] * 3


def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 11)
    path = save(tmp_path, Image.new("L", (4, 3)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="too large; found 4 x 3; expected at most 11") as error:
        load_image(path)
    assert error.value.kind == "unreadable"


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "none": b""}[how])


@pytest.mark.parametrize(("how", "kind"), [("cut", "unreadable"), ("text", "unreadable"), ("none", "empty")])
def test_damaged_files_are_said_and_not_guessed(tmp_path, how, kind):
    rng = np.random.default_rng(0)
    picture = save(tmp_path, Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)))
    soundfile.write(tmp_path / "s.flac", rng.standard_normal(4000) * 0.1, 8000)
    for path, load in ((picture, load_image), (tmp_path / "s.flac", lambda p: load_audio(p, 8000, 1))):
        damage(path, how)
        with pytest.raises(MediaError) as error:
            load(path)
        assert error.value.kind == kind and str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("form", ["wav", "ogg", "mp3", "flac"])
def test_half_a_download_is_not_a_shorter_sound(tmp_path, form):
    path = tmp_path / f"s.{form}"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.standard_normal(32000) * 0.1, 16000)
    assert load_audio(path, 16000, 1).shape[1] >= 31000
    damage(path, "cut")
    with pytest.raises(MediaError, match="cut off|not a readable sound") as error:
        load_audio(path, 16000, 1)
    assert error.value.kind == "unreadable"


def test_a_wav_of_unknown_length_is_whole(tmp_path):
    """What comes through a pipe has no size in its header."""
    soundfile.write(tmp_path / "s.wav", np.full(4000, 0.1), 8000)
    data = bytearray((tmp_path / "s.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    (tmp_path / "s.wav").write_bytes(data)
    assert load_audio(tmp_path / "s.wav", 8000, 1).shape == (1, 4000)


def test_samples_far_beyond_full_scale_are_not_cut_in_silence(tmp_path):
    tone = np.sin(np.arange(8000) / 7)
    soundfile.write(tmp_path / "a.wav", tone * 1.05, 8000, subtype="FLOAT")
    load_audio(tmp_path / "a.wav", 8000, 1)
    soundfile.write(tmp_path / "b.wav", tone * 32768, 8000, subtype="FLOAT")
    with pytest.raises(MediaError, match="beyond full scale; found 100% of them, up to 3.28e"):
        load_audio(tmp_path / "b.wav", 8000, 1)


@pytest.mark.parametrize("form", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_no_frame_is_taken_for_the_whole(tmp_path, form):
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"p.{form}", save_all=True, append_images=[second])
    with pytest.raises(MediaError, match="more than one picture in a file; found 2 frames"):
        load_image(tmp_path / f"p.{form}")


def test_pixels_beyond_16_bits_are_not_called_white(tmp_path):
    deep = Image.fromarray(np.array([[0, 1 << 20]], np.int32))
    with pytest.raises(MediaError, match="no known white"):
        load_image(save(tmp_path, deep, "p.tiff"))


def test_missing_and_silent_of_samples_and_nan(tmp_path):
    with pytest.raises(MediaError) as error:
        load_image(tmp_path / "none.png")
    assert error.value.kind == "missing"
    soundfile.write(tmp_path / "s.wav", np.zeros(0), 8000)
    with pytest.raises(MediaError) as error:
        load_audio(tmp_path / "s.wav", 8000, 1)
    assert error.value.kind == "empty"
    soundfile.write(tmp_path / "n.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(MediaError, match="NaN"):
        load_audio(tmp_path / "n.wav", 8000, 1)


def test_stereo_is_averaged_and_mono_repeated(tmp_path):
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 8000, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "s.wav", 8000, 1), 0.125)
    assert np.allclose(load_audio(tmp_path / "s.wav", 8000, 2), stereo.T)
    soundfile.write(tmp_path / "m.wav", stereo[:, 0], 8000, subtype="FLOAT")
    both = load_audio(tmp_path / "m.wav", 8000, 2)
    assert both.shape == (2, 100) and np.array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("old", "new"), [(44_100, 16_000), (16_000, 24_000), (48_000, 16_000), (8000, 48_000), (22_050, 24_000)]
)
def test_resampling_keeps_a_tone_and_drops_what_the_new_rate_cannot_hold(old, new):
    seconds = 0.5
    t = np.arange(int(old * seconds)) / old
    wave = 0.5 * np.sin(2 * np.pi * 1000 * t)
    got = convert(wave[None].astype(np.float32), old, new, 1)
    assert got.shape == (1, -(-len(t) * new // old)) and got.dtype == np.float32
    ideal = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(got.shape[1]) / new)
    assert abs(got[0] - ideal)[new // 50 : -new // 50].max() < 5e-3
    if new < old:
        high = np.sin(2 * np.pi * new * 0.75 * t)  # above the new Nyquist frequency
        assert abs(convert(high[None].astype(np.float32), old, new, 1)[0, new // 50 : -new // 50]).max() < 0.02


def test_very_short_clips_are_kept(tmp_path):
    soundfile.write(tmp_path / "s.wav", [0.1], 44_100)
    assert load_audio(tmp_path / "s.wav", 16_000, 1).shape == (1, 1)
    short, start = clip(np.ones((1, 7), np.float32), 100, 1.0)
    assert short.shape == (1, 7) and start == 0


def test_clips_are_cut_from_the_front_or_the_middle():
    wave = np.arange(10, dtype=np.float32)[None]
    assert clip(wave, 2, 2.0)[0].tolist() == [[0, 1, 2, 3]]
    middle, start = clip(wave, 2, 2.0, "center")
    assert middle.tolist() == [[3, 4, 5, 6]] and start == 3
    with pytest.raises(UserError, match="unknown crop"):
        clip(wave, 2, 2.0, "end")


def test_loud_samples_are_clipped():
    assert convert(np.array([[2.0, -3.0]], np.float32), 8, 8, 1).tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "a/../b.png", "/etc/passwd", "..\\x.png", "", "."])
def test_paths_do_not_leave_their_folder(tmp_path, path):
    with pytest.raises(MediaError) as error:
        inside(tmp_path, path)
    assert error.value.kind == "outside"


def test_links_do_not_leave_their_folder_either(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.png").symlink_to(tmp_path / "secret")
    with pytest.raises(MediaError) as error:
        inside(tmp_path / "root", "link.png")
    assert error.value.kind == "outside"
    (tmp_path / "moved").symlink_to(tmp_path / "root")
    assert inside(tmp_path / "moved", "a.png") == tmp_path / "moved/a.png"  # the folder itself may be a link


def test_a_record_is_found_through_its_root(tmp_path):
    record = {"id": "r", "media": {"root": "real", "path": "a/b.png"}}
    assert media_path(record, {"real": tmp_path}) == tmp_path / "a/b.png"
    with pytest.raises(UserError, match="unknown media root; found real; expected corpus"):
        media_path(record, {"corpus": tmp_path})
