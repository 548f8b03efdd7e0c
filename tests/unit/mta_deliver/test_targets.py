"""Lists of targets: what people write into aliases and forward files, and what local makes of it."""

from __future__ import annotations

import pytest

from mailstack.mta.deliver.local.targets import lines_of, split_targets


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("zs", ["zs"]),
        ("a, b@x.test ,c", ["a", "b@x.test", "c"]),
        ("a b;c,,", ["a", "b", "c"]),
        ('"b c"@x.test, a', ["b c@x.test", "a"]),
        (
            '"|/usr/bin/filter -a \\"x\\"", /var/mail/x, :include:/etc/l, \\zs',
            ['|/usr/bin/filter -a "x"', "/var/mail/x", ":include:/etc/l", "zs"],
        ),
        ('|"/usr/bin/vacation zs", \\zs', ["|/usr/bin/vacation zs", "zs"]),
        ("| filter x", ["|filter", "x"]),
        ('"/var/mail/a b" ~/Mail/x', ["/var/mail/a b", "~/Mail/x"]),
        (":INCLUDE:/etc/l", [":INCLUDE:/etc/l"]),
        ("Zoe S <zs@x.test>, other@x.test (o, o)", ["zs@x.test", "other@x.test"]),
        ("team: a, b@x.test;", ["a", "b@x.test"]),
        ('"|unclosed, x', ["|unclosed, x"]),
        ("<>", []),
        (" , ;", []),
    ],
)
def test_targets(text: str, targets: list[str]) -> None:
    assert split_targets(text) == targets


def test_lines() -> None:
    assert lines_of("# c\na, b\n\n  # d\n|x\n") == ["a", "b", "#", "d", "|x"]
