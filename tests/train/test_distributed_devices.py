"""One rank with a process group of its own, on a CPU (gloo) and on a GPU (NCCL), where two ranks need two GPUs."""

import socket
import weakref

import pytest
import torch
import torch.distributed as dist

from mmpt.train import sharding
from mmpt.train.distributed import Ranks, all_reduce
from mmpt.train.sharding import shard_base, sharded
from tests.model.tiny_model import save_base
from tests.train.rank_work import model_of, run
from tests.train.test_distributed import files

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def ranks(device, monkeypatch):
    """As a launcher starts it, on a machine that shows this task GPU 0 alone and calls it the machine's fourth."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_PORT": free.getsockname()[1], "MASTER_ADDR": "127.0.0.1", "RANK": 0, "WORLD_SIZE": 1}
    for name, value in {**place, "LOCAL_RANK": 3}.items():
        monkeypatch.setenv(name, str(value))
    with Ranks.from_environment(device) as ranks:
        yield ranks
    assert not dist.is_initialized()


def test_sums_stay_on_the_device_and_what_the_host_compares_does_not(ranks, device):
    values = [torch.full((3, 2), 1.5, device=device), torch.tensor(2.5, dtype=torch.float64, device=device)]
    all_reduce([*values, torch.ones(4, device=device)])
    assert values[0].sum() == 9 and values[1] == 2.5
    box: list = [{"a": 1}]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    dist.all_reduce(torch.zeros(1))
    if device != "cpu":
        assert torch.cuda.current_device() == 0
        assert "nccl" in dist.get_backend_config() and "gloo" in dist.get_backend_config()


# torch.compile's tracing takes a minute where other work goes on.
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_split_base_on_its_device_trains_to_the_same_bytes(ranks, device, compiled, tmp_path):
    """Layers read one by one, dropout, trained norms, a layer that is run again, a measurement without gradients."""
    save_base(tmp_path / "base", tied=False)
    for name, split in {"whole": False, "split": True}.items():
        options = {"layers_aside": True} if split else {"device": device}
        model = model_of(tmp_path, layer_norm=True, **options)
        model.checkpoint_layers(1)
        if compiled:
            model.compile_layers("aot_eager")
        if split:  # the rows' start values are drawn where the base is, on a GPU by other sums than on the host
            model.load_adapter(tmp_path / "whole" / "steps" / "step_0")
        run(tmp_path, name, ranks, model=model, split=split, device=device, steps=6, save_every=3)
        assert sharded(model) == split and not model.aside and model.device == torch.device(device)
    assert files(tmp_path / "whole") == files(tmp_path / "split")


def test_only_one_layer_at_a_time_is_whole(ranks, device, tmp_path, monkeypatch):
    save_base(tmp_path / "base")
    model, right, seen = model_of(tmp_path, layers_aside=True), sharding.put_back, []

    def put_back(layer, aside, where):
        assert not any(earlier() is not None for earlier in seen), "a layer that is split is still held whole"
        right(layer, aside, where)
        added = {id(parameter) for parameter in model.adapter_parameters().values()}
        seen.extend(weakref.ref(one) for one in layer.parameters() if id(one) not in added)

    monkeypatch.setattr(sharding, "put_back", put_back)
    shard_base(model, ranks, device)
    assert len(seen) > 2


def test_a_bfloat16_base_of_a_float32_file_is_cast_layer_by_layer(ranks, device, tmp_path):
    save_base(tmp_path / "base")
    whole = model_of(tmp_path, dtype=torch.bfloat16, device=device).eval()
    model = model_of(tmp_path, dtype=torch.bfloat16, layers_aside=True).eval()
    shard_base(model, ranks, device)
    token = torch.arange(6, device=device)[None]
    with torch.no_grad():
        assert torch.equal(model.hidden(token, token, packed=False), whole.hidden(token, token, packed=False))
