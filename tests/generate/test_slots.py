"""Slots filled again: the ids of one at a time, nothing of a slot's last owner, a step that is static."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmpt.generate import engine, generate, opened
from mmpt.generate.cache import SlotLayer
from mmpt.generate.graphs import Stepper
from mmpt.generate.slots import PREFILL_TOKENS, Item, Slots, _alike
from mmpt.ops import sample_logits
from mmpt.tokens import TASKS, grammar, prompt
from tests.generate.random_lm import RandomLM


def ids_of(outputs):
    return [one.ids.tolist() for one in outputs]


@pytest.fixture(scope="module")
def mixed(space, items):
    """Prompts, grammars, keyword columns: all tasks, exact and learned lengths, two of them without rules."""
    prompts, grammars = [], []
    for task in TASKS:
        p, g = items(task)
        prompts += p
        grammars += g
    grammars[3], grammars[12] = (opened(grammars[i], space.vocab_size_total) for i in (3, 12))
    n = len(prompts)
    how = {
        "temperature": [(0.0, 1.0, 2.0)[i % 3] for i in range(n)],
        "top_k": [(0, 20)[i % 2] for i in range(n)],
        "top_p": [(1.0, 0.9)[i // 2 % 2] for i in range(n)],
        "seeds": [100 + i for i in range(n)],
    }
    return prompts, grammars, how


def run(model, mixed, places=None, **options):
    prompts, grammars, how = mixed
    places = range(len(prompts)) if places is None else places

    def take(column):
        return [column[i] for i in places]

    columns = {name: take(column) for name, column in how.items()}
    if "empty_prompts" in options:
        options["empty_prompts"] = take(options["empty_prompts"])
    return generate(model, take(prompts), take(grammars), **columns, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_any_order_and_batch_gives_what_each_gives_alone(model, space, mixed, guidance):
    how = {}
    if guidance != 1.0:
        tasks = [grammar.task for grammar in mixed[1]]
        how = {"guidance": guidance, "empty_prompts": [prompt(space, task, []) for task in tasks]}
    n = len(mixed[0])
    alone = [run(model, mixed, [i], **how)[0] for i in range(n)]
    shuffled = np.random.default_rng(0).permutation(n)
    for batch_size, places in ((3, range(n)), (7, shuffled), (64, shuffled)):
        together = run(model, mixed, places, batch_size=batch_size, **how)
        assert ids_of(together) == ids_of([alone[i] for i in places])
        assert [one.ended for one in together] == [alone[i].ended for i in places]
        masses = [alone[i].legal_mass for i in places]
        assert [one.legal_mass for one in together] == pytest.approx(masses, abs=1e-6)


def test_a_draws_noise_is_of_its_seed_and_payload_position(model, mixed):
    """Against whole forwards and draws from whole rows of logits."""
    prompts, grammars, how = mixed
    outputs = run(model, mixed, batch_size=4)
    for i, (given, rules, output) in enumerate(zip(prompts, grammars, outputs, strict=True)):
        decoded = output.ids.tolist()
        whole = torch.as_tensor(np.concatenate([given, output.ids]).astype(np.int64))[None]
        logits = model.lm(whole).logits.detach()[0, len(given) - 1 :]
        for position, wanted in enumerate([*decoded, rules.end_id][: rules.max_len]):
            lo, hi, extra = rules.at(position)
            column = {name: how[name][i] for name in ("temperature", "top_k", "top_p")}
            drawn = sample_logits(
                logits[position][None],
                lo,
                hi,
                extra_id=extra,
                seed=how["seeds"][i],
                offset=position,
                **column,
            )
            assert int(drawn) == wanted


def test_a_finished_output_makes_room_before_the_others_are_done(model, space, items, monkeypatch):
    prompts, _ = items("i2t")
    rules = [grammar(space, "i2t", text=(1, 120))] * 15  # an end in about 50 at this temperature
    steps, real = [], Slots.step
    monkeypatch.setattr(Slots, "step", lambda self, width: (steps.append(width), real(self, width)))
    outputs = generate(model, prompts * 3, rules, temperature=9.0, seeds=range(15), batch_size=3)
    lengths = [len(one.ids) + 1 for one in outputs]
    in_batches = sum(max(lengths[i : i + 3]) for i in range(0, 15, 3))
    assert sum(lengths) / 3 <= len(steps) < 0.9 * in_batches, lengths


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_slots_last_owner_is_forgotten(model, mixed, monkeypatch, when):
    """NaN in a row before it is filled again, or huge numbers in what is not written yet change nothing."""
    expected = ids_of(run(model, mixed, batch_size=3))
    admit, poisoned = Slots.admit, []

    def poison(self, taken):
        layers = self.cache.layers
        for layer in layers if layers[0].is_initialized and when == "before" else ():
            layer.keys[list(taken)], layer.values[list(taken)] = torch.nan, torch.nan
            poisoned.append(len(taken))
        admit(self, taken)
        for slot in taken if when == "after" else ():
            for layer in layers:
                layer.keys[slot, :, self.positions[slot] :] = 1e30
                layer.values[slot, :, self.positions[slot] :] = 1e30
            poisoned.append(1)

    monkeypatch.setattr(Slots, "admit", poison)
    assert ids_of(run(model, mixed, batch_size=3)) == expected
    assert sum(poisoned) > 15


def test_cache_memory_is_taken_once_a_call(model, mixed, monkeypatch):
    taken, real = [], SlotLayer.lazy_initialization
    monkeypatch.setattr(SlotLayer, "lazy_initialization", lambda self, *a: (taken.append(1), real(self, *a)))
    run(model, mixed, batch_size=3)
    assert len(taken) == model.config.num_hidden_layers


def test_exact_lengths_never_ask_the_device_who_has_ended(model, items, monkeypatch):
    prompts, grammars = items("t2i")
    monkeypatch.setattr(Slots, "ended", lambda self: pytest.fail("asked"))
    generate(model, prompts, grammars, batch_size=2)


# ---- the step is static: what a captured graph needs ------------------------------


class NoReading(TorchDispatchMode):
    """Refuses what reads a value or makes a shape of one; keeps every result's operation and shape."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[-1]
        assert not name.startswith(self.forbidden), name
        out = func(*args, **(kwargs or {}))
        self.seen.append((name, tuple(getattr(out, "shape", ()))))
        return out


