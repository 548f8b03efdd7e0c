"""`python -m mailstack.mta --config DIR`: the MTA that DIR/main.cf and DIR/master.cf describe."""

from __future__ import annotations

import sys
from pathlib import Path

USAGE = """\
usage: python -m mailstack.mta --config DIR

Runs the MTA that DIR/main.cf and DIR/master.cf describe, in the foreground; logs to standard error.
SIGTERM drains and stops within 10 s, SIGHUP reads the configuration again.
"""
WRONG_USAGE = 2
"""As the other services, and argparse, have it."""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["--help" | "-h"]:
            sys.stdout.write(USAGE)
            return 0
        case ["--config", directory] | ["-c", directory]:
            pass
        case [word] if word.startswith("--config="):
            directory = word.removeprefix("--config=")
        case _:
            sys.stderr.write(USAGE)
            return WRONG_USAGE
    from mailstack.mta.master import run_master

    return run_master(Path(directory).absolute())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
