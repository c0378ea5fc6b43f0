"""The `sensorium` command, and the one place where errors become exit codes."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from sensorium import __version__
from sensorium.cli.callers import Refusal, told_to_callers
from sensorium.cli.errors import explain, wants_traceback
from sensorium.cli.process import prepare
from sensorium.cli.verbs import CONTEXT, LazyGroup
from sensorium.errors import SensoriumError

_DESCRIPTION = """Predict the activity of mouse visual cortex from video.

`dvc repro` runs the stages of dvc.yaml in order; each stage is also a verb that can be typed alone, anywhere
inside the project. Settings come from params.yaml.
"""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect (128 + SIGINT)."""

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


def main() -> None:
    """Run the command line; a user's mistake or a refusing disk prints one message, no traceback."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    prepare()
    with told_to_callers(sys.argv[1:]):
        try:
            app()
        except SensoriumError as fault:
            console.print("[bold red]Error:[/]", escape(str(fault)))
            raise Refusal(fault.exit_code, str(fault)) from fault
        except OSError as fault:
            if wants_traceback():
                raise
            console.print("[bold red]Error:[/]", escape(explain(fault)))
            raise Refusal(SensoriumError.exit_code, explain(fault)) from fault
        except KeyboardInterrupt as fault:
            console.print("Interrupted.")
            raise Refusal(INTERRUPTED, "Interrupted.") from fault
