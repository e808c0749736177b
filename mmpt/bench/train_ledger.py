"""What a training step costs on a GPU, estimated without one: `python -m mmpt.bench.train_ledger [--shape qwen3-8b]`.

The real step (mmpt/train/loop.py) runs on torch's device "meta", where nothing is computed, and every operator is
written down with its FLOPs and the bytes it reads and writes. An operator's time is the longer of the two at the rates
below, which are what such kernels reach, not the data sheet's; so all times are estimates, and good for one question:
which operators are worth changing. Nothing is counted for what a host does late.

    eager      each operator as it is
    compiled   decoder layers as torch.compile cuts them: what lies between two products is one pass, which reads
               what the products left and writes what the next ones need
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmpt.bench.train_work import WORKLOADS, Workload, make_data, meta_model, open_loader
from mmpt.model.compiled import compile_layers
from mmpt.model.meta import as_on_cuda
from mmpt.model.multimodal import MultimodalLM
from mmpt.train import loop
from mmpt.train.distributed import Ranks
from mmpt.train.gpus import GPUS
from mmpt.train.settings import TrainSettings
from mmpt.train.speed import Flops

TENSOR = GPUS["h100"].tflops * 1e12  # of an H200 too
PEAK = {torch.bfloat16: TENSOR, torch.float16: TENSOR, torch.float32: 67e12, torch.float64: 67e12}
MEMORY = {"h100": 3.35e12, "h200": 4.8e12}  # bytes per second, data sheet
REACHED = {"products": 0.70, "attention": 0.40, "head and loss": 0.50}  # of PEAK
STREAMED = 0.85  # of MEMORY
LAUNCH = 2.5e-6  # seconds that the smallest kernel takes
OPTIMIZER = "optimizer"
NARROW = 64  # a product with a side as short as this is one of LoRA's

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.addmm_}
FREE = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten._unsafe_view}


@dataclass(frozen=True)
class Line:
    """One kernel: its class, the operator's name, dtype of its products, FLOPs, bytes read and written."""

    kind: str
    name: str
    dtype: torch.dtype
    flops: float
    bytes: float

    def seconds(self, memory: float) -> float:
        """At `memory` bytes per second."""
        rate = PEAK.get(self.dtype, PEAK[torch.float32]) * REACHED.get(self.kind, REACHED["products"])
        least = 0.0 if self.kind == OPTIMIZER else LAUNCH  # it takes many tensors at once
        return max(self.flops / rate, self.bytes / (memory * STREAMED), least)