def filled(model, mixed, guided=False):
    prompts, grammars, how = mixed
    pairs = [(p, p[-2:]) if guided else (p,) for p in prompts]
    rows = zip(pairs, grammars, *(how[name] for name in ("temperature", "top_k", "top_p", "seeds")), strict=True)
    all_items = [Item(*row, measure=True) for row in rows]
    shape = engine._shape(all_items, len(all_items))
    slots = Slots(model, shape, 2.0 if guided else 1.0)
    slots.admit(dict(enumerate(all_items)))
    return slots


@pytest.mark.parametrize("guided", [False, True])
def test_every_step_is_the_same_operations_and_reads_nothing_back(model, mixed, guided):
    slots = filled(model, mixed, guided)
    with torch.no_grad():
        slots.step(slots.shape.columns)
        before = {name: value.data_ptr() for name, value in vars(slots).items() if torch.is_tensor(value)}
        traces = []
        for _ in range(4):
            with NoReading() as mode:
                slots.step(slots.shape.columns)
            traces.append(mode.seen)
    assert traces[0] == traces[1] == traces[2] == traces[3] and len(traces[0]) > 50
    assert before == {name: value.data_ptr() for name, value in vars(slots).items() if torch.is_tensor(value)}


def test_the_step_runs_where_there_are_no_values_at_all(model, mixed):
    """On the meta device any look at a value is an error."""
    slots = filled(RandomLM(copy.deepcopy(model.lm).to("meta")), mixed)
    with torch.no_grad():
        for _ in range(2):
            slots.step(slots.shape.columns)
    with pytest.raises((NotImplementedError, RuntimeError)):
        slots.ended()


def test_whole_width_gives_the_ids_of_growing_width(model, mixed, monkeypatch):
    """What a graph replays: one width, the whole bucket, at every step."""
    expected = ids_of(run(model, mixed, batch_size=4))
    monkeypatch.setattr(Stepper, "__call__", lambda self, width: self.step(self.columns))
    assert ids_of(run(model, mixed, batch_size=4)) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_captured_steps_give_the_ids_of_plain_ones(model, space, mixed, monkeypatch, guidance):
    on_gpu = RandomLM(copy.deepcopy(model.lm).cuda())
    how = {"guidance": guidance, "empty_prompts": [prompt(space, g.task, []) for g in mixed[1]]}
    how = how if guidance != 1.0 else {}
    captured = ids_of(run(on_gpu, mixed, batch_size=4, **how))
    monkeypatch.setattr(Stepper, "__call__", lambda self, width: self.step(width))
    assert captured == ids_of(run(on_gpu, mixed, batch_size=4, **how))


# ---- filling ------------------------------


def test_prompts_of_one_forward_are_alike_and_bounded():
    lengths = [3, 9000, 40, 5000, 4, 39, 21, 20, 1, 4500]
    groups = _alike([(row, np.zeros(n, np.int64)) for row, n in enumerate(lengths)])
    assert sorted(row for group in groups for row, _ in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [len(p) for _, p in group]
        assert len(group) == 1 or (len(group) * max(sizes) <= PREFILL_TOKENS and 5 * min(sizes) >= 4 * max(sizes))
    assert len(groups) == 7  # 9000; 5000 4500; 40 39; 21 20; 4; 3; 1


def test_an_empty_prompt_is_an_error(model, items):
    prompts, grammars = items("t2i")
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(model, [prompts[0], np.zeros(0, np.int64)], grammars[:2])


def test_a_prompt_of_one_id_and_no_items_at_all(model, items):
    prompts, grammars = items("t2i")
    one = generate(model, [prompts[0][-1:]], grammars[:1])[0]
    assert len(one.ids) == grammars[0].max_len
    assert generate(model, [], []) == []
