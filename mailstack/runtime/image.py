"""The container image: one for the three services, built from any base that has Python 3.11 or newer.

Nothing is fetched inside the build. The context is made in memory from the servers' part of this package
and from what the host has installed (dnspython; uvloop and cryptography where builds of them fit the base),
and `compose/Dockerfile` says the rest. The tag carries a digest of the context, so a changed program means
another image.

The base is the one that was named, else the one that an earlier build was given, else `python:3.11-slim`; no
other local image is ever picked by itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import mailstack
from mailstack.runtime import daemon
from mailstack.runtime.errors import NoDocker, NoImage, RuntimeFailure
from mailstack.runtime.model import ImageInfo, Progress, ProgressCallback

REPOSITORY = "mailstack"
DEFAULT_BASE = "python:3.11-slim"
ROOMS = ("config", "dns", "mailbox", "mta", "net", "storage", "wire")
MODULES = ("__init__.py", "dovecot_settings.py", "postfix_parameters.py", "postfix_refusals.py")
"""What of this package the servers need: nothing of the launching side is in the image."""
SIGNING = ("cryptography", "cffi")
"""What signs zones, and what that needs."""
LABEL = "mailstack.image"
KEPT = 4
"""Images of this program that a build leaves alone, with its own: other versions may be in use by turns."""
_PYTHONS = ("python3", "/usr/local/bin/python3", "/usr/bin/python3", "python")
_PROBE = """
import json, platform, sys, sysconfig
try:
    import asyncio, ssl, tomllib
    lacks = ""
except ImportError as error:
    lacks = str(error)
print("mailstack-base " + json.dumps({
    "version": list(sys.version_info[:3]), "executable": sys.executable, "machine": platform.machine(),
    "soabi": sysconfig.get_config_var("SOABI") or "", "libc": list(platform.libc_ver()), "lacks": lacks,
}))
"""


@dataclass(frozen=True, slots=True)
class Base:
    """What a base image has inside."""

    reference: str
    python: str
    """The word or path that starts its interpreter."""
    version: tuple[int, int, int]
    machine: str
    soabi: str
    libc: tuple[str, str]
    """`("glibc", "2.36")`; `("", "")` for musl."""

    @property
    def musl(self) -> bool:
        return "musl" in self.soabi or not self.libc[0]


def tag() -> str:
    """The tag of the image that fits this program: `mailstack:<version>-<digest of what goes in>`."""
    return f"{REPOSITORY}:{mailstack.__version__}-{_content_digest()}"


def present(api: Any) -> tuple[str, str] | None:
    """That image's id and the word that starts its Python; None when the daemon does not have it."""
    from docker.errors import ImageNotFound

    try:
        found = daemon.call("looking for the image", lambda: _inspect(api, tag()))
    except RuntimeFailure as error:
        if isinstance(error.__cause__, ImageNotFound):
            return None
        raise
    return str(found["Id"]), str(
        (found["Config"].get("Labels") or {}).get("mailstack.interpreter", "python3")
    )


def why_not_available(environ: Mapping[str, str]) -> str:
    """Why `auto` cannot use Docker; empty when the image is there or can be built without being told how."""
    try:
        found = daemon.connect(environ)
    except NoDocker as error:
        return error.message
    with found:
        try:
            if present(found.api) is None:
                _find_base(found.api, None, lambda _: None, pull=False)
        except RuntimeFailure as error:
            return f"{error.message}; `mailstack image build --base IMAGE` makes one"
    return ""


def build(base: str | None, progress: ProgressCallback, environ: Mapping[str, str]) -> ImageInfo:
    """Build the image. Raises `NoDocker`, `NoImage` (no usable base), `RuntimeFailure` (the build failed)."""
    with daemon.connect(environ) as found:
        return build_with(found.api, base, progress)


