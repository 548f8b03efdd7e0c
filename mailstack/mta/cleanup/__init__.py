"""cleanup(8): the last look at a new message before it is queued."""

from mailstack.mta.cleanup.checks import Findings, Inspector, Origin
from mailstack.mta.cleanup.headers import author, mail_date, received_header, rewrite_headers
from mailstack.mta.cleanup.maps import Generic, MapError
from mailstack.mta.cleanup.message import FILTER, Cleaned, Cleanup, TooManyHops
from mailstack.mta.cleanup.recipients import AliasExpansionError

__all__ = [
    "FILTER",
    "AliasExpansionError",
    "Cleaned",
    "Cleanup",
    "Findings",
    "Generic",
    "Inspector",
    "MapError",
    "Origin",
    "TooManyHops",
    "author",
    "mail_date",
    "received_header",
    "rewrite_headers",
]
