"""The weights that this repository carries are those that its dvc.lock records, whole, few and small."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REMOTE = ROOT / "demo-weights"
OBJECTS = REMOTE / "files" / "md5"
MAX_BYTES = 8_000_000

pytestmark = pytest.mark.skipif(not REMOTE.is_dir(), reason="no weights are embedded yet: make embed-weights")


def trained_outputs():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    return {
        out["path"]: out["md5"]
        for name, stage in stages.items()
        if name.startswith(("train_teacher@", "train_student@"))
        for out in stage["outs"]
    }


def content(digest):
    data = (OBJECTS / digest[:2] / digest[2:]).read_bytes()
    assert hashlib.md5(data).hexdigest() == digest.removesuffix(".dir")
    return data


def test_every_trained_fold_is_there_and_nothing_else():
    wanted = set(trained_outputs().values())
    for digest in [digest for digest in wanted if digest.endswith(".dir")]:
        wanted |= {entry["md5"] for entry in json.loads(content(digest))}
    for digest in wanted:
        content(digest)
    there = {path.parent.name + path.name for path in OBJECTS.glob("*/*")}
    assert there == wanted


def test_a_clone_stays_small():
    assert sum(path.stat().st_size for path in OBJECTS.rglob("*") if path.is_file()) <= MAX_BYTES
