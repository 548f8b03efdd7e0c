"""sendmail(1): hand a message to the MTA from the command line, with the options that programs use.

    python -m mailstack.mta.sendmail --config DIR [-t] [-i] [-f SENDER] [-F NAME] … [RECIPIENT…]

Reads a message from standard input and leaves it in maildrop/ (`postdrop`); `-bp` is mailq, `-bi` newaliases,
`-q…` postqueue, `-bs` a session with smtpd on standard input and output. As in Postfix, options end at the
first argument that is none; exit status 0, or 75 (EX_TEMPFAIL) with the reason on standard error.

`-bv` asks what would become of a message, and has a report of it sent; `-XV` has every recipient get it from
a sender of his own (VERP). Not here, and refused: -bd, -bl (docs/differences.md).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_list import parse_list
from mailstack.mta.command import EX_USAGE, Fatal, fail, take_config, warn

NAME = "sendmail"
USAGE = """\
usage: python -m mailstack.mta.sendmail --config DIR [-t] [-i] [-f SENDER] [-F FULLNAME] [-N DSN]
       [-R full|hdrs] [-V ENVID] [-B 7BIT|8BITMIME] [-G] [-v] [RECIPIENT...]     a message from standard input
       ... -bv RECIPIENT...                                                      a report of what would be
       ... -bp | -bs | -bi | -q | -qIQUEUEID | -qRSITE     list the queue, speak SMTP, newaliases, try now
