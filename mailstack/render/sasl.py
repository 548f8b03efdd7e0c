"""Cyrus SASL's file: sasl/smtpd.conf."""

from __future__ import annotations

from collections.abc import Iterator

from mailstack.render import templates
from mailstack.render.site import Site
from mailstack.render.tree import File
from mailstack.spec.model import Stack


def files(stack: Stack, site: Site) -> Iterator[tuple[str, File]]:
    """Path and content of what is below sasl/."""
    content = templates.text(
        "sasl/smtpd.conf",
        project=stack.project,
        saslauthd=stack.sasl.backend == "saslauthd",
        mechanisms=[mechanism.upper() for mechanism in stack.sasl.mechanisms],
        saslauthd_socket=site.saslauthd_socket,
    )
    yield "sasl/smtpd.conf", File(content.encode())
