"""Starts the gateway: `python -m lensmith_gateway`."""

import sys

from lensmith_gateway.app import build
from lensmith_gateway.settings import GatewaySettings
from lensmith_platform.server import main

if __name__ == "__main__":
    sys.exit(main(GatewaySettings, build))
