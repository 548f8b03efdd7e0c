"""What the command line and a test use against a running stack: send, read, wait, ask.

Imports `wire` and nothing else of mailstack; blocking, because each call does one thing and its caller waits.
"""
