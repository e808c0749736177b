"""Stage release: the adapter and its token space, handed over behind every gate. Profile keys it reads: name."""

from __future__ import annotations

import shutil

from mmpt.gating.judged import ADAPTER, RELEASE, judged_adapters, last_checkpoint, require_judged
from mmpt.store.canonical import write_json
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.stage import StageContext


def release(ctx: StageContext) -> None:
    """Copy the staged adapter and the token space to out/, and write RELEASE.json about them.

    Raises:
        UserError: the adapter is not the one that the gates judged, or is not the training's last.
    """
    staged, final = ctx.inputs["staged_export"], last_checkpoint(ctx.inputs["train"])
    (ctx.out / "adapter").mkdir(parents=True)
    for path in sorted((staged / "export" / "adapter").iterdir()):
        shutil.copyfile(path, ctx.out / "adapter" / path.name)
    for name in ("token_space.json", "token_space.sha256"):
        shutil.copyfile(ctx.inputs["token_space"] / name, ctx.out / name)
    released = sha256_file(ctx.out / "adapter" / ADAPTER)
    judged = judged_adapters(ctx.inputs)
    require_judged(released, {**judged, f"train/{final.name}": sha256_file(final / ADAPTER)})
    write_json(
        ctx.out / RELEASE,
        {
            "schema": "release/1",
            "profile": ctx.profile["name"],
            "step": final.name,
            "adapter_sha256": released,
            "judged": judged,
            "export_manifest_sha256": Manifest.of(staged / "export").digest,
            "token_space_sha256": (ctx.out / "token_space.sha256").read_text().split()[0],
            "decision": ctx.granted,
            "base_manifest_sha256": Manifest.of(ctx.inputs["base"] / "model").digest,
            "files": dict(Manifest.of(ctx.out).entries),
        },
        durable=False,
    )
