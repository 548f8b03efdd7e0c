"""Every parameter that the real Postfix has either works here or is refused with a reason, and both are true:
what works is read by a program that it is said to be for, what is refused is named when main.cf is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import mailstack
from mailstack.config.postfix import MainCf
from mailstack.postfix_parameters import HONOURED, INSTALLATION, PARAMETERS, parameter
from mailstack.postfix_refusals import REFUSED

TRANSPORTS = frozenset(
    ("smtp", "lmtp", "relay", "local", "virtual", "error", "retry", "bsmtp", "ifmail", "maildrop", "mailman",
     "scalemail-backend", "uucp")
)  # fmt: skip
"""Those of Debian's master.cf, for which postconf lists parameters of their own."""
ROOMS = {
    "smtpd": ("smtpd", "bounce"),
    "cleanup": ("cleanup",),
    "qmgr": ("qmgr", "bounce"),
    "bounce": ("bounce", "qmgr"),
    "local": ("deliver",),
    "virtual": ("deliver",),
    "smtp": ("deliver",),
    "lmtp": ("deliver",),
    "pipe": ("deliver",),
    "error": ("deliver",),
}
"""Program -> its folders below mailstack/mta; what they share lies in mailstack/mta itself."""
SHARED = ("milter", "verify")
BY_REFERENCE = frozenset(("compatibility_level", "multi_instance_name", "reject_tempfail_action", "stress"))
"""What other parameters' values refer to."""


@pytest.mark.real
def test_every_parameter_works_or_has_a_reason() -> None:
    text = subprocess.run(["postconf", "-d"], capture_output=True, text=True, check=True).stdout
    names = {line.partition(" =")[0] for line in text.splitlines() if " =" in line}
    assert len(names) > 900
    works = {name for name in names if (found := parameter(name, TRANSPORTS)) is not None and found.honoured}
    assert not works & REFUSED.keys()
    assert names - works == REFUSED.keys() & names
    assert not REFUSED.keys() & HONOURED


def _code(*folders: Path) -> str:
    return "".join(path.read_text() for folder in folders for path in sorted(folder.rglob("*.py")))


_WORD = re.compile(r"""["']([A-Za-z0-9_]{4,})["']""")
_MADE = re.compile(r"""f["']([A-Za-z0-9_]*(?:\{[^{}"']*\}[A-Za-z0-9_]*)+)["']""")


class Names:
    """The names that code has in quotes; `f"unverified_{what}_defer_code"` is all that it may stand for."""

    def __init__(self, code: str) -> None:
        self._words = frozenset(_WORD.findall(code))
        made = [re.sub(r"\{[^{}]*\}", "*", one) for one in _MADE.findall(code)]
        fixed = [
            re.escape(one).replace(r"\*", r"[A-Za-z0-9_-]*") for one in made if len(one.replace("*", "")) > 6
        ]
        self._made = re.compile("|".join(fixed) or "(?!)")

    def __contains__(self, name: str) -> bool:
        return name in self._words or self._made.fullmatch(name) is not None


def test_what_works_is_read_where_it_is_said_to_work() -> None:
    mta = Path(mailstack.__file__).parent / "mta"
    common = _code(mta.parent / "config", *(mta / name for name in SHARED))
    common += "".join(path.read_text() for path in sorted(mta.glob("*.py")))
    shared = Names(common)
    by_program = {program: Names(_code(*(mta / room for room in rooms))) for program, rooms in ROOMS.items()}
    unread = set()
    for name in HONOURED - BY_REFERENCE:
        used_by = PARAMETERS[name].used_by
        # The clients of SMTP and LMTP name what they have in common without its beginning; so does the
        # queue manager with what each transport has.
        words = {name, name.removeprefix("smtp_"), name.removeprefix("lmtp_")}
        if what := name.partition("_destination_")[2]:
            words.add(f"default_destination_{what}")
        places = [shared, *(by_program[program] for program in used_by if program in by_program)]
        if not any(word in place for word in words for place in places):
            unread.add(name)
    assert unread == set()


def test_what_is_refused_is_named_when_it_is_set() -> None:
    text = ""
    for name in sorted(REFUSED.keys() - INSTALLATION):
        known = parameter(name)
        text += f"{name} = {known.default if known is not None and known.default else 1}\n"
    warnings = MainCf.parse(text, Path("main.cf")).warnings
    assert len(warnings) == len(text.splitlines())
    for number, (line, warning) in enumerate(zip(text.splitlines(), warnings, strict=True), 1):
        name = line.partition(" ")[0]
        assert warning == f"main.cf, line {number}: {name} is not honoured: {REFUSED[name]}"
