"""Batches: packed is the same as separate, steps come in any order, and a resumed run sees the same ones."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.shards.example_set import ExampleSet
from mmpt.shards.loader import Loader, lay_out, make_loader
from mmpt.shards.mixture import KINDS, Mixture
from mmpt.shards.packing import pack
from mmpt.shards.text_set import TextSet
from mmpt.store.errors import UserError
from mmpt.store.tasks import TASKS
from mmpt.tokens.formats import IGNORE, Example, build_text

PAD = 377
NUMBERS = {
    "weights": {"a2t": 0.2, "i2t": 0.2, "t2a": 0.3, "t2i": 0.3},
    "text_replay": 0.1,
    "ramp": 0.1,
    "steps": 60,
    "tokens_per_step": 900,
    "row_len": 256,
    "pad_id": PAD,
    "prompt_dropout": 0.25,
    "seed": 11,
}


@pytest.fixture(scope="module")
def sources(world):
    opened = {
        task: ExampleSet.open(world.path("examples"), world.path("shards"), world.space, task, "train")
        for task in TASKS
    }
    text = TextSet.open(world.path("token_space") / "text_train.txt", world.path("token_space"), world.space, 96)
    return {**opened, "text": text}


def loader(sources, **changes):
    return make_loader(sources, **{**NUMBERS, **changes})


def test_a_packed_batch_holds_exactly_its_sequences(sources):
    load = loader(sources)
    for step in range(0, 60, 7):
        batch = load.batch(step)
        wanted = [(KINDS.index(kind), sources[kind].draw(index, dropped)) for kind, index, dropped in batch.draws]
        found = unpacked(batch)

        def key(pair):
            return (pair[0], pair[1].tobytes(), pair[2].tobytes(), pair[3].tobytes())

        separate = [(k, one.input_ids.astype(np.int64), one.labels.astype(np.int64), one.slots) for k, one in wanted]
        assert sorted(map(key, found)) == sorted(map(key, separate))


def unpacked(batch):
    """(kind, input_ids, labels, slots) of each sequence of a batch, cut where positions start again."""
    found = []
    for row in range(len(batch.input_ids)):
        borders = [*np.flatnonzero(batch.position_ids[row] == 0), batch.input_ids.shape[1]]
        for start, stop in itertools.pairwise(borders):
            assert (batch.position_ids[row, start:stop] == np.arange(stop - start)).all()
            kinds = set(batch.task[row, start:stop].tolist())
            assert len(kinds) == 1
            if kinds == {-1}:
                assert (batch.input_ids[row, start:stop] == PAD).all() and (
                    batch.labels[row, start:stop] == IGNORE
                ).all()
                continue
            found.append(
                (
                    kinds.pop(),
                    batch.input_ids[row, start:stop],
                    batch.labels[row, start:stop],
                    batch.slot[row, start:stop],
                )
            )
    return found


def test_no_label_reaches_into_the_neighbour(sources):
    batch = loader(sources).batch(30)
    assert (batch.labels[batch.position_ids == 0] == IGNORE).all()
    supervised = batch.labels != IGNORE
    assert (batch.labels[supervised] == batch.input_ids[supervised]).all()
    assert ((batch.slot >= 0) == supervised).all()


@settings(max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(20, 50))
def test_layout_keeps_every_token_with_its_kind(sizes, row_len):
    sequences = [
        Example(np.arange(n, dtype=np.int32) + 100 * i, np.full(n, IGNORE, np.int32), np.full(n, -1, np.int8))
        for i, n in enumerate(sizes)
    ]
    rows = pack(sizes, row_len)
    inputs, _labels, positions, task, _ = lay_out(rows, sequences, [i % 5 for i in range(len(sizes))], row_len, PAD)
    real = task >= 0
    assert sorted(inputs[real].tolist()) == sorted(np.concatenate([one.input_ids for one in sequences]).tolist())
    assert (inputs[~real] == PAD).all()
    assert (task[real] == (inputs[real] // 100) % 5).all()
    assert (positions[real] == inputs[real] % 100).all()


def test_batches_are_those_of_the_step_whatever_was_asked_before(sources):
    forward, backward = loader(sources), loader(sources)
    digests = [forward.batch(step).digest() for step in range(20)]
    assert [backward.batch(step).digest() for step in reversed(range(20))] == digests[::-1]
    assert len(set(digests)) == 20


def test_a_resumed_loader_continues_exactly(sources):
    whole = loader(sources)
    digests = [whole.batch(step).digest() for step in range(12)]
    first = loader(sources)
    for step in range(5):
        first.batch(step)
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(sources)
    second.load_state_dict(state)
    assert second.next_step == 5 and second.state_dict() == state
    assert [second.batch(step).digest() for step in range(second.next_step, 12)] == digests[5:]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 12},
        {"weights": {"a2t": 0.2, "i2t": 0.2, "t2a": 0.3, "t2i": 0.31}},
        {"ramp": 0.2},
        {"row_len": 512},
        {"prompt_dropout": 0.2},
        {"tokens_per_step": 901},
        {"text_replay": 0.2},
    ],
)
def test_a_state_of_another_mixture_is_refused(sources, changes):
    with pytest.raises(UserError, match="belongs to other data or another mixture"):
        loader(sources, **changes).load_state_dict(loader(sources).state_dict())


def test_a_state_of_other_data_is_refused(sources):
    other = {
        **sources,
        "text": TextSet(sources["text"].ids[::-1], sources["text"].space, 96),
    }  # of the same lengths
    with pytest.raises(UserError, match="belongs to other data"):
        loader(other).load_state_dict(loader(sources).state_dict())


def test_a_state_with_other_cursors_is_refused(sources):
    load = loader(sources)
    load.batch(3)
    state = load.state_dict()
    state["cursors"]["t2a"] += 1
    with pytest.raises(UserError, match="contradicts itself"):
        loader(sources).load_state_dict(state)


def test_every_epoch_shows_each_example_once_in_a_new_order(sources):
    load = loader(sources)
    drawn = [index for step in range(60) for kind, index, _ in load.batch(step).draws if kind == "t2i"]
    n = len(sources["t2i"])
    assert len(drawn) > 2 * n
    assert sorted(drawn[:n]) == sorted(drawn[n : 2 * n]) == list(range(n))
    assert drawn[:n] != drawn[n : 2 * n]


def test_steps_are_near_their_tokens_and_follow_the_weights(sources):
    load = loader(sources, prompt_dropout=0.0)
    batches = [load.batch(step) for step in range(60)]
    assert abs(np.mean([batch.n_tokens for batch in batches]) - 900) < 45
    late = [kind for batch in batches[12:] for kind, _, _ in batch.draws]
    shares = {kind: late.count(kind) / len(late) for kind in KINDS}
    assert shares == pytest.approx({"a2t": 0.18, "i2t": 0.18, "t2a": 0.27, "t2i": 0.27, "text": 0.1}, abs=0.01)


def test_before_the_ramp_nothing_is_emitted(sources):
    load = loader(sources)
    assert all(
        "t2a" not in load.batch(step).n_supervised and "t2i" not in load.batch(step).n_supervised for step in range(6)
    )
    assert "t2a" in load.batch(20).n_supervised


def test_a_dropped_prompt_is_empty_and_the_target_whole(sources):
    load = loader(sources)
    dropped = [(kind, index) for step in range(60) for kind, index, dropped in load.batch(step).draws if dropped]
    total = sum(kind in ("t2a", "t2i") for step in range(60) for kind, _, _ in load.batch(step).draws)
    assert {kind for kind, _ in dropped} == {"t2a", "t2i"}
    assert abs(len(dropped) / total - 0.25) < 0.08
    kind, index = dropped[0]
    empty, full = sources[kind].draw(index, True), sources[kind].draw(index)
    assert len(full) - len(empty) == len(full.text_ids)
    assert (empty.labels[empty.labels != IGNORE] == full.labels[full.labels != IGNORE]).all()


def test_supervised_tokens_are_counted_by_kind(sources):
    batch = loader(sources).batch(30)
    counted = {kind: int(((batch.task == KINDS.index(kind)) & (batch.labels != IGNORE)).sum()) for kind in KINDS}
    assert batch.n_supervised == {kind: n for kind, n in counted.items() if n}


class Unsupervised(TextSet):
    def draw(self, index, empty_prompt=False):
        one = self[index]
        return Example(one.input_ids, np.full_like(one.labels, IGNORE), np.full_like(one.slots, -1))


def test_a_batch_without_a_supervised_token_is_refused(world):
    silent = Unsupervised(np.arange(200) % 50, world.space, 20)
    load = Loader({"text": silent}, Mixture({"text": 1}, {"text": 20.0}, 100), row_len=64, pad_id=PAD)
    with pytest.raises(UserError, match="step 4: no supervised token in a batch"):
        load.batch(4)


def test_a_supervised_first_token_is_refused():
    one = Example(np.array([1, 2], np.int32), np.array([1, 2], np.int32), np.zeros(2, np.int8))
    with pytest.raises(UserError, match="first token of a sequence is supervised"):
        lay_out([[0]], [one], [4], 8, PAD)


def test_a_row_shorter_than_an_example_is_refused_at_once(sources):
    with pytest.raises(UserError, match="set train.row_len to"):
        loader(sources, row_len=64)


def test_text_is_cut_without_loss(world):
    ids = np.arange(211) % 256
    text = TextSet(ids, world.space, 50)
    assert np.concatenate([text[index].input_ids for index in range(len(text))]).tolist() == ids.tolist()
    assert len(TextSet(ids[:201], world.space, 50)) == 4  # the last token alone supervises nothing
    assert (text[0].labels[1:] == build_text(world.space, ids[:50]).input_ids[1:]).all()
