"""Orders of a sound's ids: each is a permutation that is undone, and the grammar allows it and nothing else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.codecs.decoders import Decoder
from mmpt.evaluate import generated_files
from mmpt.evaluate.alignment import shifts_of
from mmpt.evaluate.quality import longest_run
from mmpt.evaluate.sequences import _misplaced
from mmpt.model import grammar_logits
from mmpt.model.plain import sequence
from mmpt.shards.audit import _misplaced as misplaced_in_shards
from mmpt.store.errors import UserError
from mmpt.tokens import SLOTS, build, build_token_space, check, grammar
from mmpt.tokens.space import from_json
from mmpt.tokens.stream import SERIALIZATIONS, Stream, stream_of

ORDERS = st.sampled_from(sorted(SERIALIZATIONS))
DRAWN = {
    "frame": "a0 b0 c0 a1 b1 c1 a2 b2 c2",
    "codebook": "a0 a1 a2 b0 b1 b2 c0 c1 c2",
    "delay": "a0 a1 b0 a2 b1 c0 b2 c1 c2",
}
SNAC = (0, 1, 2, 2, 1, 2, 2)


@pytest.mark.parametrize("order", DRAWN)
def test_the_drawing_of_the_module_is_what_comes_out(order):
    names = np.array([[f"{row}{frame}" for frame in range(3)] for row in "abc"])
    assert " ".join(Stream((0, 1, 2), order).flat(names)) == DRAWN[order]


@given(ORDERS, st.integers(1, 9), st.integers(0, 12))
def test_an_order_is_undone(order, width, frames):
    stream, codes = Stream(tuple(range(width)), order), np.arange(width * frames).reshape(width, frames)
    assert np.array_equal(stream.unflat(stream.flat(codes)), codes)
    assert np.array_equal(
        stream.rows_at(width * frames), stream.flat(np.repeat(np.arange(width), frames)[None].reshape(width, frames))
    )


@given(ORDERS, st.integers(1, 5), st.integers(1, 9))
def test_a_step_leads_to_the_next_frame_of_the_row(order, width, frames):
    stream = Stream(tuple(range(width)), order)
    places = stream.places(frames)
    inside = places[width * width : len(places) - width * width] if order == "delay" else places
    same = np.flatnonzero((inside + 1) % frames)
    for at in same[same + stream.step < len(inside)]:
        assert inside[at + stream.step] == inside[at] + 1


def test_rows_of_one_codebook_share_it():
    assert Stream(SNAC).codebooks_at(14).tolist() == [*SNAC, *SNAC]
    assert Stream(SNAC, "codebook").codebooks_at(14).tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 2, 2, 2, 2]


def test_part_of_a_frame_has_rows_only_frame_by_frame():
    assert Stream((0, 1)).rows_at(3).tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="don't fill whole frames.*found 3 ids"):
        Stream((0, 1), "delay").rows_at(3)


def test_descriptions_are_read_and_refused():
    assert stream_of(None, 2) == Stream((0, 1))
    assert stream_of({"serialization": "flatten_delayed_codebooks", "row_codebooks": list(SNAC)}, 3) == Stream(
        SNAC, "delay"
    )
    with pytest.raises(UserError, match="unknown serialization.*'by_mood'.*flatten_by_codebook"):
        stream_of({"serialization": "by_mood"}, 2)
    for rows in ([0, 2], [0, 1], [0, 1, 3]):
        with pytest.raises(UserError, match=r"rows do not name each codebook.*codebooks 0..2"):
            stream_of({"row_codebooks": rows}, 3)


@pytest.fixture(params=sorted(SERIALIZATIONS))
def space(request):
    """Three codebooks of 8 codes, in seven rows."""
    about = {"n_codebooks": 3, "codebook_size": 8, "row_codebooks": list(SNAC)}
    return build_token_space(
        base_text_model="x",
        text_vocab_size=20,
        n_special=16,
        image_tokenizer={"codebook_size": 5},
        audio_codec={**about, "serialization": SERIALIZATIONS[request.param]},
    )


def codes_of(frames, seed=0):
    return np.random.default_rng(seed).integers(0, 8, (7, frames)).astype(np.int32)


def test_ids_lie_in_the_segment_of_their_row(space):
    codes = codes_of(5)
    ids = space.audio_to_global(codes)
    assert len(space.audio_ranges) == 3 and np.array_equal(space.audio_from_global(ids), codes)
    low, stop = space.payload_ranges("audio", len(ids))
    assert ((ids >= low) & (ids < stop)).all()
    assert [space.segment(int(one)) for one in ids] == [f"AUDIO_CB{book}" for book in space.stream.codebooks_at(35)]
    ids[9] = space.image_range.start
    with pytest.raises(UserError, match=r"outside its codebook: 36 at position 9 \(frame .*IMAGE.*AUDIO_CB"):
        space.audio_from_global(ids)
    wrong = codes.copy()
    wrong[4, 2] = 8
    with pytest.raises(UserError, match="8 in codebook 1, frame 2.*AUDIO_CB1"):
        space.audio_to_global(wrong)


def test_the_order_is_part_of_what_ids_mean(space):
    other = {**space.audio_codec, "row_codebooks": [0, 1, 1, 2, 2, 2, 2]}
    assert from_json(space.to_json()).stream == space.stream
    assert from_json({**space.to_json(), "audio_codec": other}).digest != space.digest
    with pytest.raises(UserError, match="rows do not name each codebook"):
        from_json({**space.to_json(), "audio_codec": {**other, "row_codebooks": [0, 1]}})


def test_grammar_labels_and_audits_follow_the_order(space):
    ids = space.audio_to_global(codes_of(6))
    exact = grammar(space, "t2a", frames=6)
    check(exact, ids)
    assert (exact.hi - exact.lo == 8).all() and not exact.end_allowed.any()
    books = space.stream.codebooks_at(42)
    one = build(space, "t2a", np.arange(3), ids)
    assert [SLOTS(space)[slot] for slot in one.slots[one.slots >= 0][:-1]] == [f"audio_cb{book}" for book in books]
    assert _misplaced(space, "t2a", ids) == 0
    lengths, places = np.array([42, 42]), np.tile(np.arange(42), 2)
    both = np.concatenate([ids, ids])
    assert not misplaced_in_shards(space, "audio", both, lengths, places).any()
    swapped = int(np.flatnonzero(books[1:] != books[:-1])[0])
    ids[[swapped, swapped + 1]] = ids[[swapped + 1, swapped]]
    both[42:] = ids
    assert _misplaced(space, "t2a", ids) == 2
    assert np.flatnonzero(misplaced_in_shards(space, "audio", both, lengths, places)).tolist() == [
        42 + swapped,
        43 + swapped,
    ]
    with pytest.raises(UserError, match=f"not allowed at position {swapped}"):
        check(exact, ids)


def test_an_end_may_be_left_open_frame_by_frame_alone(space):
    if space.stream.open_ended:
        free = grammar(space, "t2a", frames=(2, 6))
        assert np.flatnonzero(free.end_allowed).tolist() == [14, 21, 28, 35] and free.may_stop(21)
    else:
        with pytest.raises(UserError, match="cannot be left open in this order.*codecs.audio.order: frame"):
            grammar(space, "t2a", frames=(2, 6))


def test_loops_and_shifts_are_of_frames(space):
    still = space.audio_to_global(np.repeat(codes_of(2), [6, 1], axis=1))
    assert longest_run(still, space.stream) == 6
    assert longest_run(space.audio_to_global(codes_of(7)), space.stream) == 1
    assert {space.stream.step, -space.stream.step} <= set(shifts_of(space, "t2a"))


def test_what_leaves_the_run_knows_the_order(space, tmp_path):
    """The exported grammar, the exported decoder, and the two scorers that do not use ours."""
    codes = codes_of(4)
    ids = space.audio_to_global(codes)
    lengths = {"text_tokens": [1, 4], "audio_frames": [4, 4], "image_tokens": 3, "audio_frames_learned_end": None}
    space.save(tmp_path)
    (tmp_path / "grammar.json").write_text(json.dumps(lengths))
    outside = grammar_logits.Grammar(tmp_path)
    given = [space.special(role) for role in ("text_end", "gen_aud", "aud_start")]
    inside = grammar(space, "t2a", frames=4)
    for n in range(29):
        assert outside.allowed([*given, *ids[:n].tolist()]) == inside.at(n)
    if not space.stream.open_ended:
        with pytest.raises(ValueError, match="one length, not 1 to 4 frames"):
            grammar_logits.Grammar(tmp_path, audio_frames=(1, 4))
        with pytest.raises(ValueError, match="no audio_frames_learned_end"):
            grammar_logits.Grammar(tmp_path, learned_end=True)
    decoder = Decoder(tmp_path)
    assert np.array_equal(decoder._codes(ids, decoder._audio, {"kind": "audio", "codebook_size": 8}), codes)
    scored = sequence(space, "t2a", [1, 2], ids)
    assert np.array_equal(scored.lo[:-1], inside.lo) and np.array_equal(scored.hi[:-1], inside.hi)
    heard = []
    codec = SimpleNamespace(decode=lambda items: [heard.append(items[0].codes) or np.zeros((1, 4), np.float32)])
    generated_files._sound(space, SimpleNamespace(audio=codec), ids.tolist())
    assert np.array_equal(heard[0], codes)
