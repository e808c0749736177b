"""`.ci/gpu`, which no machine without a GPU runs: its parts are there, and what they call exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from mmpt.bench import attention, generate_peers, ops, ops_peers, ops_profile, train_peers, train_profile, train_work

SCRIPT = Path(__file__).parents[2] / ".ci" / "gpu"
TEXT = SCRIPT.read_text()
FIVE, OTHERS = (re.search(rf"^{name}=\(([^)]*)\)$", TEXT, re.MULTILINE)[1].split() for name in ("five", "others"))


def test_every_part_is_a_function_and_stands_in_the_list_at_the_head():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    head = TEXT[: TEXT.index("set -uo")]
    for part in [*FIVE, *OTHERS]:
        assert f"\n{part}() {{" in TEXT
        assert re.search(rf"^# .*\b{re.escape(part)}\b", head, re.MULTILINE)


def test_the_five_fit_half_an_hour():
    limits = dict(re.findall(r"\[([\w-]+)\]=(\d+)", TEXT))
    assert len(FIVE) == 5 and sum(int(limits[part]) for part in FIVE) <= 30 * 60
    for part in FIVE:
        minutes = re.search(rf"^#   {part} +(\d+) min ", TEXT, re.MULTILINE)[1]
        assert int(minutes) * 60 == int(limits[part])


def test_an_unknown_part_says_where_the_parts_are():
    done = subprocess.run([SCRIPT, "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no part nonsense" in done.stderr


def test_peers_and_shapes_that_it_names_exist():
    names = {**train_peers.CONTENDERS, **train_peers.CONTENDERS_CUDA, **generate_peers.peers("cuda", "bfloat16")}
    values = dict(re.findall(r'^(trainer|static)="(.*)"$', TEXT, re.MULTILINE))
    for line in TEXT.splitlines():
        if " --only " in line and "bench ops" not in line:
            words = shlex.split(line.replace(";", " ;").replace("${decoding[@]}", "x"))
            given = words[words.index("--only") + 1 : words.index(";")]
            for name in given:
                for variable, value in values.items():
                    name = name.replace(f"${variable}", value)
                assert name in names
    assert set(re.findall(r"--shape ([\w.-]+)|--model ([\w.-]+)", TEXT)) and all(
        (one or other) in train_work.WORKLOADS
        for one, other in re.findall(r"--shape ([\w.-]+)|--model ([\w.-]+)", TEXT)
    )
    cases = ops.cases("cuda")
    for share, heads in (("16384", 2), ("4096", 2)):  # a random head and a peaky one
        words = {"N=16384", f"supervised={share}", "H=4096", "trains=new"}
        assert '--match N=16384 "supervised=$share" H=4096 trains=new' in TEXT
        assert sum(words <= set(case.title.split()) for case in cases) == heads
    peers = shlex.split(re.search(r"^peers=\((.*)\)$", TEXT, re.MULTILINE)[1])
    assert set(peers) <= set(ops_peers.LOSSES)
    assert set(re.findall(r'"((?:sliced|full head) [^"]*)"', TEXT)) <= set(ops_peers.DRAWS)


def test_a_peaky_head_is_sure_of_its_labels():
    sure, open_ = (ops_peers.loss_problem(40, 10, 64, torch.float32, "cpu", "new", peaky) for peaky in (True, False))
    loss = [float(ops_peers.plain(one)().detach()) for one in (sure, open_)]
    assert loss[0] < 2 and loss[1] > 11


def test_peers_of_a_case_can_be_chosen():
    case = ops.Case("loss", 512, 64, "float32", 100)
    assert ops.chosen_peers(case, ["liger"]) == ["mmpt", "liger", "liger, filtered"]
    assert ops.chosen_peers(case, None) == ops.peers(case)


def test_the_profile_tells_products_cut_and_whole(capsys):
    said = ops_profile.product_table(32, "cpu", 1e9, chunks=(64,), base=301, new=64, padded=448)
    assert len(re.findall(r"TFLOP/s", said)) == 5 and "predicted" in said and "failed" not in said


@pytest.mark.slow
def test_the_profile_of_a_step_runs(capsys):
    train_profile.main(["--device", "cpu", "--shape", "smallest", "--dtype", "float32"])
    assert "one step of smallest" in capsys.readouterr().out


def test_both_ways_of_a_decoding_steps_attention_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attention.record, "RESULTS", tmp_path)
    monkeypatch.setattr(attention.machine, "rates", lambda device, dtype: {"bytes": 1e10})
    small = "--device cpu --dtype float32 --rows 2 --kv 2 --width 8 --columns 16"
    attention.main(small.split())
    said = capsys.readouterr().out
    assert "shared" in said and "math" in said and [one.name for one in tmp_path.iterdir()]
    given = attention.argparse.Namespace(device="cpu", dtype="float32", rows=2, kv=2, groups=3, width=8)
    tensors = attention.problem(given, 16)
    assert attention.torch.allclose(attention.repeated(*tensors), attention.shared(*tensors), atol=1e-6)


def test_results_of_a_part_have_its_name(monkeypatch):
    monkeypatch.setenv("MMPT_BENCH_PART", "long")
    assert ops.record.place("generate-cpu", "cpu").name.startswith("generate-cpu-long-")
