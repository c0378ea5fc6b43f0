"""Write a simulated recording in the form in which laboratories share theirs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from sensorium.commands.options import require_free
from sensorium.files import atomic_file
from sensorium.recordings.nwb.sample import sample_recipe, write_sample


def run(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The NWB file to write.")],
    neurons: Annotated[int, typer.Option(min=2, help="Number of neurons.")] = 40,
    trials: Annotated[int, typer.Option(min=8, help="Number of trials, about 5 s each.")] = 40,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another one gives another animal.")] = 1,
) -> None:
    """Write an NWB file of a simulated animal, to try the import without data of your own.

    The signals have their own rates, trials have pauses, a few frames are dropped, the animal blinks, and in one trial
    the scan is interrupted. conf/nwb/lab.yaml reads the file.

    Raises:
        DataError: something is already there, or pynwb is not installed.
    """
    require_free(output)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with atomic_file(output) as partial, Progress(console=console, transient=True) as progress:
        task = progress.add_task(output.name, total=trials)
        write_sample(sample_recipe(neurons, trials, seed), partial, lambda: progress.advance(task))
        require_free(output)
    console.print(f"{output}: {trials} trials of {neurons} neurons.")
