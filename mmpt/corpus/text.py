"""Plain English sentences from a seed: to pretrain the tiny base, and to measure what its text loses.

They are about people, things, numbers, days and reasons; none describes a picture or a sound. Every word by which a
caption states an attribute occurs in them, in sentences that distinguish it from similar words: a text model that is
worth extending knows its words, and it can neither read nor write words whose vocabulary rows it never trained. A
sentence obeys rules (sums are right, pronouns and plurals agree), so a model that has learned them is far better than
word counts, and forgetting shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PEOPLE = (
    ("Anna", "she", "her"),
    ("Ben", "he", "his"),
    ("Clara", "she", "her"),
    ("David", "he", "his"),
    ("Emma", "she", "her"),
    ("Felix", "he", "his"),
    ("Grace", "she", "her"),
    ("Henry", "he", "his"),
)
THINGS = ("cup", "book", "key", "coat", "lamp", "plate", "chair", "ball", "hat", "pen", "stone", "rope")
COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "white", "grey")
SIZES = ("small", "large", "long", "new", "heavy", "light")
PLACES = ("kitchen", "garden", "school", "market", "station", "library", "harbour", "office")
ANIMALS = (("dog", "barks"), ("cat", "sleeps"), ("bird", "sings"), ("horse", "runs"), ("fish", "swims"))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEATHER = (
    ("rains", "wet"),
    ("snows", "white"),
    ("is windy", "loud"),
    ("is sunny", "warm"),
    ("is late", "quiet"),
)
COSTS = ("cheap", "dear")
TURNS = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
LEVELS = {
    "quiet": "loud",
    "loud": "quiet",
    "low": "high",
    "high": "low",
    "rising": "falling",
    "falling": "rising",
    "small": "large",
    "large": "small",
}

BETWEEN = (
    ("low", "medium", "high"),
    ("left", "middle", "right"),
    ("top", "middle", "bottom"),
    ("rising", "steady", "falling"),
)
LIKENESSES = (
    *("red as blood", "green as grass", "blue as the sky", "yellow as the sun"),
    *("black as coal", "white as snow", "grey as ash", "small as a mouse", "large as a whale", "quiet as a whisper"),
    *(
        "loud as thunder",
        "low as a cellar",
        "high as a tower",
        "rising as smoke",
        "falling as rain",
        "steady as a rock",
    ),
)
"""Each word's own: words that only ever stand where others could stand too would end up with equal embeddings."""
SHAPES = (("circle", "zero"), ("triangle", "three"), ("cross", "four"))
"""With how many corners or ends each is said to have."""
CALLS = (
    ("whistle", "whistles", "train"),
    ("buzz", "buzzes", "bee"),
    ("hiss", "hisses", "snake"),
    ("bell", "bells", "church"),
)


def generate_sentences(seed: int, n: int) -> list[str]:
    """Return `n` sentences; sentence i depends on (seed, i) alone, so that other seeds give other text."""
    draws = (np.random.default_rng([seed, index, 5]) for index in range(n))
    return [_pick(rng, _PATTERNS)(rng) for rng in draws]


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _sum(rng: np.random.Generator) -> str:
    a = int(rng.integers(0, 8))
    b = int(rng.integers(0, 11 - a))
    return f"{NUMBERS[a].capitalize()} and {NUMBERS[b]} make {NUMBERS[a + b]}."


def _owns(rng: np.random.Generator) -> str:
    name, pronoun, own = _pick(rng, PEOPLE)
    thing, size, colour = _pick(rng, THINGS), _pick(rng, SIZES), _pick(rng, COLOURS)
    place = _pick(rng, PLACES)
    return f"{name} has a {size} {colour} {thing}, and {pronoun} keeps {own} {thing} in the {place}."


def _buys(rng: np.random.Generator) -> str:
    name, pronoun, _ = _pick(rng, PEOPLE)
    count, thing = int(rng.integers(1, 9)), _pick(rng, THINGS)
    more = int(rng.integers(1, 11 - count))
    ending = "" if count == 1 else "s"
    return (
        f"{name} had {NUMBERS[count]} {thing}{ending} and bought {NUMBERS[more]} more, "
        f"so {pronoun} has {NUMBERS[count + more]} {thing}s now."
    )


