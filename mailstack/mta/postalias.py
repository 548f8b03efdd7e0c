"""postalias(1): postmap(1) for aliases(5), `name: target, target`.

    python -m mailstack.mta.postalias --config DIR [OPTIONS] [TYPE:]FILE…

The options, the exit status and the files are postmap's (mta/postmap.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mailstack.mta import postmap


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return postmap.main(arguments, aliases=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
