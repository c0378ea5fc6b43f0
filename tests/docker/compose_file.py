"""docker/compose.yaml as Docker reads it: variables put in, anchors resolved."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<text>[^}]*))?\}")


class MissingError(ValueError):
    """A required variable has no value."""


def text():
    return (DOCKER / "compose.yaml").read_text()


def tree():
    """The file with its variables left as they stand."""
    return yaml.safe_load(text())


def with_values(variables):
    """The file with every variable replaced; refuses, as Docker does, when a required one is missing or empty."""

    def value(match):
        given = variables.get(match["name"], "")
        if match["kind"] == "?" and not given:
            raise MissingError(f"{match['name']}: {match['text']}")
        return given or (match["text"] if match["kind"] == "-" else "")

    return yaml.safe_load(VARIABLE.sub(value, text()))


def read_env(path):
    """Variables of an env file, and those that stand in it as comments (with their defaults)."""
    given, optional = {}, {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"(#?)(\w+)=(.*)", line):
            (optional if match[1] else given)[match[2]] = match[3]
    return given, optional
