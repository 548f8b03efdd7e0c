"""Look for inputs that break a contract of `targets`, guided by coverage.

    python -m tests.fuzz.run TARGET [RUNS [LIBFUZZER-OPTION...]]

Needs atheris, which is not among the development tools: it is large, and nothing but this wants it. An input
that reaches new code is kept in tests/fuzz/corpus/TARGET; one that breaks a contract is written to the current
folder as `crash-…`, and belongs into the corpus once the fault is mended.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    atheris = import_module("atheris")  # has no type information
    name = sys.argv[1]
    runs, *options = sys.argv[2:] or ["10000000"]
    with atheris.instrument_imports(include=["mailstack.wire", "mailstack.storage"]):
        from tests.fuzz.targets import TARGETS
    corpus = Path(__file__).parent / "corpus" / name
    atheris.Setup([sys.argv[0], str(corpus), f"-runs={runs}", "-max_len=400", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
