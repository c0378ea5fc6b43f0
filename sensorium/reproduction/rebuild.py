"""A folder with the code of a commit and the data of given digests, beside the user's own tree.

The code is a clone that shares the repository's objects; the data comes from DVC's cache, and what the
cache lacks is fetched into it from the remote. Nothing of the user's tree is read but git's and DVC's
own folders, and nothing but DVC's cache is written.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile import load
from dvc_data.hashfile.checkout import checkout
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from sensorium.errors import PipelineError
from sensorium.files import PARTIAL_SUFFIX
from sensorium.tracking.provenance import git


def clone_commit(root: Path, commit: str, patch: bytes, folder: Path) -> Path:
    """Check a commit out into a folder of its own, and return the project's root in it.

    Args:
        root: the project's root, in a git repository.
        commit: full name of the commit.
        patch: changes to apply on top; may be empty.
        folder: where the clone goes; an existing one of the same commit and patch is used again.

    Raises:
        PipelineError: the repository lacks the commit, or the patch does not apply.
    """
    inside = _git(root, "rev-parse", "--show-prefix", failed="not a git repository").decode().strip()
    _git(root, "cat-file", "-e", f"{commit}^{{commit}}", failed=f"commit {commit} is not in this repository")
    wanted = commit.encode() + b"\n" + patch
    mark = folder / ".git" / "sensorium-commit"
    if not mark.is_file() or mark.read_bytes() != wanted:
        partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(partial), failed="cannot be cloned")
        _git(partial, "checkout", "--quiet", "--detach", commit, failed=f"commit {commit} cannot be checked out")
        if patch:
            _git(partial, "apply", "--binary", "-", failed="the recorded changes do not apply", stdin=patch)
        (partial / ".git" / "sensorium-commit").write_bytes(wanted)
        partial.rename(folder)
    return folder / inside


def clone_repository(address: str, folder: Path) -> Path:
    """Clone a repository into a folder, or use the clone of it that is there.

    Raises:
        PipelineError: it cannot be cloned, or the folder is something else.
    """
    if not folder.exists():
        _git(folder.parent, "clone", "--quiet", address, str(folder), failed=f"{address} cannot be cloned")
    found = _git(folder, "remote", "get-url", "origin", failed="not a clone of a repository").decode().strip()
    if found != address:
        raise PipelineError(f"{folder}: a clone of {found}, not of {address}.", "Use an empty folder.")
    return folder


def _git(root: Path, *arguments: str, failed: str, stdin: bytes = b"") -> bytes:
    try:
        return git(root, *arguments, stdin=stdin)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip()
        raise PipelineError(
            f"{root}: {failed}{f' ({reason})' if reason else ''}.",
            "Fetch the branch that holds the run's commit: `git fetch --all`.",
        ) from error


def place_data(root: Path, digests: Mapping[str, str], target: Path) -> None:
    """Put DVC's objects into another project's root, as separate files; outputs that are there already are made equal.

    Args:
        root: the project whose cache and remote are used.
        digests: DVC's md5 by path below the root; folders end in `.dir`.
        target: root of the folder to fill.

    Raises:
        PipelineError: an object is neither in the cache nor in the remote.
    """
    with Repo(str(root)) as repo:
        _fetch(repo, digests)
        cache = repo.cache.local
        for path, digest in digests.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            tree = load(cache, HashInfo("md5", digest))
            checkout(str(target / path), cache.fs, tree, cache, force=True, quiet=True)


def _fetch(repo: Repo, digests: Mapping[str, str]) -> None:
    """Bring what the cache lacks into it: listings of folders first, then the files that they name."""
    reason = ""
    for _ in range(2):
        wanted = [info for digest in digests.values() for info in _absent(repo, digest)]
        if not wanted:
            return
        try:
            repo.cloud.pull(wanted)
        except (DvcException, OSError) as error:
            reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
    missing = [path for path, digest in digests.items() if _absent(repo, digest)]
    if missing:
        names = ", ".join(f"{path} {digests[path]}" for path in missing)
        raise PipelineError(
            f"DVC's cache: has no {names}, and the remote did not give it{reason}.",
            "Bring back the data that the run read: `dvc pull` from the remote it was pushed to, or make it again "
            "with the settings of the run's commit.",
        )


def _absent(repo: Repo, digest: str) -> list[HashInfo]:
    """Objects of an output that the cache does not hold, as far as they are known."""
    cache, whole = repo.cache.local, HashInfo("md5", digest)
    try:
        found = load(cache, whole)
    except (FileNotFoundError, ObjectFormatError):
        return [whole]
    parts = [info for _, _, info in found] if isinstance(found, Tree) else [whole]
    return [info for info in parts if not cache.exists(info.value)]
