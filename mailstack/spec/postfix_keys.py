"""`mta.postfix`: which main.cf parameters a spec may set, and to what.

A parameter is accepted when the MTA acts on it. Those that the rest of the spec decides are refused with the
key to use instead; a value must be of the parameter's type, on one line, and refer only to parameters that
exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mailstack.postfix_parameters import HONOURED, PARAMETERS, Kind
from mailstack.spec.fields import quoted
from mailstack.spec.problems import nearest

OWNED = {
    "myhostname": "domains.<first domain>.hostname",
    "mydomain": "the first key of domains",
    "myorigin": "the first key of domains",
    "mydestination": "domains",
    "mynetworks": "mta.networks",
    "inet_interfaces": "network.bind",
    "inet_protocols": "network.bind",
    "relay_domains": "mta.relay_domains",
    "relayhost": "mta.relayhost",
    "message_size_limit": "mta.message_size_limit",
    "virtual_mailbox_limit": "mta.message_size_limit",
    "minimal_backoff_time": "mta.queue.minimal_backoff",
    "maximal_backoff_time": "mta.queue.maximal_backoff",
    "maximal_queue_lifetime": "mta.queue.lifetime",
    "qmgr_message_active_limit": "mta.queue.active_limit",
    "smtpd_sasl_type": "sasl.backend",
    "smtpd_sasl_path": "sasl.backend",
    "cyrus_sasl_config_path": "sasl.backend",
    "smtpd_tls_cert_file": "tls.cert",
    "smtpd_tls_key_file": "tls.key",
    "smtpd_tls_chain_files": "tls.cert",
    "smtpd_tls_security_level": "tls.mode",
    "smtpd_use_tls": "tls.mode",
    "smtpd_enforce_tls": "tls.mode",
    "smtpd_tls_auth_only": "mailbox.allow_plaintext_auth",
    "mailbox_transport": "mailbox.delivery",
    "virtual_transport": "mailbox.delivery",
    "local_transport": "mailbox.delivery",
    "virtual_mailbox_domains": "domains",
    "virtual_mailbox_maps": "domains.<domain>.users",
    "local_recipient_maps": "domains.<domain>.users",
    "virtual_alias_maps": "domains.<domain>.aliases",
    "virtual_alias_domains": "domains",
    "alias_maps": "domains.<domain>.aliases",
    "alias_database": "domains.<domain>.aliases",
    "default_process_limit": "mta.workers",
}
"""Parameters that another key of the spec decides."""

FIXED = frozenset(
    (
        "queue_directory",
        "process_id_directory",
        "virtual_mailbox_base",
        "home_mailbox",
        "compatibility_level",
        "mail_version",
        "multi_instance_name",
        "relocated_maps",
        "transport_maps",
        "recipient_delimiter",
    )
)
"""Parameters that the services agree on and that no key decides."""

RUNNING = frozenset(("daemon_directory", "mail_owner", "maillog_file", "maillog_file_prefixes"))
"""Parameters that `engine: postfix` has values of its own for."""

# What may follow a `$`: `$name`, `$(name)`, `${name}` and the conditional forms; `$$` is a dollar sign.
_REFERENCE = re.compile(
    r"\$(?:\$|\(([A-Za-z0-9_]+)\)|\{([A-Za-z0-9_]+)\}|\{([A-Za-z0-9_]+)[?:]|([A-Za-z0-9_]+))?"
)
_COMPUTED = frozenset(("mail_version", "mail_release_date", "process_id", "process_name"))


def key_problem(name: str) -> str | None:
    """Why `name` cannot stand below `mta.postfix`, with what to write instead; None: it can."""
    if name in OWNED:
        return f"is decided elsewhere in this file; use {OWNED[name]}"
    if name in FIXED:
        return "is fixed: the services agree on it; leave it out"
    if name not in HONOURED:
        if name in PARAMETERS:
            return "belongs to Postfix's own installation and changes nothing here; leave it out"
        hint = nearest(name, sorted(HONOURED - FIXED - OWNED.keys()))
        return "is not a parameter that can be set here" + (
            f"; did you mean {hint}?" if hint else "; leave it out"
        )
    return None


def value_problem(name: str, value: str, together: Mapping[str, str]) -> str | None:
    """What is wrong with the value of a parameter that can be set; None: nothing.

    `together` is all that the spec sets, this one included.
    """
    if not value.isascii() or not value.isprintable():
        return "main.cf holds printable ASCII on one line; write it so"
    if value != value.strip():
        return f"Postfix drops blanks at the ends; write {quoted(value.strip())}"
    if len(value) > 8000:
        return "is longer than 8000 octets; write less"
    if value.count("{") != value.count("}"):
        return "has braces that do not pair up; close each { with a }"
    fault = _references(name, value) or _circle(name, together)
    if fault is not None:
        return fault
    parameter = PARAMETERS[name]
    if "$" in value and "$" in value.replace("$$", ""):
        return None  # what it becomes is known only after expansion
    fault = parameter.problem(value)
    if fault is not None:
        default = parameter.default
        example = (
            f", such as {default}"
            if default and "$" not in default and parameter.kind is not Kind.STR
            else ""
        )
        return f"{fault}{example}"
    return None


def _referred(value: str) -> Iterator[tuple[str | None, int]]:
    """The names that a value refers to, and where; None where a `$` has no name."""
    for found in _REFERENCE.finditer(value):
        if found[0] != "$$":
            yield found[1] or found[2] or found[3] or found[4], found.start()


def _circle(name: str, together: Mapping[str, str]) -> str | None:
    """Whether `name` refers to itself by way of others."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        at = waiting.pop()
        default = PARAMETERS[at].default if at in PARAMETERS else ""
        for known, _ in _referred(together.get(at, default)):
            if known == name:
                return f"refers to itself by way of ${at}; write the value out"
            if known is not None and known not in seen:
                seen.add(known)
                waiting.append(known)
    return None


def _references(name: str, value: str) -> str | None:
    for known, start in _referred(value):
        if known is None:
            return f"has a $ without a name in {quoted(value[start:])}; write $$ for a dollar sign"
        if known == name:
            return f"refers to itself with ${known}; write the value out"
        if known not in PARAMETERS and known not in _COMPUTED:
            hint = nearest(known, sorted(PARAMETERS))
            return f"refers to ${known}, which does not exist" + (
                f"; did you mean ${hint}?" if hint else "; write $$ for a dollar sign"
            )
    return None
