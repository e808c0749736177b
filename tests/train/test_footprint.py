"""Memory and time of a step, from a configuration alone, against what real models keep and take."""

import pytest
import torch

from mmpt.model import qwen3
from mmpt.model.activation_checkpointing import checkpoint_layers
from mmpt.shards.fitting import Kept
from mmpt.tokens import build_token_space
from mmpt.train import footprint
from mmpt.train.fit_measure import RandomExamples, measure, random_model
from mmpt.train.footprint import ModelSizes, Spread, activations, counted_speed, memory, sizes, timed_speed

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SPACE = build_token_space(
    base_text_model="x",
    text_vocab_size=500,
    n_special=16,
    image_tokenizer={"codebook_size": 64},
    audio_codec={"n_codebooks": 2, "codebook_size": 32},
)


def small(dropout=0.0, dtype=torch.float32, tied=True, width=64):
    config = {
        "model_type": "qwen3",
        "vocab_size": 500,
        "hidden_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 2 * width,
        "tie_word_embeddings": tied,
    }
    return ModelSizes(config, {**LORA, "dropout": dropout}, SPACE, dtype)


def kept_on_cpu(shape: ModelSizes, layers: int, rows: int, row_len: int, checkpointed: int = 0) -> int:
    """Bytes that autograd keeps when a real model runs."""
    model = footprint.build(shape, layers, "cpu")
    checkpoint_layers(model.get_base_model(), checkpointed)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    embedded = torch.randn(rows, row_len, shape.hidden, dtype=shape.dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        footprint._run(model, embedded)
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counted_activations_are_those_that_a_real_model_keeps(dropout, dtype):
    """Wide beside its rank, or LoRA is folded; see the next test."""
    shape = small(dropout, dtype, width=128)
    counted = activations(shape, 48)
    for layers, rows in ((3, 1), (4, 3)):
        assert counted.of(layers, rows) == pytest.approx(kept_on_cpu(shape, layers, rows, 48), rel=0.01)


def test_windows_of_attention_are_counted_with_their_masks():
    shape = small(width=128)
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    shape = ModelSizes({**shape.config, **windows}, shape.lora, SPACE, torch.float32)
    counted = activations(shape, 48)
    assert counted.of(3, 2) == pytest.approx(kept_on_cpu(shape, 3, 2, 48), rel=0.01)
    assert counted.layer_row > activations(small(width=128), 48).layer_row + 48 * 48


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_checkpointed_layer_keeps_its_input(dropout):
    """What is kept at the end of the forward pass; a layer that is run again comes on top of the inputs."""
    shape = small(dropout, width=128)
    counted = activations(shape, 48)
    for checkpointed in (1, 2):
        assert counted.of(4, 3, checkpointed) == pytest.approx(kept_on_cpu(shape, 4, 3, 48, checkpointed), rel=0.01)
    again = 3 * counted.layer_row + counted.layer
    angles = 2 * 3 * 48 * 16 * 4  # of the positions: alive for the next run, though not kept by autograd
    assert counted.of(4, 3, 4) == pytest.approx(kept_on_cpu(shape, 4, 3, 48, 4) + again + angles, rel=0.01)
    assert counted.of(4, 3, 3) == pytest.approx(kept_on_cpu(shape, 4, 3, 48, 3), rel=0.01)


def test_lora_on_the_output_keeps_the_joined_outputs_of_all_lengths():
    shape = small(width=128)
    shape = ModelSizes(shape.config, {**LORA, "target_modules": PROJECTIONS}, SPACE, torch.float32)
    assert activations(shape, 48).of(4, 2) == pytest.approx(kept_on_cpu(shape, 4, 2, 48), rel=0.01)


def test_folded_weights_are_kept_once_whatever_the_number_of_rows():
    shape = small()
    shape = ModelSizes(shape.config, {**LORA, "r": 32}, SPACE, torch.float32)
    counted = activations(shape, 48)
    assert counted.layer > 0
    assert counted.of(4, 5) == pytest.approx(kept_on_cpu(shape, 4, 5, 48), rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_are_those_of_the_real_model(tied):
    shape = small(tied=tied)
    model, size = random_model(shape, "cpu"), sizes(shape)
    groups = {name: sum(p.numel() for _, p in members) for name, members in model.trainable_groups().items()}
    assert size.lora == groups["lora"] and size.rows == groups["embed"] + groups.get("head", 0)
    assert size.base == sum(p.numel() for p in model.frozen().values())


def test_the_reference_model_is_sized_without_its_weights():
    lora = {"r": 8, "alpha": 16, "dropout": 0.05, "target_modules": PROJECTIONS}
    space = build_token_space(
        base_text_model="x",
        text_vocab_size=qwen3.TOKENIZER_IDS,
        n_special=64,
        image_tokenizer={"codebook_size": 8192},
        audio_codec={"n_codebooks": 4, "codebook_size": 1024},
    )
    shape = ModelSizes(qwen3.shape("8B"), lora, space, torch.bfloat16)
    size = sizes(shape)
    assert (size.base, size.rows) == (qwen3.parameters("8B"), 2 * 12_352 * 4096)
    assert size.lora == 36 * 8 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12_288))
    kept = [activations(shape, n) for n in (1024, 2048, 4096)]
    needs = [memory(shape, size, one, 1, "cuda").total for one in kept]
    first = memory(shape, size, kept[0], 1, "cuda").kept
    less = [memory(shape, size, kept[-1], 1, "cuda", layers).kept for layers in (0, 12, 36)]
    assert less == sorted(less, reverse=True) and less[-1] < first
    assert needs == sorted(needs) and needs[0] > 2 * qwen3.parameters("8B")
    speed = counted_speed(shape, size, 2048, 350, "")
    assert 25e9 < speed.token * 350e12 < 40e9  # a little over 4 operations a frozen weight


