"""Launching: plan (pure), process engine, docker engine, readiness probes, state.

Servers are started by command and never imported. This package file imports nothing, because the supervisor
process (`mailstack.runtime.supervisor`) lives in it and has to stay small.
"""
