"""reject_unverified_sender and reject_unverified_recipient: is there anybody at that address (verify(8))?"""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.smtpd.verdicts import Client, Deferral, Rejection, SlowCheck, Verdict, dsn_for
from mailstack.mta.verify.cache import Status
from mailstack.mta.verify.client import VerifyClient
from mailstack.wire.smtp.reply import Reply

WORDS = ("reject_unverified_sender", "reject_unverified_recipient")
_QUOTED = 250
"""Characters of a probe's result that a temporary refusal quotes."""


@dataclass(frozen=True, slots=True)
class _Replies:
    """What main.cf has one word answer."""

    label: str
    enhanced: str
    defer_code: int
    reject_code: int
    at_once: bool
    """A temporary refusal is one; else only a permission becomes one."""
    reason: str
    """Takes the place of the probe's result; `""`: nothing does."""


class Verification:
    """Both words under one configuration."""

    def __init__(self, conf: MainCf) -> None:
        self._client = VerifyClient(conf.str("queue_directory"))
        self._delay = conf.time("address_verify_poll_delay")
        stressed = conf.with_overrides({"stress": "yes"})
        self._polls = tuple(one.int("address_verify_poll_count") for one in (conf, stressed))
        self._sender = _Replies(
            "Sender address",
            "4.1.7",
            conf.int("unverified_sender_defer_code"),
            conf.int("unverified_sender_reject_code"),
            conf.str("unverified_sender_tempfail_action") == "defer",
            conf.str("unverified_sender_reject_reason"),
        )
        self._recipient = _Replies(
            "Recipient address",
            "4.1.1",
            conf.int("unverified_recipient_defer_code"),
            conf.int("unverified_recipient_reject_code"),
            conf.str("unverified_recipient_tempfail_action") == "defer",
            conf.str("unverified_recipient_reject_reason"),
        )

    def check(self, word: str) -> SlowCheck:
        """The look-up of one of `WORDS`."""

        async def sender(client: Client) -> Verdict:
            return await self._verify(client, client.sender, self._sender)

        async def recipient(client: Client) -> Verdict:
            return await self._verify(client, client.recipient, self._recipient)

        return sender if word == "reject_unverified_sender" else recipient

    async def _verify(self, client: Client, address: str | None, replies: _Replies) -> Verdict:
        if not address:
            return None
        answer = await self._client.ask(address, self._polls[client.stressed], self._delay)
        refused = f"<{address}>: {replies.label} rejected:"
        if answer is None:
            client.warn("verify service failure")
            reply = Reply(450, replies.enhanced, f"{refused} address verification problem")
            return self._for_now(reply, replies)
        if answer.status is Status.OK:
            return None
        code = replies.reject_code if answer.status is Status.BOUNCE else replies.defer_code
        text = replies.reason or answer.text
        if code // 100 == 2:
            return None
        if code // 100 == 4:
            enhanced = dsn_for(code, replies.enhanced)
            return self._for_now(
                Reply(code, enhanced, f"{refused} unverified address: {text[:_QUOTED]}"), replies
            )
        return Rejection(
            Reply(code, dsn_for(code, replies.enhanced), f"{refused} undeliverable address: {text}")
        )

    @staticmethod
    def _for_now(reply: Reply, replies: _Replies) -> Verdict:
        return Rejection(reply) if replies.at_once else Deferral(reply, True)

    def close(self) -> None:
        """Let go of the socket."""
        self._client.close()
