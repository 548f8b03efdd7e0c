"""bounce(8): what senders and postmasters are told of a message, in Postfix's words and shape.

`bouncer` decides who is told, `report` writes the notification (RFC 3462, RFC 3464), `templates` holds the
texts, `transcript` the notice of an SMTP session that went wrong.
"""
