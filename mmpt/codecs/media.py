"""From a file to the pixels or samples that a codec takes: the names that the other packages import.

Pictures come back as uint8 [H, W, 3], upright, transparency over white. Sounds come back as float32 [C, T] at
the asked rate and channel count: channels are averaged, mono is repeated, and RESAMPLER is the one way to
change a rate. A file that cannot be decoded whole raises MediaError; nothing is guessed.
"""

from __future__ import annotations

from mmpt.codecs.cells import Cell
from mmpt.codecs.media_files import MediaError, inside, is_file, media_path
from mmpt.codecs.members import MediaFile, Member, Segment
from mmpt.codecs.picture_files import MAX_PIXELS, load_image, picture_size
from mmpt.codecs.sound_files import (
    CROPS,
    RESAMPLER,
    SoundSummary,
    clip,
    convert,
    load_audio,
    load_clip,
    read_audio,
    read_mono,
    summarise_audio,
)

__all__ = [
    "CROPS",
    "MAX_PIXELS",
    "RESAMPLER",
    "Cell",
    "MediaError",
    "MediaFile",
    "Member",
    "Segment",
    "SoundSummary",
    "clip",
    "convert",
    "inside",
    "is_file",
    "load_audio",
    "load_clip",
    "load_image",
    "media_path",
    "picture_size",
    "read_audio",
    "read_mono",
    "summarise_audio",
]
