"""A checked spec and a site become a tree of native configuration files. Pure: nothing is read but templates.

`render(stack, site)` gives a `Tree`: paths below the configuration root, their octets and modes. The same
stack and site give the same tree, octet for octet.
"""

from __future__ import annotations

from mailstack.render.errors import RenderError
from mailstack.render.render import render
from mailstack.render.site import Addresses, Facts, Listener, Site, site_for_host
from mailstack.render.tree import File, Tree

__all__ = ["Addresses", "Facts", "File", "Listener", "RenderError", "Site", "Tree", "render", "site_for_host"]
