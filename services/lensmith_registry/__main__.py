"""Starts registry: settings in, server out."""

import sys

from lensmith_platform.server import main
from lensmith_registry.app import build
from lensmith_registry.settings import RegistrySettings

if __name__ == "__main__":
    sys.exit(main(RegistrySettings, build))
