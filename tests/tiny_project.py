"""A project whose stages take seconds, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tiny import ROOT


class Project:
    """A copy of what `dvc repro` needs, in a folder of its own."""

    def __init__(self, folder, tree):
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("dvc.yaml", ".dvcignore", "MLproject", "python_env.yaml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "sensorium", folder / "sensorium", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        assert self.dvc("init", "--no-scm", "--quiet").returncode == 0
        assert self.dvc("config", "core.analytics", "false").returncode == 0  # as the project has it

    def dvc(self, *arguments):
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def repro(self, *targets):
        done = self.dvc("repro", *targets)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def outputs(self):
        """Digest of every cached output by its path, without the links to runs."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {
            out["path"]: out["md5"]
            for stage in lock["stages"].values()
            for out in stage["outs"]
            if not out["path"].startswith("data/runs/")
        }
