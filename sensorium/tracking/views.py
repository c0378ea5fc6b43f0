"""How MLflow's UI shows a leaderboard: rows, columns, order, charts.

The UI keeps the state of a run table in the browser and opens every new table with columns of its own; no tag
changes those. What a tag can hold is a saved view (`mlflow.sharedViewState.<key>`, the state as JSON), listed under
"Views" and opened by a link. `tracking/ui.py` puts one into the browser beforehand where it serves the UI.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

LEADERBOARD, FOLDS = "leaderboard", "folds"
"""Views: the rows alone, the best first; and all runs, the newest first, folds below their rows."""
NAMES = {LEADERBOARD: "Leaderboard", FOLDS: "With folds"}
_TAG = "mlflow.sharedViewState."
"""Before the key of a view, in the tag that holds it."""
VIEW_TAG = f"{_TAG}{LEADERBOARD}"
TAGS = {"mlflow.experimentKind": "custom_model_development", "mlflow.experiment.primaryMetric.name": "score"}
"""Tags of the MLflow experiment: it is about model training, and its charts begin with the score."""

_FACETS = {
    LEADERBOARD: {
        "searchFilter": "tags.`mlflow.parentRunId` IS NULL",
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
    },
    FOLDS: {"searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False},
}
"""The UI nests runs only where they are in the order of their time and not filtered."""
_PACKED = "deflate;"
_LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
_WIDTHS = {
    "attributes.`Run Name`": 300,
    "runDateAndNestInfo": 140,
    "metrics.`score`": 80,
    "metrics.`score/ci_low`": 105,
    "metrics.`score/ci_high`": 105,
    "attributes.`Version`": 75,
}
"""Pixels by column; the others get what their headings take."""
_PIXELS_A_LETTER, _MARGIN = 7, 28


def _width(column: str) -> int:
    heading = column.partition("`")[2].rstrip("`")
    return _WIDTHS.get(column, _MARGIN + _PIXELS_A_LETTER * len(heading))


def saved_views(params: Sequence[str], differences: Sequence[str], mice: Sequence[str]) -> dict[str, str]:
    """Tags of an MLflow experiment that hold its views.

    Args:
        params: settings that differ between the rows, each a column.
        differences: metrics of differences between rows, each a column, and a chart with its interval.
        mice: names as in the metrics, each a chart of its curve.
    """
    shared = _table(params, differences) | _charts(differences, mice)
    return {f"{_TAG}{key}": _packed(NAMES[key], shared | facets) for key, facets in _FACETS.items()}


def unpacked(tag: str) -> dict[str, Any]:
    """The state that a tag holds."""
    packed = json.loads(tag)["state"].removeprefix(_PACKED)
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


def _packed(name: str, state: Mapping[str, Any]) -> str:
    """The view as the UI itself stores it: its state deflated, since a database may limit the length of a tag."""
    deflated = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": f"{_PACKED}{deflated}"})


def _table(params: Sequence[str], differences: Sequence[str]) -> dict[str, Any]:
    columns = [
        *(f"metrics.`{key}`" for key in ("score", "score/ci_low", "score/ci_high")),
        "attributes.`Version`",
        *(f"params.`{key}`" for key in params),
        *(f"metrics.`{key}`" for key in differences),
        "metrics.`val/correlation/mean`",
        *(f"tags.`sensorium.{key}`" for key in ("architecture", "teacher", "sweep", "dvc.experiment")),
    ]
    order = ["attributes.`Run Name`", "runDateAndNestInfo", *columns]
    return {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": order,
        "columnWidths": {key: _width(key) for key in order},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _charts(differences: Sequence[str], mice: Sequence[str]) -> dict[str, Any]:
    """Learning curves first, then differences; charts of all other metrics follow by themselves."""
    curves = ["val/correlation", "train/epoch_loss", "val/loss", *(f"val/correlation/{mouse}" for mouse in mice)]
    sections = ("Learning curves", "Differences")
    intervals = {key: [f"{key}/ci_low", key, f"{key}/ci_high"] for key in differences}
    return {
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for name in (*sections, "Model metrics", "System metrics")
        ],
        "compareRunCharts": [
            *(_chart("LINE", key, sections[0], range={}, **_LINE) for key in curves),
            *(_chart("BAR", key, sections[1]) for key in differences),
            *(_chart("BAR", f"{key}/ci_low", sections[1], selectedMetricKeys=intervals[key]) for key in differences),
        ],
    }


def _chart(kind: str, key: str, section: str, **options: Any) -> dict[str, Any]:
    base = {"uuid": f"{kind}-{key}", "type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return {**base, "runsCountToCompare": 10, "metricKey": key, "displayName": key, **options}
