"""The last stage: the adapter and its token space, handed over. It runs only behind every gate."""

from __future__ import annotations

import shutil

from mmpt.store.canonical import read_json, write_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext


def release(ctx: StageContext) -> None:
    """Copy the final adapter and the token space to out/, and write RELEASE.json about them.

    Raises:
        UserError: the training result holds no adapter where checkpoints.json says.
    """
    final = ctx.inputs["train"] / "checkpoints" / read_json(ctx.inputs["train"] / "checkpoints.json")["final"]
    adapter = next((path.parent for path in sorted(final.rglob("adapter_config.json"))), None)
    if adapter is None:
        raise UserError("no adapter", where=final, expected="adapter_config.json")
    (ctx.out / "adapter").mkdir(parents=True)
    for path in sorted(adapter.iterdir()):
        if path.is_file() and (path.name.startswith("adapter_") or path.suffix == ".json"):
            shutil.copyfile(path, ctx.out / "adapter" / path.name)
    for name in ("token_space.json", "token_space.sha256"):
        shutil.copyfile(ctx.inputs["token_space"] / name, ctx.out / name)
    write_json(
        ctx.out / "RELEASE.json",
        {
            "schema": "release/1",
            "profile": ctx.profile["name"],
            "step": final.name,
            "token_space_sha256": (ctx.out / "token_space.sha256").read_text().split()[0],
            "decision": ctx.granted,
            "base_manifest_sha256": Manifest.of(ctx.inputs["base"] / "model").digest,
            "files": dict(Manifest.of(ctx.out).entries),
        },
        durable=False,
    )
