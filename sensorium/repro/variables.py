"""Environment variables by which the processes of a run know of each other, and the shell between them."""

SHELL_MODULE = "sensorium.repro.shell"
"""What is started as `python -m` in the place of the user's shell."""

USER_SHELL = "SENSORIUM_USER_SHELL"
"""The shell that runs the commands, SHELL as it was before."""

EXECUTOR = "SENSORIUM_EXECUTOR"
"""Name of the executor."""

GPUS = "SENSORIUM_GPUS_PER_STAGE"
"""GPUs that a cluster's executor asks for."""

PARENT = "SENSORIUM_STAGE_PID"
"""Id of the process that runs DVC for the stage, this process's parent."""

CLAIMS = "SENSORIUM_CLAIMS"
"""The file on which processes of a run show that they live."""

LOG = "SENSORIUM_LOG"
"""The stage's log."""
