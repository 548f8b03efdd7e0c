"""The machine's own servers in the place of ours: which program it is, how it is started, as whom.

BIND and Dovecot run as whoever starts the stack. Dovecot gives no mail to root, so for root it runs as its
own account with the few rights that it needs in root's folders (capabilities(7)) and no others. Postfix's
master is root's only; its daemons are Postfix's own account.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mailstack.runtime.errors import MachineLacks
from mailstack.runtime.model import SERVICES, ServiceKey
from mailstack.runtime.tree import ZONE_NOTES

if TYPE_CHECKING:
    from mailstack.spec import Stack

PROGRAM = {"bind": "named", "dovecot": "dovecot", "postfix": "postfix"}
PACKAGE = {
    "bind": "bind9",
    "dovecot": "dovecot-imapd dovecot-pop3d dovecot-lmtpd",
    "postfix": "postfix",
}
"""Debian's packages."""
SPOOL = "spool"
"""The name of Postfix's queue directory in the project's folder; our own MTA's queue is another one."""
MAIL_OWNER = "postfix"
"""Whom Postfix's daemons run as (mail_owner)."""
ACCOUNT = "dovecot"
"""Whom Dovecot runs as when the stack is root's."""
RIGHTS = "+net_bind_service,+dac_override,+fowner,+chown"
"""Dovecot's: the standard ports, and files in root's folders, those of our own mailbox service among them."""


def engines(stack: Stack) -> Mapping[ServiceKey, str]:
    """The services that are another program than ours, and its name as in the spec."""
    named = {"dns": stack.dns.engine, "mailbox": stack.mailbox.engine, "mta": stack.mta.engine}
    return {service: named[service] for service in SERVICES if named.get(service, "python") != "python"}


def find(engine: str, env: Mapping[str, str]) -> str | None:
    """Where its program is: on the path, or where Debian puts servers."""
    return _which(PROGRAM[engine], env)


def command(service: ServiceKey, engine: str, env: Mapping[str, str]) -> Sequence[str]:
    """What starts it in the foreground; `{config}` stands for the service's folder. Raises `MachineLacks`."""
    program = find(engine, env)
    if program is None:
        raise MachineLacks(
            f"{service}.engine is {engine}, and this machine has no {PROGRAM[engine]}",
            hint=f"install it (Debian: apt-get install {PACKAGE[engine]}), or write engine: python",
        )
    if engine == "postfix":
        if os.geteuid() != 0:
            raise MachineLacks(
                "mta.engine is postfix, and its master runs as root only",
                hint="start the stack as root, or write engine: python",
            )
        return (sys.executable, "-P", "-m", "mailstack.runtime.postfix_master", "{config}")
    if engine == "bind":
        # It refuses zones of which its own notes say something else than the files.
        forget = " ".join(f'"$1"/zones/*{suffix}' for suffix in ZONE_NOTES)
        return ("/bin/sh", "-c", f'rm -f {forget}; exec "$0" -g -c "$1/named.conf"', program, "{config}")
    dovecot = (program, "-F", "-c", "{config}/dovecot.conf")
    return (*_as_account(env), *dovecot) if os.geteuid() == 0 else dovecot


def _as_account(env: Mapping[str, str]) -> Sequence[str]:
    """setpriv(1) with what makes Dovecot an ordinary account's that may use root's folders."""
    mail_account()
    program = _which("setpriv", env)
    if program is None:
        raise MachineLacks(
            "mailbox.engine is dovecot, which does not run as root, and this machine has no setpriv",
            hint="install it (Debian: apt-get install util-linux), or start the stack as an ordinary user",
        )
    return (
        program,
        f"--reuid={ACCOUNT}",
        f"--regid={ACCOUNT}",
        "--clear-groups",
        f"--inh-caps={RIGHTS}",
        f"--ambient-caps={RIGHTS}",
        # access(2) would not count the rights of a user that is not root
        "--securebits=+no_setuid_fixup",
        # a change of user makes the kernel forget what the supervisor has asked for
        "--pdeathsig=TERM",
    )


def postfix_command(module: str, arguments: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Postfix's own command for one of our MTA's of the same name, which take the same arguments.

    Raises `MachineLacks` when it is gone.
    """
    name = module.rpartition(".")[2]
    program = _which(name, env)
    if program is None:
        raise MachineLacks(f"this machine has no {name}", hint=f"install it (Debian: {PACKAGE['postfix']})")
    return [program, *("-c" if word == "--config" else word for word in arguments)]


def mail_account() -> tuple[int, int, str, str]:
    """Uid, gid and their names, whom Dovecot runs as and the mail belongs to. Raises `MachineLacks`."""
    uid = os.geteuid()
    try:
        user = pwd.getpwnam(ACCOUNT) if uid == 0 else pwd.getpwuid(uid)
        group = grp.getgrgid(user.pw_gid if uid == 0 else os.getegid())
    except KeyError:
        who = ACCOUNT if uid == 0 else uid
        raise MachineLacks(
            f"mailbox.engine is dovecot, and this machine knows no user {who} (or no such group)",
            hint="add it, or write engine: python",
        ) from None
    return user.pw_uid, group.gr_gid, user.pw_name, group.gr_name


def _which(program: str, env: Mapping[str, str]) -> str | None:
    import shutil  # costs a third of a cold `mailstack status`

    return shutil.which(program, path=f"{env.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/usr/bin")
