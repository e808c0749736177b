"""Gate K1's measurement: the ops against torch in float64, and samplers against their exact support.

An error is divided by its tolerance: twice the error that torch's own operators make in the same dtype on the
same case, and never less than a floor, because torch may be exact by luck. So 1.0 means "twice as far off as
torch".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpt.ops.backend import linear_cross_entropy, sample_logits, sample_range, screen

QUANTITIES = ("loss", "nll", "lse", "grad_hidden", "grad_weight")
# Share of the quantity's largest value. A bf16 result rounded once is off by up to 2^-9 of it: twice that is no error.
FLOOR = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
HOPELESS = 1e9  # stands for the error of a NaN or Inf: JSON has neither
NEAR = 1e-4  # logits closer than this are a tie for a greedy choice made in fp32


@dataclass
class Findings:
    """What the cases showed.

    errors: worst error over tolerance, and cases: how many, by slice "<op>.<quantity>.<device>".
    violations: draws outside the support, or by a screen and unlike the draw without it, and draws: how many, by
    "<op>.<device>".
    """

    errors: dict[str, float] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    draws: dict[str, int] = field(default_factory=dict)
    nonfinite: int = 0
    values: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LossCase:
    """hidden [rows, width], base and new rows of the head, share supervised, options of the op."""

    rows: int
    width: int
    base: int
    new: int
    supervised: float
    options: dict = field(default_factory=dict)


LOSS_CASES = (
    LossCase(64, 32, 301, 76, 0.4),
    LossCase(33, 17, 1, 50, 1.0),
    LossCase(48, 24, 97, 31, 0.5, {"softcap": 5.0}),
    LossCase(48, 24, 97, 31, 0.5, {"z_loss": 0.01, "label_smoothing": 0.1}),
    LossCase(48, 24, 97, 31, 0.0),
    LossCase(40, 24, 60, 68, 0.7, {"ranges": True}),
    # More rows, columns and dimensions than one tile of any kernel holds, none of them a multiple of a vector.
    LossCase(301, 131, 9001, 703, 0.5),
    LossCase(301, 131, 9001, 703, 0.5, {"ranges": True}),
)


def devices() -> list[str]:
    """Device kinds that this machine has."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def check(device: str, seed: int, progress: Callable[[int, int], None] = lambda done, total: None) -> Findings:
    """Run every case on one device; `progress` is called with (cases done, all)."""
    found = Findings()
    steps: list[Callable[[], None]] = []
    for index, case in enumerate(LOSS_CASES):
        steps += [
            partial(_check_loss, found, case, dtype, device, seed + index) for dtype in (torch.float32, torch.bfloat16)
        ]
    steps += [partial(_check_sampling, found, device, np.random.default_rng([seed, index])) for index in range(24)]
    generators = (torch.Generator().manual_seed(seed + index) for index in range(4))
    steps += [partial(_check_screen, found, device, generator) for generator in generators]
    for done, step in enumerate(steps):
        progress(done, len(steps))
        step()
    return found


def rehearse(device: str) -> None:
    """The operations of `check` on a device, of which nothing is read: tensors without storage will do."""
    for case in LOSS_CASES:
        for dtype in (torch.float32, torch.bfloat16):
            (hidden, base, new, labels), bounds, options = _problem(case, dtype, 0)
            _our_loss(hidden.to(device), base.to(device), new.to(device), labels.to(device), bounds, options)


def _problem(case: LossCase, dtype: torch.dtype, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Any, dict]:
    """((hidden, base, new, labels), bounds of each row or None, options) on the CPU."""
    g = torch.Generator().manual_seed(seed)
    hidden, base, new = (torch.randn(n, case.width, generator=g).to(dtype) for n in (case.rows, case.base, case.new))
    labels = torch.randint(0, case.base + case.new, (case.rows,), generator=g)
    labels[torch.rand(case.rows, generator=g) >= case.supervised] = -100
    options = dict(case.options)
    bounds = None
    if options.pop("ranges", False):
        in_base = labels < case.base
        bounds = torch.where(in_base, 0, case.base), torch.where(in_base, case.base, case.base + case.new)
    return (hidden, base, new, labels), bounds, options


def _check_loss(found: Findings, case: LossCase, dtype: torch.dtype, device: str, seed: int) -> None:
    (hidden, base, new, labels), bounds, options = _problem(case, dtype, seed)
    exact = _torch_loss(hidden.double(), base.double(), new.double(), labels, bounds, options)
    peer = _torch_loss(hidden, base, new, labels, bounds, options)
    h, b, n, y = (t.to(device) for t in (hidden, base, new, labels))
    ours = _our_loss(h, b, n, y, bounds, options)
    for name in QUANTITIES:
        got, truth = ours[name].double().cpu(), exact[name]
        scale = max(float(truth.abs().max()), 1e-30)
        tolerance = max(2 * float((peer[name].double() - truth).abs().max()) / scale, FLOOR[dtype])
        bad = int((~torch.isfinite(got)).sum())
        found.nonfinite, found.values = found.nonfinite + bad, found.values + got.numel()
        error = HOPELESS if bad else float((got - truth).abs().max()) / scale / tolerance
        where = f"linear_cross_entropy.{name}.{device}"
        found.errors[where] = max(found.errors.get(where, 0.0), error)
        found.cases[where] = found.cases.get(where, 0) + 1
        if error > 1:
            found.notes.append(f"{where}: {error:.3g} times the tolerance in {case} {dtype}")


