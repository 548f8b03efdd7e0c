"""The last step of the image build, run inside it by the base image's own Python. Standard library only.

Checks the interpreter, makes the folders that volumes are mounted over (so that a fresh volume belongs to the
services' user), puts the mail system's commands into /usr/sbin, drops compiled packages that do not load
here, and compiles everything to bytecode: the root file system is read-only later, and some base images come
without the bytecode of the standard library.
"""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig

HOME = "/opt/mailstack"
UID = GID = 10001
CONFIG = "/etc/mailstack/postfix"
COMMAND = """\
#!{python} -I
import sys

sys.path.insert(0, "{home}")
from mailstack.mta.command import run

run("{name}", "{config}")
"""
FOLDERS = (
    "/etc/mailstack",
    "/var/spool/mailstack",
    "/var/mail/mailstack",
    "/var/lib/mailstack",
    "/run/mailstack",
)
NOT_NEEDED = re.compile(
    r"/(tests?|idlelib|lib2to3|ensurepip|tkinter|turtledemo|distutils|site-packages|dist-packages|pydoc_data)(/|$)"
)


def add_line(path: str, name: str, line: str) -> None:
    """Give the uid a name, where the base has such files: some library calls want one."""
    if os.path.exists(path):
        with open(path, "r+") as file:
            if not any(entry.split(":", 1)[0] == name for entry in file.read().splitlines()):
                file.write(line + "\n")


def commands() -> None:
    """sendmail and its like, where programs look for them."""
    sys.path.insert(0, HOME)
    from mailstack.mta.command import COMMANDS

    os.makedirs("/usr/sbin", exist_ok=True)
    for name in COMMANDS:
        path = f"/usr/sbin/{name}"
        if os.path.lexists(path):
            os.unlink(path)  # what the base has: it must not be written through a link
        with open(path, "w") as file:
            file.write(COMMAND.format(python=sys.executable, home=HOME, name=name, config=CONFIG))
        os.chmod(path, 0o755)  # noqa: S103 - everybody may run it
    os.makedirs("/usr/lib", exist_ok=True)
    if os.path.lexists("/usr/lib/sendmail"):
        os.unlink("/usr/lib/sendmail")
    os.symlink("/usr/sbin/sendmail", "/usr/lib/sendmail")


def loads(package: str, module: str) -> bool:
    """Whether a package that was copied loads in this image; it is removed when it does not."""
    if not os.path.isdir(f"{HOME}/{package}"):
        return False
    command = [sys.executable, "-c", f"import {module}"]
    tried = subprocess.run(command, check=False, capture_output=True)  # noqa: S603 our own modules
    if tried.returncode:
        shutil.rmtree(f"{HOME}/{package}")
    return tried.returncode == 0


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 the base image decides what runs this
        sys.exit(f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed")
    for folder in FOLDERS:
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, UID, GID)
        os.chmod(folder, 0o700)
    add_line("/etc/group", "mailstack", f"mailstack:x:{GID}:")
    add_line(
        "/etc/passwd", "mailstack", f"mailstack:x:{UID}:{GID}:mailstack:/var/mail/mailstack:/usr/sbin/nologin"
    )
    commands()
    loop = "uvloop" if loads("uvloop", "uvloop") else "asyncio"
    signs = loads("cryptography", "cryptography.hazmat.primitives.asymmetric.ec")
    quick = {"quiet": 2, "workers": 0}
    compileall.compile_dir(HOME, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, **quick)  # type: ignore[arg-type]
    compileall.compile_dir(sysconfig.get_path("stdlib"), rx=NOT_NEEDED, **quick)  # type: ignore[arg-type]
    print("mailstack-built " + json.dumps({"python": sys.version.split()[0], "loop": loop, "signs": signs}))  # noqa: T201


if __name__ == "__main__":
    main()