@dataclass
class Ledger(TorchDispatchMode):
    """Writes down what runs inside. pairs: of tokens that meet in a call of attention. kind: of all lines, if given."""

    lines: list[Line] = field(default_factory=list)
    pairs: int = 0
    kind: str = ""
    silent: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def is_infra_mode(cls) -> bool:
        """torch.compile refuses to work under other modes."""
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not self.silent:
            self.note(func, args, kwargs or {}, out)
        return out

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Add an operator, unless it moves nothing."""
        packet = func.overloadpacket
        read = _tensors((args, kwargs))
        if "mmpt_lora" in func.name():
            return self._low_rank(func, args)
        written = _tensors(out) or (read if func._schema.is_mutable else [])
        if packet in FREE or not written or (_is_view(func, read, written) and not func._schema.is_mutable):
            return
        dtype = next((one.dtype for one in (*read, *written) if one.is_floating_point()), torch.float32)
        flops, moved = self._flops(func, args, kwargs, out, read), _size(read) + _size(written)
        self.lines.append(Line(self.kind or _kind(func, read), func.name(), dtype, flops, moved))

    def _low_rank(self, func: Any, args: Any) -> None:
        """The products that are inside our LoRA operator, which has no step-by-step form on "meta"."""
        if "backward" in func.name():
            grad, x, _, weight, down, up, _, own, wants_x, wants_down, wants_up = args
            shapes = [("products", grad, weight, 1)] * wants_x
            low = [(grad, up, 1), *[(grad, up, 1)] * wants_up, *[(x, down, 1)] * wants_down]
            low += [(x, down, 1 if own else 2)] * wants_x  # added to what is there: read and written
        else:
            x, _, weight, _, down, up, _ = args
            shapes, low = [("products", x, weight, 1)], [(x, down, 1), (x, None, 0)]
            low[1] = (x.new_empty(*x.shape[:-1], up.shape[0]), up, 2)
        for kind, wide, matrix, passes in (*shapes, *(("LoRA's products", *one) for one in low)):
            tokens = wide.numel() // wide.shape[-1]
            moved = matrix.element_size() * (matrix.numel() + tokens * (passes * wide.shape[-1] + min(matrix.shape)))
            if kind == "products":
                moved = matrix.element_size() * (matrix.numel() + tokens * sum(matrix.shape))
            self.lines.append(Line(kind, func.name(), x.dtype, 2.0 * tokens * matrix.numel(), float(moved)))

    def _flops(self, func: Any, args: Any, kwargs: Any, out: Any, read: list[Tensor]) -> float:
        packet, name = func.overloadpacket, func.name()
        if packet is aten.addmm_:
            return 2.0 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        if packet in PRODUCTS:
            return float(flop_registry[packet](*args, **kwargs, out_val=out))
        if "varlen_attn" in name:
            heads, width = read[0].shape[-2:]
            return (10.0 if "backward" in name else 4.0) * heads * width * self.pairs
        if "mmpt::linear_cross_entropy" in name:  # logits, and the gradients of hidden and of the new rows
            hidden, base, new = (one for one in read if one.ndim == 2)
            return hidden.shape[0] * (4.0 * base.numel() + 6.0 * new.numel())
        return 0.0


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in torch.utils._pytree.tree_leaves(tree) if isinstance(one, Tensor)]


def _size(tensors: Sequence[Tensor]) -> float:
    return float(sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors))


def _is_view(func: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    return func.is_view or all(any(out is one for one in read) for out in written)


def _kind(func: Any, read: Sequence[Tensor]) -> str:
    packet, name = func.overloadpacket, func.name()
    if packet in PRODUCTS:
        return "LoRA's products" if min(min(one.shape) for one in read[-2:]) <= NARROW else "products"
    if "attn" in name:
        return "attention"
    if "linear_cross_entropy" in name:
        return "head and loss"
    if packet in (aten._to_copy, aten.copy_, aten.clone, aten.cat):
        return "casts and copies"
    return "between products"


# ---- the layers as the compiler cuts them ----------------------------------------------------------------------------


class _Fused(Interpreter):
    """Runs a graph that the compiler was given and writes it down fused: products and attention on their own, and all
    that hangs together between them as one kernel.
    """

    def __init__(self, graph: GraphModule, ledger: Ledger):
        super().__init__(graph)
        self.ledger = ledger
        self.seen: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        out = super().run_node(n)
        self.seen[n] = out
        if n.op == "call_function" and _apart(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            operator: Any = n.target
            self.ledger.note(operator, args, kwargs, out)
            if operator.overloadpacket is aten.addmm:  # its sum is copied to where the product adds to it
                self.ledger.lines.append(Line("casts and copies", "addmm's sum", out.dtype, 0.0, 2 * _size([out])))
        return out

    def run(self, *args: Any, **kwargs: Any) -> Any:
        out = super().run(*args, **kwargs)
        groups: dict[Node, set[Node]] = {}
        for node in self.module.graph.nodes:
            if not _fusible(node):
                continue
            merged = {node}.union(*(groups[one] for one in node.all_input_nodes if one in groups))
            groups.update(dict.fromkeys(merged, merged))
        for group in {id(one): one for one in groups.values()}.values():
            self._one_kernel(group)
        return out

    def _one_kernel(self, group: set[Node]) -> None:
        outside = {one for node in group for one in node.all_input_nodes if one not in group}
        needed = {node for node in group if any(user not in group for user in node.users)}
        working = [node for node in group if not cast(Any, node.target).is_view]
        if working:
            moved = sum(_size(_tensors(self.seen[one])) for one in (*outside, *needed))
            dtype = next(one.dtype for node in working for one in _tensors(self.seen[node]))
            self.ledger.lines.append(Line("between products", "fused", dtype, 0.0, moved))


def _apart(node: Node) -> bool:
    """A kernel that the compiler does not write."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet in PRODUCTS or (packet is not None and not str(packet).startswith(("aten", "prims")))


