"""main.cf's word on how smtp(8) talks: its timeouts, and its `Manners`."""

from __future__ import annotations

from collections.abc import Callable

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.deliver.opening import Manners
from mailstack.mta.deliver.session import Timeouts
from mailstack.storage.tables import TableError

KEYWORDS = frozenset((
    "8bitmime", "auth", "chunking", "dsn", "enhancedstatuscodes", "etrn", "pipelining", "size", "smtputf8",
    "starttls", "verp", "vrfy", "xclient", "xforward",
))  # fmt: skip
"""What an EHLO keyword to be discarded may be called; `silent-discard` is not a keyword."""


def smtp_timeouts(conf: MainCf) -> Timeouts:
    """The `smtp_…_timeout` parameters."""
    return Timeouts(
        connect=conf.time("smtp_connect_timeout"),
        hello=conf.time("smtp_helo_timeout"),
        starttls=conf.time("smtp_starttls_timeout"),
        mail=conf.time("smtp_mail_timeout"),
        rcpt=conf.time("smtp_rcpt_timeout"),
        data_init=conf.time("smtp_data_init_timeout"),
        data_transfer=conf.time("smtp_data_xfer_timeout"),
        data_done=conf.time("smtp_data_done_timeout"),
        reset=conf.time("smtp_rset_timeout"),
        quit=conf.time("smtp_quit_timeout"),
        xforward=conf.time("smtp_xforward_timeout"),
    )


def smtp_manners(conf: MainCf, open_table: OpenTable) -> Manners:
    """The parameters that hold for every host. Raises `ConfigError`."""
    return Manners(
        conf.str("smtp_helo_name"),
        always_ehlo=conf.bool("smtp_always_send_ehlo"),
        never_ehlo=conf.bool("smtp_never_send_ehlo"),
        skip_5xx_greeting=conf.bool("smtp_skip_5xx_greeting"),
        wait_for_goodbye=not conf.bool("smtp_skip_quit_response"),
        line_limit=conf.int("smtp_line_length_limit"),
        xforward=conf.bool("smtp_send_xforward_command"),
        note_starttls=conf.bool("smtp_tls_note_starttls_offer"),
        log_tls=conf.int("smtp_tls_loglevel") > 0,
        must_bind=conf.bool("smtp_bind_address_enforce"),
        wrapped=conf.bool("smtp_tls_wrappermode"),
        discard=discarded(
            conf, "smtp_discard_ehlo_keywords", "smtp_discard_ehlo_keyword_address_maps", open_table
        ),
    )


def discarded(
    conf: MainCf, words: str, maps: str, open_table: OpenTable
) -> Callable[[str], frozenset[str]] | None:
    """What the parameters `words` and `maps` name, by the host's address; None: nothing.

    Raises `ConfigError`.
    """
    always = _keywords(conf.list(words))
    try:
        tables = [open_table(name) for name in conf.list(maps)]
    except TableError as error:
        raise conf.error(maps, str(error)) from None
    if not always and not tables:
        return None

    def find(address: str) -> frozenset[str]:
        for table in tables:
            value = table.lookup(address)
            if value is not None:
                return _keywords(value.replace(",", " ").split())
        return always

    return find


def _keywords(words: list[str]) -> frozenset[str]:
    return frozenset(word.upper() for word in words if word.lower() in KEYWORDS)
