"""`sensorium serve`: a registered model behind HTTP, with limits."""

from typing import Annotated

import typer
from rich.console import Console

from sensorium.paths import Paths
from sensorium.registry.manifest import PAIR

_CHAMPION = f"models:/{PAIR}@champion"


def run(
    paths: Paths,
    model: Annotated[str, typer.Option("--model", "-m", help="Version or alias of the registry.")] = _CHAMPION,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on.")] = 5001,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest request, MiB.")] = 32,
    at_once: Annotated[int, typer.Option(min=1, help="Requests that are read and predicted at once.")] = 2,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; others get status 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Time in which a request must have arrived.")] = 60.0,
) -> None:
    """Serve a registered model until Ctrl-C, by MLflow's protocol.

    As `mlflow models serve`, but what is too large, too slow or one too many is refused with status 4xx and the reason.

    Raises:
        TrackingError: no such version, or files of it are missing or damaged.
    """
    from sensorium.registry.server import Limits, serve

    limits = Limits(max_megabytes, at_once, waiting, seconds)
    Console(soft_wrap=True, highlight=False).print(f"{model}: loading, then on http://{host}:{port}/invocations")
    serve(paths, model, host, port, limits)
