"""Putting the families together."""

from __future__ import annotations

from mailstack.render import bind, dovecot, postfix, sasl
from mailstack.render.errors import RenderError
from mailstack.render.site import Site
from mailstack.render.tree import File, Tree, make_tree
from mailstack.spec.model import Stack


def render(stack: Stack, site: Site) -> Tree:
    """The native configuration of `stack` at `site`. Raises `RenderError`."""
    if stack.tls.mode != "off" and (site.tls_cert is None or site.tls_key is None):
        raise RenderError("TLS is on and the site has no certificate")
    files: dict[str, File] = {}
    files.update(postfix.files(stack, site))
    files.update(sasl.files(stack, site))
    files.update(dovecot.files(stack, site))
    zones, serials = bind.files(stack, site)
    files.update(zones)
    return make_tree(files, serials)
