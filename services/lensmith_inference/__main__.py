"""Start of the inference service: settings in, server out."""

import sys

from lensmith_inference.app import build
from lensmith_inference.settings import InferenceSettings
from lensmith_platform.server import main

if __name__ == "__main__":
    sys.exit(main(InferenceSettings, build))
