"""What a stage declares of itself, and the rules that a table of stages keeps. Data; nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass

from mmpt.store.errors import UserError


@dataclass(frozen=True)
class Output:
    """Files that a stage writes below its data folder.

    Args:
        glob: pattern relative to data/; at least one file must match, unless ``optional``.
        schema: name of the schema that each matching .json or .jsonl file holds to; None: not a file of
            records.
        optional: the stage may write none (the profile leaves that part out).
    """

    glob: str
    schema: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Hook:
    """A look at each checkpoint as it is saved, which warms a cache for a later stage.

    Args:
        factory: "module:function"; called with the context of ``stage`` it returns ctx.on_save, or None.
        stage: whose slice and inputs that context has, as far as they are built. It and the hook share the
            folder ctx.external["evaluations"], which goes away when that stage is published.
    """

    factory: str
    stage: str


@dataclass(frozen=True)
class Stage:
    """One build target.

    Args:
        name: folder below artifacts/<profile>/, and name of its doit task.
        doc: one line for `doit list`.
        body: "module:function", called with a StageContext in a process of its own; by default
            "mmpt.stages.<name>:<name>".
        inputs: stages whose published data it reads.
        slice: dotted profile keys it reads, each with everything below it.
        external: dotted profile keys that name files outside artifacts/: their content is in the fingerprint.
        outputs: what it writes; evidence of measured gates is implied.
        needs: gates that must be GO before it runs.
        measures: gates whose evidence it writes, as evidence/<ID>.json.
        torch: run it forked from the process that has torch loaded.
        tools: programs of the machine whose version counts: "c++", "nvcc".
        on_save: what to call after each checkpoint; never part of the fingerprint.
        reuses: its body takes over pieces of results that the same code made of other inputs.
        compiled: its output is csrc as a module, which the stages that read it load: for them the module counts and the
            sources do not.
        media: it reads the sources' media by name and makes some itself: for the stages that read it, its data folder
            is a media root, and only files that its records name count.
        early: "module:function", called with the project before the first stage of a run: it refuses what the stage
            would refuse later, where looking costs nothing.
        work: what its time grows with: profile keys joined by "*" or "/"; "records"; "fitted" (records, at most as many
            as a codec is fitted on); "items" (golden and ablation items of a task). Empty: it always takes as long.
        ends_within: seconds that its body may take to save and end where the run is interrupted.
        granted: its output rests on a GO and carries the GO's policy, softenings and waivers: it is stale where they
            change, and removed where there is no GO.
        reported: the report is drawn from its output.
    """

    name: str
    doc: str
    body: str = ""
    inputs: tuple[str, ...] = ()
    slice: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    needs: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    torch: bool = False
    tools: tuple[str, ...] = ()
    on_save: Hook | None = None
    granted: bool = False
    ends_within: float = 5.0
    reported: bool = False
    reuses: bool = False
    compiled: bool = False
    media: bool = False
    early: str = ""
    work: str = ""

    def __post_init__(self) -> None:
        if not self.body:
            object.__setattr__(self, "body", f"mmpt.stages.{self.name}:{self.name}")


def by_name(stages: tuple[Stage, ...]) -> dict[str, Stage]:
    """Stage name -> stage."""
    return {stage.name: stage for stage in stages}


def measured_by(stages: tuple[Stage, ...]) -> dict[str, str]:
    """Gate -> the stage that measures it, in table order."""
    return {gate: stage.name for stage in stages for gate in stage.measures}


def check_table(stages: tuple[Stage, ...]) -> None:
    """Refuse a table that cannot be built in its own order.

    Raises:
        UserError: a name or gate given twice, an input that is not declared before its user, a needed gate
            that no earlier stage measures, a stage that needs its own gate.
    """
    seen: set[str] = set()
    measured: set[str] = set()
    for stage in stages:
        unknown = [name for name in stage.inputs if name not in seen]
        unmeasured = [gate for gate in stage.needs if gate not in measured]
        twice = [gate for gate in stage.measures if gate in measured]
        if stage.name in seen or twice:
            raise UserError("declared twice", where=f"stage {stage.name}", found=", ".join(twice) or stage.name)
        if unknown or unmeasured:
            raise UserError(
                "uses what no earlier stage gives",
                where=f"stage {stage.name}",
                found=", ".join(unknown + unmeasured),
            )
        seen.add(stage.name)
        measured.update(stage.measures)
