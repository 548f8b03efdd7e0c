"""IMAP4rev1 (RFC 3501 and extensions), sans-I/O: parser and encoder of both sides."""
