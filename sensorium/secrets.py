"""Credentials: where they are known from, and how they are kept out of what is written, sent or shown.

What counts as a credential: the password or token of a URL, the value of an environment variable whose name says so,
the options of DVC's remotes that give access, in the configuration that git does not track
(https://dvc.org/doc/user-guide/project-structure/configuration), and tokens whose form says so.
"""

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
"""What stands in the place of a credential."""
_SHORTEST = 6
"""Characters of the shortest value that is masked wherever it stands: a shorter one is a part of ordinary words."""
_WORD = (
    r"(?:password|passwd|passphrase|(?<=_)pass|(?<=_)pwd|secret|token|credentials?|connection_string"
    r"|(?:api|access|account|customer|encryption|oss|private|secret|signing|storage)[_-]?key(?:_id)?)"
)
"""What the name of a credential ends with."""
_NAME = re.compile(rf"(?:^|_|pg){_WORD}(?:_|$)", re.IGNORECASE)
_OPTION = re.compile(rf"(?!ask_|exclude_)(?:\w+_)?{_WORD}")
_SCHEME = r"\b[a-z][a-z0-9+.-]{0,20}://"
_LONE_USER = r"(?=[^\s/@:'\"]*\d)[^\s/@:'\"]{20,}(?=@)"
"""A user's name of a URL that is long and has a digit: a token that needs no password."""
_URL = re.compile(rf"{_SCHEME}(?:[^\s/@'\"]*:[^\s/@'\"]+|{_LONE_USER})@[^\s'\"]*", re.IGNORECASE)
_USER_INFO = re.compile(rf"({_SCHEME}(?:[^\s/@:'\"]*:(?=[^\s/@'\"]+@)|(?={_LONE_USER})))([^\s/@'\"]+)", re.IGNORECASE)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|sk-(?:\w{1,12}-){,3}[A-Za-z0-9]{20,}|xox[abeprs]-[\w-]{10,}|eyJ[\w-]{10,500}\.eyJ[\w-]{10,}\.[\w-]*)"
)
"""Tokens of Hugging Face, GitHub, GitLab, AWS, OpenAI and Slack, and JSON Web Tokens."""
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_ASSIGNMENT = re.compile(
    rf"(?:(?<![a-z0-9])|(?<=pg)|(?-i:(?<=[a-z])(?=[A-Z]))){_WORD}[\"'\]]*"
    r"(?P<sign>\s*(?::[\w.|\[\], ]+)?:?=(?!=)\s*|\s*:(?!=)\s*)"
    r"(?:[a-z]{,2}(?P<quote>[\"'])(?P<quoted>[^\"'\s]+)(?P=quote)|(?P<bare>[^\"'`\s]+))",
    re.IGNORECASE,
)
"""A name that ends like a credential's, with `=` or `:`, perhaps with a type between, and a value."""
_WHOLE_LINE = re.compile(r"[+-]?\s*(?:export\s+|ENV\s+|-\s+)?[\w.-]*")
_END = re.compile(r"\s*(?:#|$)|[\"']")
_PLACEHOLDER = re.compile(
    rf"[$<{{%]|\W*$|(?-i:[A-Z_]+$)|(?:none|null|true|false|x+)$|\d{{1,5}}$|(?:.*[_.-])?{_WORD}s?$", re.IGNORECASE
)
_CODE = re.compile(r"(?:[a-z_]\w*\.)*[a-z_]\w*[(\[,);].*|(?:[a-z_]\w*\.)+[a-z_]\w*|[a-z_]+|[\d_.e+-]+", re.IGNORECASE)
"""A value without quotes that a program would take for a name, a call or a number."""


def is_secret(option: str) -> bool:
    """Whether an option of a DVC remote gives access by its value; such a one never belongs into a tracked file."""
    return _OPTION.fullmatch(option) is not None


def redact(text: str, root: Path | None = None) -> str:
    """The text with every known credential masked.

    Args:
        text: a message, a tag or a line of a log.
        root: the project, whose .dvc/config.local is read as well.
    """
    return _masked(text, known(root))


def _masked(text: str, values: set[str]) -> str:
    masked = _TOKEN.sub(MASK, _USER_INFO.sub(rf"\1{MASK}", text))
    for value in sorted(values, key=len, reverse=True):
        masked = masked.replace(value, MASK)
    return masked


def find(text: str, root: Path | None = None) -> int | None:
    """Number of the first line of a text that holds a credential, from 1; None where none does.

    Beyond what `redact` masks, private keys are credentials here, and literal values that are assigned to names such as
    `HF_TOKEN` or `password`. Arguments as for `redact`.
    """
    values = known(root)
    for number, line in enumerate(text.splitlines(), start=1):
        if (
            _TOKEN.search(line)
            or _PRIVATE_KEY.search(line)
            or any(value in line for value in values)
            or any(not _PLACEHOLDER.match(found[2]) for found in _USER_INFO.finditer(line))
            or any(_is_literal(line, found) for found in _ASSIGNMENT.finditer(line))
        ):
            return number
    return None


def _is_literal(line: str, found: re.Match[str]) -> bool:
    """Whether an assignment in a line is of a value itself, and not of a name, a call or a placeholder."""
    value = found["quoted"] or found["bare"]
    if _PLACEHOLDER.match(value):
        return False
    if found["quoted"]:
        return len(value) >= _SHORTEST
    ends = _END.match(line, found.end()) is not None
    dense = found["sign"] == "="
    if dense and ends and _WHOLE_LINE.fullmatch(line, 0, found.start()) and value.isalnum():  # a file of variables
        return True
    return (dense or ends) and len(value) >= _SHORTEST and not _CODE.fullmatch(value)


def known(root: Path | None = None) -> set[str]:
    """Values of the credentials of this process's environment, and of a project's DVC remotes, also percent-encoded."""
    values = set(_of_environment())
    if root is not None:
        values |= set(_of_dvc(root / ".dvc" / "config.local"))
    return {form for value in values if len(value) >= _SHORTEST for form in (value, quote(value, safe=""))}


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAME.search(name) and not os.path.exists(value):  # noqa: PTH110 - a Path refuses long tokens
            yield from _of_value(value)
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
            if is_secret(option):
                yield from _of_value(value.strip("\"'"))
            for url in _URL.findall(value):
                yield from _of_url(url)


def _of_value(value: str) -> Iterator[str]:
    """A value, and the keys in it where it is a connection string of Azure."""
    yield value
    yield from re.findall(r"(?:AccountKey|SharedAccessSignature)=([^;]+)", value)


def _of_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    if secret := parts.password or parts.username:  # `_URL` takes a name alone only for a token
        yield secret
        yield unquote(secret)
