"""Every example renders to the tree that is kept beside this file, octet for octet.

After a wanted change: `MAILSTACK_UPDATE_GOLDEN=1 pytest tests/golden`, then read the difference before you commit.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from mailstack.render import Tree, render
from mailstack.render.site import Kind
from tests.golden.trees import EXAMPLES, example, host_site, stack_site, write

HERE = Path(__file__).parent
KINDS: dict[str, tuple[Kind, ...]] = {
    "dgtlinux": ("process", "docker", "host"),
    "files": ("host",),
    "saslauthd": ("docker",),
}
"""Where an example is rendered for; process where this does not say."""
CASES = [(name, kind) for name in EXAMPLES for kind in KINDS.get(name, ("process",))]


def rendered(name: str, kind: Kind) -> Tree:
    stack = example(name)
    if kind != "host":
        return render(stack, stack_site(stack, kind=kind))
    site = host_site(stack, Path("/etc"))
    if site.tls_cert is not None:
        # Those of the spec lie where this checkout happens to be.
        site = replace(
            site,
            tls_cert=PurePosixPath("/etc/ssl/mail/cert.pem"),
            tls_key=PurePosixPath("/etc/ssl/mail/key.pem"),
        )
    return render(stack, site)


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def test_example_renders_to_the_tree_that_was_reviewed(name: str, kind: Kind) -> None:
    tree = rendered(name, kind)
    folder = HERE / name / kind
    if os.environ.get("MAILSTACK_UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        write(tree, folder)
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sorted(kept) == sorted(tree.files), (
        "regenerate with MAILSTACK_UPDATE_GOLDEN=1 and read the difference"
    )
    for path, file in tree.files.items():
        assert file.data.decode() == kept[path].decode(), path


def test_every_example_has_a_tree_and_every_tree_an_example() -> None:
    kept = {path.name for path in HERE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert kept == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rendering_twice_gives_the_same(name: str) -> None:
    assert rendered(name, "process").digest == rendered(name, "process").digest


def test_only_files_with_secrets_are_private() -> None:
    modes = {path: file.mode for path, file in rendered("dgtlinux", "process").files.items()}
    assert modes.pop("dovecot/users") == modes.pop("bind/update.key") == 0o600
    assert set(modes.values()) == {0o644}


@pytest.mark.parametrize("name", EXAMPLES)
def test_text_files_end_in_one_newline_and_hold_no_password(name: str) -> None:
    tree = rendered(name, "process")
    for path, file in tree.files.items():
        assert file.data.endswith(b"\n") and not file.data.endswith(b"\n\n"), path
        for address, user in example(name).users():
            assert (
                user.password is None or len(user.password) < 7 or user.password.encode() not in file.data
            ), address
