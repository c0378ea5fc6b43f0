"""The command line: parses the arguments, calls the function of a verb, turns errors into exit codes."""


def main() -> None:
    """Run the command line, where what it needs besides the models is installed."""
    try:
        from sensorium.cli.app import main as run
    except (KeyboardInterrupt, RuntimeError) as fault:  # what it needs is still being imported
        if isinstance(fault, RuntimeError) and not isinstance(fault.__cause__, KeyboardInterrupt):
            raise
        raise SystemExit(130) from None
    except ModuleNotFoundError as fault:
        if (fault.name or "").partition(".")[0] == "sensorium":
            raise
        raise SystemExit(
            f"Error: the command line needs {fault.name}, which is not installed.\n"
            "Type `pip install 'sensorium[train,platform]'`; `sensorium.load` in Python works without."
        ) from None
    run()


__all__ = ["main"]
