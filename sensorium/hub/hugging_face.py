"""Published models on the Hugging Face hub, by its own client (https://huggingface.co/docs/huggingface_hub).

`HF_ENDPOINT` names another hub, `HF_TOKEN` or `hf auth login` give access, `HF_HOME` is where models are kept.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from sensorium.errors import CheckpointError, ConfigError, TransferError
from sensorium.hub.release import CONFIG, ReleaseConfig, verify

Result = TypeVar("Result")

_GIT_SETTINGS = ".gitattributes"
"""A file of the hub's own in every repository."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PAUSES = (1.0, 4.0)
"""Seconds before the second and the third attempt, where another attempt may help."""
_PASSING = (408, 429, 500, 502, 503, 504)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_ANSWERS = {
    401: ("refuses access", f"Check the name; for a private repository {_LOGIN}."),
    403: ("refuses access", f"Ask its owner for the right to do this, and {_LOGIN}."),
    404: ("has no such repository", "Check owner and name."),
    429: ("had too many requests", f"Wait some minutes; {_LOGIN} for a higher limit."),
}


@dataclass(frozen=True)
class Repository:
    """A model repository of the hub; a revision is a tag, when loading also a branch or a commit."""

    name: str

    @classmethod
    def of(cls, address: str) -> Self:
        """Read an address.

        Raises:
            ConfigError: it names no repository.
        """
        name = address.removeprefix("hf://").strip("/")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{address}: names no repository.", "Write hf://OWNER/NAME.")
        return cls(name)

    def fetch(self, revision: str | None) -> Path:
        """Folder of the client's cache with the model, verified; what is damaged there is fetched anew, once."""
        api = _api()
        download = partial(api.snapshot_download, self.name, revision=revision)
        folder = Path(self._try(revision, download))
        try:
            verify(folder, self._label(revision))
        except CheckpointError:
            folder = Path(self._try(revision, partial(download, force_download=True)))
            verify(folder, self._label(revision))
        return folder

    def publish(self, folder: Path, revision: str | None) -> None:
        """Upload in one commit, which gets the revision as tag; see `Place`."""
        from sensorium.hub.places import keeps

        api = _api()
        present = self._present(api, revision)
        if present is None or not keeps(present, folder, self._label(revision), revision):
            self._try(None, partial(api.create_repo, self.name, exist_ok=True))
            self._try(None, partial(self._commit, api, folder))
            if revision is not None:
                self._try(None, partial(api.create_tag, self.name, tag=revision))

    def _commit(self, api: Any, folder: Path) -> None:
        """Replace the content of the repository in one commit, so that no reader sees half of it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        config = ReleaseConfig.read(folder)
        files = [*config.files, CONFIG]
        stale = sorted(set(api.list_repo_files(self.name)) - {*files, _GIT_SETTINGS})
        changes = [CommitOperationAdd(name, folder / name) for name in files]
        changes += [CommitOperationDelete(name) for name in stale]
        api.create_commit(self.name, changes, commit_message=f"Publish {config.digest[:12]}")

    def _present(self, api: Any, revision: str | None) -> Path | None:
        """Folder with the config.json that the repository has in a revision; None where it has none."""
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            found = self._try(revision, partial(api.hf_hub_download, self.name, CONFIG, revision=revision))
        except TransferError as fault:
            if isinstance(fault.__cause__, EntryNotFoundError | RepositoryNotFoundError | RevisionNotFoundError):
                return None
            raise
        return Path(found).parent

    def _label(self, revision: str | None) -> str:
        return f"hf://{self.name}" + (f", revision {revision}" if revision else "")

    def _try(self, revision: str | None, call: Callable[[], Result]) -> Result:
        """Call the client, again where a fault may pass; its faults become a TransferError."""
        from huggingface_hub.errors import HTTPError

        for pause in (*_PAUSES, None):
            try:
                return call()
            except (HTTPError, OSError, ValueError) as fault:
                status = _status(fault)
                if pause is None or (status is not None and status not in _PASSING) or isinstance(fault, ValueError):
                    problem, remedy = _explain(fault, status)
                    raise TransferError(f"{self._label(revision)}: {problem}.", remedy) from fault
                time.sleep(pause)
        raise AssertionError


def _status(fault: BaseException | None) -> int | None:
    """Status of the hub's answer that led to a fault; None where there was none."""
    while fault is not None:
        response = getattr(fault, "response", None)
        if response is not None:
            return int(response.status_code)
        fault = fault.__cause__
    return None


def _explain(fault: Exception, status: int | None) -> tuple[str, str]:
    """Problem and remedy."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    endpoint = _endpoint() or "huggingface.co"
    if isinstance(fault, RevisionNotFoundError):
        return f"{endpoint} has no such revision", "Name a tag, a branch or a commit of the repository."
    if isinstance(fault, EntryNotFoundError) and not isinstance(fault, LocalEntryNotFoundError):
        return f"there is no published model in it ({fault})", "Name a repository that `sensorium publish` has made."
    if status in _ANSWERS:
        problem, remedy = _ANSWERS[status]
        return f"{endpoint} {problem} ({status})", remedy
    if status is not None:
        return f"{endpoint} answers {status}", "Try again later."
    if isinstance(fault, ValueError):
        return f"{endpoint} is asked for something that it does not have ({fault})", "Correct owner, name and revision."
    reason = str(fault.__cause__ or fault).strip().partition("\n")[0]
    return f"{endpoint} cannot be reached ({reason})", "Check the network and HF_ENDPOINT, then try again."


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as fault:
        raise TransferError(
            f"hf://: needs {fault.name}, which is not installed.", "Type `pip install 'sensorium[hub]'`."
        ) from fault
    return HfApi(endpoint=_endpoint())