def test_a_split_base_leaves_each_rank_its_share_and_what_it_borrows():
    shape = small()
    size, kept = sizes(shape), activations(shape, 64)
    alone, each, split = (
        memory(shape, size, kept, 1, "cuda", spread=spread) for spread in (Spread(), Spread(4), Spread(4, split=True))
    )
    layers = shape.layers * size.layer_weights * 4
    assert alone.weights == each.weights and each.weights - split.weights == layers * 3 // 4
    assert split.trained == alone.trained  # and what trains is whole on every rank
    assert each.working - alone.working == 4 * size.trained
    assert split.working - each.working == footprint.BORROWED_LAYERS * size.layer_weights * 4
    # A look at a checkpoint takes a whole base more, where it is not left to stage trend.
    assert alone.look > alone.weights and split.look == 0 and memory(shape, size, kept, 1, "cpu").look == 0
    assert alone.total == alone.weights + alone.trained + alone.context + max(alone.kept + alone.working, alone.look)


def test_time_on_this_machine_grows_with_the_work():
    shape = small()
    speed = timed_speed(shape, sizes(shape), 64, "cpu")
    assert min(speed.token, speed.supervised, speed.step) > 0 and "timed" in speed.how
    assert speed.of(2000, 100) > speed.of(1000, 100) > speed.of(1000, 50)
    assert speed.of(1000, 50, 1.0) > speed.of(1000, 50, 0.5) > speed.of(1000, 50)


def test_random_examples_have_the_lengths_of_the_task():
    kept = {
        "t2a": Kept(10, 10, 0, 60, 40.0, 29.0, (60, 60, 60)),
        "i2t": Kept(10, 10, 0, 30, 25.0, 9.0, (30, 30, 30)),
    }
    for task, one in kept.items():
        source = RandomExamples(SPACE, task, one, 0)
        made = [source.draw(i) for i in range(len(source))]
        assert sum(len(example) for example in made) / len(made) == pytest.approx(one.mean, rel=0.15)
        assert max(len(example) for example in made) <= one.longest + SPACE.n_codebooks
        assert all((example.labels >= 0).sum() > 1 for example in made)


def test_real_steps_are_within_reach_of_the_estimates():
    """Loose bounds: other work on the machine moves both. `doit fit --measure` says by how much they are
    off."""
    shape = small()
    kept = {
        "t2i": Kept(100, 100, 0, 40, 30.0, 17.0, (40, 40, 40)),
        "i2t": Kept(100, 100, 0, 40, 30.0, 9.0, (40, 40, 40)),
    }
    data = {
        "seed": 1,
        "mixture": {"weights": {"t2i": 0.5, "i2t": 0.5}, "text_replay": 0.0, "ramp": 0.1},
        "train": {
            "steps": 50,
            "tokens_per_step": 1024,
            "row_len": 64,
            "lr": {"lora": 1e-3, "embed": 1e-3, "head": 1e-3},
            "min_lr_ratio": 0.1,
            "weight_decay": 0.0,
            "betas": [0.9, 0.95],
            "clip": 1.0,
            "loss": {"support": "full"},
            "log_every": 10,
        },
    }
    found = measure(shape, data, kept, "cpu", 2)
    need = memory(shape, sizes(shape), activations(shape, 64), 18, "cpu")
    assert found["memory"] / 4 < need.total < 4 * found["memory"] + (64 << 20)
    assert found["tokens_per_second"] > 0 and found["libraries"] > 100 << 20
