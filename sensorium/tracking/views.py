"""The view of a run table that MLflow's UI lists under "Views": the scores beside the runs.

A saved view is a tag of the experiment that holds the state of the table as JSON; MLflow has no other way
to set one but by hand, in its UI.
"""

import json

from sensorium.tracking.journal import now

NAME = "Scores"
VIEW_TAG = "mlflow.sharedViewState.sensorium"
"""Tag of the experiment; its ending is the key of links to the view."""
_COLUMNS = (
    "metrics.`oof/single_trial_correlation`",
    "metrics.`oof/correlation_to_average`",
    "metrics.`val/correlation/mean`",
    "metrics.`val/correlation/ci_low`",
    "metrics.`val/correlation/ci_high`",
    "metrics.`val/correlation`",
    "tags.`sensorium.seed`",
    "tags.`sensorium.git.dirty`",
)


def scores_view() -> str:
    """Value of the tag."""
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _COLUMNS,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    return json.dumps({"name": NAME, "createdAt": now(), "updatedAt": now(), "state": json.dumps(state)})
