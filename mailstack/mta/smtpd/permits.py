"""smtpd_log_access_permit_actions: which permissions are logged, and how.

`QUEUEID: permit: RCPT from name[address]: action=permit for Recipient address=a@b.test ; from=<…> …`. A
permission that DEFER_IF_PERMIT has overruled is none, and is not logged.
"""

from __future__ import annotations

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, OpenTable
from mailstack.mta.smtpd.verdicts import PERMIT, SUBJECT, Check, Client, Phase, SlowCheck, Subject, Verdict

_CLIENT, _RECIPIENT = SUBJECT[Phase.CLIENT], SUBJECT[Phase.RECIPIENT]
_SUBJECT: dict[str, Subject] = {
    **dict.fromkeys(
        (
            "permit_dnswl_client",
            "permit_inet_interfaces",
            "permit_mynetworks",
            "permit_rhswl_client",
            "permit_sasl_auth",
            "permit_sasl_authenticated",
            "permit_tls_all_clientcerts",
            "permit_tls_clientcerts",
        ),
        _CLIENT,
    ),
    "permit_naked_ip_address": SUBJECT[Phase.HELO],
    "permit_auth_destination": _RECIPIENT,
    "permit_mx_backup": _RECIPIENT,
}
"""What words of their own mind permit, whatever the list is about."""


class Permits:
    """The permissions that are logged under one configuration."""

    __slots__ = ("_actions",)

    def __init__(self, actions: DomainList) -> None:
        self._actions = actions

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable) -> Permits | None:
        """None where none is."""
        words = conf.list("smtpd_log_access_permit_actions")
        return cls(DomainList(words, open_table)) if words else None

    def note(self, client: Client, action: str, label: str, name: str, source: str = "") -> None:
        """Log a permission: `action` has let in what `label` and `name` say, as a reply would call it.

        `source`: the table or policy server whose action it is.
        """
        if client.deferrals.if_permit is None and self._actions.match(action.lower()):
            client.permitted(f"action={action} for {label}={name} {f'from {source}' if source else ''}")

    def checked(self, word: str, check: Check, about: Subject) -> Check:
        """A word of a list about something, whose permissions are logged under `word`."""
        label, subject = _SUBJECT.get(word.lower(), about)

        def checking(client: Client) -> Verdict:
            verdict = check(client)
            if verdict is PERMIT:
                self.note(client, word, label, subject(client))
            return verdict

        return checking

    def slowly_checked(self, word: str, check: SlowCheck, about: Subject) -> SlowCheck:
        """The same for one that has to be waited for."""
        label, subject = _SUBJECT.get(word.lower(), about)

        async def checking(client: Client) -> Verdict:
            verdict = await check(client)
            if verdict is PERMIT:
                self.note(client, word, label, subject(client))
            return verdict

        return checking
