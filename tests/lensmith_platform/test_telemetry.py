"""What a process writes about itself."""

import json
import subprocess
import sys

PROGRAM = """
import io
import warnings
from PIL import Image
from lensmith_platform.telemetry import configure_logging
from lensmith_vision.decode import decode

configure_logging("inference", level="info", form="json")
picture = io.BytesIO()
Image.new("RGB", (32, 32)).save(picture, "JPEG", exif=b"Exif\\0\\0II*\\0\\xff\\xff\\xff\\xff garbage")
assert decode(picture.getvalue()).shape == (32, 32, 3)
"""


def test_warnings_of_libraries_are_lines_of_the_log_when_a_picture_has_broken_exif() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    (line,) = map(json.loads, ran.stdout.splitlines())
    assert (line["service"], line["level"], line["logger"]) == ("inference", "warning", "py.warnings")
    assert "Corrupt EXIF data" in line["event"]
    assert ran.stderr == ""