def _day(rng: np.random.Generator) -> str:
    at = int(rng.integers(7))
    return f"The day after {DAYS[at]} is {DAYS[(at + 1) % 7]}, and the day before it is {DAYS[(at + 6) % 7]}."


def _travels(rng: np.random.Generator) -> str:
    name, pronoun, own = _pick(rng, PEOPLE)
    a, b = (PLACES[int(i)] for i in rng.permutation(len(PLACES))[:2])
    return f"On {_pick(rng, DAYS)} {name} went from the {a} to the {b}, where {pronoun} met {own} friend."


def _animal(rng: np.random.Generator) -> str:
    animal, does = _pick(rng, ANIMALS)
    return f"The {_pick(rng, COLOURS)} {animal} {does} near the {_pick(rng, PLACES)}."


def _weather(rng: np.random.Generator) -> str:
    happens, effect = _pick(rng, WEATHER)
    return f"When it {happens}, the {_pick(rng, PLACES)} is {effect}."


def _opposite(rng: np.random.Generator) -> str:
    word = _pick(rng, tuple(LEVELS))
    return f"What is not {word} may be {LEVELS[word]}, said {_pick(rng, PEOPLE)[0]}."


def _turns(rng: np.random.Generator) -> str:
    name, pronoun, _ = _pick(rng, PEOPLE)
    side = _pick(rng, tuple(TURNS))
    return f"{name} looked at the {side} of the page, but {pronoun} found it at the {TURNS[side]}."


def _compares(rng: np.random.Generator) -> str:
    low, high = sorted(int(i) for i in rng.permutation(11)[:2])
    first, second, word = (low, high, "less") if rng.random() < 0.5 else (high, low, "more")
    return f"{NUMBERS[first].capitalize()} is {word} than {NUMBERS[second]}."


def _asks(rng: np.random.Generator) -> str:
    name, pronoun, own = _pick(rng, PEOPLE)
    thing, place = _pick(rng, THINGS), _pick(rng, PLACES)
    question = f"Where is the {thing} of {name}?"
    return f"{question} It is in the {place}, because {pronoun} left {own} {thing} there."


def _prices(rng: np.random.Generator) -> str:
    a, b = (THINGS[int(i)] for i in rng.permutation(len(THINGS))[:2])
    at = int(rng.integers(2))
    return f"The {a} was {COSTS[at]}, but the {b} was {COSTS[1 - at]}, so we bought the {(a, b)[at]}."


def _between(rng: np.random.Generator) -> str:
    low, middle, high = _pick(rng, BETWEEN)
    first, last = (low, high) if rng.random() < 0.5 else (high, low)
    return f"What is not {first} and not {last} is {middle}, said {_pick(rng, PEOPLE)[0]}."


def _likens(rng: np.random.Generator) -> str:
    first, second = (LIKENESSES[int(i)] for i in rng.permutation(len(LIKENESSES))[:2])
    return f"It is as {first}, and not as {second}, said {_pick(rng, PEOPLE)[0]}."


def _corners(rng: np.random.Generator) -> str:
    (first, some), (second, more) = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:2])
    return f"A {first} has {some} corners, but a {second} has {more}, said {_pick(rng, PEOPLE)[0]}."


def _calls(rng: np.random.Generator) -> str:
    call, _, caller = _pick(rng, CALLS)
    name, pronoun, _ = _pick(rng, PEOPLE)
    place = _pick(rng, PLACES)
    return f"The {call} of the {caller} came from the {place}, so {name} knew that {pronoun} was near the {caller}."


def _counts(rng: np.random.Generator) -> str:
    call, calls, caller = _pick(rng, CALLS)
    more = int(rng.integers(1, 4))
    comes = "comes" if more == 1 else "come"
    return f"After one {call} of the {caller}, {NUMBERS[more]} more {comes}: {NUMBERS[more + 1]} {calls}."


_PATTERNS: tuple[Callable[[np.random.Generator], str], ...] = (
    _sum,
    _owns,
    _buys,
    _day,
    _travels,
    _animal,
    _weather,
    _opposite,
    _turns,
    _compares,
    _asks,
    _prices,
    _between,
    _likens,
    _corners,
    _calls,
    _counts,
)
