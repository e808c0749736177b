"""The training benchmark: contenders agree where they compute the same, and one that does not is found."""

import pytest
import torch

from mmpt.bench import record, tables, train, train_peers
from mmpt.bench.train import Job, Turn, agreement
from mmpt.bench.train_items import Items, Packed
from mmpt.bench.train_peers import CONTENDERS, MODULES, REFERENCE, TOKENS, Task
from mmpt.bench.train_work import LORA, WORKLOADS, make_base, make_data, open_loader, space_of, step_flops
from mmpt.store.canonical import read_json
from mmpt.tokens.formats import IGNORE

SHAPE = WORKLOADS["smallest"]
CLOSE = train.TOLERANCE["float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("train-bench")
    make_data(path, SHAPE)
    make_base(path / "base", SHAPE, torch.float32, "cpu")
    return path


def first_step(folder, work, name, contender=None) -> dict:
    """What a contender says of its first step, in this process."""
    answers = []
    job = Job(name, "smallest", "float32", "cpu", 1, str(folder), warm=0, block=1, rounds=1)
    turn = Turn(job, answers.append, lambda: "go" if len(answers) == 2 else "end")
    task = Task(
        folder / "base", folder, work, SHAPE, torch.float32, "cpu", 3, turn.loaded, turn.first, turn.after, job.marks
    )
    with pytest.raises(train.Ended):
        (contender or CONTENDERS[name])(task)
    assert [sorted(answer) for answer in answers[1:]] == [
        ["extra_bytes"],
        ["extra_bytes", "processor_seconds", "seconds"],
    ]
    return answers[0]


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    return first_step(folder, tmp_path_factory.mktemp("ours"), "mmpt")


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "mmpt" and "Liger" not in name])
def test_peers_compute_what_ours_does(folder, tmp_path, ours, name):
    found = agreement(ours, first_step(folder, tmp_path, name), *CLOSE)
    assert "differs" not in found
    assert ("rows_cosine" in found) == (REFERENCE not in name)


def test_attention_across_sequences_is_noticed(folder, tmp_path, ours, monkeypatch):
    whole = Packed.__getitem__

    def leaking(self, index):
        return {**(one := whole(self, index)), "position_ids": torch.arange(SHAPE.row_len).expand_as(one["labels"])}

    monkeypatch.setattr(Packed, "__getitem__", leaking)
    found = agreement(ours, first_step(folder, tmp_path, f"{TOKENS}, packed"), *CLOSE)
    assert found["lora_cosine"] < 0.9 and "gradient of lora" in found["differs"]


def test_a_gradient_that_points_elsewhere_is_noticed(folder, tmp_path, ours):
    def frozen(hidden, labels, weight):
        return train_peers.dense(hidden, labels, weight.detach())

    contender = train_peers._trainer(train_peers.token_indices, frozen)
    found = agreement(ours, first_step(folder, tmp_path, "head frozen", contender), *CLOSE)
    assert found["loss_apart"] < CLOSE[0] and "gradient of rows" in found["differs"]


def test_every_step_has_the_same_items_however_they_are_fed(folder):
    loader, steps = open_loader(folder, SHAPE), 3
    items, packed = Items(loader, steps), Packed(loader, steps, SHAPE.micro_rows)
    for step in range(steps):
        batch = loader.batch(step)
        one_by_one = [items[16 * step + i] for i in range(16)]
        halves = [packed[2 * step], packed[2 * step + 1]]
        assert sum(len(one["input_ids"]) for one in one_by_one) == batch.n_tokens
        for fed in (one_by_one, halves):
            supervised = sum(int((one["labels"] != IGNORE).sum()) for one in fed)
            assert supervised == sum(batch.n_supervised.values())
    with pytest.raises(RuntimeError, match="not two micro-batches"):
        Packed(loader, steps, 100)


def test_flops_of_a_step_are_those_that_torch_counts(folder, monkeypatch):
    """Its counter sees attention as if all pairs counted; the formula's part for it is taken off instead."""
    from torch.utils.flop_counter import FlopCounterMode

    from mmpt.model import multimodal

    monkeypatch.setattr(multimodal, "fold_small_layers", lambda lm: 0)  # a trick of narrow matrices
    batch = open_loader(folder, SHAPE).batch(0)
    model = multimodal.MultimodalLM.from_base(folder / "base", space_of(SHAPE), LORA, seed=0)
    ids = torch.from_numpy(batch.input_ids[batch.task >= 0])[None]
    with FlopCounterMode(display=False) as counter:
        hidden = model.hidden(ids, torch.arange(ids.shape[1])[None])[0][: sum(batch.n_supervised.values())]
        sum((hidden @ rows.T).sum() for rows in model.head()).backward()
    left_out = ("attention", "bmm")  # bmm: older transformers multiply positions by rotary frequencies with it
    counts = counter.get_flop_counts()["Global"].items()
    counted = sum(n for op, n in counts if not any(name in str(op) for name in left_out))
    pairs = int((batch.position_ids + 1)[batch.task >= 0].sum())
    assert counted == step_flops(SHAPE).of_batch(batch) - 12 * 2 * 8 * pairs * 2  # 2 heads of 8, 2 layers


def test_the_whole_of_it_in_processes_of_their_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    train.main(
        [*f"--device cpu --shape smallest --rounds 1 --threads {torch.get_num_threads()} --only".split(), MODULES]
    )
    (path,) = tmp_path.glob("train-smallest-float32-*.json")
    result = read_json(path)
    rows = result["contenders"]
    assert {name: len(row["seconds"]) for name, row in rows.items()} == {"mmpt": 1, MODULES: 1}
    rate = result["tokens"][0] / rows[MODULES]["seconds"][0]
    assert rows[MODULES]["tokens_per_second"] == rate and f"{rate:.0f}" in capsys.readouterr().out
    path.rename(tmp_path / path.name.replace("smallest", "tiny"))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert f"| {MODULES} | {rate:,.0f} |" in tables.train()


def test_a_peer_that_breaks_says_why():
    job = Job("nobody", "smallest", "float32", "cpu", 1, "/nowhere", warm=1, block=1, rounds=1)
    found = {"nobody": {"seconds": [], "processor_seconds": []}}
    train.take_turns([job], found)
    assert "/nowhere" in found["nobody"]["absent"]
