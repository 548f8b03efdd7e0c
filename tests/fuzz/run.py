"""Look for inputs that break a contract of `targets`, guided by coverage.

    python -m tests.fuzz.run TARGET [RUNS [LIBFUZZER-OPTION...]]

Needs atheris, which is not among the development tools: it is large, and nothing but this wants it. An input
that reaches new code is kept in tests/fuzz/corpus/TARGET; one that breaks a contract is written to the current
folder as `crash-…`, and belongs into the corpus once the fault is mended.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path


def main() -> None:
    atheris = import_module("atheris")  # has no type information
    name = sys.argv[1]
    runs, *options = sys.argv[2:] or ["10000000"]
    rooms = ["mailstack.wire", "mailstack.storage", "mailstack.dns", "mailstack.config.named"]
    with atheris.instrument_imports(include=rooms):
        from tests.fuzz.targets import TARGETS, WORDS
    corpus = Path(__file__).parent / "corpus" / name
    with tempfile.NamedTemporaryFile("w", prefix="words-") as words:
        for word in WORDS.get(name, ()):
            words.write('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n')
        words.flush()
        given = [str(corpus), f"-runs={runs}", "-max_len=400", *options]
        if words.tell():  # an empty dictionary is an error
            given.insert(1, f"-dict={words.name}")
        atheris.Setup([sys.argv[0], *given], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
