"""The import graph keeps the arrows of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mailstack.runtime.image import MODULES

ROOT = Path(__file__).resolve().parents[2] / "mailstack"

ALLOWED: dict[str, set[str]] = {
    "cli": {"client", "runtime", "render", "spec"},
    "client": {"wire"},
    "runtime": {"render", "spec"},
    "render": {"spec"},
    "spec": {"config"},
    "mta": {"config", "net", "storage", "wire"},
    "mailbox": {"config", "net", "storage", "wire"},
    "dns": {"config", "net", "storage", "wire"},
    "config": set(),
    "net": {"wire"},
    "storage": {"wire"},
    "wire": set(),
}
"""Room → the rooms it may import from (besides itself)."""

VOCABULARY = {"dovecot_settings", "postfix_parameters", "postfix_refusals"}
"""Top-level modules that are pure data and belong to no room."""

SERVER_ROOMS = {"mta", "mailbox", "dns", "config", "net", "storage", "wire"}
SERVER_MAY_IMPORT = {"uvloop", "dns", "cryptography", "lmdb", "mailstack"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module name that a file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "mailstack":
                names.update(f"mailstack.{alias.name}" for alias in node.names)
            else:
                names.add(node.module)
    return names


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else ""


def test_every_room_is_known() -> None:
    rooms = {room_of(path) for path in modules()} - {""}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_arrows(room: str) -> None:
    wrong = []
    for path in modules():
        if room_of(path) != room:
            continue
        for name in imports(path):
            head, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if head != "mailstack" or target in ("", "__version__") or target in VOCABULARY | {room}:
                continue
            if target not in ALLOWED[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_servers_import_only_what_an_image_holds() -> None:
    """pydantic, jinja2, docker, typer and the like are not there when a server runs."""
    import sys

    wrong = []
    for path in modules():
        if room_of(path) not in SERVER_ROOMS:
            continue
        for name in imports(path):
            head = name.partition(".")[0]
            if head not in sys.stdlib_module_names and head not in SERVER_MAY_IMPORT:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_wire_does_no_io() -> None:
    """`time` may convert (a time zone's offset), but nothing here asks what time it is."""
    forbidden = {"asyncio", "socket", "ssl", "os", "pathlib", "threading", "logging", "select", "uvloop"}
    clocks = re.compile(r"\btime\.(time|monotonic|perf_counter|sleep)\b|\bdatetime\.(now|today|utcnow)\b")
    wrong = []
    for path in modules():
        if room_of(path) != "wire":
            continue
        wrong += [name for name in imports(path) if name.partition(".")[0] in forbidden]
        wrong += [found[0] for found in clocks.finditer(path.read_text())]
    assert not wrong


def test_storage_opens_no_sockets() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if room_of(path) == "storage"
        for name in imports(path)
        if name.partition(".")[0] in {"socket", "ssl"}
    ]
    assert not wrong


def test_an_image_holds_all_vocabulary() -> None:
    assert {name.removesuffix(".py") for name in MODULES} == VOCABULARY | {"__init__"}
