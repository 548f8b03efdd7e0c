"""Every statement of BIND 9.18's named.conf, and what this server does with it.

`WORKS` statements are honoured. `IGNORED` ones change nothing that this server does (files it does not write,
limits of machinery it does not have): they are accepted, and reported once with file and line. `REFUSED` ones
would change the answers or the protection of a zone: a file that needs them is an error, and is served by
`engine: bind`. Whatever stands in no table is unknown to BIND 9.18, too.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> list[str]:
    return text.split()


TOP_WORKS: Final = frozenset(
    {"acl", "dnssec-policy", "key", "logging", "masters", "options", "primaries", "server", "zone"}
)
TOP_IGNORED: Final = {
    "controls": "there is no rndc channel: SIGHUP reloads",
    "statistics-channels": "there are no statistics channels",
    "managed-keys": "answers are not validated",
    "trust-anchors": "answers are not validated",
    "trusted-keys": "answers are not validated",
}
TOP_REFUSED: Final = {
    "dlz": "zones come from zone files only",
    "dyndb": "zones come from zone files only",
    "http": "DNS over HTTPS is not supported",
    "tls": "DNS over TLS is not supported",
    "parental-agents": "the parent zone is not asked for DS records",
    "plugin": "BIND's plugins cannot be loaded",
    "view": "views are not supported",
}

OPTIONS_WORK: Final = frozenset(
    _words("""
    allow-notify allow-query allow-query-cache allow-query-cache-on allow-query-on allow-recursion
    allow-recursion-on allow-transfer allow-update
    allow-update-forwarding also-notify answer-cookie auth-nxdomain
    blackhole check-names cookie-algorithm cookie-secret
    directory disable-empty-zone dnssec-policy dnssec-validation edns-udp-size empty-contact
    empty-server empty-zones-enable forward
    forwarders hostname ixfr-from-differences key-directory
    listen-on listen-on-v6 masterfile-format max-cache-size max-cache-ttl max-clients-per-query
    max-ixfr-ratio max-journal-size max-ncache-ttl
    max-query-restarts max-records max-refresh-time max-retry-time max-stale-ttl max-transfer-idle-in
    max-transfer-time-in max-udp-size
    min-cache-ttl min-ncache-ttl min-refresh-time min-retry-time minimal-any
    minimal-responses multi-master nocookie-udp-size notify notify-delay notify-rate notify-source
    notify-source-v6 notify-to-soa pid-file port prefetch provide-ixfr query-source query-source-v6 querylog
    rate-limit recursion recursive-clients request-ixfr
    require-server-cookie resolver-nonbackoff-tries resolver-query-timeout resolver-retry-interval rrset-order
    send-cookie
    serial-query-rate server-id session-keyalg session-keyfile session-keyname
    servfail-ttl stale-answer-client-timeout stale-answer-enable stale-answer-ttl
    stale-cache-enable stale-refresh-time startup-notify-rate statistics-file tcp-advertised-timeout
    tcp-clients tcp-listen-queue
    tcp-idle-timeout tcp-initial-timeout tcp-keepalive-timeout
    transfer-format transfer-source transfer-source-v6 transfers-in transfers-per-ns try-tcp-refresh version
    zero-no-soa-ttl zone-statistics
    """)
)
_NO_FILE = "the file is not written"
_NO_RECURSOR = "names that are not ours are forwarded, not resolved"
_NO_VALIDATION = "answers are not validated"
_ONE_LIMIT = "recursive-clients and max-clients-per-query are the limits"
_NO_SIGNING = "zones are signed by a dnssec-policy only"
_SYSTEM = "the system's own limit applies"
_CHECK = "the zone is checked as it is by default"
_OBSOLETE = "BIND ignores it as well"

OPTIONS_IGNORED: Final = {
    **dict.fromkeys(
        _words("""
        bindkeys-file dump-file geoip-directory lock-file managed-keys-directory memstatistics-file
        new-zones-directory recursing-file secroots-file
        """),
        _NO_FILE,
    ),
    **dict.fromkeys(
        _words("""
        lame-ttl max-query-count max-recursion-depth max-recursion-queries preferred-glue qname-minimization
        v6-bias
        """),
        _NO_RECURSOR,
    ),
    **dict.fromkeys(
        _words("""
        disable-algorithms disable-ds-digests dnssec-accept-expired nta-lifetime nta-recheck
        root-key-sentinel synth-from-dnssec trust-anchor-telemetry validate-except
        """),
        _NO_VALIDATION,
    ),
    "attach-cache": "there are no views, and one cache",
    "clients-per-query": "max-clients-per-query is the limit from the start",
    "fetch-quota-params": _ONE_LIMIT,
    "fetches-per-server": _ONE_LIMIT,
    "fetches-per-zone": _ONE_LIMIT,
    "request-nsid": "servers are not asked for their name",
    **dict.fromkeys(
        _words("""
        alt-transfer-source alt-transfer-source-v6 use-alt-transfer-source
        """),
        "transfer-source is the only address",
    ),
    "request-expire": "the SOA record says when a zone expires",
    **dict.fromkeys(
        _words("""
        dnskey-sig-validity dnssec-dnskey-kskonly dnssec-loadkeys-interval dnssec-secure-to-insecure
        dnssec-update-mode parental-source parental-source-v6 sig-signing-nodes sig-signing-signatures
        sig-signing-type sig-validity-interval update-check-ksk serial-update-method update-quota
        """),
        _NO_SIGNING,
    ),
    **dict.fromkeys(
        _words("""
        dialup heartbeat-interval
        """),
        "zones are looked after all the time",
    ),
    **dict.fromkeys(
        _words("""
        automatic-interface-scan avoid-v4-udp-ports avoid-v6-udp-ports coresize datasize files
        interface-interval reserved-sockets reuseport stacksize
        tcp-receive-buffer tcp-send-buffer udp-receive-buffer udp-send-buffer use-v4-udp-ports
        use-v6-udp-ports
        """),
        _SYSTEM,
    ),
    **dict.fromkeys(
        _words("""
        check-dup-records check-integrity check-mx check-mx-cname check-sibling check-spf
        check-srv-cname check-wildcard max-records-per-type max-types-per-name max-zone-ttl
        """),
        _CHECK,
    ),
    **dict.fromkeys(
        _words("""
        response-padding
        """),
        "answers are not padded",
    ),
    **dict.fromkeys(
        _words("""
        flush-zones-on-shutdown glue-cache keep-response-order lmdb-mapsize
        masterfile-style memstatistics no-case-compress transfer-message-size
        match-mapped-addresses message-compression
        """),
        "it has no counterpart here",
    ),
    **dict.fromkeys(
        _words("""
        max-transfer-idle-out max-transfer-time-out
        """),
        "tcp-idle-timeout ends a transfer that nobody reads",
    ),
    "transfers-out": "tcp-clients is the limit",
    **dict.fromkeys(
        _words("""
        dscp random-device suppress-initial-notify
        """),
        _OBSOLETE,
    ),
}
OPTIONS_REFUSED: Final = {
    "dnssec-must-be-secure": _NO_VALIDATION,
    "dual-stack-servers": "forwarders are asked at the addresses that are given",
    "allow-new-zones": "zones come from named.conf only",
    "auto-dnssec": _NO_SIGNING,
    "catalog-zones": "catalog zones are not supported",
    "deny-answer-addresses": "answers of forwarders are not filtered",
    "deny-answer-aliases": "answers of forwarders are not filtered",
    "dns64": "DNS64 is not supported",
    "dns64-contact": "DNS64 is not supported",
    "dns64-server": "DNS64 is not supported",
    "http-listener-clients": "DNS over HTTPS is not supported",
    "http-port": "DNS over HTTPS is not supported",
    "http-streams-per-connection": "DNS over HTTPS is not supported",
    "https-port": "DNS over HTTPS is not supported",
    "ipv4only-contact": "ipv4only.arpa is not synthesized",
    "ipv4only-enable": "ipv4only.arpa is not synthesized",
    "ipv4only-server": "ipv4only.arpa is not synthesized",
    "nxdomain-redirect": "redirection is not supported",
    "response-policy": "response policy zones are not supported",
    "root-delegation-only": "delegation-only is not supported",
    "sortlist": "the order of records does not depend on the client",
    "tkey-dhkey": "TKEY is not supported",
    "tkey-domain": "TKEY is not supported",
    "tkey-gssapi-credential": "TKEY is not supported",
    "tkey-gssapi-keytab": "TKEY is not supported",
    "tls-port": "DNS over TLS is not supported",
    "zero-no-soa-ttl-cache": "negative answers of forwarders carry the TTL they came with",
}

ZONE_WORKS: Final = frozenset(
    _words("""
    allow-notify allow-query allow-transfer allow-update allow-update-forwarding also-notify check-names
    dnssec-policy file forward forwarders inline-signing ixfr-from-differences journal key-directory
    masterfile-format masters max-ixfr-ratio max-journal-size max-records max-refresh-time max-retry-time
    max-transfer-idle-in max-transfer-time-in min-refresh-time min-retry-time multi-master notify notify-delay
    notify-source notify-source-v6 notify-to-soa primaries request-ixfr transfer-source transfer-source-v6
    try-tcp-refresh type allow-query-on update-policy zone-statistics
    """)
)
ZONE_IGNORED: Final = {
    name: reason
    for name, reason in OPTIONS_IGNORED.items()
    if reason in (_CHECK, _NO_SIGNING)
    or name
    in _words("""
        alt-transfer-source alt-transfer-source-v6 dialup masterfile-style max-transfer-idle-out
        max-transfer-time-out request-expire use-alt-transfer-source
        """)
}
ZONE_REFUSED: Final = {
    "auto-dnssec": _NO_SIGNING,
    "database": "zones come from zone files only",
    "delegation-only": "delegation-only is not supported",
    "dlz": "zones come from zone files only",
    "in-view": "views are not supported",
    "parental-agents": _NO_SIGNING,
    "server-addresses": "static-stub zones are not supported",
    "server-names": "static-stub zones are not supported",
    "zero-no-soa-ttl": "it holds for all zones, from the options",
}
SERVER_WORKS: Final = frozenset(
    _words("""
    bogus edns edns-udp-size keys notify-source notify-source-v6 provide-ixfr query-source query-source-v6
    request-ixfr send-cookie tcp-only transfer-format transfer-source transfer-source-v6 transfers
    """)
)
SERVER_IGNORED: Final = {
    "edns-version": "version 0 is the only one there is",
    "max-udp-size": "the options' value holds for everybody",
    "padding": "messages are not padded",
    "request-expire": "the SOA record says when a zone expires",
    "request-nsid": "servers are not asked for their name",
    "support-ixfr": "BIND ignores it as well",
    "tcp-keepalive": "no connection is kept",
}
SERVER_REFUSED: Final[dict[str, str]] = {}
ZONE_TYPES: Final = {
    "master": "primary",
    "primary": "primary",
    "slave": "secondary",
    "secondary": "secondary",
    "hint": "hint",
    "forward": "forward",
}
ZONE_TYPES_REFUSED: Final = frozenset(_words("mirror stub static-stub redirect delegation-only"))
