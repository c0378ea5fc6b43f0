"""MLflow's server with the leaderboards opened: `mlflow ui --app-name sensorium`.

MLflow's UI keeps the state of every run table in the browser, and a browser that has none yet shows no scores. This
server's first page puts the saved view of each leaderboard there beforehand, for experiments that the browser has
not opened yet. Everything else is MLflow's own server
(https://mlflow.org/docs/latest/ml/plugins/#mlflow-app-plugins).
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sensorium.tracking.views import VIEW_TAG, unpacked

if TYPE_CHECKING:
    from fastapi import FastAPI

_SETTINGS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
"""Pages of model training, and no panel of the assistant over the table."""
_STATE = "MLflowLocalStorage-1.1-ExperimentPage-{key}-ReactComponentState"
"""Where MLflow 3.17 keeps the state of a run table, by the list of its experiments."""
_SCRIPT = (
    "<script>for (const [k, v] of {items}) if (localStorage.getItem(k) === null) localStorage.setItem(k, v)</script>"
)


def create_app() -> "FastAPI":
    """The application, for the entry point `mlflow.app`."""
    from flask import Response
    from mlflow import MlflowClient, server
    from mlflow.server.fastapi_app import app

    html = Path(server.__file__).with_name("js") / "build" / "index.html"

    def first_page() -> Response:
        client = MlflowClient(os.environ[server.BACKEND_STORE_URI_ENV_VAR])
        views = {e.experiment_id: e.tags[VIEW_TAG] for e in client.search_experiments() if VIEW_TAG in e.tags}
        page = html.read_text(encoding="utf-8").replace("<head>", f"<head>{script(views)}", 1)
        return Response(page, mimetype="text/html", headers={"Cache-Control": "no-store"})

    server.app.view_functions["serve"] = first_page
    return cast("FastAPI", app)


def script(views: dict[str, str]) -> str:
    """What the first page runs: settings that the browser does not have yet; saved views by experiment id."""
    states = {_STATE.format(key=json.dumps([key])): json.dumps(unpacked(tag)) for key, tag in views.items()}
    items = json.dumps(list((_SETTINGS | states).items())).replace("<", "\\u003c")
    return _SCRIPT.replace("{items}", items)
