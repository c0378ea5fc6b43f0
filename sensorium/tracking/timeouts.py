"""How long trainings and the uploader wait: two environment variables, under their present and former names."""

import functools
import logging
import math
import os

from sensorium.errors import TrackingError

UPLOAD_TIMEOUT = "SENSORIUM_TRACKING_TIMEOUT"
"""Seconds that a training waits at its end for MLflow to take what is left; 0 leaves it to the uploader."""
IDLE_TIMEOUT = "SENSORIUM_UPLOADER_IDLE_TIMEOUT"
"""Seconds after which an uploader without work ends."""
ALLOWANCE_SECONDS = 45.0
"""What an uploader may take beyond its timeout: to start, or to wait for one answer, on a busy machine."""

_DEFAULTS = {UPLOAD_TIMEOUT: 15.0, IDLE_TIMEOUT: 20.0}
_FORMER = {UPLOAD_TIMEOUT: "SENSORIUM_TRACKING_PATIENCE", IDLE_TIMEOUT: "SENSORIUM_COURIER_LINGER"}
_CLOSING_SHARE = 0.005

_log = logging.getLogger(__name__)


def upload_timeout() -> float:
    """UPLOAD_TIMEOUT; raises a TrackingError where it is not a number of seconds."""
    return _seconds(UPLOAD_TIMEOUT)


def idle_timeout() -> float:
    """IDLE_TIMEOUT; raises a TrackingError where it is not a number of seconds."""
    return _seconds(IDLE_TIMEOUT)


def check_timeouts() -> None:
    """Refuse a variable that is not a number of seconds when a training starts, not hours later when it is needed.

    Raises:
        TrackingError: naming the variable.
    """
    for name in _DEFAULTS:
        _seconds(name)


def closing_seconds(duration: float) -> float:
    """Seconds that a training which took `duration` seconds waits at its end.

    Where the variable is not set, it is half a percent of its duration, so that short trainings of a pipeline
    do not wait for one another's last figures: the uploader sends them meanwhile.
    """
    timeout = upload_timeout()
    return timeout if _variable(UPLOAD_TIMEOUT) in os.environ else min(timeout, _CLOSING_SHARE * duration)


def child_variables(upload: float, idle: float) -> dict[str, str]:
    """Variables for a process that may run the code of another version, under present and former names."""
    seconds = {UPLOAD_TIMEOUT: f"{upload:g}", IDLE_TIMEOUT: f"{idle:g}"}
    return seconds | {_FORMER[name]: value for name, value in seconds.items()}


def _seconds(name: str) -> float:
    variable = _variable(name)
    text = os.environ.get(variable, str(_DEFAULTS[name]))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise TrackingError(f"{variable}: {text!r} is no number of seconds.", "Set a number such as 15.")
    return seconds


def _variable(name: str) -> str:
    """The variable that is set: the present name, or the former one."""
    former = _FORMER[name]
    if name in os.environ or former not in os.environ:
        return name
    warn_once(f"{former} is now called {name}; the old name goes with the next release.")
    return former


@functools.cache
def warn_once(sentence: str) -> None:
    """Log a warning that the process has not logged before."""
    _log.warning("%s", sentence)
