"""Networks without storage allocate what the same networks allocate where they are."""

import pytest
import torch

from mmpt.codecs import networks
from mmpt.codecs.encodec_weights import read_config
from mmpt.codecs.llamagen_modules import VqModel
from mmpt.model.meta import PeakMemory, as_on_cuda
from tests.codecs.small_weights import LLAMAGEN, write_encodec


def peak(run, device_type="meta"):
    with torch.inference_mode(), PeakMemory(device_type) as memory:
        kept = run()
    del kept
    return memory.peak


def test_a_small_llamagen_takes_what_it_takes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(networks, "LLAMAGEN", LLAMAGEN)
    found = networks.networks({"name": "llamagen", "size": 32})
    ours = peak(lambda: found.encode(3))
    assert peak(lambda: found.encode(3)) < ours  # it is open
    model = VqModel(LLAMAGEN).eval()
    weights = sum(4 * one.numel() for one in model.parameters())
    theirs = weights + peak(lambda: model.encode(torch.zeros(3, 3, 32, 32)), "cpu")
    assert ours == pytest.approx(theirs, rel=0.1) and ours > weights
    assert peak(lambda: networks.networks({"name": "llamagen", "size": 32}).decode()) > weights


@pytest.mark.parametrize("geometry", ["24k", "48k"])
def test_encodec_has_the_sizes_of_its_folder(tmp_path, geometry):
    write_encodec(geometry, tmp_path)
    section = {"name": "encodec", "path": str(tmp_path), "clip_seconds": 1.0, "n_codebooks": 4}
    weights = (tmp_path / "model.safetensors").stat().st_size
    one, four = (peak(lambda: networks.networks(section).encode(n)) for n in (1, 4))  # noqa: B023  (called within the loop)
    assert weights < one < four < 4 * one
    assert weights < peak(lambda: networks.networks(section).decode()) < four
    assert read_config(tmp_path).num_filters == 4


def test_what_is_no_network_and_what_is_not_known():
    assert networks.networks({"name": "melrvq"}) is None and not networks.unknown({"name": "melrvq"})
    assert networks.networks({"name": "theirs"}) is None and networks.unknown({"name": "theirs"})


@pytest.mark.slow
def test_seed_has_the_published_sizes():
    """About two billion parameters, 4 bytes each of what encodes and 2 of what paints."""
    pytest.importorskip("diffusers")
    with as_on_cuda():
        found = networks.networks({"name": "seed", "path": "nothing is there"})
        encoding = peak(lambda: found.encode(1))
        painting = peak(lambda: found.decode())
    assert 4.0e9 < encoding < 5.5e9 and 3.7e9 < painting < 5.5e9
