"""verify(8): finds out whether an address can be delivered to, by a probe (ADDRESS_VERIFICATION_README).

A probe is a message in the queue with the attribute `PROBE`. It goes the way of any message up to the moment
at which it would be delivered: smtp(8) and lmtp(8) stop behind RCPT TO, the other agents say what they would
do. It is tried once, and nobody gets a notification of it.

| module | for |
|---|---|
| `cache` | what is known of addresses, when it is too old, and when it is asked again |
| `store` | where that is kept: in memory, or in a Berkeley DB or LMDB file |
| `sender` | the probes' envelope sender |
| `service` | the queue manager's side: answers questions, sends probes, takes their results |
| `client` | the smtpd side |

The queue manager owns the one cache; smtpd workers ask it by datagrams to `public/qmgr`. Of all this only
what stands here is loaded before the first question.
"""

from __future__ import annotations

from mailstack.storage.queue import Message

PROBE = "probe"
"""Envelope attribute: `MTA` for a question of ours, `USER` where somebody wants a report (sendmail -bv)."""
MTA, USER = "mta", "user"


def is_probe(message: Message) -> bool:
    """Whether a message is a question, and must not be delivered."""
    attributes = message.envelope.attributes
    return bool(attributes) and PROBE in attributes
