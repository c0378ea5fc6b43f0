"""A training in a process of its own, which ends in one of several ways."""

import subprocess
import sys

_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from sensorium.config import load
from sensorium.paths import Paths
from sensorium.tracking import start_training_run
root, fold, fingerprint, end = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
run = start_training_run(load(root / "params.yaml"), Paths(root), "true_batch_001", fold, fingerprint)
for step in range(3):
    run.metrics({"train/loss": 1.0, "val/correlation": step / 10}, step)
if end == "wait":
    print("at work", flush=True)
    sys.stdin.read()
elif end != "finish":
    time.sleep(float(end))
    os.kill(os.getpid(), signal.SIGKILL)
run.close("FINISHED")
"""


def training(project, fold=0, end="finish", fingerprint=None):
    """Start it; `end` is "finish", "wait" for the end of its input, or the seconds until SIGKILL."""
    arguments = [str(project.paths.root), str(fold), fingerprint or str(fold) * 64, str(end)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True} if end == "wait" else {}
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, *arguments], **pipes)
