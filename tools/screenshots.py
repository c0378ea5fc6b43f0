#!/usr/bin/env python
"""Draw the pictures of docs/how-to/mlflow.md: MLflow's UI on the project's store, in a real browser.

`make screenshots` installs Playwright and runs this; the browser is the system's Chromium or Chrome.
Run `make demo` and `sensorium promote` first: the pictures show what is in the store.
"""

import argparse
import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from sensorium.config import load
from sensorium.errors import TrackingError
from sensorium.paths import PARAMS_FILE, Paths, find_root
from sensorium.registry.manifest import PAIR
from sensorium.tracking.leaderboard import leaderboard_name
from sensorium.tracking.runs import EXPERIMENT, FOLD, ROLE, search
from sensorium.tracking.store import TrackingStore
from sensorium.tracking.views import FOLDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SIZE = {"width": 1360, "height": 760}
_COLOURS = 128
_WAIT_MILLISECONDS = 60_000
_START_SECONDS = 240
_SETTLE_MILLISECONDS = 2500
"""Until a page that has its text has drawn its curves and stopped moving."""


@dataclass(frozen=True)
class Shown:
    """What the pictures show."""

    leaderboard: str
    """Id of the MLflow experiment."""
    row: str
    """Run id of the newest execution of the student."""
    fold: str
    """Run id of a fold of the teacher."""
    names: tuple[str, str]
    """Names of teacher and student."""


def find_shown(paths: Paths) -> Shown:
    """Look the runs up.

    Raises:
        TrackingError: the store lacks an experiment or its folds.
    """
    config, store = load(paths.root / PARAMS_FILE), TrackingStore.of(paths)
    client, name = store.client(), leaderboard_name(config.preset)
    names = (config.registry.teacher, config.registry.student)
    found = client.get_experiment_by_name(name)
    if found is None:
        raise TrackingError(f"{store.label}: has no MLflow experiment {name}.", "Type `make demo` first.")
    rows = search(client, [found.experiment_id], {ROLE: "experiment", EXPERIMENT: names[1]})
    folds = search(client, [found.experiment_id], {ROLE: "fold", EXPERIMENT: names[0], FOLD: "0"})
    if not rows or not folds:
        raise TrackingError(f"{store.label}: has no runs of {' and '.join(names)}.", "Type `make demo` first.")
    return Shown(str(found.experiment_id), str(rows[-1].info.run_id), str(folds[-1].info.run_id), names)


def leaderboard(page: Page, shown: Shown) -> None:
    """The run table as it opens: executions of experiments, the best first."""
    page.goto(f"#/experiments/{shown.leaderboard}")
    page.locator(".ag-row a", has_text=shown.names[1]).first.wait_for()


def folds(page: Page, shown: Shown) -> None:
    """The same table in the order of time, the folds of one row unfolded."""
    page.goto(f"#/experiments/{shown.leaderboard}/runs?viewStateShareKey={FOLDS}")
    rows = page.locator(".ag-row", has=page.get_by_text(shown.names[1], exact=True))
    rows.locator(".ag-cell button, .ag-cell [role=button]").first.click()
    page.get_by_text("fold_0").first.wait_for()


def charts(page: Page, shown: Shown) -> None:
    """Learning curves of the rows, and differences below them."""
    page.goto(f"#/experiments/{shown.leaderboard}/runs?compareRunsMode=CHART")
    page.get_by_text("Learning curves").first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()


def row(page: Page, shown: Shown) -> None:
    """A row's own page: how good it is, and what it was made of."""
    page.goto(f"#/experiments/{shown.leaderboard}/runs/{shown.row}")
    page.get_by_text("single-trial correlation out of fold").first.wait_for()


def run(page: Page, shown: Shown) -> None:
    """A fold's run: where it comes from, on what it was trained."""
    page.goto(f"#/experiments/{shown.leaderboard}/runs/{shown.fold}")
    page.get_by_text("dvc.data/folds").first.wait_for()


def registry(page: Page, _shown: Shown) -> None:
    """The versions of the pair, the champion among them."""
    page.goto(f"#/models/{PAIR}")
    page.get_by_text("Version 1", exact=True).first.wait_for()


def version(page: Page, shown: Shown) -> None:
    """The newest version of the pair, with its card."""
    registry(page, shown)
    page.locator("a", has_text="Version ").first.click()
    page.get_by_text("out of fold").wait_for()


PICTURES: tuple[Callable[[Page, Shown], None], ...] = (leaderboard, folds, charts, row, run, registry, version)


def draw(paths: Paths, output: Path) -> dict[str, str]:
    """Draw all pictures.

    Args:
        paths: the project whose store is shown.
        output: folder of the pictures, mlflow-<name>.png.

    Returns:
        The text of each page, by the picture's name.

    Raises:
        TrackingError: no browser, or nothing to show.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise TrackingError(f"{BROWSERS[0]}: not found.", "Install it, on Debian by `apt-get install chromium`.")
    shown, texts = find_shown(paths), {}
    with serving(paths) as address, sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses its sandbox to root
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        context = browser.new_context(viewport=_SIZE, base_url=address, timezone_id="UTC", locale="en-GB")
        context.set_default_timeout(_WAIT_MILLISECONDS)
        for picture in PICTURES:
            page = context.new_page()
            picture(page, shown)
            page.wait_for_timeout(_SETTLE_MILLISECONDS)
            save(page.screenshot(), output / f"mlflow-{picture.__name__}.png")
            texts[picture.__name__] = page.inner_text("body")
            page.close()
        browser.close()
    return texts


def save(picture: bytes, path: Path) -> None:
    """Write a picture with few colours: a page of text needs no more, and the repository keeps every version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


@contextlib.contextmanager
def serving(paths: Paths) -> Iterator[str]:
    """What `make ui` opens, on the project's store; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--app-name", "sensorium", "--backend-store-uri", TrackingStore.of(paths).uri, "--workers", "1"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "mlflow", "ui", *options, "--port", str(port)],
        cwd=paths.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):  # noqa: S310
            return
        time.sleep(0.5)
    raise TrackingError(f"mlflow ui at {address}: does not answer.", "Type `make ui` to see why.")


def main() -> None:
    """Draw the pictures, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = find_root()
    parser.add_argument("--output", type=Path, default=root / "docs" / "images", help="folder of the pictures")
    output = parser.parse_args().output
    try:
        draw(Paths(root), output)
    except TrackingError as fault:
        sys.exit(f"Error: {fault}")
    for path in sorted(output.glob("mlflow-*.png")):
        sys.stdout.write(f"{path}: {path.stat().st_size // 1024} kB\n")


if __name__ == "__main__":
    main()
