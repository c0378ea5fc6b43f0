"""Commands as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

_AUTHOR = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def typed(text):
    """Type a command in the working folder."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "GIT_CONFIG_GLOBAL": os.devnull} | _AUTHOR
    return subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False)
