"""Which spec and which project a command means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mailstack.cli.errors import is_spec_error
from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Options

if TYPE_CHECKING:
    from mailstack.client.endpoints import Endpoints
    from mailstack.runtime.api import Project
    from mailstack.runtime.model import RuntimeWish

SPEC_NAME = "mailstack.yaml"


def find_spec(folder: Path) -> Path | None:
    """The nearest `mailstack.yaml`, in `folder` or above it."""
    for candidate in (folder, *folder.parents):
        path = candidate / SPEC_NAME
        if path.is_file():
            return path
    return None


def spec_path(options: Options) -> Path:
    """The spec that is meant. Raises `Failure` when there is none."""
    if options.file is not None:
        path = Path(options.file)
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise Failure("no-spec", f"{options.file} {what}", hint=_NO_SPEC_HINT, exit=Exit.USAGE)
        return path.absolute()
    found = find_spec(Path.cwd())
    if found is None:
        raise Failure(
            "no-spec", f"no {SPEC_NAME} here or in a parent folder", hint=_NO_SPEC_HINT, exit=Exit.USAGE
        )
    return found


_NO_SPEC_HINT = "name one with -f FILE or MAILSTACK_FILE, or write one with 'mailstack init'"


def with_spec(options: Options) -> Project:
    """The project of a command that reads the spec: `up`, `plan`, `render`, `check`.

    A name alone is enough for a project that has been up: its state folder remembers where its spec is.
    """
    from mailstack.runtime.api import open_project

    if options.file is None and options.project is not None and find_spec(Path.cwd()) is None:
        return open_project(None, options.project, runtime=wish(options))
    return open_project(spec_path(options), options.project, runtime=wish(options))


def running(options: Options) -> Project:
    """The project of a command that talks to a stack: by its name from anywhere, else by its spec."""
    from mailstack.runtime.api import list_projects, open_project

    if options.file is None:
        if options.project is not None:
            return open_project(None, options.project, runtime=wish(options))
        found = find_spec(Path.cwd())
        if found is None:
            names = ", ".join(summary.project for summary in list_projects())
            raise Failure(
                "no-project",
                f"which project? There is no {SPEC_NAME} here or in a parent folder",
                hint=f"name one with -p NAME (there {'are' if ',' in names else 'is'}: {names})"
                if names
                else _NO_SPEC_HINT,
                exit=Exit.USAGE,
            )
        return _by_spec(found, options)
    if options.project is None:
        return _by_spec(spec_path(options), options)
    return open_project(spec_path(options), options.project, runtime=wish(options))


def _by_spec(path: Path, options: Options) -> Project:
    """The project of a spec, also when that has been spoiled since `up`: `down` must still work then."""
    from mailstack.runtime.api import list_projects, open_project

    try:
        return open_project(path, None, runtime=wish(options))
    except Exception as error:
        if is_spec_error(error):
            for summary in list_projects():
                if summary.spec_path == str(path.absolute()):
                    return open_project(None, summary.project, runtime=wish(options))
        raise


def wish(options: Options) -> RuntimeWish:
    """The runtime that was asked for."""
    return cast("RuntimeWish", options.runtime or "auto")


def client_endpoints(project: Project) -> Endpoints:
    """Where the stack's services are, as the client wants it. Raises as `Project.endpoints`."""
    from mailstack.client.endpoints import Endpoints

    known = project.endpoints()
    return Endpoints(
        domain=known.domain,
        hostname=known.hostname,
        host=known.host,
        ports=known.ports,
        ca_file=known.ca_file,
        tls=known.tls,
        users=known.users,
    )


def address_of(user: str, endpoints: Endpoints) -> str:
    """The full address of a mailbox given as `zs` or `zs@example.test` (or `zs@bücher.test`: a domain's other
    form). Raises `Failure` for nobody's."""
    address = user if "@" in user else f"{user}@{endpoints.domain}"
    if not address.isascii():
        from mailstack.spec import fields

        local, _, domain = address.rpartition("@")
        with suppress(ValueError):
            address = f"{local}@{fields.host_name(domain)}"
    users: Mapping[str, str] = endpoints.users
    if address not in users:
        address = address.lower()
    if address not in users:
        raise Failure(
            "no-such-user",
            f"{user} is not a mailbox of this stack",
            hint=f"the mailboxes are: {', '.join(users) or 'none'}",
            exit=Exit.USAGE,
        )
    return address
