"""mailstack: mail domains that start from one file."""

__version__ = "0.1.0"
