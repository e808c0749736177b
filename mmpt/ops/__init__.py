"""The operations of this project, compiled or as reference: masked cross-entropy and range-constrained sampling."""

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
