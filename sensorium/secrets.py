"""Credentials: where they are known from, and how they are kept out of what is written, sent or shown.

What counts as a credential: the password of a URL, the value of an environment variable whose name says so, and the
options of DVC's remotes that give access, in the configuration that git does not track
(https://dvc.org/doc/user-guide/project-structure/configuration).
"""

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

SECRET_OPTIONS = frozenset({"access_key_id", "secret_access_key", "session_token", "password", "sse_customer_key"})
"""Options of a DVC remote that give access; they never belong into a file that git tracks."""
MASK = "***"
"""What stands in the place of a credential."""
_NAMES = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_KEY(?:_ID)?)(?:_|$)")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@'\"]*:[^\s/@'\"]+@[^\s'\"]*", re.IGNORECASE)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/@:'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"^[+-]?\s*(?:aws_)?(?:{'|'.join(sorted(SECRET_OPTIONS))})\s*=\s*\S", re.IGNORECASE)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
_SHORTEST = 6
"""Characters of the shortest value that is masked wherever it stands: a shorter one is a part of ordinary words."""


def redact(text: str, root: Path | None = None) -> str:
    """The text with every known credential masked.

    Args:
        text: a message, a tag or a line of a log.
        root: the project, whose .dvc/config.local is read as well.
    """
    return _masked(text, known(root))


def _masked(text: str, values: set[str]) -> str:
    masked = _PASSWORD.sub(rf"\1{MASK}", text)
    for value in sorted(values, key=len, reverse=True):
        masked = masked.replace(value, MASK)
    return masked


def find(text: str, root: Path | None = None) -> int | None:
    """Number of the first line of a text that holds a credential, from 1; None where none does.

    Beyond what `redact` masks, options of DVC's remotes that give access and keys of AWS are credentials here, also
    where their values are not known. Arguments as for `redact`.
    """
    values = known(root)
    for number, line in enumerate(text.splitlines(), start=1):
        if _ASSIGNMENT.match(line) or _AWS_KEY.search(line) or _masked(line, values) != line:
            return number
    return None


def known(root: Path | None = None) -> set[str]:
    """Values of the credentials of this process's environment, and of a project's DVC remotes."""
    values = set(_of_environment())
    if root is not None:
        values |= set(_of_dvc(root / ".dvc" / "config.local"))
    return {value for value in values if len(value) >= _SHORTEST}


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAMES.search(name.upper()) and not os.path.exists(value):  # noqa: PTH110 - a Path refuses long tokens
            yield value
        for url in _URL.findall(value):
            yield from _of_url(url)


def _of_dvc(path: Path) -> Iterator[str]:
    """Credentials of a configuration of DVC; none where there is no such file, or DVC itself refuses it."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return
    for section in parser.sections():
        for option, value in parser.items(section):
            if option in SECRET_OPTIONS:
                yield value.strip("\"'")
            for url in _URL.findall(value):
                yield from _of_url(url)


def _of_url(url: str) -> Iterator[str]:
    password = urlsplit(url).password
    if password:
        yield password
        yield unquote(password)
