"""What a clone carries is what dvc.lock records, whole and small, and it fits on every processor."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from sensorium.config import load

ROOT = Path(__file__).parents[2]
REMOTE = ROOT / "demo-remote"
OBJECTS = REMOTE / "files" / "md5"
MAX_BYTES = 25_000_000
RENEW = "commit your changes, then type: make embed-demo"

NO_VECTORS = " ".join(__cpu_dispatch__)
PROCESSORS = {
    "Haswell": {
        "OPENBLAS_CORETYPE": "Haswell",
        "OMP_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL",
    },
    "SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX", "OMP_NUM_THREADS": "2"},
    "Zen": {
        "OPENBLAS_CORETYPE": "Zen",
        "OMP_NUM_THREADS": "3",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
    },
    "Prescott": {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": NO_VECTORS},
}


@pytest.fixture(params=PROCESSORS)
def processor(request):
    """Environment that makes OpenBLAS, NumPy and the C library choose another processor's kernels."""
    if request.param == "SkylakeX" and not any(
        name in ("X86_V4", "AVX512F") and on for name, on in __cpu_features__.items()
    ):
        pytest.skip("this processor has no AVX-512")
    return PROCESSORS[request.param]


def outputs():
    """Digest of every output of dvc.lock by its path."""
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def content(digest):
    path = OBJECTS / digest[:2] / digest[2:]
    assert path.is_file(), f"{digest} of dvc.lock is not in {REMOTE.name}: {RENEW}"
    data = path.read_bytes()
    assert hashlib.md5(data).hexdigest() == digest.removesuffix(".dir")
    return data


def files(path):
    """Digest of each file of an output that is a folder."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content(outputs()[path]))}


def test_every_output_is_there_and_nothing_else():
    wanted = set(outputs().values())
    for digest in [digest for digest in wanted if digest.endswith(".dir")]:
        wanted |= {entry["md5"] for entry in json.loads(content(digest))}
    for digest in wanted:
        content(digest)
    assert {path.parent.name + path.name for path in OBJECTS.glob("*/*")} == wanted


def test_a_clone_stays_small():
    assert sum(path.stat().st_size for path in REMOTE.rglob("*") if path.is_file()) <= MAX_BYTES


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_recordings_stores_and_folds_are_the_same_on_every_processor(processor, empty_project, tmp_path):
    project = empty_project.copy(tmp_path / "project")
    shutil.copy(ROOT / "params.yaml", project.root)
    project.run("sensorium ingest", **processor)
    project.run("sensorium folds", **processor)
    for mouse in load(ROOT / "params.yaml").dataset.mice:
        store = f"data/store/{mouse}.zarr"
        assert digests(project.root / store) == files(store), RENEW
    assert digests(project.root / "data" / "folds") == files("data/folds"), RENEW


@pytest.fixture(scope="module")
def pulled(tmp_path_factory, clean_environment, empty_project):
    """A clone of this tree, its path as people have them, after a bare `dvc pull`; and what the pull said."""
    clone = type(empty_project)(tmp_path_factory.mktemp("home") / "mes données" / "a clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone.root / name)
    with clean_environment():
        clone.run("git init -q")
        clone.commit("as it is cloned")
        said = clone.run("dvc pull", check=False)
    assert said.returncode == 0, said.stdout
    return clone


def test_nothing_is_left_to_do_after_a_bare_pull(pulled, processor):
    assert "up to date" in pulled.run("dvc status", **processor).stdout, RENEW
    said = pulled.run("dvc repro", **processor).stdout
    assert "Running stage" not in said
    assert pulled.run("git status --porcelain").stdout == ""


def test_the_pulled_pair_enters_an_empty_registry(pulled):
    said = pulled.run("sensorium registry restore").stdout
    assert "registered" in said
    assert pulled.run("git status --porcelain").stdout == ""
