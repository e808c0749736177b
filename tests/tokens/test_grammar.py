"""The decode grammar: data that says what may stand where, against a slow spelling of the same rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.store.errors import UserError
from mmpt.store.tasks import TASKS
from mmpt.tokens.formats import build
from mmpt.tokens.grammar import check, grammar
from mmpt.tokens.space import build_token_space

SPACE = build_token_space(
    base_text_model="tiny",
    text_vocab_size=20,
    n_special=16,
    image_tokenizer={"codebook_size": 6},
    audio_codec={"n_codebooks": 3, "codebook_size": 4},
)
KINDS = st.one_of(
    st.tuples(
        st.just("t2a"),
        st.builds(lambda a, b: {"frames": (min(a, b), max(a, b))}, st.integers(1, 5), st.integers(1, 5)),
    ),
    st.tuples(st.just("t2a"), st.builds(lambda n: {"frames": n}, st.integers(1, 5))),
    st.tuples(st.just("t2i"), st.builds(lambda n: {"tokens_per_image": n}, st.integers(1, 9))),
    st.tuples(
        st.sampled_from(["a2t", "i2t"]),
        st.builds(lambda a, b: {"text": (min(a, b), max(a, b))}, st.integers(1, 9), st.integers(1, 9)),
    ),
)


def naive(task, options, position):
    """All ids allowed at a position of the payload, spelled out from the rules."""
    end = {"t2a": SPACE.special("aud_end"), "t2i": SPACE.special("img_end")}.get(task, SPACE.special("text_end"))
    if task == "t2a":
        frames = options["frames"]
        least, most = (frames, frames) if isinstance(frames, int) else frames
        frame, book = divmod(position, 3)
        stop = book == 0 and least <= frame
        if frame >= most:
            return {end}
        segment = SPACE.ranges[f"AUDIO_CB{book}"]
    elif task == "t2i":
        stop, segment = False, SPACE.ranges["IMAGE"]
        if position >= options["tokens_per_image"]:
            return {end}
    else:
        least, most = options["text"]
        stop, segment = position >= least, SPACE.ranges["TEXT"]
        if position >= most:
            return {end}
    return set(range(segment.start, segment.stop)) | ({end} if stop else set())


def allowed(g, position):
    lo, hi, extra = g.at(position)
    return set(range(lo, hi)) | ({extra} if extra >= 0 else set())


@settings(max_examples=120, deadline=None)
@given(KINDS)
def test_the_arrays_say_what_the_rules_say(kind):
    task, options = kind
    g = grammar(SPACE, task, **options)
    assert len(g.lo) == len(g.hi) == len(g.end_allowed) == g.max_len
    for position in range(g.max_len + 2):
        assert allowed(g, position) == naive(task, options, position)


@settings(max_examples=120, deadline=None)
@given(KINDS, st.integers(0, 2**32 - 1))
def test_any_walk_through_the_grammar_is_a_legal_target(kind, seed):
    task, options = kind
    g = grammar(SPACE, task, **options)
    rng = np.random.default_rng(seed)
    ids = []
    while not ids or ids[-1] != g.end_id:
        ids.append(int(rng.choice(sorted(allowed(g, len(ids))))))
    payload = np.array(ids[:-1])
    check(g, ids)
    check(g, payload)
    assert g.min_len <= len(payload) <= g.max_len
    for cut in range(len(payload)):
        check(g, payload[:cut], complete=False)
    # What the grammar lets through, the sequence builder takes as a target.
    build(
        SPACE,
        task,
        *(
            (payload, SPACE.image_to_global([0]) if task == "i2t" else SPACE.audio_to_global([[0]] * 3))
            if task.endswith("2t")
            else ([1], payload)
        ),
    )


@settings(max_examples=120, deadline=None)
@given(KINDS, st.integers(0, 2**32 - 1), st.data())
def test_one_wrong_id_is_found_where_it_stands(kind, seed, data):
    task, options = kind
    g = grammar(SPACE, task, **options)
    rng = np.random.default_rng(seed)
    ids = np.array([rng.integers(g.lo[p], g.hi[p]) for p in range(g.max_len)])
    at = data.draw(st.integers(0, g.max_len - 1))
    others = sorted(set(range(SPACE.vocab_size_total)) - allowed(g, at) - {g.end_id})
    ids[at] = data.draw(st.sampled_from(others))
    with pytest.raises(UserError, match=f"id {ids[at]} is not allowed at position {at} "):
        check(g, ids)


def test_audio_ends_only_on_a_frame_boundary_between_its_bounds():
    g = grammar(SPACE, "t2a", frames=(1, 3))
    assert np.flatnonzero(g.end_allowed).tolist() == [3, 6] and (g.min_len, g.max_len) == (3, 9)
    sound = SPACE.audio_to_global([[0, 1, 2]] * 3)
    for stop in range(10):
        if stop in (3, 6, 9):
            check(g, sound[:stop])
        else:
            with pytest.raises(UserError, match=f"may not end at position {stop}"):
                check(g, sound[:stop])


def test_an_exact_length_is_the_only_length():
    g = grammar(SPACE, "t2a", frames=np.int64(2))
    assert not g.end_allowed.any() and g.at(6) == (g.end_id, g.end_id + 1, -1)
    sound = SPACE.audio_to_global([[0, 1, 2]] * 3)
    check(g, sound[:6])
    with pytest.raises(UserError, match="may not end"):
        check(g, sound[:3])
    with pytest.raises(UserError, match="too long"):
        check(g, sound)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("t2a", {}, "needs frames"),
        ("t2i", {}, "needs tokens_per_image"),
        ("a2t", {}, "needs text"),
        ("t2a", {"frames": (3, 2)}, "out of order"),
        ("t2a", {"frames": 0}, "out of order"),
        ("t2i", {"tokens_per_image": 0}, "at least 1"),
        ("i2t", {"text": (5, 4)}, "out of order"),
        ("t2v", {}, "unknown task"),
    ],
)
def test_a_grammar_without_its_bounds_is_refused(task, options, message):
    with pytest.raises(UserError, match=message):
        grammar(SPACE, task, **options)


def test_a_task_whose_segment_is_missing_is_refused():
    text_only = build_token_space(
        base_text_model="tiny", text_vocab_size=20, n_special=16, image_tokenizer=None, audio_codec=None
    )
    for task, options in (("t2a", {"frames": 1}), ("t2i", {"tokens_per_image": 1})):
        with pytest.raises(UserError, match="no (audio|image) segment"):
            grammar(text_only, task, **options)
    assert set(TASKS) == {"a2t", "i2t", "t2a", "t2i"}
