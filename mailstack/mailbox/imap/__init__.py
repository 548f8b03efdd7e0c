"""The IMAP half of the mailbox service: one session per connection, one file per command group."""
