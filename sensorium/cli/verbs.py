"""The verbs of the command line; the module of one is imported when it is typed, since some import PyTorch."""

import ast
import functools
import importlib
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ParameterInfo

from sensorium.config import load
from sensorium.paths import PARAMS_FILE, Paths, find_root

VERBS = {
    "Data": {
        "synthesize": "commands.synthesize:run",
        "synthesize-nwb": "commands.synthesize_nwb:run",
        "download": "commands.download:run",
        "responses": "commands.responses:run",
        "import-nwb": "commands.import_nwb:run",
        "export-nwb": "commands.export_nwb:run",
        "verify": "commands.verify:run",
        "import-experanto": "commands.experanto:run_import",
        "export-experanto": "commands.experanto:run_export",
        "ingest": "stages.ingest:run",
        "folds": "stages.folds:run",
        "inspect": "commands.inspect:run",
    },
    "Training": {
        "train": "stages.train:run",
        "sweep": "commands.sweep:run",
        "learning-curve": "commands.learning_curve:run",
        "model": "commands.model:run",
        "checkpoints": "commands.checkpoints:run",
        "weights import": "commands.weights:run_import",
        "weights export": "commands.weights:run_export",
    },
    "Prediction": {
        "predict": "stages.predict:run",
        "evaluate": "stages.evaluate:run",
        "fit-ensemble": "commands.fit_ensemble:run",
        "ensemble": "stages.ensemble:run",
        "submission": "stages.submission:run",
        "score": "commands.score:run",
        "predict-video": "commands.predict_video:run",
        "report": "stages.report:run",
        "results": "commands.results:run",
    },
    "Experiments in silico": {
        "insilico tuning": "commands.insilico:run_tuning",
        "insilico receptive-field": "commands.insilico:run_receptive_field",
        "insilico state": "commands.insilico:run_state",
        "insilico most-exciting-input": "commands.most_exciting:run",
        "insilico reconstruct": "commands.reconstruct:run",
    },
    "Registry": {
        "register": "stages.register:run",
        "promote": "commands.promote:run",
        "rollback": "commands.promote:run_rollback",
        "compare": "commands.compare:run",
        "diff": "commands.diff:run",
        "reproduce": "commands.reproduce:run",
        "receipt": "commands.reproduce:run_receipt",
        "sync": "commands.sync:run",
        "registry restore": "commands.restore:run",
        "serve": "commands.serve:run",
        "publish": "commands.publish:run",
    },
    "Pipeline": {
        "run": "commands.run:run",
        "config": "commands.config:run",
        "doctor": "commands.doctor:run",
        "gc": "commands.gc:run",
        "experiment new": "commands.experiment:run_new",
        "experiment add": "commands.experiment:run_add",
        "remote check": "commands.remote:run",
        "project install": "commands.project:run_install",
        "project run": "commands.project:run",
    },
}
"""Panel of the help text -> verb -> module and function."""
_GROUPS = {
    "insilico": "Experiments on a trained model, as on an animal.",
    "weights": "Import or export weights in the published format.",
    "registry": "Maintain the model registry.",
    "experiment": "Add experiments to the pipeline.",
    "remote": "Check DVC remotes.",
    "project": "Run stages for `mlflow run`, with everything that they need.",
}
RENAMED = {"repro": "run", "weigh": "fit-ensemble", "respond": "predict-video", "states": "checkpoints"}
"""Verbs of earlier releases."""
_log = logging.getLogger(__name__)


class LazyCommand(TyperCommand):
    """A verb whose module has not been imported; its help text is read from the source file."""

    def __init__(self, name: str, target: str, panel: str) -> None:
        module, self._function = target.split(":")
        self._module = f"sensorium.{module}"
        super().__init__(name, help=self._help(), rich_help_panel=panel, rich_markup_mode="markdown")

    def _help(self) -> str:
        spec = importlib.util.find_spec(self._module)
        assert spec is not None, self._module
        assert spec.origin is not None, self._module
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == self._function)
        return re.split(r"\n(?:Args|Returns|Raises):", ast.get_docstring(next(found)) or "")[0].strip()

    @functools.cached_property
    def loaded(self) -> TyperCommand:
        """The command with its options."""
        function = getattr(importlib.import_module(self._module), self._function)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown", context_settings=CONTEXT)
        single.command(self.name, help=self.help)(in_project(function))
        command = typer.main.get_command(single)
        assert isinstance(command, TyperCommand)
        return command

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments with the options of the function."""
        return self.loaded.make_context(*arguments, **options)


class LazyGroup(TyperGroup):
    """The verbs of `VERBS`, and the groups that they form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for panel, verbs in VERBS.items():
            for verb, target in verbs.items():
                group, _, name = verb.rpartition(" ")
                self._group(group, panel).add_command(LazyCommand(name, target, panel))

    def _group(self, name: str, panel: str) -> TyperGroup:
        if not name:
            return self
        if name not in self.commands:
            group = TyperGroup(
                name=name,
                help=_GROUPS[name],
                no_args_is_help=True,
                rich_help_panel=panel,
                rich_markup_mode="markdown",
                context_settings=CONTEXT,
            )
            self.add_command(group)
        found = self.commands[name]
        assert isinstance(found, TyperGroup)
        return found

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or of a name that an earlier release used."""
        if cmd_name in RENAMED:
            _log.warning("sensorium %s: renamed, type `sensorium %s`.", cmd_name, RENAMED[cmd_name])
        return super().get_command(ctx, RENAMED.get(cmd_name, cmd_name))


CONTEXT = {"help_option_names": ["-h", "--help"]}


def in_project(function: Callable[..., Any]) -> Callable[..., None]:
    """Give a function its parameters `config` and `paths` from the project around the working directory."""
    signature = inspect.signature(function)
    given = {"config", "paths"} & signature.parameters.keys()

    def call(**options: Any) -> None:
        if given:
            root = find_root()
            project: dict[str, Any] = {"paths": Paths(root)}
            if "config" in given:
                project["config"] = load(root / PARAMS_FILE)
            options |= {name: project[name] for name in given}
        function(**options)

    shown = [parameter for name, parameter in signature.parameters.items() if name not in given]
    for about in (about for parameter in shown for about in get_args(parameter.annotation)):
        if isinstance(about, ParameterInfo):
            about.readable = False  # Typer says no more than that a file is not readable; who opens it says what to do
    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return call
