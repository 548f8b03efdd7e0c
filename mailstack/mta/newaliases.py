"""newaliases(1): build the alias databases, by postalias.

    python -m mailstack.mta.newaliases --config DIR [TYPE:FILE…]

Without arguments it builds what `alias_database` names; a file without a type is of `default_database_type`.
Exit status: postalias's; 0 when there is nothing to build; 75 when main.cf cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.command import EX_USAGE, Fatal, fail, take_config

NAME = "newaliases"
USAGE = "usage: python -m mailstack.mta.newaliases --config DIR [TYPE:FILE...]\n"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    if list(arguments) in (["--help"], ["-h"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        config_dir, rest = take_config(arguments)
        if any(word.startswith("-") for word in rest):
            raise Fatal(f"unknown option; {USAGE.strip()}", EX_USAGE)
        databases = rest or MainCf.load(config_dir).list("alias_database")
    except Fatal as error:
        return fail(NAME, error)
    except ConfigError as error:
        return fail(NAME, Fatal(str(error)))
    if not databases:
        return 0
    from mailstack.mta import postalias

    return postalias.main(["--config", str(config_dir), *databases])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
