"""Push and pull of the published weights' size through DVC, beside a plain copy of the same files.

    python benchmarks/transfer.py [--files 14] [--megabytes 680] [--folder FOLDER]

Everything happens on one disk, in FOLDER, and is removed afterwards; it needs three times the size of the files.
Each step ends when its bytes are on the disk (`sync`).
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(line, folder):
    environment = os.environ | {
        "PATH": PATH,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }
    subprocess.run(line.split(), cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def write_weights(folder, files, megabytes):
    """Incompressible files, each different, in the layout of the trained folds."""
    for number in range(files):
        block = random.Random(number).randbytes(1_000_000)
        target = folder / f"fold_{number}" / "model.safetensors"
        target.parent.mkdir(parents=True)
        with target.open("wb") as stream:
            for place in range(megabytes):
                stream.write(place.to_bytes(4, "big") + block[4:])


def copy(source, target):
    shutil.copytree(source, target)


def measure(name, size, action, rows):
    os.sync()
    start = time.perf_counter()
    action()
    os.sync()
    seconds = time.perf_counter() - start
    rows.append((name, seconds))
    print(f"{name:<44} {seconds:8.1f} s {size / seconds / 1e6:8.0f} MB/s", flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=14)
    parser.add_argument("--megabytes", type=int, default=680)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    size = options.files * options.megabytes * 1_000_000
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="transfer-") as name:
        folder = Path(name)
        maker, user = folder / "maker", folder / "user"
        maker.mkdir()
        run("git init -q", maker)
        run("dvc init -q", maker)
        run("dvc config cache.type reflink,copy", maker)
        run(f"dvc remote add -d store {folder / 'remote'}", maker)
        run("dvc remote modify store verify true", maker)
        weights = maker / "weights"
        write_weights(weights, options.files, options.megabytes)
        print(f"{options.files} files of {options.megabytes} MB, {size / 1e9:.1f} GB")
        measure("plain copy", size, lambda: copy(weights, folder / "copied"), rows)
        shutil.rmtree(folder / "copied")
        measure("dvc add (digest, and a copy into the cache)", size, lambda: run("dvc add -q weights", maker), rows)
        measure("dvc push", size, lambda: run("dvc push -q", maker), rows)
        shutil.copytree(maker, user, ignore=shutil.ignore_patterns("weights", "cache", "tmp"))
        shutil.rmtree(weights)
        shutil.rmtree(maker / ".dvc" / "cache")
        measure("dvc fetch, digests verified", size, lambda: run("dvc fetch -q", user), rows)
        measure("dvc checkout (a copy out of the cache)", size, lambda: run("dvc checkout -q", user), rows)


if __name__ == "__main__":
    main()
