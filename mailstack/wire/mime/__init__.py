"""Messages as octets: header fields, MIME structure, addresses, parameters, text for searching.

Everything here reads messages in either line-end form and never raises for what stands in a message. Where
standards leave open what a malformed message means, the answer is Dovecot's.
"""
