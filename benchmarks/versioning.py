"""What DVC takes to version ten mice: as stores, a hundred files each, and as raw files, many more each.

    python benchmarks/versioning.py [--raw-files 300] [--megabytes 20] [--folder FOLDER]

Both forms hold the same bytes, so that what differs is the number of files. A mouse is one output of DVC in either
form. Everything happens in FOLDER, the remote too, and is removed afterwards; it needs six times the size of the data.
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MICE = 10
STORE_FILES = 100
"""Files of a competition mouse's store."""

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(line, project):
    environment = os.environ | {
        "PATH": PATH,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(project.parent / "site"),
    }
    subprocess.run(line.split(), cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)


def write_mouse(folder, seed, files, megabytes):
    """Incompressible files of equal size, each different."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    for number in range(files):
        (folder / f"{number}").write_bytes(draw.randbytes(megabytes * 1_000_000 // files))


def measure(action):
    """Seconds on the clock and seconds of processor time of the child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    action()
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def measure_form(work, files, megabytes):
    """Times of each step, by its name, for mice of that many files."""
    project = work / f"project_{files}"
    project.mkdir()
    for mouse in range(MICE):
        write_mouse(project / "data" / f"mouse_{mouse}", mouse, files, megabytes)
    run("dvc init --no-scm -q", project)
    run("dvc config cache.type reflink,copy", project)
    run(f"dvc remote add -q -d folder {work / f'remote_{files}'}", project)
    mice = " ".join(f"data/mouse_{mouse}" for mouse in range(MICE))

    def change():
        path = project / "data" / "mouse_0" / "0"
        path.write_bytes(bytes(reversed(path.read_bytes())))

    def remove():
        for mouse in mice.split():
            shutil.rmtree(project / mouse)

    steps = {
        "add, all new": lambda: run(f"dvc add -q {mice}", project),
        "push, all new": lambda: run("dvc push -q", project),
        "status, nothing changed": lambda: run("dvc status -q", project),
        "add, one file changed": lambda: (change(), run("dvc add -q data/mouse_0", project)),
        "push, one file changed": lambda: run("dvc push -q", project),
        "checkout, no data there": lambda: (remove(), run("dvc checkout -q", project)),
    }
    return {name: measure(action) for name, action in steps.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--raw-files", type=int, default=300, help="files of one raw mouse; the competition's have some 3000"
    )
    parser.add_argument("--megabytes", type=int, default=20, help="size of a mouse")
    parser.add_argument("--folder", type=Path, help="where to work; default: the folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        stores = measure_form(Path(folder), STORE_FILES, options.megabytes)
        raw = measure_form(Path(folder), options.raw_files, options.megabytes)
    print(f"{MICE} mice of {options.megabytes} MB; seconds on the clock (of processor time)")
    print(f"{'':<26}{f'{MICE * STORE_FILES:,} files':>20}{f'{MICE * options.raw_files:,} files':>20}")
    for name, (clock, used) in stores.items():
        other = raw[name]
        print(f"{name:<26}{f'{clock:.1f} ({used:.1f})':>20}{f'{other[0]:.1f} ({other[1]:.1f})':>20}")


if __name__ == "__main__":
    main()
