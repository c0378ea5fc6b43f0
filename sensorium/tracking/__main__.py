"""The program of the uploader's process."""

import sys
from pathlib import Path

from sensorium.tracking.uploader_process import main

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
