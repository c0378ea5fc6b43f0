"""The `sensorium` command, and the one place where errors become exit codes."""

import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from sensorium import __version__
from sensorium.cli.errors import INTERRUPTED, describe, report
from sensorium.cli.verbs import CONTEXT, LazyGroup
from sensorium.errors import ConfigError
from sensorium.paths import find_root
from sensorium.processes import tune_process
from sensorium.secrets import redact

_DESCRIPTION = """Predict the activity of mouse visual cortex from video.

`dvc repro` runs the stages of dvc.yaml in order; each stage is also a verb that can be typed alone, anywhere
inside the project. Settings come from params.yaml.
"""

app = typer.Typer(
    name="sensorium",
    cls=LazyGroup,
    help=_DESCRIPTION,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Hold the options that stand before the verb."""


def _project() -> Path | None:
    """The project around the working directory; None outside of one."""
    try:
        return find_root()
    except ConfigError:
        return None


def main() -> None:
    """Run the command line; wrong usage, a user's mistake or a failing disk prints one message, no traceback."""
    tune_process()
    message = None
    try:
        sys.exit(app(standalone_mode=False) or 0)  # the code of a `typer.Exit`
    except typer.Abort as fault:
        Console(stderr=True).print("Aborted.")
        raise SystemExit(1) from fault
    except (Exception, KeyboardInterrupt) as fault:
        exit_code, message = describe(fault)
        message = redact(message, _project())
        if exit_code is None:
            raise
        label = () if exit_code == INTERRUPTED else ("[bold red]Error:[/]",)
        if message:  # a group without a verb has printed its help
            Console(stderr=True, highlight=False, soft_wrap=True).print(*label, escape(message))
        raise SystemExit(exit_code) from fault
    finally:
        report(sys.argv[1:], message)
