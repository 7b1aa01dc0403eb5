"""Generates `libs/lensmith_api` from the protos: messages, stubs, type stubs and the descriptor set.

Generated modules live in `lensmith_api.v1` and `lensmith_api.internal.v1` rather than in `lensmith.v1`, because
`lensmith` is the package that users import; only imports are rewritten, the protobuf names stay `lensmith.v1.*`.

Run it as `python scripts/generate_api.py`; `--check` changes nothing and fails when the committed code differs.
"""

import argparse
import filecmp
import re
import shutil
import sys
import sysconfig
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "libs" / "lensmith_api"
# Envoy turns error details into JSON only if their types are in the descriptor set.
EXTRA_DESCRIPTORS = ["google/rpc/error_details.proto"]
HAND_WRITTEN = {"__init__.py", "py.typed"}


def main() -> int:
    """Generates, or with `--check` compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when the committed code differs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generated = generate(Path(scratch))
        if check:
            differing = differences(generated, TARGET)
            for path in differing:
                print(f"differs from the protos: libs/lensmith_api/{path}", file=sys.stderr)
            return 1 if differing else 0
        replace(generated, TARGET)
    return 0


def generate(scratch: Path) -> Path:
    """Runs protoc into `scratch` and returns the folder laid out like `libs/lensmith_api`."""
    raw, out = scratch / "raw", scratch / "out"
    raw.mkdir()
    (out / "internal").mkdir(parents=True)
    include = Path(str(distribution("googleapis-common-protos").locate_file("")))
    bundled = Path(protoc.__file__).parent / "_proto"
    ours = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    search = [f"-I{PROTOS}", f"-I{include}", f"-I{bundled}"]
    plugins = Path(sysconfig.get_path("scripts"))
    run_protoc(
        [
            *search,
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={raw}",
            f"--grpc_python_out={raw}",
            f"--mypy_out=quiet:{raw}",
            f"--mypy_grpc_out=quiet:{raw}",
            *ours,
        ]
    )
    run_protoc(
        [
            *search,
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={out / 'descriptors.binpb'}",
            *ours,
            *EXTRA_DESCRIPTORS,
        ]
    )
    for path in raw.rglob("*.py*"):
        relative = path.relative_to(raw / "lensmith")
        # Files without a service get an empty stub module.
        if path.name.endswith(("_pb2_grpc.py", "_pb2_grpc.pyi")) and not has_service(relative):
            continue
        destination = out / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(rewrite_imports(path.read_text()))
    for folder in (out / "v1", out / "internal", out / "internal" / "v1"):
        (folder / "__init__.py").write_text("")
    return out


def run_protoc(arguments: list[str]) -> None:
    """Runs protoc and exits with its status when it fails; protoc has printed why."""
    status = protoc.main(["protoc", *arguments])
    if status:
        raise SystemExit(status)


def has_service(relative: Path) -> bool:
    """Whether the proto of a generated file declares a service."""
    stem = relative.name.split("_pb2")[0]
    proto = PROTOS / "lensmith" / relative.parent / f"{stem}.proto"
    return re.search(r"^service ", proto.read_text(), re.MULTILINE) is not None


def rewrite_imports(source: str) -> str:
    """Moves imports of generated modules from `lensmith.` to `lensmith_api.`."""
    source = re.sub(r"\bfrom lensmith\.(v1|internal)", r"from lensmith_api.\1", source)
    source = re.sub(r"\bimport lensmith\.(v1|internal)", r"import lensmith_api.\1", source)
    # In type stubs modules are referred to by their full name.
    return re.sub(r"\blensmith\.((?:internal\.)?v1\.\w+_pb2)", r"lensmith_api.\1", source)


def files_of(folder: Path) -> set[Path]:
    """Generated files below `folder`, relative to it."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not (path.parent == TARGET and path.name in HAND_WRITTEN)
    }


def differences(generated: Path, committed: Path) -> list[Path]:
    """Files that are missing, superfluous or different."""
    fresh, present = files_of(generated), files_of(committed)
    changed = {path for path in fresh & present if not filecmp.cmp(generated / path, committed / path, shallow=False)}
    return sorted((fresh ^ present) | changed)


def replace(generated: Path, target: Path) -> None:
    """Puts the generated files in place of the committed ones."""
    for path in files_of(target) - files_of(generated):
        (target / path).unlink()
    for path in files_of(generated):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(generated / path, target / path)


if __name__ == "__main__":
    sys.exit(main())
