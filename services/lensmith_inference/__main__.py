"""Start of the inference service: settings in, server out."""

import asyncio
import sys

from lensmith_platform.server import run_service
from lensmith_platform.settings import load

from lensmith_inference.app import build
from lensmith_inference.settings import InferenceSettings

if __name__ == "__main__":
    sys.exit(asyncio.run(run_service(load(InferenceSettings), build)))
