"""Gate A2's measure: the optimizer changes every parameter that should train, and no other."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpt.model.multimodal import MultimodalLM, is_target
from mmpt.ops import linear_cross_entropy
from mmpt.store.evidence import Metric
from mmpt.tokens import TokenSpace
from mmpt.tokens.formats import LAYOUTS
from mmpt.train.preparation import Prepared
from mmpt.train.schedule import optimizer_of

STEPS = 2  # LoRA's B is zero at first: only the second step reaches A
ROW = 256  # ids of a probe row
PIECE_ROWS = 4  # that run at once: about 1,000 tokens, fewer than a micro-batch of real training holds


def check_trainable(prepared: Prepared) -> tuple[list[Metric], dict[str, Any]]:
    """Metrics and details of gate A2, on the model and the optimizer that stage train would start with.

    The model is trained for STEPS steps: nothing may use it afterwards.
    """
    model, optimizer = prepared.model, optimizer_of(prepared.model, prepared.settings)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0  # it would move a row that gets no gradient, and hide that it is dead
    found = {**held(model, optimizer), **moved(model, optimizer)}
    metrics = [Metric(name, value, n, "", "lower") for name, (value, n) in found.items()]
    counts = parameter_counts(model)
    metrics += [Metric("parameters", count, count, "parameters", slice=group) for group, count in counts.items()]
    return metrics, {**{name: value for name, (value, _) in found.items()}, "parameters": counts}


def used_rows(space: TokenSpace) -> np.ndarray:
    """int64: ids of all image and audio rows and of the specials that the formats use."""
    roles = {role for layout in LAYOUTS.values() for role in (*layout.head, *layout.join, layout.end)}
    segments = [segment for segment in (space.image_range, *space.audio_ranges) if segment is not None]
    have = {"img": space.image_range is not None, "aud": bool(space.audio_ranges)}
    roles = {role for role in roles if all(have[kind] for kind in have if kind in role)}
    ids = [space.special(role) for role in sorted(roles)]
    return np.concatenate([np.sort(ids), *(np.arange(s.start, s.stop) for s in segments)]).astype(np.int64)


def held(model: MultimodalLM, optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, int]]:
    """(offenders, items) of rows and LoRA matrices that no optimizer group holds with a positive rate."""
    inside = {id(p) for group in optimizer.param_groups if group["lr"] > 0 for p in group["params"]}
    matrices = row_matrices(model)
    rows = len(used_rows(model.space))
    absent = sum(rows for matrix in matrices.values() if id(matrix) not in inside)
    wanted = lora_targets(model)
    lora = {name: p for name, p in model.adapter_parameters().items() if ".lora_" in name}
    missing = sum(
        not any(name.endswith(f"{target}.lora_{side}.weight") and id(p) in inside for name, p in lora.items())
        for target in wanted
        for side in "AB"
    )
    return {
        "rows_not_in_optimizer": (absent, rows * len(matrices)),
        "lora_matrices_missing": (missing, 2 * len(wanted)),
    }


def row_matrices(model: MultimodalLM) -> dict[str, nn.Parameter]:
    """The new rows of the embedding and, where the head is its own, of the head."""
    heads = {} if model.head_rows is None else {"head_rows": model.head_rows}
    return {"embed_rows": model.embedding.rows, **heads}


def lora_targets(model: MultimodalLM) -> list[str]:
    """Paths of the linear layers, as in the base model, that the LoRA configuration names."""
    names = model.lora["target_modules"]
    paths = []
    for path, module in model.lm.get_base_model().named_modules():
        inner = getattr(module, "base_layer", module)
        if isinstance(inner, nn.Linear) and any(is_target(path, name) for name in names):
            paths.append(path)
    return paths


def moved(model: MultimodalLM, optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, int]]:
    """(offenders, items) after STEPS steps on sequences in which every used row is read and predicted."""
    rows = torch.as_tensor(used_rows(model.space) - model.space.new_start, device=model.device)
    before = {name: p.detach().clone() for name, p in model.adapter_parameters().items()}
    matrices = {name: matrix.detach().clone() for name, matrix in row_matrices(model).items()}
    frozen = {name: tensor_digest(p) for name, p in model.frozen().items()}
    for _ in range(STEPS):
        probe_step(model, optimizer)
    still = sum(
        int((matrix[rows] == old[rows]).all(1).sum())
        for matrix, old in zip(row_matrices(model).values(), matrices.values(), strict=True)
    )
    lora = {name: p for name, p in model.adapter_parameters().items() if ".lora_" in name}
    unchanged = sum(torch.equal(p, before[name]) for name, p in lora.items())
    changed = sum(tensor_digest(p) != frozen[name] for name, p in model.frozen().items())
    return {
        "trained_rows_unchanged": (still, len(rows) * len(matrices)),
        "lora_matrices_unchanged": (unchanged, len(lora)),
        "frozen_tensors_changed": (changed, len(frozen)),
    }


def probe_step(model: MultimodalLM, optimizer: torch.optim.Optimizer, most_pieces: int | None = None) -> None:
    """One optimizer step on sequences in which every used row is read once and predicted once.

    most_pieces: largest number of pieces, to count memory; None: all.

    It runs piece by piece in training mode, as `mmpt.train.objective.backward` does: all of Qwen3-8B's 12,642 tokens
    at once would keep 84 GiB of activations. The gradients of the pieces add up.
    """
    optimizer.zero_grad(set_to_none=True)
    model.train()
    rows = probe_rows(model.space)
    count = rows.shape[0] * (rows.shape[1] - 1)
    for piece in torch.from_numpy(rows).split(PIECE_ROWS)[:most_pieces]:
        loss = _summed_loss(model, piece.to(model.device)) / count
        loss.backward()
    optimizer.step()


def probe_rows(space: TokenSpace) -> np.ndarray:
    """int64 [rows, ROW + 2]: every used row's id between two text ids. A head of its own gives no gradient to the
    embedding of an id that is only predicted, so each id is read, too.
    """
    ids = used_rows(space)
    width = min(ROW, len(ids))
    padded = np.resize(ids, -(-len(ids) // width) * width).reshape(-1, width)
    text = np.zeros((len(padded), 1), np.int64)
    return np.concatenate([text, padded, text], axis=1)


def _summed_loss(model: MultimodalLM, rows: Tensor) -> Tensor:
    """Summed loss of predicting all but the first id of rows [B, L], which run as training runs packed sequences."""
    count, length = rows.shape
    positions = torch.arange(length, device=rows.device).expand(count, length)
    if model.packs:
        hidden = model.hidden(rows.reshape(1, -1), positions.reshape(1, -1), packed=True, lengths=(length,) * count)
    else:
        hidden = model.hidden(rows, positions, packed=False)
    hidden = hidden.reshape(count, length, -1)[:, :-1]
    return linear_cross_entropy(hidden.flatten(0, 1), rows[:, 1:].flatten(), *model.head(), reduction="sum")


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def parameter_counts(model: MultimodalLM) -> dict[str, int]:
    """Parameters by group: embed_rows, head_rows, lora, layer_norm, frozen."""
    names = {"embed": "embed_rows", "head": "head_rows"}
    groups = {
        names.get(group, group): sum(p.numel() for _, p in members)
        for group, members in model.trainable_groups().items()
    }
    return {
        **{name: groups.get(name, 0) for name in ("embed_rows", "head_rows", "lora", "layer_norm")},
        "frozen": sum(p.numel() for p in model.frozen().values()),
    }
