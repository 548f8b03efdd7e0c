"""Any YAML at any place of a spec: a checked stack, or problems that say where; never another error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstack.spec import SpecErrors, loads
from mailstack.spec.yaml_nodes import YamlError, parse
from tests.golden.trees import EXAMPLES, REPOSITORY

KEYS = st.one_of(
    st.sampled_from(
        (
            "project", "domains", "mta", "mailbox", "dns", "sasl", "tls", "network", "users", "aliases", "records",
            "hostname", "address", "catch_all", "password", "queue", "postfix", "networks", "protocols", "publish",
            "mode", "cert", "engine", "a.test", "b.a.test", "anna", "otto", "smtpd_banner", "lifetime", "forward",
        )
    ),
    st.text(max_size=6),
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12),
    st.sampled_from(("anna", "otto", "a.test", "mail.a.test", "5m", "off", "www A 192.0.2.1", "auto", "python")),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
TEXTS = [(REPOSITORY / "examples" / name / "mailstack.yaml").read_text() for name in EXAMPLES]


def checked(text: str) -> None:
    try:
        stack = loads(text)
    except SpecErrors as error:
        assert error.problems
        lines = text.count("\n") + 2
        for problem in error.problems:
            assert 1 <= problem.line <= lines and problem.column >= 1
            assert problem.message and str(problem).isprintable()
        assert len(set(error.problems)) == len(error.problems)
    else:
        assert stack.first_user


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=st.dictionaries(KEYS, VALUES, max_size=5), domain=VALUES)
def test_any_structure_is_checked(value: dict[str, Any], domain: Any) -> None:
    checked(json.dumps(value))
    checked(json.dumps({"domains": {"a.test": domain, "b.a.test": value}, "mta": value}))
    checked(
        json.dumps(
            {"domains": {"a.test": {"users": {"anna": domain}, "aliases": value, "records": [domain]}}}
        )
    )
    checked(
        json.dumps(
            {"domains": {"a.test": {"users": {"anna": {}}}}, "mta": {"postfix": value}, "network": domain}
        )
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_checked(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.text(max_size=6)) + text[end:]
    checked(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("ab:-?&*!|>%@`'\"#{}[], \n\t~<=0.x"), max_size=40))
def test_any_text_is_yaml_or_is_not(text: str) -> None:
    try:
        parse(text)
    except YamlError as error:
        assert error.line >= 1 and error.column >= 1 and error.message
