"""Start of the auth service: settings in, server out."""

import sys

from lensmith_auth.app import build
from lensmith_auth.settings import AuthSettings
from lensmith_platform.server import main

if __name__ == "__main__":
    sys.exit(main(AuthSettings, build))
