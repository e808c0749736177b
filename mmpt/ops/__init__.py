"""The two operations of this project: masked cross-entropy and range-constrained sampling."""

from mmpt.ops.linear_cross_entropy import LossResult, linear_cross_entropy
from mmpt.ops.sampling import sample_logits, sample_range

__all__ = ["LossResult", "linear_cross_entropy", "sample_logits", "sample_range"]
