"""Speech-like, music-like or other: a fixed classifier of a sound's caption, for golden sets that hold some of each.

Published sets say it nowhere alike (Clotho has keywords, WavCaps tags of its four sources, AudioCaps nothing), so the
words of the caption decide; they were chosen from the ontology of AudioSet ("Human voice", "Music"). It stratifies and
decides nothing else.
"""

from __future__ import annotations

import re

SPEECH = re.compile(
    r"\b(speech|speak|speaks|speaking|spoken|talk|talks|talking|voice|voices|conversation|conversing|chatter|chatting|"
    r"says|saying|narrat\w+|announc\w+|whisper\w*|shout\w*|yell\w*|reciting|lectur\w+|discuss\w*)\b",
    re.IGNORECASE,
)
MUSIC = re.compile(
    r"\b(music|musical|song|songs|sing|sings|singing|singer|vocals?|choir|melod\w+|guitars?|pianos?|drums?|drumming|"
    r"violins?|cello|flute|trumpet|saxophone|harp|organ|orchestra\w*|bands?|chords?|synth\w*|beats?|bassline|tune|"
    r"instrumental|jazz|techno|rock)\b",
    re.IGNORECASE,
)


def sound_kind(caption: str) -> str:
    """music, speech or other; music where both are named."""
    if MUSIC.search(caption):
        return "music"
    return "speech" if SPEECH.search(caption) else "other"
