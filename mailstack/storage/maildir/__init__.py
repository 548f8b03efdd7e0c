"""Maildir++ as Dovecot 2.3 has it: message files, `dovecot-uidlist`, `dovecot-keywords`, `subscriptions`."""

from mailstack.storage.maildir.delivery import prepare_delivery

__all__ = ["prepare_delivery"]
