"""The two operations of this project: masked cross-entropy and range-constrained sampling, compiled or plain."""

from mmpt.ops.backend import active, adopt, linear_cross_entropy, sample_logits, sample_range, screen, use
from mmpt.ops.modules import LinearCrossEntropy
from mmpt.ops.reference_loss import LossResult
from mmpt.ops.screens import Screen

__all__ = [
    "LinearCrossEntropy",
    "LossResult",
    "Screen",
    "active",
    "adopt",
    "linear_cross_entropy",
    "sample_logits",
    "sample_range",
    "screen",
    "use",
]
