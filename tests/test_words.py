"""Plain technical English: phrases that this project's text does not use, in every text file of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
RECORDED = ("mmpt/bench/results/", "tests/test_words.py")  # measured output, and this list
COUNTED = (
    "bits|bytes|captions|characters|clips|codes|digits|draws|entries|examples|files|frames|GB|GiB|hours|ids|images|"
    "integers|items|kB|KiB|lines|MB|metrics|MiB|micro-batches|minutes|ms|nats|objects|once|outputs|passes|pictures|"
    "pieces|points|processes|prompts|records|roundings|rows|samples|seconds|sequences|shards|sounds|steps|tensors|"
    "threads|tokens|us|values|words|workers"
)
PLACES = (
    "batch|block|channel|chunk|clip|codebook|core|draw|epoch|file|folder|frame|gate|GPU|group|head|hour|image|interval|"
    "item|layer|line|machine|minute|modality|node|picture|process|prompt|rank|record|recording|round|row|second|sequence|"
    "shard|slice|sound|stage|step|task|token|worker"
)
INSTEAD = {
    r"whoever": "name who: the caller, the worker, the user",
    r"what of it": "name the noun",
    r"in little": "small, fake",
    r"as ever": "as before, unchanged",
    r"(is|are|was|were) told": "is given, is reported, is shown",
    r"stands? beside": "is given next to, is compared with",
    r"speaks? of": "describe, mention",
    r"(held|hold (it|them)) against": "compared with, checked against",
    r"nobody's business": "say where it is enforced",
    r"in the upstream's manner": "in the upstream run's format",
    rf"({COUNTED}) an? ({PLACES})": "per: tokens per step",
}
ANY = re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in INSTEAD), re.IGNORECASE)


def texts():
    """(path, text) of every tracked text file; links lead to files that are listed themselves."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=TOP, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = TOP / name
        if name.startswith(RECORDED) or path.is_symlink() or not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def faults(text):
    """(line number, phrase, what to write instead) of each phrase of the list."""
    for found in ANY.finditer(text):
        instead = next(one for phrase, one in INSTEAD.items() if re.fullmatch(phrase, found[0], re.IGNORECASE))
        yield text.count("\n", 0, found.start()) + 1, found[0], instead


def test_no_text_uses_a_phrase_of_the_list():
    if not (TOP / ".git").exists():
        pytest.skip("not a clone: nothing lists the files of the repository")
    found = [
        f"{name}:{number}: {phrase!r}; write: {instead}"
        for name, text in texts()
        for number, phrase, instead in faults(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("Whoever edits it in place", "Whoever"),
        ("16,384 tokens a step", "tokens a step"),
        ("what a user is told", "is told"),
        ("0.1 nats a token", "nats a token"),
    ],
)
def test_the_list_finds(line, phrase):
    assert [found for _, found, _ in faults(line)] == [phrase]


def test_the_list_lets_other_sentences_pass():
    assert not list(faults("it has a step; tokens per step; told apart"))


def test_a_suppression_names_its_rule_and_its_reason():
    bare = re.compile(
        r"# (noqa|type: ignore)(?!(: [A-Z]+\d+(, [A-Z]+\d+)*|\[[a-z, -]+\])  ?(\(|#|--) ?\w)|# fmt: (skip|off)"
    )
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        if name.endswith(".py")
        for number, line in enumerate(text.splitlines(), 1)
        if bare.search(line)
    ]
    assert not found, "\n".join(found)
