"""Projects of the tests' own, in either runtime, removed whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailstack.runtime import daemon, image
from mailstack.runtime.api import Project, image_build, open_project
from mailstack.runtime.errors import RuntimeFailure
from mailstack.runtime.model import RuntimeKind

SPEC = """\
domains:
  alpha.test:
    users:
      zs: {password: secret}
      anna: {}
    aliases: {postmaster: [zs]}
"""


class Projects:
    """Makes projects with names that nobody else has, each with its spec in a folder of its own."""

    def __init__(self, folder: Path, runtime: RuntimeKind) -> None:
        self.folder = folder
        self.runtime = runtime
        self.made: list[Project] = []

    def spec(self, name: str) -> Path:
        return self.folder / name / "mailstack.yaml"

    def write(self, name: str, text: str) -> None:
        self.spec(name).parent.mkdir(exist_ok=True)
        self.spec(name).write_text(text)

    def open(self, name: str = "one", text: str | None = SPEC) -> Project:
        """The project `name`; opened anew each time, as another command would."""
        if text is not None:
            self.write(name, text)
        project = open_project(self.spec(name), f"t{os.getpid()}-{self.runtime}-{name}", runtime=self.runtime)
        self.made.append(project)
        return project


_daemons: list[daemon.Daemon] = []


def docker_api() -> Any:
    """The daemon's API; skips, naming what is missing, where there is none that can be used."""
    if not _daemons:
        try:
            _daemons.append(daemon.connect(os.environ))
        except RuntimeFailure as error:
            pytest.skip(f"needs a Docker daemon: {error}")
    return _daemons[0].api


@pytest.fixture(scope="session", autouse=True)
def _close_daemon() -> Iterator[None]:
    yield
    for found in _daemons:
        found.close()


def need_image() -> None:
    """Have the image; skips where there is no base to build it on."""
    if image.present(docker_api()) is None:
        base = os.environ.get("MAILSTACK_TEST_BASE")
        if base is None:
            pytest.skip("needs a base image (MAILSTACK_TEST_BASE)")
        image_build(base)


def short_paths(project: Project) -> list[str]:
    """The short ways to the project's state folder that there are, for sockets."""
    links = Path("/tmp").glob("mailstack-*/s")
    return [str(link) for link in links if link.is_symlink() and link.readlink() == project.state_dir]


def everything_of(project: Project) -> list[str]:
    """What is left of a project anywhere: files, processes, containers, networks, volumes."""
    left = [str(path) for path in project.state_dir.rglob("*")] if project.state_dir.exists() else []
    left += short_paths(project)
    needle = str(project.state_dir).encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and needle in (entry / "cmdline").read_bytes():
                left.append(f"process {entry.name}")
        except OSError:
            continue
    if project.wish == "docker":
        api = docker_api()
        label = {"label": f"mailstack.project={project.name}"}
        left += [str(item["Names"]) for item in api.containers(all=True, filters=label)]
        left += [str(item["Name"]) for item in api.networks(filters=label)]
        left += [str(item["Name"]) for item in api.volumes(filters=label)["Volumes"] or ()]
    return left


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def projects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Projects]:
    """Projects in each runtime."""
    runtime: RuntimeKind = request.param
    if runtime == "docker":
        need_image()
    yield from _projects(tmp_path, runtime)


@pytest.fixture
def process_projects(tmp_path: Path) -> Iterator[Projects]:
    """Projects in the process runtime."""
    yield from _projects(tmp_path, "process")


@pytest.fixture
def docker_projects(tmp_path: Path) -> Iterator[Projects]:
    """Projects in the docker runtime."""
    need_image()
    yield from _projects(tmp_path, "docker")


def _projects(folder: Path, runtime: RuntimeKind) -> Iterator[Projects]:
    made = Projects(folder, runtime)
    yield made
    for project in made.made:
        project.down(volumes=True)
