"""`python -m mailstack.cli`, for where the console script is not on the PATH."""

from __future__ import annotations

import sys

from mailstack.cli.main import main

sys.exit(main())
