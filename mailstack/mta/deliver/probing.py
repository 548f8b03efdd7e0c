"""A probe over an SMTP or LMTP session: MAIL, RCPT and no further (smtp_address_verify_target = data: DATA).

The server is told RSET behind it, and the session goes on with other mail; behind a DATA that was welcome
there is no way back, so the connection is closed without a word, as Postfix does.
"""

from __future__ import annotations

from mailstack.mta.deliver.request import Outcome, Request, Result, Sent, Target
from mailstack.mta.deliver.session import ConnectionLost, Session, refusal, refusal_status, said
from mailstack.wire.smtp import Reply


async def probe(session: Session, request: Request, *, connect: float, data: bool) -> list[Result]:
    """Ask for every target. Raises `ConnectionLost` when the server goes away."""
    session.uses += 1
    engine, envelope, timeouts = session.engine, request.message.envelope, session.timeouts
    sender = request.sender if request.sender is not None else envelope.sender
    utf8 = envelope.smtputf8 and "SMTPUTF8" in engine.extensions
    engine.mail(sender, size=envelope.size, smtputf8=utf8)
    reply = _alive(session, await session.converse(timeouts.mail, "sending MAIL FROM"), "MAIL FROM")
    results: list[Result] = []
    accepted: list[tuple[Target, Reply]] = []
    refused = None if reply.positive else reply
    for target in request.targets:
        if refused is None:
            engine.rcpt(target.address)
            reply = await session.converse(timeouts.rcpt, "sending RCPT TO")
            if _alive(session, reply, "RCPT TO").positive:
                accepted.append((target, reply))
                continue
        where = "RCPT TO" if refused is None else "MAIL FROM"
        results.append(_result(session, target, refusal(session.host, reply, where), connect, reply))
    if accepted and data:
        engine.data()
        reply = await session.converse(timeouts.data_init, "sending DATA command")
        if reply.code == 354:
            session.broken = True
            session.stream.abort()
        accepted = [(target, reply) for target, _ in accepted]
    if not session.broken:
        engine.rset()
        await session.converse(timeouts.reset, "sending RSET")
    for target, reply in accepted:
        outcome: Outcome
        if reply.positive or reply.code == 354:
            outcome = Sent(said(reply), "2.0.0" if reply.code == 354 else reply.dsn, "deliverable")
        else:
            outcome = refusal(session.host, reply, "DATA")
        results.append(_result(session, target, outcome, connect, reply))
    return results


def _alive(session: Session, reply: Reply, command: str) -> Reply:
    if reply.code == 421:
        raise ConnectionLost(refusal_status(reply), refusal(session.host, reply, command).text)
    return reply


def _result(session: Session, target: Target, outcome: Outcome, connect: float, reply: Reply) -> Result:
    bad = not isinstance(outcome, Sent)
    return Result(
        target,
        outcome,
        session.host.relay,
        connect,
        session.uses,
        session.host.name if bad else "",
        f"smtp; {said(reply)}" if bad else "",
    )
