"""The loss as a torch module, for a training loop of one's own."""

from __future__ import annotations

from torch import Tensor, nn

from mmpt.ops.backend import linear_cross_entropy


class LinearCrossEntropy(nn.Module):
    """Head and cross-entropy in one: `linear_cross_entropy` with its settings kept. It has no weights of its own.

    Args:
        ignore_index, softcap, z_loss, label_smoothing, reduction: as of `mmpt.ops.linear_cross_entropy`.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        softcap: float | None = None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ):
        super().__init__()
        self.settings = dict(
            ignore_index=ignore_index,
            softcap=softcap,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )

    def forward(self, hidden: Tensor, labels: Tensor, weight_base: Tensor, weight_new: Tensor | None = None) -> Tensor:
        """The loss, a scalar; with reduction "none" one number for each label, in the labels' shape.

        Args:
            hidden: [.., H]. labels: int [..], aligned with hidden: shift them before.
            weight_base: [V0, H]. weight_new: [T, H], rows of further ids; None: there are none.

        Raises:
            ValueError: shapes that do not fit, a label without a row.
        """
        flat = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
        loss = linear_cross_entropy(*flat, weight_base, weight_new, **self.settings)
        return loss.reshape(labels.shape) if loss.ndim else loss

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
