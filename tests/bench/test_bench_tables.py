"""The tables of the READMEs are the recorded results, and every recorded result says where and when."""

import pytest

from mmpt.bench import tables
from mmpt.store.canonical import read_json


def test_the_readmes_show_what_was_measured():
    texts = {path: path.read_text() for path in tables.readmes()}
    for path, text in texts.items():
        assert tables.drawn(text) == text, f"{path}: run `python -m mmpt.bench.tables`"
    names = [name for text in texts.values() for _, name, _ in tables.BLOCK.findall(text)]
    assert sorted(names) == sorted(tables.TABLES)


@pytest.mark.parametrize("path", sorted(tables.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_names_its_machine_and_day(path):
    result = read_json(path)
    assert result["chip"] and result["date"] and result["date"] in path.name


def test_a_table_is_redrawn_and_the_rest_is_kept():
    assert tables.drawn("a\n<!-- bench loss -->\nold\n<!-- end -->\nb").startswith("a\n<!-- bench loss -->\n\n")
    with pytest.raises(KeyError):
        tables.drawn("<!-- bench nothing -->\n<!-- end -->")