def _fusible(node: Node) -> bool:
    if node.op != "call_function" or _apart(node) or not hasattr(node.target, "is_view"):
        return False
    return isinstance(node.meta.get("val"), Tensor)


def fused_backend(ledger: Ledger) -> Callable[..., Any]:
    """A backend for torch.compile: nothing is compiled, and each run is written down as if it were."""
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    def hold(graph: GraphModule, inputs: Any) -> Callable[..., Any]:
        def once(*args: Any) -> Any:
            ledger.silent = True
            try:
                return _Fused(graph, ledger).run(*args)
            finally:
                ledger.silent = False

        return make_boxed_func(once)

    return aot_autograd(
        fw_compiler=hold,
        bw_compiler=hold,
        decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )


# ---- the step, as on CUDA ------------------------------------------------------------------------------------


def step_lines(
    model: MultimodalLM, shape: Workload, folder: Path, *, compiled: bool = False
) -> tuple[list[Line], float, int]:
    """(the second step's kernels, the FLOPs that its batch needs, its tokens)."""
    make_data(folder, shape)
    rates = dict.fromkeys(("lora", "embed", "head"), 1e-4)
    loader, settings = open_loader(folder, shape), TrainSettings(10, rates, micro_rows=shape.micro_rows)
    ledger = Ledger()
    if compiled:
        compile_layers(model.lm.get_base_model(), fused_backend(ledger))
    right = loop.backward

    def then_optimizer(*given: Any) -> Any:
        tally = right(*given)
        ledger.kind = OPTIMIZER
        return tally

    with as_on_cuda(), mock.patch.object(loop, "backward", then_optimizer):
        run = loop._before(model, loader, settings, folder / "run", loop.Hooks(), Ranks.alone())
        for step in range(2):
            laid = loop._lay(run, step)
            ledger.lines.clear()
            lengths = [length for piece in laid.pieces for length in piece.lengths or ()]
            # All micro-batches alike: each is counted with the mean number of pairs.
            ledger.pairs = sum(n * (n + 1) // 2 for n in lengths) // len(laid.pieces)
            ledger.kind = ""
            with ledger:
                loop._one_step(run, laid, None)
    return ledger.lines, Flops.of(model, "full").of_batch(laid.batch), laid.batch.n_tokens


def _largest(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def table(lines: Sequence[Line], flops: float, tokens: int, gpu: str) -> str:
    """Milliseconds by class of kernel, and the largest operators outside products."""
    spent: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    moved: dict[str, float] = defaultdict(float)
    kernels: Counter[str] = Counter()
    for line in lines:
        seconds = line.seconds(MEMORY[gpu])
        wide = line.flops and line.dtype == torch.float32
        kind = f"{line.kind}, fp32" if wide and "products" in line.kind else line.kind
        spent[kind] += seconds
        moved[kind] += line.bytes
        kernels[kind] += 1
        names[line.name] += seconds
    total = sum(spent.values())
    rows = [
        f"{kind:28}{1e3 * s:9.1f} ms{s / total:7.1%}{moved[kind] / 1e9:9.1f} GB{kernels[kind]:8,} kernels"
        for kind, s in _largest(spent)
    ]
    share = flops / total / PEAK[torch.bfloat16]
    rows.append(f"{'all':28}{1e3 * total:9.1f} ms, {tokens / total:,.0f} tokens/s, MFU {share:.1%} of {gpu}")
    rows.append("most: " + ", ".join(f"{name} {1e3 * s:.1f}" for name, s in _largest(names)[:12]))
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the estimate of each way of running a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-8b", choices=list(WORKLOADS))
    arguments = parser.parse_args(argv)
    shape = WORKLOADS[arguments.shape]
    ways = {"PEFT's LoRA, transformers' norms": (False, False), "ours": (True, False), "compiled": (True, True)}
    for name, (ours, compiled) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            model = meta_model(shape, torch.bfloat16, ours=ours)
            found = step_lines(model, shape, Path(folder), compiled=compiled)
        print(f"\n{arguments.shape}, bfloat16, {found[2]:,} tokens: {name} (an estimate)")
        for gpu in MEMORY:
            print(table(*found, gpu), flush=True)


if __name__ == "__main__":
    main()
