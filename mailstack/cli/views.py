"""Values of the runtime as JSON data and as text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.cli.output import Console
    from mailstack.runtime.model import Plan, ServiceStatus, StackStatus


def plan_data(plan: Plan) -> dict[str, object]:
    """The steps of a plan."""
    return {
        "runtime": plan.runtime,
        "reason": plan.reason,
        "changed": bool(plan.steps),
        "steps": [
            {"action": step.action, "target": step.target, "reason": step.reason} for step in plan.steps
        ],
    }


def status_data(status: StackStatus) -> dict[str, object]:
    """Everything that is known of a stack without asking its mail services; no secrets but `env`'s."""
    endpoints = status.endpoints
    return {
        "project": status.project,
        "runtime": status.runtime,
        "health": status.health,
        "ready": status.ready,
        "spec": status.spec_path,
        "stateDir": status.state_dir,
        "domain": endpoints.domain if endpoints else None,
        "hostname": endpoints.hostname if endpoints else None,
        "host": endpoints.host if endpoints else None,
        "ports": dict(endpoints.ports) if endpoints else {},
        "network": (endpoints.network or None) if endpoints else None,
        "addresses": dict(endpoints.addresses) if endpoints else {},
        "users": list(endpoints.users) if endpoints else [],
        "services": [service_data(service) for service in status.services],
        "env": dict(status.env),
    }


def service_data(service: ServiceStatus) -> dict[str, object]:
    """One service."""
    return {
        "service": service.service,
        "health": service.health,
        "detail": service.detail,
        "address": service.address or None,
        "ports": dict(service.ports),
        "pid": service.pid,
        "container": service.container,
        "startedAt": service.started_at,
        "restarts": service.restarts,
    }


def services_table(console: Console, services: Sequence[ServiceStatus]) -> None:
    """One row per service; the last column says why one is not ready."""
    rows = [
        (
            service.service,
            service.health,
            service.address or "-",
            ports_text(service.ports) or "-",
            _age(service.started_at),
            service.detail,
        )
        for service in services
    ]
    columns = ("SERVICE", "HEALTH", "ADDRESS", "PUBLISHED", "UP", "DETAIL")
    shown = len(columns) if any(row[-1] for row in rows) else -1
    console.table(columns[:shown], [row[:shown] for row in rows])


def ports_text(ports: Mapping[str, int]) -> str:
    """`smtp 40125, submission 40587`."""
    return ", ".join(f"{name} {port}" for name, port in ports.items())


def _age(started: float | None) -> str:
    return "-" if started is None else span(max(0.0, time.time() - started))


def span(seconds: float) -> str:
    """A duration for people: `12s`, `5m`, `3h`, `2d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