def build_with(api: Any, base: str | None, progress: ProgressCallback) -> ImageInfo:
    """As `build`, over a connection that is there."""

    def say(text: str) -> None:
        progress(Progress("build", text))

    reference = _find_base(api, base, say, pull=True)
    say(f"looking into {reference}")
    inside = look_into(api, reference)
    loop_files, note = _compiled(inside, "uvloop")
    signing_files, signing_note = _compiled(inside, *SIGNING)
    say(f"Python {'.'.join(map(str, inside.version))} on {inside.machine}{', ' + note if note else ''}")
    context = _context(inside, {**loop_files, **signing_files})
    name = tag()
    built: dict[str, Any] = {}

    def run() -> None:
        stream = api.build(
            fileobj=context,
            custom_context=True,
            encoding="gzip",
            tag=name,
            buildargs={"BASE": reference},
            labels={
                LABEL: mailstack.__version__,
                "mailstack.base": reference,
                "mailstack.interpreter": inside.python,
                "mailstack.python": ".".join(map(str, inside.version)),
            },
            network_mode="none",
            rm=True,
            forcerm=True,
            decode=True,
        )
        for message in stream:
            if "error" in message:
                raise RuntimeFailure(
                    f"the image cannot be built on {reference}: {str(message['error']).strip()}",
                    hint="see the lines above, or name another base: `mailstack image build --base IMAGE`",
                )
            for line in str(message.get("stream", "")).splitlines():
                if line.startswith("mailstack-built "):
                    built.update(json.loads(line.partition(" ")[2]))
                elif line.strip() and not line.startswith((" --->", "Removing intermediate")):
                    say(line.rstrip())

    daemon.call("building the image", run)
    _drop_old(api)
    loop: Literal["uvloop", "asyncio"] = "uvloop" if built.get("loop") == "uvloop" else "asyncio"
    if loop == "asyncio" and loop_files:
        note = "the uvloop of this machine does not load in the base"
    notes: tuple[str, ...] = ()
    if loop == "asyncio":
        notes += (f"asyncio's own event loop is used, which is slower: {note}",)
    if not built.get("signs"):
        if signing_files:
            signing_note = "the cryptography package of this machine does not load in the base"
        notes += (f"zones cannot be signed there (dns.dnssec), nor DANE-TA be checked: {signing_note}",)
    return ImageInfo(
        tag=name,
        image_id=str(_inspect(api, name)["Id"]),
        base=reference,
        python=built.get("python", ""),
        event_loop=loop,
        built=True,
        notes=notes,
    )


def _drop_old(api: Any) -> None:
    """Remove what earlier versions of the program have left, but for the newest few and what is in use."""
    from docker.errors import APIError

    images = sorted(api.images(filters={"label": LABEL}), key=lambda item: -int(item["Created"]))
    ours = [
        item
        for item in images
        if any(str(t).startswith(f"{REPOSITORY}:") for t in item.get("RepoTags") or ())
    ]
    for item in ours[KEPT:]:
        try:
            api.remove_image(item["Id"])
        except APIError:
            continue  # a container is made from it


def look_into(api: Any, reference: str) -> Base:
    """Run the base's interpreter and ask it. Raises `NoImage` when there is none, or one that is too old."""
    said = ""
    for python in _PYTHONS:
        said = _run(api, reference, python)
        line = next((text for text in said.splitlines() if text.startswith("mailstack-base ")), None)
        if line is None:
            continue
        data = json.loads(line.partition(" ")[2])
        version = cast("tuple[int, int, int]", tuple(data["version"]))
        if version < (3, 11):
            raise NoImage(
                f"{reference} has Python {'.'.join(map(str, version))}; 3.11 or newer is needed",
                hint=_BASE_HINT,
            )
        if data["lacks"]:
            raise NoImage(f"the Python of {reference} is not complete: {data['lacks']}", hint=_BASE_HINT)
        return Base(
            reference, python, version, data["machine"], data["soabi"], (data["libc"][0], data["libc"][1])
        )
    last = said.strip().rpartition("\n")[2]
    raise NoImage(
        f"{reference} has no Python that runs" + (f": {last}" if last else ""),
        hint=_BASE_HINT,
    )


_BASE_HINT = "name a base image that has it: `mailstack image build --base IMAGE`"


def _run(api: Any, reference: str, python: str) -> str:
    """Run the probe in a throwaway container without network; what it said."""
    from docker.errors import APIError

    container = daemon.call(
        f"making a container of {reference}",
        lambda: api.create_container(
            reference,
            entrypoint=[python],
            command=["-c", _PROBE],
            user="0",
            labels={LABEL: "probe"},
            host_config=api.create_host_config(network_mode="none"),
        ),
    )["Id"]
    try:
        try:
            api.start(container)
        except APIError as error:
            return str(error.explanation)
        api.wait(container)
        return bytes(api.logs(container)).decode(errors="replace")
    finally:
        api.remove_container(container, force=True)


# ---- which base


def _find_base(api: Any, wish: str | None, say: Any, *, pull: bool) -> str:
    """The base to build on, pulled when it is not there. Raises `NoImage` with why it cannot be had."""
    if wish is None:
        remembered = _remembered_base(api)
        if remembered is not None:
            return remembered
    reference = wish or DEFAULT_BASE
    if _local(api, reference):
        return reference
    from docker.errors import APIError

    repository, _, version = reference.partition(":") if "@" not in reference else (reference, "", "")
    try:
        if pull:
            say(f"pulling {reference}")
            api.pull(repository, tag=version or (None if "@" in reference else "latest"))
        else:
            api.inspect_distribution(reference)
    except (APIError, OSError) as error:
        why = str(getattr(error, "explanation", None) or error).strip()
        raise NoImage(
            f"the base image {reference} is neither here nor can it be pulled ({why})",
            hint="name one that is here and has Python 3.11 or newer: `mailstack image build --base IMAGE`",
        ) from error
    return reference


def _remembered_base(api: Any) -> str | None:
    """The base of the newest image that was built here, if it is still here."""
    images = sorted(api.images(filters={"label": LABEL}), key=lambda item: -int(item["Created"]))
    for item in images:
        base = (item.get("Labels") or {}).get("mailstack.base")
        if base and _local(api, base):
            return str(base)
    return None


