"""The machine: Python and packages, git, disk space, GPU and driver. No package is imported for it."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sensorium.doctor.finding import Finding, Project, some

_LOCK = "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_PYTHON = re.compile(r'^requires-python\s*=\s*"([^"]+)"', re.MULTILINE)
_CONFLICT = re.compile(r"^u .* (\S+)$", re.MULTILINE)
_TRACKED = ("params.yaml", "dvc.yaml", "dvc.lock")
_NVIDIA = Path("/proc/driver/nvidia")
_OLDEST_DRIVERS = {"12": 525, "13": 580}
"""Major version of CUDA -> of the oldest driver, https://docs.nvidia.com/deploy/cuda-compatibility/."""
_GIB = 2**30
_LOW_BYTES = 2 * _GIB


def check_packages(project: Project) -> Iterator[Finding]:
    """Compare Python and the installed packages with what the project asks for."""
    about, lock = project.root / "pyproject.toml", project.root / _LOCK
    if wanted := _PYTHON.search(_read(about)):
        found = sys.version_info[:2]
        lowest, below = (re.search(rf"{sign}\s*(\d+)\.(\d+)", wanted[1]) for sign in (">=", "<"))
        too_old = lowest is not None and found < (int(lowest[1]), int(lowest[2]))
        if too_old or (below is not None and found >= (int(below[1]), int(below[2]))):
            yield Finding("error", f"Python {found[0]}.{found[1]}: the project asks for {wanted[1]}.", _install("3.11"))
    if not lock.is_file():
        return
    installed = _installed()
    pins = {_normal(name): version for name, version in _PIN.findall(_read(lock))}
    missing = sorted(pins.keys() - installed.keys())
    if missing:
        yield Finding("error", f"{_LOCK}: not installed: {some(missing)}.", "Type `make install`.")
    others = [
        f"{name} {installed[name]} (locked: {version})"
        for name, version in sorted(pins.items())
        if name in installed and installed[name].split("+")[0] != version.split("+")[0]
    ]
    if others:
        yield Finding("warning", f"{_LOCK}: other versions are installed: {some(others)}.", "Type `make install`.")


def _install(version: str) -> str:
    return f"Type `make install PYTHON=python{version}` in a clone without .venv."


def _installed() -> dict[str, str]:
    """Version of each installed package, from the names of the folders: `importlib.metadata` reads all of their files.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    names = (folder.stem for path in reversed(sys.path) for folder in Path(path).glob("*.dist-info"))
    return {_normal(name): version for name, version in (stem.rsplit("-", 1) for stem in names if "-" in stem)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_git(project: Project) -> Iterator[Finding]:
    """Look for unfinished merges, and for settings and digests that no commit holds."""
    git = shutil.which("git")
    if git is None:
        yield Finding("warning", "git: not installed; runs cannot record the version of the code.", "Install git.")
        return
    status = [git, "status", "--porcelain=v2", "--untracked-files=no"]
    done = subprocess.run(status, cwd=project.root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        yield Finding("warning", f"git: {done.stderr.strip()}", "Work in a clone, so that runs record their commit.")
        return
    conflicts = _CONFLICT.findall(done.stdout)
    if conflicts:
        yield Finding(
            "error",
            f"git: a merge is not finished: conflicts in {some(conflicts)}.",
            "Resolve them and commit, or type `git merge --abort`.",
        )
    changed = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("1 ")]
    unsaved = [name for name in _TRACKED if name in changed]
    if unsaved:
        yield Finding(
            "note",
            f"git: no commit holds the present {', '.join(unsaved)}.",
            f"When the results are good: `git commit -m MESSAGE {' '.join(unsaved)}`.",
        )


def check_disk(project: Project) -> Iterator[Finding]:
    """Compare the free space with what the pipeline's outputs take: `dvc repro` writes them anew, and caches them."""
    free = shutil.disk_usage(project.root).free
    outputs = sum(size(project.root / name) for name in ("data", "reports"))
    needed = max(_LOW_BYTES, outputs)
    if free < needed:
        yield Finding(
            "warning",
            f"{project.root}: {free / _GIB:.1f} GiB are free; the outputs of a run need about {needed / _GIB:.1f} GiB.",
            "Free space: `dvc gc --workspace --dry` lists what no output of the work tree needs.",
        )


def size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none. Files that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        total += status.st_size
    return total


def check_gpu(project: Project) -> Iterator[Finding]:
    """Look whether the driver and the installed PyTorch fit together, and whether the settings need a GPU."""
    version = _read(_NVIDIA / "version")
    driver = re.search(r"\s(\d{3})\.\d+", version)
    needed = project.config is not None and project.config.runtime.accelerator == "cuda"
    if driver is None:
        yield Finding(
            "error" if needed else "note",
            "GPU: there is no NVIDIA driver"
            + (", but runtime.accelerator of params.yaml is cuda." if needed else "; PyTorch computes on the CPU."),
            "Set runtime.accelerator to auto, or install the driver." if needed else "",
        )
        return
    cards = list((_NVIDIA / "gpus").glob("*/information"))
    cuda = _cuda()
    oldest = _OLDEST_DRIVERS.get(cuda.split(".")[0], 0)
    if not cards:
        yield Finding("error" if needed else "warning", "GPU: the driver sees none.", "Type `nvidia-smi` to see why.")
    if int(driver[1]) < oldest:
        yield Finding(
            "error" if needed else "warning",
            f"GPU: driver {driver[1]}, but the installed PyTorch (CUDA {cuda}) needs {oldest} or newer.",
            "Update the driver.",
        )
    elif not cuda:
        yield Finding("warning", "GPU: the installed PyTorch was built without CUDA.", "Type `make install`.")


def _cuda() -> str:
    """Version of CUDA that the installed PyTorch was built for; empty for none."""
    found = importlib.util.find_spec("torch")
    about = _read(Path(found.origin).with_name("version.py")) if found and found.origin else ""
    version = re.search(r"^cuda[^=\n]*= '([\d.]+)'", about, re.MULTILINE)
    return version[1] if version else ""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
