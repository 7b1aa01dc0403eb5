"""Rules of the house that no linter knows."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lensmith

ROOT = Path(__file__).resolve().parents[2]
SQL_METHODS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_records_to_table", "copy_to_table"}
# Readiness asks Postgres whether it is there; that is no query of anybody's data.
HARMLESS = {"SELECT 1", "SELECT FROM inputs LIMIT 0"}
# The trainer's replica is a file on its own disk, which nobody else reads.
STORES = ("store", "lensmith_trainer/replica.py")


def services() -> list[Path]:
    root = ROOT / "services"
    return sorted(
        path for path in root.rglob("*.py") if not any(name in str(path.relative_to(root)) for name in STORES)
    )


@pytest.mark.parametrize("path", services(), ids=lambda path: path.relative_to(ROOT / "services").as_posix())
def test_sql_stands_in_stores_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SQL_METHODS):
            continue
        first = node.args[0] if node.args else None
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
        assert text is None or text in HARMLESS, f"{path.name}:{node.lineno} asks the database itself"


@pytest.mark.parametrize("script", ["generate_api.py", "generate_sync_client.py", "generate_settings_docs.py"])
def test_generated_code_is_what_its_source_gives(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_module_is_larger_than_a_reader_can_hold() -> None:
    large = {
        path.relative_to(ROOT).as_posix(): lines
        for root in ("libs", "services")
        for path in (ROOT / root).rglob("*.py")
        if "lensmith_api" not in path.parts and (lines := len(path.read_text().splitlines())) > 600
    }
    assert not large


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, lambda member: inspect.isfunction(member) or isinstance(member, property))
        return {
            name: list(inspect.signature(member).parameters) if inspect.isfunction(member) else []
            for name, member in members
            if not name.startswith("_")
        }

    assert public(lensmith.Client) == public(lensmith.AsyncClient)


def test_the_client_needs_no_server_library() -> None:
    heavy = ("numpy", "torch", "asyncpg", "nats", "minio", "onnxruntime", "lensmith_platform", "lensmith_stack", "PIL")
    code = f"import sys, lensmith, lensmith.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
