"""Hooks of mkdocs.yml: pages that are generated from the code, so that they cannot be out of date."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from sensorium.architectures import ARCHITECTURES, settings_class
from sensorium.cli.app import app
from sensorium.config import Config
from sensorium.experiments import compose
from sensorium.section import Section

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sensorium"
LOG = logging.getLogger("mkdocs.hooks")  # a warning fails the strict build
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
    lines = ["# Commands", "", "Every command, as `sensorium COMMAND --help` prints it. Run them anywhere in the project."]
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
        text = get_docs_for_click(obj=context.command, ctx=parent, indent=2, name=name, call_prefix=prefix)
        yield re.sub(r"<(\w+)>", r"&lt;\1&gt;", text) if "`" not in text else text


def settings() -> str:
    """The page of all keys of params.yaml, with their values in two presets."""
    values = [yaml.safe_load(compose(ROOT, preset)) for preset in ("demo", "competition")]
    lines = ["# Settings", "", SETTINGS]
    lines += section("params.yaml", Config, "", values)
    example = "true_batch_001"
    for title, name, prefix in inner_sections(Config, ""):
        tree = [lookup(value, prefix.replace("<name>", example)) for value in values]
        lines += section(title, name, prefix, tree)
    for architecture in sorted(ARCHITECTURES):
        holder = example if architecture == "dwiseneuro" else "baseline_001"
        tree = [lookup(value, f"experiments.{holder}.model") for value in values]
        title = f"experiments.<name>.model, architecture {architecture}"
        lines += section(title, settings_class({"architecture": architecture}), "experiments.<name>.model", tree)
    return "\n".join(lines)


SETTINGS = """Every key of `params.yaml`. Unknown keys, wrong types and contradictions are refused by
`sensorium config --check`, the first stage of the pipeline. The last columns are the values in the presets
`demo` and `competition` (of the experiment `true_batch_001`); `sensorium config --preset NAME` prints a preset.
"""


def inner_sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Sections below a section: title, class, and the key of each."""
    for key, field in model.model_fields.items():
        mapping, inner = section_of(field)
        if inner is not None and not inner.__name__.startswith("Model"):
            path = f"{prefix}.{key}".lstrip(".") + (".<name>" if mapping else "")
            yield path, inner, path
            yield from inner_sections(inner, path)


def section_of(field: FieldInfo) -> tuple[bool, type[BaseModel] | None]:
    """Whether a field maps names to sections, and the class of the section, if it holds one."""
    for choice in (field.annotation, *get_args(field.annotation)):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice is not field.annotation and "dict" in str(field.annotation), choice
    return False, None


def section(title: str, model: type[BaseModel], prefix: str, values: list[Any]) -> list[str]:
    """A heading, the docstring and a table of the keys."""
    lines = ["", f"## {escape(title)}", "", (model.__doc__ or "").strip(), ""]
    lines += ["| key | type | meaning | demo | competition |", "|---|---|---|---|---|"]
    for key, field in model.model_fields.items():
        _, inner = section_of(field)
        meaning = (field.description or (f"A section: {(inner.__doc__ or '').splitlines()[0]}" if inner else "")).strip()
        shown = [short(value.get(key)) if isinstance(value, dict) else "" for value in values]
        lines.append(f"| `{key}` | {kind(field)} | {' '.join(meaning.split())} | {shown[0]} | {shown[1]} |")
    return lines


def kind(field: FieldInfo) -> str:
    """The type of a field in words of YAML, its limits and its default."""
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", str(field.annotation).replace("<class '", "").replace("'>", ""))
    text = re.sub(r"Annotated\[(\w+), [^\]]*\]", r"\1", text).replace("NoneType", "null").replace("None", "null")
    limits = [str(limit) for limit in field.metadata if re.match(r"(Gt|Ge|Lt|Le|MinLen)\(", str(limit))]
    default = "" if field.is_required() else f", default {short(field.default) or 'null'}"
    return escape(text + "".join(f", {limit}" for limit in limits)).replace("|", "or") + default


def short(value: Any) -> str:
    """A value for a cell of a table; nothing for sections."""
    return "" if isinstance(value, dict) or value is None else f"`{value}`".replace("|", "\\|")


def escape(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("[", "\\[").replace("_", "\\_")


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
