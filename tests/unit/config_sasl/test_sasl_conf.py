"""smtpd.conf of Cyrus SASL."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.sasl_conf import SaslConf, read_sasl_conf


def test_the_documents_own_file(tmp_path: Path) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text("# from the document\npwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nlog_level:3\n")
    assert read_sasl_conf(path) == SaslConf("saslauthd", ("PLAIN", "LOGIN"), 3)
    path.write_text("pwcheck_method: saslauthd\nsaslauthd_path: /run/mux\nauto_transition: no\n")
    conf = read_sasl_conf(path)
    assert (conf.saslauthd_path, conf.mech_list) == ("/run/mux", ())
    assert conf.warnings == (f"{path}, line 3: unused option: auto_transition: no",)


@pytest.mark.parametrize(
    "text, message",
    [
        ("pwcheck_method: auxprop\n", ":1: pwcheck_method: only saslauthd is supported"),
        ("pwcheck_method: saslauthd\nnonsense\n", ":2: expected 'name: value'"),
        ("pwcheck_method: saslauthd\nlog_level: high\n", ":2: log_level: expected a number"),
        ("pwcheck_method: saslauthd\nsaslauthd_path: mux\n", ":2: saslauthd_path: expected an absolute path"),
        ("mech_list: PLAIN\n", ": pwcheck_method is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_sasl_conf(path)
    assert f"{path}{message}" in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open: No such file"):
        read_sasl_conf(tmp_path / "smtpd.conf")
