"""Hooks of mkdocs.yml: pages that are generated from the code, so that they cannot be out of date."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from sensorium.architectures import ARCHITECTURES, settings_class
from sensorium.cli.app import app
from sensorium.config import Config
from sensorium.experiments import compose

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sensorium"
LOG = logging.getLogger("mkdocs.hooks")  # a warning fails the strict build
Schema = dict[str, Any]
LOADED = re.compile(r"<(?:script|img|iframe|link rel=\"?stylesheet\"?)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")
"""A tag that lets a browser fetch something from another server."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API pages to the section Reference."""
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference.append({"Python API": [{name: f"reference/api/{name}.md"} for name in modules()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    }
    for name, submodules in modules().items():
        pages[f"reference/api/{name}.md"] = f"# {name}\n\n" + "\n".join(f"::: {module}\n" for module in submodules)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Refuse environment variables that the code does not know."""
    if page.file.src_uri == "reference/environment.md":
        sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
        unknown = {name for name in re.findall(r"SENSORIUM_[A-Z_]+", markdown) if name not in sources}
        if unknown:
            LOG.warning("reference/environment.md: no module reads %s.", ", ".join(sorted(unknown)))
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that loads anything from the network."""
    if found := LOADED.search(output):
        LOG.warning("%s: loads from the network: %s", page.file.src_uri, found[0])
    return output


def modules() -> dict[str, list[str]]:
    """Every package and module of the top level, and the modules that its page describes."""
    found = {}
    for path in sorted(PACKAGE.iterdir()):
        name = f"sensorium.{path.stem}"
        if (path / "__init__.py").is_file():
            inner = sorted(path.rglob("*.py"))
            dotted = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in inner]
            found[name] = [module.removesuffix(".__init__") for module in dotted if not module.endswith("__main__")]
        elif path.suffix == ".py" and path.stem != "__init__":
            found[name] = [name]
    return found


def commands() -> str:
    """The page of all verbs, by the panels of `sensorium --help`."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("sensorium", ["--help"], resilient_parsing=True)
    panels: dict[str, list[str]] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if not command.hidden:
            panels.setdefault(str(command.rich_help_panel), []).extend(describe(command, name, context, "sensorium"))
    lines = [
        "# Commands",
        "",
        "Every command, as `sensorium COMMAND --help` prints it. Run them anywhere in the project.",
    ]
    for panel, descriptions in panels.items():
        lines += ["", f"## {panel}", "", *descriptions]
    return "\n".join(lines)


def describe(command: Any, name: str, parent: Any, prefix: str) -> Iterator[str]:
    """A command, or every command of a group, in Markdown."""
    context = command.make_context(name, ["--help"], parent=parent, resilient_parsing=True)
    if hasattr(context.command, "commands"):
        for inner in context.command.list_commands(context):
            yield from describe(context.command.get_command(context, inner), inner, context, f"{prefix} {name}")
    else:
        yield get_docs_for_click(obj=context.command, ctx=parent, indent=2, name=name, call_prefix=prefix)


def settings() -> str:
    """The page of all keys of params.yaml, with their values in two presets."""
    values = [yaml.safe_load(compose(ROOT, preset)) for preset in PRESETS]
    lines = ["# Settings", "", SETTINGS]
    schema = Config.model_json_schema()
    for path, section in [("", schema), *sections(schema, schema["$defs"], "")]:
        lines += table(path or "params.yaml", section, [lookup(value, path) for value in values])
    for name in sorted(ARCHITECTURES):
        section = settings_class({"architecture": name}).model_json_schema()
        found = [first_model(value, name) for value in values]
        lines += table(f"experiments.NAME.model of the architecture {name}", section, found)
    return "\n".join(lines)


PRESETS = ("demo", "competition")
EXAMPLE = "true_batch_001"
SETTINGS = f"""Every key of `params.yaml`. Unknown keys, wrong types and contradictions are refused by
`sensorium config --check`, the first stage of the pipeline. The last columns are the values of the presets
{" and ".join(f"`{preset}`" for preset in PRESETS)}, for `{EXAMPLE}` where it has the key;
`sensorium config --preset {PRESETS[0]}` prints a preset.
"""


def sections(section: Schema, known: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Path and schema of every section below a section, depth first."""
    for key, field in section["properties"].items():
        mapped = "additionalProperties" in field
        for choice in (field, field.get("additionalProperties") or {}, *field.get("anyOf", ())):
            name = choice.get("$ref", "").rpartition("/")[2]
            if name and name != "ModelConfig":
                below = f"{path}.{key}".lstrip(".") + (".NAME" if mapped else "")
                yield below, known[name]
                yield from sections(known[name], known, below)


def table(title: str, section: Schema, values: list[Any]) -> list[str]:
    """A heading, the section's docstring and a row per key."""
    lines = ["", f"## {title}", "", section.get("description", ""), ""]
    lines += ["| key | type | meaning | " + " | ".join(PRESETS) + " |", "|---" * (3 + len(PRESETS)) + "|"]
    for key, field in section["properties"].items():
        shown = [cell(value.get(key)) if isinstance(value, dict) else "" for value in values]
        meaning = " ".join(field.get("description", "").split())
        lines.append(
            "| " + " | ".join([f"`{key}`", kind(field, key in section.get("required", ())), meaning, *shown]) + " |"
        )
    return lines


TYPES = {"array": "list", "object": "mapping", "null": "null"}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def kind(field: Schema, required: bool) -> str:
    """The type of a value in words, with its limits and its default."""
    if choices := field.get("anyOf"):
        text = " or ".join(kind(choice, True) for choice in choices)
    elif "enum" in field:
        text = ", ".join(f"`{choice}`" for choice in field["enum"])
    elif "const" in field:
        text = f"`{field['const']}`"
    elif "$ref" in field:
        text = "section"
    else:
        text = TYPES.get(field["type"], field["type"])
    limits = [f"{words} {field[limit]}" for limit, words in LIMITS.items() if limit in field]
    default = [] if required else [f"default `{field.get('default')}`".replace("None", "null")]
    return ", ".join([text, *limits, *default])


def cell(value: Any) -> str:
    """A value for a cell of a table; nothing for sections."""
    return "" if isinstance(value, dict) or value is None else f"`{value}`"


def lookup(tree: Any, path: str) -> Any:
    """The section at a dotted path, of the first experiment that has it; None where there is none."""
    if not path or not isinstance(tree, dict):
        return tree
    key, _, below = path.partition(".")
    names = sorted(tree, key=lambda name: name != EXAMPLE) if key == "NAME" else [key]
    return next((found for name in names if (found := lookup(tree.get(name), below)) is not None), None)


def first_model(tree: Schema, architecture: str) -> Any:
    """The model settings of the first experiment of an architecture."""
    models = [experiment["model"] for experiment in tree["experiments"].values()]
    return next((model for model in models if model["architecture"] == architecture), None)
