"""The profile's launcher: two forms, one line for each mistake, what it means for a stage."""

import pytest

from mmpt.profile import launcher_of, load_profile
from mmpt.store.errors import UserError
from mmpt.store.launcher import Launcher


def loaded(folder, launcher: str):
    path = folder / "run.yaml"
    (folder / "alone.yaml").write_text("extends: smoke\nname: alone\nlauncher: local\n")
    path.write_text(f"extends: alone.yaml\nname: x\nlauncher: {launcher}\n")
    return load_profile(str(path)).data


SLURM = "{time: 60, partition: gpu, nodes: 2, gpus_per_node: 4}"


@pytest.mark.parametrize(
    "launcher, stage, kind, workers",
    [
        ("torchrun", "train", "torchrun", 2),
        ("torchrun", "warmup", "torchrun", 2),
        ("torchrun", "ablation", "local", 1),  # what cannot be spread
        ("{kind: torchrun, processes: 8}", "generate", "torchrun", 8),
        ("{kind: torchrun, processes: 8, stages: {generate: local}}", "generate", "local", 1),
        ("{kind: torchrun, processes: 8, stages: {generate: local}}", "train", "torchrun", 8),
        ("{stages: {shards: {kind: ray, processes: 3}}}", "shards", "ray", 3),
        ("{stages: {shards: {kind: ray, processes: 3}}}", "train", "local", 1),
        ("ray", "shards", "ray", 2),
        ("ray", "train", "local", 1),
        (f"{{kind: slurm, slurm: {SLURM}}}", "train", "slurm", 8),
        (f"{{kind: slurm, slurm: {SLURM}, stages: {{train: {{processes: 2}}}}}}", "train", "slurm", 2),
    ],
)
def test_what_a_launcher_means_for_a_stage(tmp_path, launcher, stage, kind, workers):
    found = launcher_of(loaded(tmp_path, launcher), stage)
    assert (found.kind, found.processes, found.spreads) == (kind, workers, kind != "local")


def test_without_the_key_every_stage_is_local():
    data = {key: value for key, value in load_profile("smoke").data.items() if key != "launcher"}
    assert launcher_of(data, "train") == Launcher()


def test_smoke_trains_with_two_workers_and_runs_the_rest_alone():
    data = load_profile("smoke").data
    assert launcher_of(data, "train").processes == 2 and launcher_of(data, "shards") == Launcher()


@pytest.mark.parametrize("launcher", ["local", "{kind: local}", "{kind: slurm, processes: 4, slurm: {time: 60}}"])
def test_a_launcher_that_names_its_kind_inherits_no_stages(tmp_path, launcher):
    path = tmp_path / "x.yaml"
    path.write_text(f"extends: smoke\nname: x\nlauncher: {launcher}\n")
    assert launcher_of(load_profile(str(path)).data, "train").kind != "torchrun"


def test_on_gpus_the_machine_says_how_many(tmp_path):
    data = loaded(tmp_path, "torchrun")
    assert launcher_of({**data, "runtime": {**data["runtime"], "device": "cuda"}}, "train").processes == 0


def test_the_short_form_replaces_what_is_inherited(tmp_path):
    (tmp_path / "below.yaml").write_text("extends: smoke\nname: y\nlauncher: {kind: torchrun, processes: 8}\n")
    path = tmp_path / "above.yaml"
    for launcher, workers in (("torchrun", 2), ("{restarts: 1}", 8)):
        path.write_text(f"extends: below.yaml\nname: x\nlauncher: {launcher}\n")
        assert launcher_of(load_profile(str(path)).data, "train").processes == workers


@pytest.mark.parametrize(
    "launcher, said",
    [
        ("torchruns", 'launcher.kind: found "torchruns"; expected one of local, torchrun, ray, slurm'),
        ("{kind: torchrun, processes: 0}", "launcher.processes: found 0; 0 is less than the minimum of 1"),
        ("{kind: torchrun, proceses: 2}", "launcher: unknown key 'proceses'; did you mean 'processes'?"),
        ("{processes: 2}", "launcher.processes: a local stage is one process; found 2"),
        ("slurm", "launcher: missing key 'slurm'"),
        ("{kind: slurm, slurm: {partition: gpu}}", "launcher.slurm: missing 'time'"),
        (f"{{kind: slurm, processes: 3, slurm: {SLURM}}}", "do not share the nodes evenly; found 3 on 2 nodes"),
        ("{stages: {train: ray}}", "launcher.stages.train.kind: ray only tokenises"),
        ("{kind: ray, stages: {train: {processes: 4}}}", "launcher.stages.train.kind: ray only tokenises"),
        ("{stages: {trian: local}}", "launcher.stages: unknown key 'trian'; did you mean 'train'?"),
        ("[1]", "launcher: found [1]; expected object"),
    ],
)
def test_bad_launchers_say_what_is_wrong_in_one_line(tmp_path, launcher, said):
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, launcher)
    assert said in str(caught.value) and "\n" not in str(caught.value)
