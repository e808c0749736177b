"""The golden sets on the HTML page: pictures, sounds, and the attributes read back from them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from mmpt.report.charts import wave

TYPES = {".png": "image/png", ".wav": "audio/wav"}
INSIDE = 16_000_000  # bytes of media put into the page; what is beyond lies beside it and is linked
TASK_NAMES = {
    "t2i": "Text to picture",
    "t2a": "Text to sound",
    "i2t": "Picture to text",
    "a2t": "Sound to text",
}
VIEW_NAMES = {
    "original": "original",
    "reconstruction": "the codec's best",
    "first": "before training",
    "final": "after training",
    "sampled": "after, sampled",
}


class Media:
    """Turns a media path of the report into what an ``src`` attribute holds, within the page's budget."""

    def __init__(self, base: str, root: Path | None):
        self.base, self.root, self.left = base, root, INSIDE

    def source(self, path: str) -> str:
        """A data: URI, or the path from the page's place in ``report/``."""
        file = self.root / self.base / path if self.root is not None else None
        if file is not None and file.is_file() and file.stat().st_size <= self.left:
            self.left -= file.stat().st_size
            return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
        return path if self.base == "report" else f"../{self.base}/{path}"


def galleries(items: list[dict[str, Any]], media: Media) -> list[dict[str, Any]]:
    """One group a task that has items: {"task", "name", "items", "emits"}."""
    groups = []
    for task, name in TASK_NAMES.items():
        mine = [
            {
                **item,
                "views": [_view(view, media) for view in item["views"]],
                "texts": [{**one, "name": VIEW_NAMES[one["what"]]} for one in item["texts"]],
            }
            for item in items
            if item["task"] == task
        ]
        if mine:
            groups.append({"task": task, "name": name, "items": mine, "emits": task in ("t2i", "t2a")})
    return groups


def _view(view: dict[str, Any], media: Media) -> dict[str, Any]:
    return {
        **view,
        "name": VIEW_NAMES[view["what"]],
        "src": media.source(view["path"]),
        "wave": wave(view["peaks"]) if "peaks" in view else None,
        "pixelated": view.get("width", 999) < 128,
        "hits": sum(one["wanted"] == one["shown"] for one in view["read"]),
    }
