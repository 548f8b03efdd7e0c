"""local(8): aliases(5), `~/.forward`, commands, files and mailboxes of the machine's users.

`router` says what a local address stands for, `users` who is a user and what his `.forward` says,
`agent` carries it out. What other modules need stands here.
"""

from mailstack.mta.deliver.local.agent import LocalAgent
from mailstack.mta.deliver.local.decision import (
    EXPANDED,
    Decision,
    Deliver,
    Direct,
    Forward,
    ForwardMail,
)
from mailstack.mta.deliver.local.router import LocalRouter

__all__ = ["EXPANDED", "Decision", "Deliver", "Direct", "Forward", "ForwardMail", "LocalAgent", "LocalRouter"]
