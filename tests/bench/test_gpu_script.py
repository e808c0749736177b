"""`.ci/gpu`, which no machine without a GPU runs: its parts are there, and what they call exists."""

import re
import shlex
import subprocess
from pathlib import Path

from mmpt.bench import attention, generate_peers, ops, train_peers, train_work

SCRIPT = Path(__file__).parents[2] / ".ci" / "gpu"
TEXT = SCRIPT.read_text()
PARTS = re.search(r"^all=\((.*)\)$", TEXT, re.MULTILINE).group(1).split()


def test_every_part_is_a_function_and_stands_in_the_list_at_the_head():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    head = TEXT[: TEXT.index("set -uo")]
    for part in [*PARTS, "loss-all"]:
        assert f"\n{part}() {{" in TEXT
        assert re.search(rf"^# .*\b{re.escape(part)}\b", head, re.MULTILINE)


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
    assert set(re.findall(r"--shape (\S+)|--model (\S+)", TEXT)) and all(
        (one or other) in train_work.SHAPES for one, other in re.findall(r"--shape (\S+)|--model (\S+)", TEXT)
    )
    words = set(re.search(r"--match (.*);", TEXT).group(1).split())
    assert sum(words <= set(case.title.split()) for case in ops.cases("cuda")) == 5


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