"""
_WITH_VALUE = "ABCFLNORVXbefhopqr"
_ALONE = "GIUcimnstvx"
_IGNORED = "AUceLOhmopx"
NOTIFY = ("SUCCESS", "FAILURE", "DELAY")


@dataclass(slots=True)
class Options:
    """A command line, understood."""

    mode: str = "m"
    """m (a message), p, i, s as after -b; q: try everything; I, R: what `site` names; h: nothing."""
    site: str = ""
    config: str = ""
    sender: str | None = None
    full_name: str | None = None
    extract: bool = False
    dot_ends: bool = True
    eight_bit: bool = False
    gateway: bool = False
    notify: str = ""
    ret: str = ""
    envid: str = ""
    verp: str | None = None
    """The delimiters of VERP; `""`: the usual ones."""
    verbose: bool = False
    probe: bool = False
    """Nothing is sent but a report of what would become of it."""
    aliases: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    if list(arguments) in (["--help"], ["-h"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        config_dir, rest = take_config(arguments)
        options = parse(rest)
        return _run(_config_dir(config_dir, options.config), options)
    except Fatal as error:
        return fail(NAME, error)
    except ConfigError as error:
        return fail(NAME, Fatal(str(error)))


def _config_dir(given: Path, option: str) -> Path:
    """`-C` names main.cf or its folder."""
    if not option:
        return given
    path = Path(option).absolute()
    return path.parent if path.name == "main.cf" else path


_NO_RECIPIENT = {
    "i": "alias initialization mode",
    "p": "display queue mode",
    "s": "stand-alone mode",
    "q": "flush queue mode",
    "I": "flush queue_id",
    "R": "flush site",
}


def _run(config_dir: Path, options: Options) -> int:
    config = ["--config", str(config_dir)]
    if options.extract and options.mode != "m":
        raise Fatal("-t can be used only in delivery mode")
    if options.extract and options.probe:
        raise Fatal("-t option cannot be used with -bv")
    if options.recipients and options.mode in _NO_RECIPIENT:
        raise Fatal(f"{_NO_RECIPIENT[options.mode]} requires no recipient")
    match options.mode:
        case "h":
            return 0
        case "m":
            return submit(MainCf.load(config_dir), options)
        case "i":
            from mailstack.mta import newaliases

            return newaliases.main([*config, *options.aliases])
        case "s":
            from mailstack.mta import standalone

            return standalone.serve(config_dir)
    from mailstack.mta import postqueue

    words = {"p": ["-p"], "q": ["-f"], "I": ["-i", options.site], "R": ["-s", options.site]}
    return postqueue.main([*config, *words[options.mode]])


# ---- the command line


def parse(arguments: Sequence[str]) -> Options:
    """Read a command line as getopt does for Postfix. Raises `Fatal`."""
    options = Options()
    rest = list(arguments)
    while rest:
        word = rest[0]
        if word == "--":
            rest.pop(0)
            break
        if len(word) < 2 or word[0] != "-":
            break
        rest.pop(0)
        if word == "-q":
            options.mode = "q"
            continue
        if word == "-V" and rest and len(rest[0]) == 2:
            warn(NAME, "option -V is deprecated with Postfix 2.3; specify -XV instead")
            word = "-XV"
        elif word.startswith("-V") and len(word) == 4:
            new = f"-X{word[1:]}"
            warn(NAME, f"option {word} is deprecated with Postfix 2.3; specify {new} instead")
            word = new
        if word == "-XV":
            options.verp = ""
            continue
        while len(word) > 1:
            letter = word[1]
            if letter in _WITH_VALUE:
                value = word[2:]
                if not value:
                    if not rest:
                        raise Fatal(f"usage: {NAME} [options]: option -{letter} needs a value")
                    value = rest.pop(0)
                _option(options, letter, value)
                break
            if letter not in _ALONE:
                raise Fatal(f"usage: {NAME} [options]: invalid option -- {letter!r}")
            _option(options, letter, "")
            word = "-" + word[2:]
    options.recipients = rest
    if options.mode == "R" and not options.site:
        raise Fatal("specify: -qRsitename")
    if options.mode == "I" and not options.site:
        raise Fatal("specify: -qIqueueid")
    return options


def _option(options: Options, letter: str, value: str) -> None:
    match letter:
        case "t":
            options.extract = True
        case "i":
            options.dot_ends = False
        case "f" | "r":
            options.sender = value
        case "F":
            options.full_name = value
        case "o":
            _old_option(options, value)
        case "b":
            _mode(options, value)
        case "q":
            _queue_run(options, value)
        case "I":
            options.mode = "i"
        case "B":
            if value not in ("7BIT", "8BITMIME"):
                raise Fatal("-B option needs 8BITMIME or 7BIT")
            options.eight_bit = value == "8BITMIME"
        case "C":
            options.config = value
        case "G":
            options.gateway = True
        case "N":
            options.notify = _notify(value)
        case "R":
            if value.lower() in ("full", "hdrs"):
                options.ret = value.upper()
            else:
                warn(NAME, "bad -R option value -- ignored")
        case "V":
            _envelope_id(options, value)
        case "v":
            options.verbose = True
        case "n":
            raise Fatal("-n option not supported")
        case "X":
            if value[0] != "V":
                raise Fatal(f"unsupported: -X{value[0]}")
            options.verp = value[1:]
        case _:
            pass  # what sendmail(1) of Postfix ignores as well: -A -L -O -U -c -e -h -m -p -x


def _old_option(options: Options, value: str) -> None:
    if value[0] == "i":
        options.dot_ends = False
    elif value[0] == "A":
        if not value[1:]:
            raise Fatal("-oA requires pathname")
        options.aliases.append(value[1:])


def _mode(options: Options, value: str) -> None:
    match value[0]:
        case "m" | "p" | "i" | "s":
            options.mode = value[0]
        case "v":
            options.mode, options.probe = "m", True
        case "h" | "H":
            options.mode = "h"  # Sendmail's statuses of hosts
        case "d" | "l":
            raise Fatal(
                f"-b{value[0]}: `python -m mailstack.mta --config DIR` starts the mail system", EX_USAGE
            )
        case _:
            raise Fatal(f"unsupported: -b{value[0]}")


def _queue_run(options: Options, value: str) -> None:
    if value[0].isdigit():
        options.mode = "h"  # a daemon with that interval; queue_run_delay says it
        return
    if value[0] not in "IR":
        raise Fatal(f"-q{value[0]} is not implemented")
    options.mode, options.site = value[0], value[1:]


def _notify(value: str) -> str:
    """NOTIFY of RFC 3461 §4.1; empty, with a warning, for what is none."""
    words = [word.strip().upper() for word in value.replace(",", " ").split()]
    for word in words:
        if word not in (*NOTIFY, "NEVER"):
            warn(NAME, f'unknown DSN NOTIFY command value "{word.lower()}" in "{value}"')
            words = []
            break
    if not words or ("NEVER" in words and len(set(words)) > 1):
        warn(NAME, "bad -N option value -- ignored")
        return ""
    return ",".join(word for word in (*NOTIFY, "NEVER") if word in words)


def _envelope_id(options: Options, value: str) -> None:
    if len(value) > 100:
        warn(NAME, "too long -V option value -- ignored")
    elif not (value.isascii() and value.isprintable()):
        warn(NAME, "bad syntax in -V option value -- ignored")
    else:
        options.envid = value


# ---- a message


def submit(conf: MainCf, options: Options) -> int:
    """Put the message on standard input into maildrop/. Raises `Fatal`."""
    from mailstack.mta.postdrop import FULL_NAME, REWRITE_CONTEXT, UID, Drop, user_name
    from mailstack.mta.submission import HEADER_LIMIT, Headers
    from mailstack.mta.verify import PROBE, USER
    from mailstack.mta.verp import VERP
    from mailstack.storage.queue import Envelope, Queue, Recipient

    uid = os.getuid()
    who = f"{user_name(uid)}({uid})"
    if conf.list("authorized_submit_users") != ["static:anyone"]:
        from mailstack.mta.authorized import check_user

        check_user(conf, "authorized_submit_users", "submit mail")
    verp = _verp(conf, options)
    if not options.extract and not options.recipients:
        raise Fatal(f"{who}: Recipient addresses must be specified on the command line or via the -t option")
    recipients = [address for word in options.recipients for address in parse_list(word)]
    sender = _sender(options, uid)
    if conf.list("local_login_sender_maps") != ["static:*"]:
        from mailstack.mta.authorized import check_sender

        check_sender(conf, sender, uid)
    if verp and not sender:
        raise Fatal(f"({uid}): -V option requires non-null sender address")
    now = time.time()
    queue = Queue(conf.str("queue_directory"), hash_depth=conf.int("hash_queue_depth"))
    drop = Drop(queue, now, conf.size("message_size_limit"))
    try:
        headers = Headers() if options.extract else None
        eight_bit = options.eight_bit
        for piece in _probe(sender, options) if options.probe else _message(options):
            drop.write(piece)
            eight_bit = eight_bit or not piece.isascii()
            if headers is not None and not headers.add(piece):
                raise Fatal(f"{who}: the message header is longer than {HEADER_LIMIT} octets")
        if headers is not None:
            recipients += headers.recipients()
        if not recipients:
            raise Fatal(f"{who}: No recipient addresses found in message header")
        notify = options.notify or (",".join(NOTIFY) if options.verbose else "")
        attributes = {UID: str(uid)}
        if options.probe:
            attributes[PROBE] = USER
        if verp:
            attributes[VERP] = verp
        full_name = _full_name(options, uid)
        if full_name:
            attributes[FULL_NAME] = full_name
        if options.gateway:
            attributes[REWRITE_CONTEXT] = "remote"
        drop.commit(
            Envelope(
                sender,
                tuple(Recipient(address, notify=notify) for address in recipients),
                now,
                body="8bitmime" if eight_bit else "7bit",
                ret=options.ret,
                envid=options.envid,
                attributes=attributes,
            )
        )
    finally:
        drop.abort()
    if options.verbose or options.probe:
        sys.stdout.write(f"Mail Delivery Status Report will be mailed to <{sender}>.\n")
    return 0


def _verp(conf: MainCf, options: Options) -> str:
    """The delimiters of variable envelope return paths; `""`: none are wanted. Raises `Fatal`."""
    from mailstack.mta.verp import default_delimiters, usable

    if options.verp is None:
        return ""
    allowed = conf.str("verp_delimiter_filter")
    if options.verp and not usable(options.verp, allowed):
        raise Fatal(f"-V requires two characters from {allowed}")
    return options.verp or default_delimiters(conf)


def _message(options: Options) -> Iterator[bytes]:
    """The message on standard input."""
    from mailstack.mta.submission import message_lines

    return message_lines(lambda size: os.read(0, size), dot_ends=options.dot_ends)


def _probe(sender: str, options: Options) -> Iterator[bytes]:
    """The message that a question is: headers only."""
    if sender:
        yield f"From: {sender}\r\n".encode()
    to = ",\r\n".join(f"\t{word}" for word in options.recipients)
    yield f"Subject: probe\r\nTo:{to}\r\n\r\n".encode("utf-8", "surrogateescape")


def _sender(options: Options, uid: int) -> str:
    """The envelope sender: -f, or the account's name. Raises `Fatal`."""
    import pwd

    if options.sender is not None:
        found = parse_list(options.sender)
        if len(found) > 1:
            warn(NAME, f"-f option specified malformed sender: {options.sender}")
        return found[0] if found else ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise Fatal(f"no login name found for user ID {uid}: name the sender with -f") from None


def _full_name(options: Options, uid: int) -> str:
    """-F, or NAME, or what passwd(5) calls the account."""
    import pwd

    name = options.full_name if options.full_name is not None else os.environ.get("NAME")
    if name is None:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return ""
        name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    return " ".join("".join(char if char.isprintable() else " " for char in name).split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
