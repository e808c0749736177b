"""The row of a log interval: what each number is of."""

import numpy as np
import pytest
import torch

from mmpt.train.meters import Interval, modality_norms, row_norms
from mmpt.train.objective import Sums
from tests.model.tiny_model import small_model, small_space

SPACE = small_space()


def test_the_overall_loss_is_of_the_four_tasks_and_replayed_text_has_its_own():
    sums = Sums.zero(SPACE)
    sums.nll[:, 0], sums.count[:, 0] = [2.0, 4.0, 6.0, 8.0, 100.0], [2, 2, 2, 2, 4]
    interval = Interval.empty(SPACE)
    interval.add(sums, 1.0, 0.5, 1.0, 12)
    row = interval.row(SPACE, 1, {}, {}, {})
    assert row["loss"] == pytest.approx(20 / 8) and row["loss_text"] == pytest.approx(25.0)


def test_norms_of_the_modality_rows_have_the_specifications_names(tmp_path):
    model = small_model(tmp_path)
    with torch.no_grad():
        model.embedding.rows.zero_()
        start = model.space.new_start
        image = model.space.image_range
        model.embedding.rows[image.start - start, 0] = 3.0
    found = modality_norms(model)
    sizes = [one.stop - one.start for one in model.space.ranges.values() if one.name.startswith(("IMAGE", "AUDIO"))]
    norms = np.zeros(sum(sizes))
    norms[0] = 3.0
    assert found["emb_norm_mean"] == pytest.approx(norms.mean()) and found["emb_norm_std"] == pytest.approx(norms.std())
    assert ("head_norm_mean" in found) == (not model.tied)
    assert row_norms(model)["embed_image"] == pytest.approx(3.0 / sizes[0])
