"""The text of dvc.lock: as DVC writes it, whole, in the order of a serial run."""

import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_project import diamond

from sensorium.repro.record import insert, own_entries

HEAD = "schema: '2.0'\nstages:\n"


def entry(digest, **more):
    return {"cmd": f"make it '{digest}' \"so\"", "outs": [{"path": "a b", "md5": digest, "size": 3}], **more}


def rewritten(text, added, rank):
    """The same by reading and writing all of it, as DVC does."""
    content = parse_yaml_for_update(text, "dvc.lock")
    entries = dict(content.get("stages") or {}) | added
    content["stages"] = {name: entries[name] for name in sorted(entries, key=lambda name: rank.get(name, len(rank)))}
    return dumps_yaml(content)


def test_a_first_entry_makes_the_file():
    text = insert(HEAD, {"folds": entry("12")}, {})
    assert text.startswith(HEAD + "  folds:\n    cmd: make it '12' \"so\"\n    outs:\n    - path: a b\n")


names = st.sampled_from(["a", "train@fold_0", "train@fold_1", "b.c", "yes", "1", "on off", "é", "x: y", "'q'", "- d"])
# Not any float: DVC itself, rewriting the whole file, spoils the last digit of numbers such as 1.1478738223312179e-231.
numbers = st.sampled_from([0, 7, -3, 0.006, 1e-05, 2.5e-07, 3.0, 1e20, 0.1])
# Nor lines that end as YAML 1.1 alone knows it: rewriting, DVC makes spaces of them.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029")
params = st.dictionaries(names, st.one_of(numbers, st.text(letters, max_size=90), st.none(), st.booleans()))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(names, st.text(letters, max_size=200), params), max_size=6), st.lists(names, unique=True))
def test_any_file_is_the_one_that_dvc_would_write(records, order):
    rank = {name: position for position, name in enumerate(order)}
    text = HEAD
    for name, command, values in records:
        added = {name: {"cmd": command, "params": {"params.yaml": values}, "outs": []}}
        assert insert(text, added, rank) == rewritten(text, added, rank)
        text = insert(text, added, rank)


@pytest.mark.parametrize(
    "text",
    [
        "schema: '2.0'\nstages:\n  a: {cmd: x}\n",
        "stages:\n  a:\n    cmd: x\nschema: '2.0'\n",
        "# merged by hand\nschema: '2.0'\nstages:\n  a:\n    cmd: x\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets: []\n",
        "",
    ],
)
def test_a_file_of_another_form_keeps_its_content(text):
    added = {"b": entry("1")}
    after = parse_yaml_for_update(insert(text, added, {"b": 0, "a": 1}), "dvc.lock")
    before = parse_yaml_for_update(text, "dvc.lock")
    assert dict(after["stages"]) == {"b": added["b"], **dict(before.get("stages", {}))}
    assert {**after, "stages": None} == {"schema": "2.0", **before, "stages": None}


def test_a_stage_reads_its_own_entry_as_dvc_does(project):
    toy = project(diamond())
    toy.run()
    with Repo(str(toy.root)) as repo:
        lock = Lockfile(repo, str(toy.path("dvc.lock")))
        everything = lock.load()
        with own_entries(["left"]):
            own = lock.load()
        assert lock.load() == everything
    assert own == {**everything, "stages": {"left": everything["stages"]["left"]}}
