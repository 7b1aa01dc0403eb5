"""``python -m lensmith_dataset``: the dataset service."""

import sys

from lensmith_dataset.app import build
from lensmith_dataset.settings import DatasetSettings
from lensmith_platform.server import main

if __name__ == "__main__":
    sys.exit(main(DatasetSettings, build))
