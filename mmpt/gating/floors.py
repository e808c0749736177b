"""Floors: the checks that no file can soften. A policy or a profile may make them stricter, never weaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmpt.gating.checks import Check, Gate
from mmpt.gating.softening import lower_bound
from mmpt.store.errors import UserError
from mmpt.store.tasks import EMIT_TASKS, MODALITIES, READ_TASKS, SPLITS, TASKS

LEAST_ITEMS = 64  # fewer decide nothing, whatever a file says: 64 coin flips are within 0.38 .. 0.62 (95 %)
LEAST_GROUPS = 20  # an interval drawn from fewer groups covers much less than it says
NO_DROPOUT = (("no_prompt_dropout", "info"),)
PICTURE = tuple(f"image.{one}" for one in ("shape", "colour", "size", "place", "background"))
SHIFTED = tuple(f"{task}.{shift:+d}" for task in TASKS for shift in (-2, -1, 1, 2))
SOUND = tuple(f"audio.{one}" for one in ("kind", "pitch", "contour", "count", "loudness"))
CAPTION = (*(one.replace("image", "i2t") for one in PICTURE), *(one.replace("audio", "a2t") for one in SOUND))
READ_BACK = ("t2a.a2t", "t2i.i2t")  # an emit task and the task that reads its outputs


@dataclass(frozen=True)
class Floor:
    """The least that a blocking check must ask; fields as in ``Check``."""

    id: str
    metric: str
    rule: str
    threshold: float | None
    slices: tuple[str, ...] = ("",)
    each: bool = False
    min_n: int = 1
    requires: str | None = None
    compared_with: str | None = None
    factor: float = 1.0
    margin: float = 0.0
    on_fail: str = "no_go"
    severity_when: tuple[tuple[str, str], ...] = ()


def _zero(name: str, metric: str, slices: tuple[str, ...] = ("",), **more: Any) -> Floor:
    return Floor(name, metric, "max", 0.0, slices, **more)


def _groups(slices: tuple[str, ...]) -> Floor:
    return Floor("groups", "independent_groups", "min", LEAST_GROUPS, slices, on_fail="cannot_decide")


def _at_least(name: str, metric: str, threshold: float, slices: tuple[str, ...], **more: Any) -> Floor:
    more = {"min_n": LEAST_ITEMS} | more
    return Floor(name, metric, "min", threshold, slices, **more)


def _above_zero(name: str, metric: str, slices: tuple[str, ...], **more: Any) -> Floor:
    return Floor(name, metric, "ci_low_above", 0.0, slices, min_n=LEAST_ITEMS, **more)


def _captions(prefix: str) -> tuple[Floor, ...]:
    """Attributes of free-running captions; prefix: "sampled_" at temperature 1."""
    return (
        _at_least(
            f"{prefix}captions",
            f"{prefix}caption_accuracy",
            0.6,
            CAPTION,
            each=True,
            compared_with=f"{prefix}caption_chance",
            margin=0.3,
            min_n=16,
        ),
        _at_least(f"{prefix}captions_mean", f"{prefix}caption_mean_accuracy", 0.80, READ_TASKS),
    )


FLOORS: dict[str, tuple[Floor, ...]] = {
    "K1": (
        Floor(
            "error",
            "error_over_tolerance",
            "max",
            1.0,
            tuple(f"linear_cross_entropy.{one}" for one in ("loss", "nll", "lse", "grad_hidden", "grad_weight")),
            each=True,
        ),
        _zero("support", "support_violations", ("sample_range", "sample_logits"), each=True),
        _zero("nonfinite", "nonfinite_values"),
        _zero("devices", "devices_unchecked"),
    ),
    "S2": (
        _zero("content", "content_in_two_splits"),
        _zero("near_duplicates", "near_duplicates_in_two_splits", requires="raw_media"),
        _zero("origins", "origins_in_two_splits"),
        _zero("official_test", "official_test_in_train", min_n=0, requires="raw_media"),
        _zero("unassigned", "records_without_split"),
        Floor(
            "sizes",
            "records_in_split",
            "min",
            1.0,
            tuple(f"{modality}.{split}" for modality in MODALITIES for split in SPLITS),
        ),
        _zero("combinations", "combinations_in_two_splits", requires="generated_corpus"),
    ),
    "S3": (
        _zero("segments", "ids_out_of_segment", MODALITIES),
        _zero("lengths", "length_mismatches", MODALITIES),
        _zero("digests", "digest_mismatches", MODALITIES),
        _zero("sides", "records_in_wrong_split", MODALITIES),
        _zero("accounted", "records_unaccounted", MODALITIES),
        _zero("twice", "records_twice", MODALITIES),
        Floor("reencode", "reencode_mismatch_rate", "max", 0.001, MODALITIES, requires="raw_media"),
        _zero(
            "reencode_items",
            "reencode_items_missing",
            MODALITIES,
            requires="raw_media",
            on_fail="cannot_decide",
        ),
        _zero("decode", "decode_errors", MODALITIES),
        _zero(
            "compared_items",
            "compare_items_missing",
            MODALITIES,
            requires="raw_media",
            on_fail="cannot_decide",
        ),
        _zero("contract", "contract_rules_broken", MODALITIES),
        Floor("trivial_items", "trivial_items_better", "max", 0.05, MODALITIES, requires="raw_media"),
        Floor("trivial_mean", "trivial_margin_mean", "min", 0.05, MODALITIES, requires="raw_media"),
        Floor("gain", "gain_over_constant", "min", 0.2, MODALITIES, requires="raw_media"),
        Floor("reconstruction", "reconstruction_margin", "min", 0.0, MODALITIES, requires="raw_media"),
        Floor("own", "own_win_rate", "min", 0.8, MODALITIES, requires="raw_media"),
        Floor(
            "si_sdr_baseline",
            "si_sdr_db",
            "min",
            None,
            ("audio",),
            requires="raw_media",
            compared_with="baseline",
            margin=-1.0,
        ),
        Floor(
            "log_mel_baseline",
            "log_mel_l1",
            "max",
            None,
            ("audio",),
            requires="raw_media",
            compared_with="baseline",
            factor=1.05,
        ),
        Floor(
            "psnr_baseline",
            "psnr_db",
            "min",
            None,
            ("image",),
            requires="raw_media",
            compared_with="baseline",
            margin=-0.5,
        ),
        Floor(
            "ssim_baseline",
            "ssim",
            "min",
            None,
            ("image",),
            requires="raw_media",
            compared_with="baseline",
            margin=-0.02,
        ),
        _zero("codec_fit", "codec_fit_items_outside_train", MODALITIES, min_n=0),
        _zero("base_text", "base_text_captions_outside_train", min_n=0),
    ),
    "A1": (
        Floor("digests", "distinct_digests", "equal", 1.0),
        _zero("upstream_sha", "upstream_sha_failures"),
        _zero("unmarked", "records_without_digest", on_fail="cannot_decide"),
    ),
    "A2": (
        _zero("rows_in_optimizer", "rows_not_in_optimizer"),
        _zero("lora_present", "lora_matrices_missing"),
        _zero("rows_changed", "trained_rows_unchanged"),
        _zero("lora_changed", "lora_matrices_unchanged"),
        _zero("frozen_same", "frozen_tensors_changed"),
    ),
    "A3": (
        _zero("order", "special_order_errors", TASKS),
        _zero("mask", "labels_outside_target", TASKS),
        _zero("no_label", "examples_without_label", TASKS),
        _zero("shortened", "shortened_targets", TASKS),
        _zero("segments", "labels_outside_segment", TASKS),
        _at_least("kept", "kept_share", 0.90, TASKS, min_n=1),
        Floor("packed", "packed_over_tolerance", "max", 1.0),
        _zero("packed_whole", "packed_sequences_unmatched"),
    ),
    "W1": (_zero("drawn", "drawn_outside_train", requires="warmed_up_here"),),
    "B2": (_zero("drawn", "drawn_outside_train"),),
    "A4": (
        _zero("decode", "decode_failures", MODALITIES, min_n=4),
        _zero("form", "decode_form_errors", MODALITIES, min_n=4),
    ),
    "B3": (
        _at_least("win_swapped", "win_rate_swapped", 0.70, EMIT_TASKS),
        _at_least("win_empty", "win_rate_empty", 0.80, EMIT_TASKS, severity_when=NO_DROPOUT),
        _above_zero("gap_swapped", "gap_swapped_nats", EMIT_TASKS),
        _above_zero("gap_empty", "gap_empty_nats", EMIT_TASKS, severity_when=NO_DROPOUT),
        _groups(EMIT_TASKS),
        _at_least("output_win", "output_win_rate", 0.70, EMIT_TASKS),
        _above_zero("output_gap", "output_gap_nats", EMIT_TASKS),
        _above_zero("read_back_gap", "read_back_gap_nats", READ_BACK),
    ),
    "C1": (
        _at_least("decode", "decode_success_rate", 1.0, EMIT_TASKS),
        _zero("range", "ids_out_of_range", EMIT_TASKS, min_n=LEAST_ITEMS),
        _zero("length", "length_mismatches", EMIT_TASKS, min_n=LEAST_ITEMS),
        _zero("complete", "golden_items_missing", EMIT_TASKS, on_fail="cannot_decide"),
        Floor("greedy", "not_greedy_rate", "max", 0.001, TASKS, min_n=16),
        Floor("drawn", "not_drawn_rate", "max", 0.001, TASKS, min_n=16),
        Floor("temperature", "draw_rank_z", "max", 5.0, TASKS, min_n=16),
    ),
    "C4": (
        _zero("parameters", "parameters_differing"),
        _zero("optimizer", "optimizer_tensors_differing"),
        _zero("rng", "rng_states_differing"),
        _zero("batches", "batches_differing"),
        _zero("losses", "losses_differing"),
        _zero("schedule", "schedule_differing"),
        _zero("sampler", "sampler_differing"),
        _zero("monitors", "monitors_differing"),
        _zero("intervals", "intervals_differing"),
        _zero("whole", "state_missing"),
        _zero("refusals", "mismatches_not_refused", ("token_space", "row_shape", "lora_config")),
    ),
    "L1": (
        _above_zero("shift", "shift_margin_nats", SHIFTED, each=True),
        Floor("decoding", "decoding_over_tolerance", "max", 1.0, TASKS, min_n=LEAST_ITEMS),
    ),
    "E1": (
        Floor("endless", "no_end_share", "ci_high_max", 0.01, ("t2a.sampled",), min_n=300),
        Floor("duration", "duration_off", "max", 0.1, ("t2a.sampled",), min_n=LEAST_ITEMS),
    ),
    "X1": (
        _zero("ids", "ids_differing", ("transformers",), each=True, min_n=LEAST_ITEMS),
        _zero("texts", "texts_differing", min_n=LEAST_ITEMS),
    ),
    "R1": (
        _above_zero("gap", "gap_swapped_nats", READ_TASKS),
        _groups(READ_TASKS),
        _at_least("win", "win_rate_swapped", 0.70, READ_TASKS),
        _at_least("output_win", "output_win_rate", 0.70, READ_TASKS),
        _above_zero("over_swapped", "caption_gain_over_swapped", READ_TASKS),
        _above_zero("over_blind", "caption_gain_over_blind", READ_TASKS),
    ),
    "Q1": (
        _at_least(
            "attributes", "accuracy", 0.6, (*PICTURE, *SOUND), each=True, compared_with="chance", margin=0.3, min_n=16
        ),
        _at_least("mean", "mean_accuracy", 0.80, MODALITIES),
        _at_least("oracle", "oracle_roundtrip_accuracy", 0.95, MODALITIES, on_fail="cannot_decide"),
        *_captions(""),
        *_captions("sampled_"),
    ),
}

# Gate -> what a NO_GO of it blocks, where that is not "train".
BLOCKS = dict.fromkeys(("B2", "B3", "C1", "C4", "L1", "E1", "X1", "R1", "Q1"), "release")
# Of these only the checks with a floor cannot be waived; of the other gates with floors, none can.
PARTLY = ("W1", "B2")
REQUIRES = {
    "Q1": "generated_corpus",
    "B2": "trained_here",
    "E1": "open_ended",
}  # gates that apply under a condition; it may be dropped, not added


def is_firm(gate_id: str, check_id: str) -> bool:
    """Whether a check cannot be waived."""
    return gate_id in FLOORS and (gate_id not in PARTLY or any(one.id == check_id for one in FLOORS[gate_id]))


def check_floors(gates: Mapping[str, Gate], where: object) -> None:
    """Hold the gates against the floors; a check that no file states cannot be decided and is no lowered floor.

    Raises:
        UserError: the first floor that is lowered: gate and check, what was found, what the floor is.
    """
    for gate_id, floors in FLOORS.items():
        gate = gates[gate_id]
        blocks, requires = BLOCKS.get(gate_id, "train"), REQUIRES.get(gate_id)
        if gate.requires not in (None, requires) or gate.blocks not in (blocks, "train"):
            raise UserError(
                f"gate {gate_id} has a floor",
                where=where,
                found=f"requires {gate.requires}, blocks {gate.blocks}",
                expected=f"requires {requires}, blocks {blocks}",
            )
        for floor in floors:
            check = gate.check(floor.id)
            lowered = [] if check is None else list(_lowered(check, floor))
            if lowered:
                raise UserError(
                    "a floor that no file can lower",
                    where=f"{where}: {gate_id}.{floor.id}",
                    found="; ".join(lowered),
                    fix="remove the change; this check may only be made stricter",
                )


def _lowered(check: Check, floor: Floor) -> Iterator[str]:
    """What in ``check`` asks less than ``floor``."""
    if check.severity != "block":
        yield f"severity {check.severity}, floor block"
    if not set(check.severity_when) <= set(floor.severity_when):
        yield f"severity_when {dict(check.severity_when)}, floor {dict(floor.severity_when)}"
    for key in ("metric", "rule", "each", "compared_with", "on_fail"):
        if getattr(check, key) != getattr(floor, key):
            yield f"{key} {getattr(check, key)}, floor {getattr(floor, key)}"
    if check.requires not in (None, floor.requires):
        yield f"requires {check.requires}, floor {floor.requires}"
    if not set(floor.slices) <= set(check.slices):
        yield f"slices {list(check.slices)}, floor {list(floor.slices)}"
    if check.min_n < floor.min_n:
        yield f"min_n {check.min_n}, floor {floor.min_n}"
    if check.optional:
        yield "optional, floor not"
    for key in ("threshold", "factor", "margin"):
        mine, least = getattr(check, key), getattr(floor, key)
        if lower_bound(check.rule, mine, least):
            yield f"{key} {mine}, floor {least}"
