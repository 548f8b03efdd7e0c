"""main.cf's word on how smtp(8) and lmtp(8) talk: their timeouts, and their `Manners`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailstack.mta.address_maps import OpenTable
from mailstack.mta.deliver.names import Names
from mailstack.mta.deliver.opening import Manners
from mailstack.mta.deliver.session import Timeouts
from mailstack.mta.lookup import SlowTable

KEYWORDS = frozenset((
    "8bitmime", "auth", "chunking", "dsn", "enhancedstatuscodes", "etrn", "pipelining", "size", "smtputf8",
    "starttls", "verp", "vrfy", "xclient", "xforward",
))  # fmt: skip
"""What an EHLO keyword to be discarded may be called; `silent-discard` is not a keyword."""


def timeouts(names: Names) -> Timeouts:
    """The `…_timeout` parameters."""
    return Timeouts(
        connect=names.time("connect_timeout"),
        hello=names.time("helo_timeout"),
        starttls=names.time("starttls_timeout"),
        mail=names.time("mail_timeout"),
        rcpt=names.time("rcpt_timeout"),
        data_init=names.time("data_init_timeout"),
        data_transfer=names.time("data_xfer_timeout"),
        data_done=names.time("data_done_timeout"),
        reset=names.time("rset_timeout"),
        quit=names.time("quit_timeout"),
        xforward=names.time("xforward_timeout"),
        data_rate=names.int("min_data_rate") if names.bool("per_request_deadline") else 0,
    )


def manners(names: Names, open_table: OpenTable) -> Manners:
    """The parameters that hold for every host. Raises `ConfigError`."""
    esmtp = names.smtp
    return Manners(
        names.str("helo_name"),
        always_ehlo=esmtp and names.conf.bool("smtp_always_send_ehlo"),
        never_ehlo=esmtp and names.conf.bool("smtp_never_send_ehlo"),
        skip_5xx_greeting=names.bool("skip_5xx_greeting"),
        wait_for_goodbye=not names.bool("skip_quit_response"),
        line_limit=names.int("line_length_limit"),
        xforward=names.bool("send_xforward_command"),
        note_starttls=names.bool("tls_note_starttls_offer"),
        log_tls=names.int("tls_loglevel") > 0,
        must_bind=names.bool("bind_address_enforce"),
        wrapped=names.bool("tls_wrappermode"),
        discard=discarded(names, open_table),
        quote=names.bool("quote_rfc821_envelope"),
        dummy_auth=names.bool("send_dummy_mail_auth"),
        no_early_reply=names.bool("tls_block_early_mail_reply"),
        final=not esmtp and names.conf.bool("lmtp_assume_final"),
        reply_filter=reply_filter(names, open_table),
    )


def reply_filter(names: Names, open_table: OpenTable) -> Callable[[bytes], bytes] | None:
    """smtp_reply_filter: what a line of a server's reply is taken for. Raises `ConfigError`.

    Lines are shown one by one, without their ends; a table's first word for one replaces it.
    """
    tables = names.tables("reply_filter", open_table)
    if not tables:
        return None
    for table in tables:
        if isinstance(table, SlowTable):
            raise names.error("reply_filter", f"{table.name}: a reply waits for no server")

    def change(line: bytes) -> bytes:
        text = line.decode("utf-8", "surrogateescape")
        for table in tables:
            value = table.lookup(text)
            if value is not None:
                return value.encode("utf-8", "surrogateescape")
        return line

    return change


def discarded(names: Names, open_table: OpenTable) -> Callable[[str], frozenset[str]] | None:
    """EHLO keywords that are not to be seen, by the host's address; None: all are. Raises `ConfigError`."""
    always = _keywords(names.list("discard_ehlo_keywords"))
    tables = names.tables("discard_ehlo_keyword_address_maps", open_table)
    if not always and not tables:
        return None

    def find(address: str) -> frozenset[str]:
        for table in tables:
            value = table.lookup(address)
            if value is not None:
                return _keywords(value.replace(",", " ").split())
        return always

    return find


def _keywords(words: Sequence[str]) -> frozenset[str]:
    return frozenset(word.upper() for word in words if word.lower() in KEYWORDS)
