"""Readers of the native formats: main.cf, master.cf, dovecot.conf, smtpd.conf, named.conf.

A reader turns a file into typed values or raises `ConfigError` with file and line. It opens nothing but the
configuration itself and never touches the network.
"""

from mailstack.config.errors import ConfigError

__all__ = ["ConfigError"]
