"""Two ranks train what one trains, also with the base split, and go on as one; and they notice what differs."""

import json
import math
import shutil

import pytest
import torch
from torch.distributed.tensor import DTensor

from mmpt.model.checkpoints import STATE
from mmpt.model.layers import decoder_layers
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors
from mmpt.train import loop
from mmpt.train.distributed import Ranks, RanksDiffer
from mmpt.train.loop import METRICS
from mmpt.train.objective import rows_at_once
from mmpt.train.sharding import shard_base, sharded
from tests.model.tiny_model import save_base
from tests.train.rank_work import MIDDLE, SHORT, STEPS, model_of, note, notes, run, spawn

EXACT = 1e-6  # relative; only the order of additions differs between one rank and two


def work(root, ranks):
    """Everything that two ranks do for this file."""
    run(root, "two", ranks, until=SHORT)
    if ranks.lead:
        shutil.copytree(root / "two", root / "two_short")
    run(root, "two", ranks)
    run(root, "split", ranks, split=True, until=SHORT)
    run(root, "one_then_two", ranks, until=SHORT)
    run(root, "two_then_one", ranks, until=MIDDLE)
    few(root, "few_two", ranks)
    few(root, "few_split", ranks, split=True)
    run(root, "open_two", ranks, micro_rows=0, dropout=0.0, steps=6)
    run(root, "noisy_two", ranks, micro_rows=0, tokens=600, steps=6)
    few(root, "few_aside", ranks, split=True, layers_aside=True)
    halves(root, ranks)
    refusals(root, ranks)
    poisoned(root, ranks)
    drifting(root, ranks)


def few(root, name, ranks=Ranks.alone(), split=False, **options):
    """One row a step, so one of two ranks has none: of a model with a head of its own, trained norms and a
    layer that is computed twice.
    """
    model = model_of(root, base="untied", layer_norm=True, **options)
    model.checkpoint_layers(1)
    return run(root, name, ranks, model=model, split=split, tokens=30, steps=6, save_every=6)


def halves(root, ranks):
    """What a rank keeps of a split base between two steps."""
    model = model_of(root)
    layers = torch.nn.ModuleList(decoder_layers(model.lm.get_base_model()))
    whole = sum(parameter.numel() for parameter in layers.parameters())
    added = sum(p.numel() for p in layers.parameters() if p.requires_grad)
    shard_base(model, ranks, "cpu")
    for _ in range(2):
        mine = [p.to_local() if isinstance(p, DTensor) else p for p in layers.parameters()]
        note(root, "halves", ranks, whole=whole, added=added, mine=sum(one.numel() for one in mine))
        token = torch.zeros(1, 1, dtype=torch.int64)
        model.hidden(token, token).sum().backward()


def refusals(root, ranks):
    """Each time rank 1 is given something else."""
    other = ranks.rank
    for name, given in {
        "seed": dict(seed=other),
        "data": dict(tokens=200 + 10 * other),
        "rate": dict(clip=5.0 + other),
        "saves": dict(save_every=25 + other),
        "model": dict(model=changed_model(root, "q_proj.base_layer", other)),
        "adapter": dict(model=changed_model(root, "lora_B", other)),
    }.items():
        with pytest.raises(UserError) as caught:
            run(root, f"refused_{name}", ranks, **given)
        note(root, f"refused_{name}", ranks, line=str(caught.value))


def changed_model(root, part, by):
    model = model_of(root)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if part in name)[0, 0] += by
    return model


def poisoned(root, ranks):
    """In its third step, rank 1 alone gets a NaN into one gradient."""
    right = loop.backward

    def backward(model, batch, settings, ranges, step, among):
        out = right(model, batch, settings, ranges, step, among)
        if step == 3 and ranks.rank == 1:
            model.embedding.rows.grad[3] = torch.nan
        return out

    loop.backward = backward
    for name, split in {"nan": False, "nan_split": True}.items():
        outcome = run(root, name, ranks, split=split, steps=9, log_every=4)
        note(root, name, ranks, step=outcome.step, stopped=outcome.stopped, saved=outcome.saved)
    loop.backward = right


