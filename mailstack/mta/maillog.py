"""maillog_file: where log lines go, if not to standard error.

The file is made when it is missing (0644), appended to, and opened again at every reload, so that it can be
rotated by renaming and `kill -HUP`. Its name must begin with one of `maillog_file_prefixes`, as in Postfix.
"""

from __future__ import annotations

import os

from mailstack.config.postfix.main_cf import MainCf
from mailstack.net.log import Log

STANDARD_OUTPUT = "/dev/stdout"


def open_log(conf: MainCf) -> int:
    """A descriptor of the log file, -1 where main.cf names none. Raises `ConfigError`."""
    path = conf.str("maillog_file")
    if not path:
        return -1
    prefixes = conf.list("maillog_file_prefixes")
    if not any(path.startswith(prefix) for prefix in prefixes):
        raise conf.error("maillog_file", f"{path} does not start with any of {' '.join(prefixes)}")
    try:
        if path == STANDARD_OUTPUT:
            return os.dup(1)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise conf.error("maillog_file", f"open {path}: {error.strerror}") from None


def redirect(log: Log, conf: MainCf) -> None:
    """Send a log's lines, and its children's, where main.cf says. Raises `ConfigError`."""
    fd = open_log(conf)
    if fd >= 0:
        log.send_to(fd)


def command_log(conf: MainCf, name: str) -> Log:
    """The log of a command: lines go where the daemons' go, or nowhere where that is standard error or is
    not the caller's to write."""
    path, fd = conf.str("maillog_file"), -1
    if path and path != STANDARD_OUTPUT:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            pass
    return Log(f"{conf.str('syslog_name')}/{name}", conf.str("myhostname").partition(".")[0], fd)
