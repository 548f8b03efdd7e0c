"""Delivery agents: one module per Postfix daemon, each an `Agent` that the queue manager hands requests to.

An agent never raises for what a network, a peer or a disk does: each recipient of a request gets a `Result`.
"""
