"""The processes that train one model together: their ranks, sums over them, and checks that they agree.

What trains is the same on every rank and moves by the same numbers: gradients are *summed*, because the
objective's weights already count the tokens of the whole batch. CUDA tensors go through NCCL; what the host
compares or waits for goes through gloo, so that it never waits for a device.

A rank that dies leaves the others waiting, on the host or on their device; the launcher ends them all at once
(torchrun within a second, srun by --kill-on-bad-exit). PATIENCE ends only a rank that lives and never comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmpt.store.errors import UserError

# The others wait while rank 0 writes a checkpoint and looks at it (golden outputs, decoded), or while one that came
# later reads its base. They do so on the host: nothing is left on a device, whose own watchdog (10 minutes by default)
# is set to the same.
PATIENCE = timedelta(hours=1)


class RanksDiffer(RuntimeError):
    """Ranks that must hold the same numbers no longer do: going on would train a mixture of two models."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: its number, from 0; rank 0 (`lead`) alone writes files and logs.
        world: how many there are; 1: nothing below talks to anyone.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def alone(cls) -> Ranks:
        """One process, no communication."""
        return cls()

    @classmethod
    @contextlib.contextmanager
    def from_environment(cls, device: str = "cpu") -> Iterator[Ranks]:
        """Join the processes that torchrun started, inside the block.

        Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

        Args:
            device: this rank's own, "cpu" or "cuda:<n>". It becomes the current one and NCCL's, which otherwise is
                guessed from LOCAL_RANK: wrong where a cluster shows each task its own GPU alone, as number 0.

        Raises:
            UserError: not started by a launcher.
        """
        if missing := [name for name in _ENVIRONMENT if name not in os.environ]:
            raise UserError(
                "this process was not started as one of several ranks",
                where=missing[0],
                expected="an environment as torchrun sets it",
                fix="let the launcher start it",
            )
        bound: dict[str, Any] = {"backend": "gloo"}
        if device != "cpu":
            torch.cuda.set_device(device)
            bound = {"backend": "cpu:gloo,cuda:nccl", "device_id": torch.device(device)}
        store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
        # torchrun (2.13) keeps one store over restarts, where the addresses of the dead ranks would be found.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(**bound, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        except BaseException:
            # NCCL would wait for what is on the device, a sum perhaps that the others never join; its sockets close
            # when this process ends, which is now.
            if device == "cpu":
                dist.destroy_process_group()
            raise
        dist.destroy_process_group()

    @property
    def lead(self) -> bool:
        """Whether this rank writes and logs."""
        return self.rank == 0

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Which pieces are this rank's, ascending: dealt by falling size, each second round the other way about.

        The pieces left over after whole rounds are the smallest, and go to the ranks whose others are small: of 9
        micro-batches, the last of which is a packing's rest, 8 ranks take little longer than of 8.
        """
        order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
        rounds = [order[start : start + self.world] for start in range(0, len(order), self.world)]
        places = (self.world - 1 - self.rank if at % 2 else self.rank for at in range(len(rounds)))
        return sorted(one[place] for one, place in zip(rounds, places, strict=True) if place < len(one))

    def turns(self, total: int) -> int:
        """Pieces of the rank that has most of `total`: every rank takes as many turns, some of them empty."""
        return -(-total // self.world)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up over the ranks, in place and in each tensor's dtype; one flat all-reduce a dtype."""
        if self.world > 1:
            all_reduce(tensors)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))

    def from_lead(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def differing(self, facts: Mapping[str, Any]) -> tuple[str, int, Any, Any] | None:
        """(name, rank, its value, rank 0's value) of the first fact that is not the same everywhere, or None.

        Every rank calls it with the same names and gets the same answer.
        """
        if self.world == 1:
            return None
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, dict(facts))
        for name in facts:
            for rank, theirs in enumerate(gathered):
                if theirs[name] != gathered[0][name]:
                    return name, rank, theirs[name], gathered[0][name]
        return None

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise UserError, on every rank, unless each of `facts` is the same on every rank."""
        if found := self.differing(facts):
            name, rank, theirs, leads = found
            raise UserError(
                "the ranks would not train the same thing",
                where=name,
                found=f"{theirs} on rank {rank}",
                expected=f"{leads} as on rank 0",
                fix="give every rank the same profile, inputs and work folder",
            )

    def require_equal(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Raise RanksDiffer, on every rank, unless these replicas are bit for bit the same on every rank."""
        if self.world > 1 and (found := self.differing({"replicas": bits(tensors)})):
            raise RanksDiffer(
                f"step {step}: rank {found[1]} holds other weights than rank 0, though both added up the "
                "same gradients: a faulty device, or ranks of different kinds"
            )


def all_reduce(tensors: Sequence[Tensor]) -> None:
    """Sums over the process group in place, one flat one a dtype; on a device the host does not wait for them."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        members = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in members])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in members])
        torch._foreach_copy_(members, [part.view_as(one) for part, one in zip(parts, members, strict=True)])


_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def bits(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors by name: equal for equal bits. Sums of integers, so it costs one read on the device."""
    sums = [_bit_sum(tensor.detach()) for tensor in tensors.values()]
    values = torch.stack(sums).tolist() if sums else []
    return hashlib.sha256(repr(list(zip(tensors, values, strict=True))).encode()).hexdigest()[:16]


_AS_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
WORD = 8  # bytes


def _bit_sum(tensor: Tensor) -> Tensor:
    """Summed in words: sums of narrower integers into int64 make an int64 copy first, four times a bfloat16 base."""
    size = tensor.element_size()
    flat = tensor.contiguous().view(_AS_INTEGER[size]).reshape(-1)
    words, rest = flat.split([flat.numel() - (left := flat.numel() % (WORD // size)), left])
    if words.storage_offset() * size % WORD:
        words = words.clone()
    return words.view(torch.int64).sum() + rest.sum(dtype=torch.int64)
