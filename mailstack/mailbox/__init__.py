"""The mailbox service: IMAP, POP3, LMTP and authentication over Maildirs, configured by dovecot.conf.

Run as `python -m mailstack.mailbox --config DIR`. One process, one event loop; blocking file work in threads.
"""
