"""The DNS server: authoritative for the zones of named.conf, forwarding for other names when told to.

    python -m mailstack.dns --config DIR     # DIR holds named.conf

A query's way: `server` (sockets) -> `responder` (parse, prepared answers, access lists) -> `authority`
(what a zone says; no I/O) -> `message` (wire form). Names outside every zone go to `forward`, transfers to
`transfer`. Zone files are read through dnspython (`zonefile`) into the compact form of `zone`.
"""
