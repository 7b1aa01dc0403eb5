"""Makes the chart's Envoy configuration from the API; `--check` changes nothing and fails when the file differs.

The names in it stand for those of a release: the chart's templates put the real ones in their place.
"""

import sys
from pathlib import Path

from lensmith_gateway.contract import load_contract
from lensmith_gateway.envoy_config import envoy_yaml
from lensmith_gateway.envoy_settings import TARGETS, Address, EnvoySettings

TARGET = Path(__file__).parent / "lensmith" / "files" / "envoy.yaml"
RELEASE = "lensmith-release"
NO_ORIGIN = "https://cors-origin.invalid"


def chart_settings() -> EnvoySettings:
    """What Envoy is told in a cluster."""
    return EnvoySettings(
        public=Address("0.0.0.0", 8080),  # noqa: S104 (inside its own pod)
        targets={name: Address(f"{RELEASE}-{name}", 50051) for name in TARGETS},
        gateway_http=Address(f"{RELEASE}-gateway", 8000),
        admin=Address("127.0.0.1", 9901),
        cors_origins=[NO_ORIGIN],
        access_log="json",
    )


def main() -> int:
    """Write the file, or with `--check` compare it; returns the exit status."""
    text = envoy_yaml(load_contract(), chart_settings())
    if sys.argv[1:] == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.stderr.write(f"{TARGET} differs from the protos: run `make gen`\n")
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