def drifting(root, ranks):
    """Rank 1 changes one weight by the smallest amount while both train."""
    model = model_of(root)

    def measure(step):
        if step == 2 and ranks.rank == 1:
            with torch.no_grad():
                model.embedding.rows[0, 0] = torch.nextafter(model.embedding.rows[0, 0], torch.tensor(9.0))
        return {}

    with pytest.raises(RanksDiffer) as caught:
        run(root, "drift", ranks, model=model, steps=9, hooks=loop.Hooks(measure=measure, measure_at=(2,)))
    note(root, "drift", ranks, line=str(caught.value))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Trained by one rank here and by two processes."""
    root = tmp_path_factory.mktemp("ranks")
    save_base(root / "base")
    save_base(root / "untied", tied=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(root, "one")
    run(root, "one_then_two", until=MIDDLE)
    few(root, "few_one")
    run(root, "open_one", micro_rows=0, dropout=0.0, steps=6)
    run(root, "noisy_one", micro_rows=0, tokens=600, steps=6)
    spawn(work, root)
    run(root, "two_then_one", until=SHORT)
    torch.set_num_threads(threads)
    return root


def rows(root, name):
    return [json.loads(line) for line in (root / name / METRICS).read_text().splitlines()]


def furthest(root, a, b):
    """Largest relative difference of losses, objective and gradient norms up to the end of b; counts must be equal."""
    ours, theirs = rows(root, a), rows(root, b)
    pairs = list(zip(ours[: len(theirs)], theirs, strict=True))
    worst = 0.0
    for one, two in pairs:
        assert one.keys() == two.keys()
        for key in one:
            if one[key] is None or key.startswith(("supervised", "tokens", "step", "lr_")):
                assert one[key] == two[key]
            elif key.startswith(("loss", "objective", "grad_norm")):
                worst = max(worst, abs(one[key] - two[key]) / abs(one[key]))
    print(f"{a} and {b}: {len(pairs)} rows, largest relative difference {worst:.2g}")
    return worst


@pytest.mark.parametrize(
    "other, steps", [("two", STEPS), ("split", SHORT), ("one_then_two", SHORT), ("two_then_one", SHORT)]
)
def test_the_steps_are_those_of_one_rank(root, other, steps):
    assert len(rows(root, other)) == steps and furthest(root, "one", other) < EXACT


def test_a_rank_keeps_its_half_of_a_split_base(root):
    ours, theirs = notes(root, "halves")
    assert ours["mine"] - ours["added"] + theirs["mine"] - theirs["added"] == ours["whole"] - ours["added"]
    assert ours["mine"] - ours["added"] == pytest.approx((ours["whole"] - ours["added"]) / 2, rel=0.1)


@pytest.mark.parametrize("whole, split", [("two_short", "split"), ("few_two", "few_split"), ("few_two", "few_aside")])
def test_splitting_the_base_changes_no_bit(root, whole, split):
    assert files(root / whole) == files(root / split)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_checkpoint_says_nothing_of_how_many_wrote_it(root):
    ended = {"one": STEPS, "two": STEPS, "split": SHORT}
    folders = [root / name / "steps" / f"step_{step}" for name, step in ended.items()]
    stored = [load_tensors(folder / STATE, "torch") for folder in folders]
    shapes = [{key: (value.shape, value.dtype) for key, value in one.items()} for one in stored]
    assert shapes[0] == shapes[1] == shapes[2]
    assert files(folders[0]).keys() == files(folders[1]).keys() == files(folders[2]).keys()


@pytest.mark.parametrize("other", ["few_two", "few_split", "few_aside"])
def test_fewer_micro_batches_than_ranks_is_exact(root, other):
    assert furthest(root, "few_one", other) < EXACT


@pytest.mark.parametrize("name", ["open", "noisy"])
def test_open_micro_batches_are_shared_out(root, name):
    """With dropout too: its noise belongs to micro-batches that do not know of the ranks."""
    assert furthest(root, f"{name}_one", f"{name}_two") < EXACT


def test_an_open_step_is_cut_by_ranks_only_where_nothing_is_random():
    assert [rows_at_once(17, 0, False, world) for world in (1, 2, 8)] == [17, 9, 3]
    assert [rows_at_once(17, 0, True, world) for world in (1, 2, 8)] == [3, 3, 3]
    assert rows_at_once(17, 2, True, 4) == rows_at_once(17, 2, False, 4) == 2 and rows_at_once(0, 0, True, 1) == 1


@pytest.mark.parametrize(
    "what, words",
    [
        ("seed", "data and mixture: the ranks would not train the same thing"),
        ("data", "data and mixture: "),
        ("rate", "clip: .*found 6.0 on rank 1; expected 5.0 as on rank 0"),
        ("saves", "save_every: .*found 26 on rank 1"),
        ("model", "base: "),
        ("adapter", "adapter: "),
    ],
)
def test_a_rank_that_was_given_something_else_is_refused_on_every_rank(root, what, words):
    lines = [one["line"] for one in notes(root, f"refused_{what}")]
    assert lines[0] == lines[1]
    with pytest.raises(UserError, match=words):
        raise UserError(lines[0])
    assert not (root / f"refused_{what}").exists()


@pytest.mark.parametrize("name", ["nan", "nan_split"])
def test_a_nan_on_one_rank_stops_all_at_that_step(root, name):
    ours, theirs = notes(root, name)
    assert ours == theirs and ours["step"] == 3 and "gradient norm nan" in ours["stopped"]
    assert ours["saved"] == [0, 3]
    weights = load_tensors(root / name / "steps" / "step_3" / "adapter_model.safetensors", "torch")
    assert all(math.isfinite(float(value.sum())) for value in weights.values())


def test_ranks_that_drifted_apart_stop_before_the_next_checkpoint(root):
    ours, theirs = notes(root, "drift")
    assert ours == theirs and ours["line"].startswith("step 3: rank 1 holds other weights")


def test_alone_nothing_is_shared_out():
    alone, value = Ranks.alone(), torch.ones(3)
    alone.sum_([value])
    assert alone.lead and alone.share([3, 1, 2, 5, 4]) == [0, 1, 2, 3, 4] and value.sum() == 3
    assert alone.from_lead("x") == "x" and alone.differing({"a": 1}) is None


def test_every_piece_has_one_rank_and_all_ranks_as_many_turns():
    for world in (1, 2, 3, 5):
        for total in range(8):
            shares = [Ranks(rank, world).share([total - i % 3 for i in range(total)]) for rank in range(world)]
            assert sorted(i for share in shares for i in share) == list(range(total))
            assert max(len(share) for share in shares) == Ranks(0, world).turns(total)


def test_nine_micro_batches_take_eight_ranks_little_longer_than_eight():
    """Eight rows with a long sound each, and a ninth with what found no room."""
    sizes = [3072, 3070, 3066, 3060, 3050, 3040, 3030, 3020, 700]
    loads = [sum(sizes[index] for index in Ranks(rank, 8).share(sizes)) for rank in range(8)]
    assert max(loads) == 3020 + 700 and loads[0] == 3072


def test_a_rank_without_a_launcher_is_told(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    told = pytest.raises(UserError, match="RANK: this process was not started as one of several ranks")
    with told, Ranks.from_environment():
        pass


def test_a_model_is_not_split_by_itself(tmp_path):
    save_base(tmp_path / "base")
    assert not sharded(model_of(tmp_path))
