"""The names of the vocabulary: the special tokens, and what a segment is."""

from __future__ import annotations

from dataclasses import dataclass

SPECIALS = (
    "text_start",
    "text_end",
    "img_start",
    "img_end",
    "aud_start",
    "aud_end",
    "gen_text",
    "gen_img",
    "gen_aud",
    "pad_mm",
)


@dataclass(frozen=True)
class Range:
    """Ids start..end, both included, of one segment."""

    name: str
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start + 1

    @property
    def stop(self) -> int:
        """One past the last id, for slices."""
        return self.end + 1
