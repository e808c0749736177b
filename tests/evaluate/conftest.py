"""A whole run in miniature, made once for all test processes: the real stages, 100 records, a Qwen3 of two layers."""

from __future__ import annotations

import fcntl
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mmpt.build.stage_table import STAGES, by_name
from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.gating.judged import MEASURED
from mmpt.profile import Profile, load_profile
from mmpt.store.stage import SliceView, StageContext
from tests.codecs.forked_contract import forked_contract

PROFILE = """
extends: smoke
name: mini
runtime: {device: cpu, dtype: float32, threads: 1}
corpus:
  on_bad_record: fail
  sources: [{name: generated, reader: generated, pictures: 50, sounds: 50}]
split: {val: 0.1, test: 0.3}
codecs:
  audio: {name: melrvq, clip_seconds: 1.0, n_codebooks: 2, codebook_size: 32}
  image: {name: patchvq, size: 16, patch: 4, codebook_size: 32}
text: {vocab_size: 300, train_sentences: 60, heldout_sentences: 60}
base:
  config:
    {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,
     intermediate_size: 64}
  pretrain: {steps: 2, lr: 2.0e-3, tokens_per_step: 512}
golden: {per_task: 4, ablation: 12}
lora: {r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj, v_proj, down_proj]}
warmup: {steps: 2, lr: 2.0e-3, tokens_per_step: 512}
train: {steps: 4, tokens_per_step: 512, row_len: 256, save_every: 2, log_every: 2, warmup_steps: 1}
generate: {batch_size: 64, max_text_tokens: 6, learned_end: {outputs: 10}}
evaluate:
  {trend: {golden_per_task: 2, ablation: 4}, bootstrap: 200, text_tokens: 500, resume: {before: 2, after: 1}}
gates:
  - {gate: W1, check: gap, severity: warn, reason: a warm-up of two steps}
  - {gate: W1, check: win_rate, severity: warn, reason: a warm-up of two steps}
"""
BEFORE = (
    "extension",
    "corpus",
    "manifest",
    "split",
    "codecs",
    "token_space",
    "shards",
    "examples",
    "golden",
    "base",
    "warmup",
    "train",
)


@dataclass
class Run:
    """Artifacts below `root`, as the build lays them out: <stage>/data. Test processes share them."""

    root: Path
    profile: Profile

    @property
    def own(self) -> str:
        """Name of this test process below folders that hold work."""
        return os.environ.get("PYTEST_XDIST_WORKER", "alone")

    def data(self, stage: str) -> Path:
        return self.root / stage / "data"

    def context(self, name: str, out: Path | None = None, **replaced: Path) -> StageContext:
        """A stage's context as the stage table says; `replaced`: other input folders.

        `out` is where it may write; by default a folder that no other stage reads.
        """
        stage = by_name(STAGES)[name]
        out = out or self.root / "elsewhere" / self.own / name
        work = self.root / "work" / self.own / out.parent.name / name
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)
        inputs = {one: self.data(one) for one in stage.inputs} | replaced
        external = {"corpus": inputs["corpus"]} if "corpus" in inputs else {}
        return StageContext(
            name,
            SliceView(self.profile.data, stage.slice, name),
            inputs,
            out,
            work,
            external,
            seed=self.profile.data["seed"],
        )

    def build(self, name: str) -> Path:
        """Build a stage, once for all processes: one builds, the others wait."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            if not self.data(name).is_dir():
                made = self.root / "elsewhere" / self.own / "built" / name / "data"
                module, _, function = by_name(STAGES)[name].body.partition(":")
                with forked_contract():
                    getattr(importlib.import_module(module), function)(self.context(name, made))
                self.data(name).parent.mkdir(exist_ok=True)
                made.rename(self.data(name))
        return self.data(name)

    def build_release(self) -> Path:
        """The release, and before it every stage that judges the trained adapter, in the order of the table."""
        judging = {stage for stage, _ in MEASURED.values()}
        for stage in STAGES:
            if stage.name in judging:
                self.build(stage.name)
        return self.build("release")

    def workshop(self) -> EvalContext:
        return EvalContext.of(self.context("trend"))

    def trained(self) -> Trained:
        return Trained.of(self.data("train"))


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    torch.set_num_threads(1)
    own = tmp_path_factory.getbasetemp()
    (own / "mini.yaml").write_text(PROFILE)
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    made = Run(shared / "mini", load_profile(str(own / "mini.yaml")))
    for name in BEFORE:
        made.build(name)
    return made
