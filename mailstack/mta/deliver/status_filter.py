"""smtp_delivery_status_filter and its like: what a delivery's status and text are taken for.

A table is asked with `5.1.1 text`; its value, of the same form, replaces both. A failure may become another
failure, temporary or for good, and a success another success; what is neither is warned of and does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.deliver.request import Agent, Bounced, Deferred, Request, Result, Sent
from mailstack.mta.lookup import settled
from mailstack.net.log import Log
from mailstack.storage.tables import TableError

_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s+(?=\S)")
FILTERED = ("smtp", "lmtp", "local", "pipe", "virtual")
"""Daemons that have such a parameter."""


def filtered(agent: Agent, conf: MainCf, open_table: OpenTable, log: Log) -> Agent:
    """The agent, with its filter where main.cf has one. Raises `ConfigError`."""
    if agent.daemon not in FILTERED:
        return agent
    parameter = f"{agent.daemon}_delivery_status_filter"
    words = conf.list(parameter)
    if not words:
        return agent
    try:
        return FilteredAgent(agent, parameter, [open_table(word) for word in words], log)
    except TableError as error:
        raise conf.error(parameter, str(error)) from None


class FilteredAgent:
    """An agent whose results pass a filter."""

    def __init__(self, agent: Agent, parameter: str, tables: Sequence[Table], log: Log) -> None:
        self.daemon = agent.daemon
        self._agent = agent
        self._parameter = parameter
        self._tables = tables
        self._log = log

    async def deliver(self, request: Request) -> Sequence[Result]:
        return [await self._filter(result) for result in await self._agent.deliver(request)]

    async def close(self) -> None:
        await self._agent.close()

    async def _filter(self, result: Result) -> Result:
        outcome = result.outcome
        key = f"{outcome.dsn} {outcome.text}"
        try:
            value = await settled(lambda: self._find(key))
        except (TableError, OSError) as error:
            self._log.warning(f"{self._parameter}: {error}")
            return result
        if value is None:
            return result
        found = _STATUS.match(value)
        if found is None or (found[1][0] == "2") != isinstance(outcome, Sent):
            self._log.warning(f'{self._parameter}: bad or incompatible status: "{value}" for "{key}"')
            return result
        dsn, text = found[1], value[found.end() :]
        if isinstance(outcome, Sent):
            return replace(result, outcome=replace(outcome, dsn=dsn, text=text))
        return replace(result, outcome=Deferred(text, dsn) if dsn[0] == "4" else Bounced(text, dsn))

    def _find(self, key: str) -> str | None:
        for table in self._tables:
            value = table.lookup(key)
            if value is not None:
                return value
        return None