def _local(api: Any, reference: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        _inspect(api, reference)
    except ImageNotFound:
        return False
    return True


def _inspect(api: Any, reference: str) -> dict[str, Any]:
    return cast("dict[str, Any]", api.inspect_image(reference))


# ---- what goes in


def recipe() -> Path:
    """The folder with Dockerfile and finish.py: beside the package in a checkout, else inside it."""
    package = Path(mailstack.__file__).resolve().parent
    for folder in (package / "_compose", package.parent / "compose"):
        if (folder / "Dockerfile").is_file():
            return folder
    raise RuntimeFailure("the Dockerfile is not part of this installation", hint="install mailstack again")


def _package_files() -> Iterator[tuple[str, Path]]:
    """`(path in the image's app/, file)` of our own code, sorted."""
    package = Path(mailstack.__file__).resolve().parent
    for module in MODULES:
        yield f"mailstack/{module}", package / module
    for room in ROOMS:
        for folder, folders, names in os.walk(package / room):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith((".py", ".json", ".txt")):
                    path = Path(folder, name)
                    yield f"mailstack/{path.relative_to(package)}", path


def _distribution_files(name: str) -> Iterator[tuple[str, Path]]:
    """The installed files of a distribution, without bytecode and scripts."""
    distribution = importlib.metadata.distribution(name)
    for entry in distribution.files or ():
        text = str(entry)
        if (
            not text.startswith("..")
            and "__pycache__" not in text
            and not text.endswith((".pyc", ".pyx", ".pxd", ".c"))
        ):
            yield text, Path(str(distribution.locate_file(entry)))


@cache
def _content_digest() -> str:
    total = hashlib.sha256()
    for name, path in _package_files():
        total.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for name in ("Dockerfile", "finish.py"):
        total.update((recipe() / name).read_bytes())
    for name in ("dnspython", "uvloop", *SIGNING):
        total.update(f"{name} {_version(name)}\0".encode())
    return total.hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _context(base: Base, compiled: Mapping[str, bytes]) -> io.BytesIO:
    """The build context as a compressed archive. Reproducible: no times, no owners."""
    files: dict[str, bytes] = {f"app/{name}": path.read_bytes() for name, path in _package_files()}
    files |= {f"app/{name}": path.read_bytes() for name, path in _distribution_files("dnspython")}
    files |= {f"app/{name}": data for name, data in compiled.items()}
    files["finish.py"] = (recipe() / "finish.py").read_bytes()
    dockerfile = (recipe() / "Dockerfile").read_text()
    # exec forms have no variables: a Python that is not `python3` on the base's PATH is written in
    files["Dockerfile"] = dockerfile.replace('["python3"', json.dumps([base.python])[:-1]).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


# ---- compiled packages: the event loop, and what signs zones


def _compiled(base: Base, *names: str) -> tuple[dict[str, bytes], str]:
    """The files of packages for the base, and where they are from: the host's own, else wheels that fit.

    All of them or none.
    """
    files: dict[str, bytes] = {}
    if all(_host_fits(base, name) for name in names):
        for name in names:
            files |= {path: file.read_bytes() for path, file in _distribution_files(name)}
        return files, f"{names[0]} from this machine"
    for name in names:
        version = _version(name)
        found = _download(base, f"{name}=={version}" if version else name)
        if not found:
            return {}, f"no {name} for this Python"
        files |= found
    return files, f"{names[0]} from a package index"


def _host_fits(base: Base, name: str) -> bool:
    """The host's compiled package runs in the base: same interpreter ABI, machine and C library."""
    try:
        wheel = importlib.metadata.distribution(name).read_text("WHEEL") or ""
    except importlib.metadata.PackageNotFoundError:
        return False
    if sysconfig.get_config_var("SOABI") != base.soabi or os.uname().machine != base.machine:
        return False
    if base.musl:
        return "musllinux" in wheel
    needed = [tuple(map(int, found)) for found in re.findall(r"manylinux_(\d+)_(\d+)", wheel)]
    needed += [(2, 17) for _ in re.findall(r"manylinux2014", wheel)]
    try:
        has = tuple(map(int, base.libc[1].split(".")))
    except ValueError:
        return False
    return bool(needed) and min(needed) <= has


def _download(base: Base, requirement: str) -> dict[str, bytes]:
    """A wheel that fits the base, from wherever pip is configured to look; nothing when there is none."""
    python = f"{base.version[0]}{base.version[1]}"
    kinds = (
        ("musllinux_1_1", "musllinux_1_2")
        if base.musl
        else ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
    )
    with tempfile.TemporaryDirectory(prefix="mailstack-wheel-") as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            "--dest", folder, "--python-version", python, "--implementation", "cp", "--abi", f"cp{python}",
            "--abi", "abi3",
            *(word for kind in kinds for word in ("--platform", f"{kind}_{base.machine}")), requirement,
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return {}
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                return {
                    name: archive.read(name)
                    for name in archive.namelist()
                    if not name.endswith(("/", ".pyx", ".pxd", ".c"))
                }
    return {}
