"""The command line: parses the arguments, calls the function of a verb, turns errors into exit codes."""


def main() -> None:
    """Run the command line; Ctrl-C is no fault while its modules are still being imported, either."""
    try:
        from sensorium.cli.app import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


__all__ = ["main"]
