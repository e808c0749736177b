"""The code of a stage: what is in its import closure, and what changes its digest."""

from pathlib import Path

import pytest

from mmpt.build.code import CodeIndex
from mmpt.build.stage_table import STAGES
from mmpt.store.errors import UserError

REPO = Path(__file__).resolve().parents[2]

BODIES = '''
"""Two bodies."""
import numpy
from pkg import near
from pkg.far import thing

LIMIT = 3

def first(ctx):
    return near.go(LIMIT)

def second(ctx):
    from pkg.deep import inner
    return thing, numpy
'''

SOURCES = {
    "__init__.py": "",
    "stages.py": BODIES,
    "near.py": "def go(n):\n    return n\n",
    "far.py": "thing = 1\n",
    "deep/__init__.py": "import json\n",
    "deep/inner.py": "TABLE = {'a': 'pkg.named:function'}\n",
    "named.py": "def function(): pass\n",
    "deep/words.txt": "one two\n",
    "unrelated.py": "x = 1\n",
}


@pytest.fixture
def index(tmp_path):
    for name, text in SOURCES.items():
        (tmp_path / "pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pkg" / name).write_text(text)
    return lambda: CodeIndex({"pkg": tmp_path / "pkg"})


def write(tmp_path, name, old, new):
    path = tmp_path / "pkg" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_closure_holds_what_the_body_reaches_and_no_more(index):
    units, others = index().closure("pkg.stages:first")
    assert set(units) == {"pkg", "pkg.near", "pkg.stages:first"} and others == ()
    units, others = index().closure("pkg.stages:second")
    assert set(units) == {
        "pkg",
        "pkg.far",
        "pkg.deep",
        "pkg.deep.inner",
        "pkg.named",
        "pkg.deep/words.txt",
        "pkg.stages:second",
    }
    assert others == ("json", "numpy")


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("near.py", "    return n\n", '    """Doc."""\n    # why\n\n    return (n)\n'),
        ("stages.py", "Two bodies", "Both bodies"),
        ("stages.py", "return thing, numpy", "return thing, numpy, 1"),
        ("unrelated.py", "x = 1", "x = 2"),
        ("far.py", "thing = 1", "thing = 2"),
    ],
)
def test_a_digest_stays_after(index, tmp_path, name, old, new):
    before = index().closure("pkg.stages:first")
    write(tmp_path, name, old, new)
    assert index().closure("pkg.stages:first") == before


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("near.py", "return n", "return -n"),
        ("stages.py", "LIMIT = 3", "LIMIT = 4"),
        ("stages.py", "near.go(LIMIT)", "near.go(LIMIT, 1)"),
        ("__init__.py", "", "import pkg.unrelated\n"),
    ],
)
def test_a_digest_changes_after(index, tmp_path, name, old, new):
    before = index().closure("pkg.stages:first")
    write(tmp_path, name, old, new)
    assert index().closure("pkg.stages:first") != before


def test_a_data_file_beside_the_code_counts(index, tmp_path):
    before = index().closure("pkg.stages:second")
    write(tmp_path, "deep/words.txt", "two", "three")
    assert index().closure("pkg.stages:second") != before


def test_what_is_written_for_people_does_not_count(index, tmp_path):
    before = index().closure("pkg.stages:second")
    (tmp_path / "pkg" / "deep" / "README.md").write_text("how to use it")
    assert index().closure("pkg.stages:second") == before


def test_comments_in_cpp_do_not_count_and_strings_do(tmp_path):
    (tmp_path / "mmpt" / "ops").mkdir(parents=True)
    (tmp_path / "csrc").mkdir()
    for name, text in (
        ("mmpt/__init__.py", ""),
        ("mmpt/ops/__init__.py", ""),
        ("mmpt/ops/stages.py", "def kernels(ctx): pass\n"),
    ):
        (tmp_path / name).write_text(text)

    def digest(source):
        (tmp_path / "csrc" / "op.cu").write_text(source)
        return CodeIndex({"mmpt": tmp_path / "mmpt"}, tmp_path / "csrc").closure("mmpt.ops.stages:kernels")[0][
            "csrc/op.cu"
        ]

    base = digest('int a = 1; // one\n\n/* two\n lines */ const char* s = "//no";\n')
    assert digest('int a  = 1;\nconst char* s = "//no"; // other\n') == digest('int a = 1;\nconst char* s = "//no";\n')
    assert base != digest('int a = 2; const char* s = "//no";\n')
    assert digest('const char* s = "// a";\n') != digest('const char* s = "// b";\n')


def test_the_cache_gives_the_same_answer_and_survives_damage(index, tmp_path):
    cache = tmp_path / "code.json"
    fresh = CodeIndex({"pkg": tmp_path / "pkg"}, cache_path=cache)
    answer = fresh.closure("pkg.stages:second")
    fresh.save()
    assert CodeIndex({"pkg": tmp_path / "pkg"}, cache_path=cache).closure("pkg.stages:second") == answer
    cache.write_text("[1")
    assert CodeIndex({"pkg": tmp_path / "pkg"}, cache_path=cache).closure("pkg.stages:second") == answer


def test_a_module_or_function_that_is_not_there_is_named(index, tmp_path):
    with pytest.raises(UserError, match="no such module"):
        index().closure("pkg.nothing:first")
    with pytest.raises(UserError, match="no such function; found third"):
        index().closure("pkg.stages:third")
    write(tmp_path, "near.py", "def go(n):", "def go(n:")
    with pytest.raises(UserError, match=r"near.py:1: not Python"):
        index().closure("pkg.stages:first")


def test_training_does_not_depend_on_evaluation_or_the_build():
    for stage in STAGES:
        if stage.name in ("corpus", "shards", "base", "warmup", "train"):
            units, _ = CodeIndex({"mmpt": REPO / "mmpt"}).closure(stage.body)
            assert not [
                name for name in units if name.startswith(("mmpt.evaluate", "mmpt.gating", "mmpt.report", "mmpt.build"))
            ]
