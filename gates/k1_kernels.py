"""K1, on the evidence of stage kernels.

What it finds: an op's loss, gradient or sample support is off its float64 reference, on CPU or on CUDA.
"""

GATE = {
    "id": "K1",
    "title": "Kernels agree with their float64 reference",
    "stage": "kernels",
    "blocks": "train",
    "checks": [
        # error of one quantity (loss, nll, lse, grad_hidden, grad_weight, ...) against float64, divided by
        # its tolerance
        {
            "id": "error",
            "metric": "error_over_tolerance",
            "slices": [
                "linear_cross_entropy.loss",
                "linear_cross_entropy.nll",
                "linear_cross_entropy.lse",
                "linear_cross_entropy.grad_hidden",
                "linear_cross_entropy.grad_weight",
            ],
            "each": True,
            "rule": "max",
            "message": "an op is further from its float64 reference than its tolerance",
            "remedy": (
                "{run}/kernels/data/kernels.json names the case; set ops.backend: reference to go on "
                "without the kernel, and run `pytest tests/ops` to mend it"
            ),
        },
        # sampled ids outside the allowed range, or with a zero probability under the reference; slice
        # <op>.<device>
        {
            "id": "support",
            "metric": "support_violations",
            "slices": ["sample_range", "sample_logits"],
            "each": True,
            "rule": "max",
            "message": "a sampler returned ids outside its support",
            "remedy": ("set ops.backend: reference to go on without the kernel, and run `pytest tests/ops` to mend it"),
        },
        # NaN or Inf in any output or gradient of the cases
        {
            "id": "nonfinite",
            "metric": "nonfinite_values",
            "rule": "max",
            "message": "an op produced NaN or Inf on finite input",
            "remedy": (
                "{run}/kernels/data/kernels.json names the case; set ops.backend: reference to go on "
                "without the kernel, and run `pytest tests/ops` to mend it"
            ),
        },
        # devices that torch sees or that the run computes on, and on which not every quantity was measured
        {
            "id": "devices",
            "metric": "devices_unchecked",
            "rule": "max",
            "message": "a device of this machine was not checked",
            "remedy": (
                "delete {run}/kernels and run doit where the device of runtime.device is visible "
                "(`nvidia-smi` lists it)"
            ),
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
