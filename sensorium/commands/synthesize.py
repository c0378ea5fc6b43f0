"""`sensorium synthesize`: provide one simulated raw mouse."""

from rich.console import Console
from rich.progress import Progress

from sensorium.commands.options import Mouse, select_mice
from sensorium.config import Config
from sensorium.errors import ConfigError, DataError
from sensorium.files import exclusive_lock
from sensorium.paths import PARAMS_FILE, Paths
from sensorium.recordings.raw import require_linked
from sensorium.recordings.synthetic import marker
from sensorium.recordings.synthetic import mouse as synthetic


def run(config: Config, paths: Paths, mouse: Mouse = None) -> None:
    """Simulate a raw dataset in the competition's on-disk format.

    A mouse that is already there is taken as it is, unless it was simulated from other settings and not
    changed since. The noiseless rate of every trial goes to `.truth/MOUSE` beside the mice, so that the
    best reachable correlation is known, and so does a table of the neurons' parameters.

    Raises:
        ConfigError: params.yaml does not describe how to simulate a mouse.
        DataError: the folder is a link to nowhere, its marker is damaged, it was made from other settings and changed
            since, or another process simulates the mouse.
    """
    for name in select_mice(config, mouse):
        _simulate(config, paths, name)


def _simulate(config: Config, paths: Paths, mouse: str) -> None:
    """Simulate one mouse; a folder that somebody else provided or changed is never touched."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    recipe = _recipe(config, mouse)
    raw = config.raw_folder(paths.root)
    require_linked(raw / mouse)
    state = synthetic.state(raw, recipe)
    if state == "foreign":
        console.print(f"{raw / mouse}: already there and not simulated, taken as it is.")
        return
    if state == "current":
        changed = marker.changes(raw / mouse, quick=True)
        note = f"no longer what was simulated there ({changed[0]}), taken as it is" if changed else "up to date"
        console.print(f"{raw / mouse}: {note}.")
        return
    busy = DataError(f"{raw / mouse}: another process is simulating this mouse.", "Wait until it has finished.")
    with (
        exclusive_lock(paths.lock(f"raw-{mouse}"), busy, raw / mouse, raw / marker.TRUTH_FOLDER / mouse),
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task(f"Simulating {mouse}", total=recipe.trials)
        synthetic.write_mouse(raw, recipe, on_trial=lambda: progress.advance(task))
    console.print(f"{raw / mouse}: simulated {recipe.trials} trials of {recipe.settings.neurons[mouse]} neurons.")


def _recipe(config: Config, mouse: str) -> synthetic.Recipe:
    if config.synthetic is None or mouse not in config.synthetic.neurons:
        raise ConfigError(
            f"synthetic.neurons: {PARAMS_FILE} has no entry for mouse {mouse}.",
            "Add the number of its neurons, or provide the mouse with `sensorium download`.",
        )
    return synthetic.Recipe(mouse, config.dataset.mice[mouse], config.synthetic)
