"""The asyncio edge: drive a sans-I/O engine over a transport; TLS, limits, clocks, tasks, log lines.

Nothing here knows a mail protocol. Servers import from this room; `wire/` and `storage/` never do.
"""
