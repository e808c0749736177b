"""The numbers of a run for TensorBoard, where the package `tensorboard` is installed: logs/tensorboard/<run>."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoardWriter:
    """Writes numbers by step; does nothing without a folder or without the package.

    Args:
        folder: of this run alone. purge: step that a resumed run starts from: what was written of later ones is
            not shown.
    """

    def __init__(self, folder: Path | None, purge: int):
        self._writer: Any = None
        if folder is not None and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Numbers by name; those that are None are left out."""
        if self._writer is not None:
            for name, value in numbers.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Nothing is written after."""
        if self._writer is not None:
            self._writer.close()
