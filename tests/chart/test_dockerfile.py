"""The Dockerfile: linted, and each service has a closed image. It is not built here: that takes a Docker engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).parents[2] / "deploy" / "docker" / "Dockerfile"
SERVICES = ("auth", "dataset", "registry", "inference", "trainer", "gateway")


def stages() -> dict[str, list[str]]:
    """Instructions of each stage by its name, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = found.setdefault(match[2], [match[1]])
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def test_linter_finds_nothing_when_asked() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("HADOLINT IS MISSING: `make chart` installs it and lints the Dockerfile")
    result = subprocess.run([linter, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_base_is_pinned_when_images_are_built() -> None:
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", stages()["base"][0])


@pytest.mark.parametrize("service", SERVICES)
def test_image_is_closed_and_small_when_its_target_is_built(service: str) -> None:
    image, runtime = stages()[service], stages()["runtime"]
    assert image[0] == "runtime"
    assert runtime[0] == "base"
    assert "USER 10001:10001" in runtime
    assert not any(line.startswith("USER") for line in image)
    assert any(line.startswith("HEALTHCHECK") for line in runtime)
    # Nothing is installed in what ships; it is copied from the stage that did.
    assert not any(line.startswith(("RUN", "ADD")) for line in image)
    assert f"COPY --from=install-{service} /opt/lensmith /opt/lensmith" in image
    assert f'ENTRYPOINT ["python", "-m", "lensmith_{service}"]' in image
    assert any(f"[{service}]" in line for line in stages()[f"install-{service}"])


def test_trainer_carries_pytorch_only_where_networks_learn() -> None:
    found = stages()
    assert not any("finetune" in line for name in SERVICES for line in found[name] + found[f"install-{name}"])
    assert any("[trainer,finetune]" in line for line in found["install-trainer-finetune"])
    image, plain = found["trainer-finetune"], found["trainer"]
    assert image == [line.replace("install-trainer ", "install-trainer-finetune ") for line in plain]