def _our_loss(hidden: Tensor, base: Tensor, new: Tensor, labels: Tensor, bounds, options: dict) -> dict[str, Tensor]:
    hidden.requires_grad_(), new.requires_grad_()
    bounds = None if bounds is None else tuple(bound.to(hidden.device) for bound in bounds)
    out = linear_cross_entropy(hidden, labels, base, new, column_range=bounds, return_stats=True, **options)
    d_hidden, d_new = torch.autograd.grad(out.loss, (hidden, new))
    return {
        "loss": out.loss.detach()[None],
        "nll": out.nll,
        "lse": out.lse,
        "grad_hidden": d_hidden,
        "grad_weight": d_new,
    }


def _torch_loss(hidden: Tensor, base: Tensor, new: Tensor, labels: Tensor, bounds, options: dict) -> dict[str, Tensor]:
    """The same from full logits with torch's own operators, in the dtype of the input."""
    hidden, new = hidden.clone().requires_grad_(), new.clone().requires_grad_()
    logits = hidden @ torch.cat([base, new]).T
    if "softcap" in options:
        logits = torch.tanh(logits / options["softcap"]) * options["softcap"]
    keep = labels != -100
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if bounds is not None:
        ids = torch.arange(logits.shape[1])
        allowed = (ids >= bounds[0][:, None]) & (ids < bounds[1][:, None])
    logits = logits.masked_fill(~allowed, -torch.inf)
    lse = torch.where(keep, logits.logsumexp(1), 0.0)
    picked = logits.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    nll = torch.where(keep, lse - picked, 0.0)
    eps = options.get("label_smoothing", 0.0)
    term = nll
    if eps:
        term = (1 - eps) * nll + eps * torch.where(keep, lse - logits.mean(1), 0.0)
    loss = (term + options.get("z_loss", 0.0) * lse * lse).sum() / max(int(keep.sum()), 1)
    d_hidden, d_new = torch.autograd.grad(loss, (hidden, new))
    detached = {"loss": loss[None], "nll": nll, "lse": lse}
    return {**{k: v.detach() for k, v in detached.items()}, "grad_hidden": d_hidden, "grad_weight": d_new}


def _check_sampling(found: Findings, device: str, rng: np.random.Generator) -> None:
    """One random batch, drawn greedily and with temperature, through both ops."""
    batch, width, split, vocab = 32, 8, 70, 110
    hidden, head = rng.normal(size=(batch, width)), rng.normal(size=(vocab, width))
    lo = rng.integers(0, vocab - 1, batch)
    hi = np.minimum(lo + rng.integers(1, 40, batch), vocab)
    extra = rng.integers(-1, vocab, batch)
    k, p = int(rng.integers(0, 6)), float(rng.choice([1.0, 0.5, 0.9]))
    logits = hidden @ head.T

    def put(a):
        return torch.as_tensor(a, device=device)

    seeds = put(rng.integers(0, 2**40, batch))
    for temperature in (0.0, 0.8):
        how = dict(extra_id=put(extra), temperature=temperature, top_k=k, top_p=p, seed=seeds, offset=3)
        draws = {
            "sample_range": sample_range(
                put(hidden).float(),
                put(head[:split]).float(),
                put(head[split:]).float(),
                put(lo),
                put(hi),
                **how,
            ),
            "sample_logits": sample_logits(put(logits).float(), put(lo), put(hi), **how),
        }
        for op, ids in draws.items():
            where = f"{op}.{device}"
            wrong = 0
            for row, drawn in enumerate(ids.cpu().tolist()):
                support = set(_support(logits[row], lo[row], hi[row], extra[row], temperature, k, p))
                wrong += drawn not in support
            found.violations[where] = found.violations.get(where, 0) + wrong
            found.draws[where] = found.draws.get(where, 0) + batch


def _check_screen(found: Findings, device: str, g: torch.Generator) -> None:
    """Wide draws by a screen, as generation makes them where one is offered, against the same draws without it."""
    batch, width, split, vocab = 32, 48, 5000, 6000
    for dtype in (torch.float32, torch.bfloat16):
        hidden, base, new = (
            torch.randn(n, width, generator=g).to(device, dtype) for n in (batch, split, vocab - split)
        )
        made = screen(base, new)
        if made is None:
            return
        for drawn in ({}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 5}):
            given = hidden, base, new, 100, vocab - 100
            how: dict[str, Any] = {**drawn, "extra_id": vocab - 1, "seed": torch.arange(batch)}
            where = f"sample_range.{device}"
            wrong = int((sample_range(*given, screen=made, **how) != sample_range(*given, **how)).sum())
            found.violations[where] = found.violations.get(where, 0) + wrong
            found.draws[where] = found.draws.get(where, 0) + batch
            if wrong:
                found.notes.append(f"{where}: {wrong} of {batch} draws by a screen are other ids, {dtype} {how}")


def _support(logits: np.ndarray, lo: int, hi: int, extra: int, temperature: float, k: int, p: float) -> Iterator[int]:
    """Ids that a draw may return, in float64; an id whose membership hangs on rounding counts as allowed."""
    ids = sorted({*range(lo, hi), *([int(extra)] if extra >= 0 else [])})
    order = sorted(ids, key=lambda i: (-logits[i], i))
    if temperature == 0:
        yield from (i for i in order if logits[i] >= logits[order[0]] - NEAR)
        return
    if k:
        order = [i for i in order if logits[i] >= logits[order[min(k, len(order)) - 1]] - NEAR]
    scaled = logits[order] / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    before = np.cumsum(probs) - probs
    yield from (i for i, mass in zip(order, before, strict=True) if mass < p + NEAR)
