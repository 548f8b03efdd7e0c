"""The DSN parameters of MAIL and RCPT (RFC 3461 §4), with Postfix 3.7's replies; xtext; what a client passes on."""

from __future__ import annotations

import pytest

from mailstack.wire.smtp import ClientConnection, Mode, Reply, ServerConnection, events
from mailstack.wire.smtp.command import (
    DSN_DISABLED,
    RcptParameters,
    decode_xtext,
    encode_uxtext,
    encode_xtext,
)


def server(*lines: str, dsn: bool = True) -> events.Event:
    """What the last line becomes; those before it are accepted."""
    engine = ServerConnection(Mode.SMTP)
    engine.dsn = dsn
    engine.greet(Reply(220, "", "x"))
    engine.receive_data("".join(f"{line}\r\n" for line in lines).encode())
    for _ in lines[:-1]:
        engine.next_event()
        engine.reply(Reply(250, "2.0.0", "Ok"))
    return engine.next_event()


MAIL = {
    "RET=FULL": ("FULL", ""),
    "ret=hdrs envid=+41+2b": ("HDRS", "A+"),
    "ENVID=a+20b": ("", "a b"),
    "ENVID=a=b": ("", "a=b"),
    "ENVID=" + "x" * 200: ("", "x" * 200),
    "RET=X": "501 5.5.4 Bad RET parameter syntax",
    "RET=": "501 5.5.4 Bad RET parameter syntax",
    "RET": "555 5.5.4 Unsupported option: RET",
    "RET=FULL RET=FULL": "501 5.5.4 Bad RET parameter syntax",
    "RET=HDRS,FULL": "501 5.5.4 Bad RET parameter syntax",
    "ENVID=": "501 5.5.4 Bad ENVID parameter syntax",
    "ENVID": "555 5.5.4 Unsupported option: ENVID",
    "ENVID=a+": "501 5.5.4 Bad ENVID parameter syntax",
    "ENVID=a+0Ab": "501 5.5.4 Bad ENVID parameter syntax",
    "ENVID=+ZZ": "501 5.5.4 Bad ENVID parameter syntax",
    "ENVID=+e0": "501 5.5.4 Bad ENVID parameter syntax",
    "ENVID=a ENVID=b": "501 5.5.4 Bad ENVID parameter syntax",
}
RCPT = {
    "NOTIFY=never": ("NEVER", ""),
    "NOTIFY=NEVER,NEVER": ("NEVER", ""),
    "NOTIFY=DELAY,,SUCCESS": ("SUCCESS,DELAY", ""),
    "orcpt=RFC822;a@b notify=failure": ("FAILURE", "RFC822;a@b"),
    "ORCPT=rfc822;a+20b": ("", "rfc822;a b"),
    "ORCPT=rfc822;a+0Ab": ("", "rfc822;a?b"),
    "ORCPT=rfc822;+e0": ("", "rfc822;?"),
    "ORCPT=rfc822;u+C3+BC@b": ("", "rfc822;uü@b"),
    "ORCPT=utf-8;u\\x{fc}@b": ("", "utf-8;uü@b"),
    "ORCPT=rfc822;": ("", "rfc822;"),
    "ORCPT=rfc822;a;b": ("", "rfc822;a;b"),
    "NOTIFY=SUCCESS,NEVER": "501 5.5.4 Error: Bad NOTIFY parameter syntax",
    "NOTIFY=": "501 5.5.4 Error: Bad NOTIFY parameter syntax",
    "NOTIFY=X": "501 5.5.4 Error: Bad NOTIFY parameter syntax",
    "NOTIFY": "555 5.5.4 Unsupported option: NOTIFY",
    "NOTIFY=NEVER NOTIFY=NEVER": "501 5.5.4 Error: Bad NOTIFY parameter syntax",
    "NOTIFY=SUCCESS FOO": "555 5.5.4 Unsupported option: FOO",
    "ORCPT=;a": "501 5.5.4 Error: Bad ORCPT parameter syntax",
    "ORCPT=rfc822": "501 5.5.4 Error: Bad ORCPT parameter syntax",
    "ORCPT=rfc822;a+2": "501 5.5.4 Error: Bad ORCPT parameter syntax",
    "ORCPT=rfc822;a ORCPT=rfc822;a": "501 5.5.4 Error: Bad ORCPT parameter syntax",
}


@pytest.mark.parametrize("text", MAIL)
def test_mail(text: str) -> None:
    event, wanted = server("EHLO x", f"MAIL FROM:<a@b> {text}"), MAIL[text]
    if isinstance(wanted, str):
        assert isinstance(event, events.Refused)
        assert str(event.reply) == wanted
    else:
        assert isinstance(event, events.Mail)
        assert (event.parameters.ret, event.parameters.envid) == wanted


@pytest.mark.parametrize("text", RCPT)
def test_rcpt(text: str) -> None:
    event, wanted = server("EHLO x", "MAIL FROM:<a@b>", f"RCPT TO:<c@d> {text}"), RCPT[text]
    if isinstance(wanted, str):
        assert isinstance(event, events.Refused)
        assert str(event.reply) == wanted
    else:
        assert event == events.Rcpt("c@d", RcptParameters(*wanted))


@pytest.mark.parametrize("line", ["RET=FULL", "ENVID=x"])
def test_where_it_is_not_offered(line: str) -> None:
    event = server("EHLO x", f"MAIL FROM:<a@b> {line}", dsn=False)
    assert isinstance(event, events.Refused)
    assert event.reply == DSN_DISABLED


@pytest.mark.parametrize("text", ["a@b", "a b+=c", "ü@b", "+", "\x7f\t"])
def test_xtext_round_trip(text: str) -> None:
    coded = encode_xtext(text)
    assert coded.isascii() and " " not in coded and "=" not in coded
    assert decode_xtext(coded) == text


def test_utf8_xtext() -> None:
    assert encode_uxtext("vü+=\\@x") == "v\\x{FC}\\x{2B}\\x{3D}\\x{5C}@x"


def client(*extensions: str) -> bytes:
    engine = ClientConnection(Mode.SMTP)
    engine.receive_data(
        b"220 x\r\n250-x\r\n" + "".join(f"250-{e}\r\n" for e in extensions).encode() + b"250 OK\r\n"
    )
    engine.next_event()
    engine.hello("me")
    engine.next_event()
    engine.data_to_send()
    engine.mail("a@b", size=7, body="8BITMIME", smtputf8=True, ret="HDRS", envid="q+ 1")
    engine.rcpt("c@d", notify="SUCCESS,DELAY", orcpt="rfc822;+x=y@d")
    engine.rcpt("e@d", orcpt="utf-8;vü@d")
    engine.rcpt("f@d")
    return b"".join(engine.data_to_send())


def test_a_client_passes_on_what_the_server_understands() -> None:
    assert client("SIZE", "8BITMIME", "SMTPUTF8", "DSN").decode().split("\r\n")[:4] == [
        "MAIL FROM:<a@b> SIZE=7 BODY=8BITMIME ENVID=q+2B+201 RET=HDRS SMTPUTF8",
        "RCPT TO:<c@d> ORCPT=rfc822;+2Bx+3Dy@d NOTIFY=SUCCESS,DELAY",
        "RCPT TO:<e@d> ORCPT=utf-8;v\\x{FC}@d",
        "RCPT TO:<f@d>",
    ]
    assert b"RCPT TO:<c@d>\r\n" in client("SIZE")
