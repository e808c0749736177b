"""The context of a stage body: its slice of the profile, its inputs, where it writes. It may touch nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from mmpt.store.launcher import Launcher


class SliceView(Mapping[str, Any]):
    """Read-only dotted access to the declared part of a profile.

    ``view["train.steps"]`` works if the stage declared ``train.steps`` or ``train``. Any other key raises KeyError: its
    value is not in the fingerprint, so a change of it would not make the stage stale. A declared key that the profile
    leaves out raises KeyError too; ``get`` returns a default for it.
    """

    def __init__(self, profile: Mapping[str, Any], keys: tuple[str, ...], stage: str = ""):
        self._profile, self._keys, self._stage = profile, keys, stage

    def __getitem__(self, dotted: str) -> Any:
        if not any(dotted == key or dotted.startswith(key + ".") for key in self._keys):
            raise KeyError(f"stage {self._stage!r} reads profile key {dotted!r} outside its slice {self._keys}")
        value: Any = self._profile
        for part in dotted.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise KeyError(dotted)
            value = value[part]
        return value

    def get(self, dotted: str, default: Any = None) -> Any:
        """The value, or ``default`` where the profile leaves the (declared) key out."""
        declared = any(dotted == key or dotted.startswith(key + ".") for key in self._keys)
        try:
            return self[dotted]
        except KeyError:
            if not declared:
                raise
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def whole(self) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """(profile, declared keys), from which another process makes an equal view."""
        return self._profile, self._keys

    def as_dict(self) -> dict[str, Any]:
        """Declared key -> value, None where the profile leaves it out: the part that the fingerprint covers."""
        return {key: self.get(key) for key in self._keys}


def _silent(*_: Any) -> None:
    return None


Part = Callable[["StageContext", int, int], None]


@dataclass
class StageContext:
    """One attempt at one stage.

    Args:
        name: the stage.
        profile: its slice.
        inputs: input stage -> its published data folder.
        external: media root -> absolute folder; "corpus" is the corpus stage's own data folder.
        out: staging folder for outputs; published whole after the body returns and its schemas hold.
        work: folder that survives a kill, keyed by the stage's fingerprint.
        seed: of the run; every draw of the body comes from it.
        threads: that torch and the compiled operations may use.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the base's weights, "float32" or "bfloat16".
        earlier: folders of complete results that the same code made from other inputs. A body may copy the pieces that
            it can tell would come out the same. Not part of the fingerprint.
        logs: folder of the logs, which is never published; None: keep none.
        on_progress, on_log: called with (done, total, text) and with a line; set by the runner.
        on_save: for train: called with (step, checkpoint folder) after each save; not part of the fingerprint.
        launcher: what runs the part of the stage that can be spread over workers; not part of the fingerprint.
        on_spread: starts the launcher's workers, set by the runner; None in a worker and without a launcher.
        granted: of a stage behind a GO: the decision that it rests on; its digests are in the fingerprint.
        run_info: numbers that differ from run to run (seconds, tokens/s); they go to the receipt's run part.
    """

    name: str
    profile: SliceView
    inputs: dict[str, Path]
    out: Path
    work: Path
    external: dict[str, Path] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    logs: Path | None = None
    on_progress: Callable[[int, int, str], None] = _silent
    on_log: Callable[[str], None] = _silent
    on_save: Callable[[int, Path], None] | None = None
    launcher: Launcher = Launcher()
    on_spread: Callable[[Part, type | None], None] | None = None
    run_info: dict[str, Any] = field(default_factory=dict)
    granted: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[Path, ...] = ()

    def as_job(self) -> dict[str, Any]:
        """Arguments of the `StageJob` that carries this context to another process."""
        profile, keys = self.profile.whole
        shared = {name: getattr(self, name) for name in SHARED}
        return {**shared, "profile": dict(profile), "slice": keys}

    def spread(self, part: Part, each: type | None = None) -> None:
        """Let the launcher's workers fill ``work``; without a launcher this does nothing.

        A body calls it before the code that does the work alone: that code then finds the pieces there.

        Args:
            part: called in every worker with (its own context, rank, world); a function at a module's top level.
            each: for launchers that deal out single pieces: a class at a module's top level. ``pieces(ctx)`` names all
                pieces; an instance, made with a context, does the piece whose name it is called with.
        """
        if self.on_spread is not None:
            self.on_spread(part, each)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Move the stage's bar to ``done`` of ``total``."""
        self.on_progress(done, total, text)

    def bar(self, text: str) -> Callable[[int, int], None]:
        """A function of (done, total) that moves the stage's bar, with ``text`` beside it."""
        return lambda done, total: self.progress(done, total, text)

    def log(self, line: str) -> None:
        """Write one line to the stage's log."""
        self.on_log(line)

    def info(self, **numbers: Any) -> None:
        """Put numbers that differ from run to run into the receipt's run part, and so not into the outputs."""
        self.run_info.update(numbers)


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """A stage's context in a form that goes to another process or machine: without output folder and callbacks.

    The fields are those of `StageContext`; `profile` is the whole profile and `slice` the declared keys. A subclass
    adds what its own receiver needs.
    """

    name: str
    profile: dict[str, Any]
    slice: tuple[str, ...]
    inputs: dict[str, Path]
    external: dict[str, Path]
    work: Path
    logs: Path | None
    seed: int
    threads: int
    device: str
    dtype: str
    launcher: Launcher
    granted: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[Path, ...] = ()

    def context(self, out: Path, **others: Any) -> StageContext:
        """The context with output folder `out`; `others`: callbacks, or fields with another value."""
        view = SliceView(self.profile, self.slice, self.name)
        return StageContext(**{**{name: getattr(self, name) for name in SHARED}, "profile": view, "out": out, **others})

    def to_json(self) -> dict[str, Any]:
        """``from_json(job.to_json()) == job``."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The job whose `to_json` is `told`; a subclass converts its own fields first."""
        folders = {key: {name: Path(path) for name, path in told[key].items()} for key in ("inputs", "external")}
        return cls(
            **{
                **told,
                **folders,
                "slice": tuple(told["slice"]),
                "work": Path(told["work"]),
                "logs": told["logs"] and Path(told["logs"]),
                "launcher": Launcher(**told["launcher"]),
                "earlier": tuple(Path(path) for path in told["earlier"]),
            }
        )


# Fields that a context and a job share.
SHARED = tuple(one.name for one in fields(StageJob) if one.name not in ("profile", "slice"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
