"""What was asked and answered, counted by type and response code."""

from __future__ import annotations

from pathlib import Path

import dns.message
import dns.opcode

from mailstack.dns.stats import counts
from tests.unit.dns.world import responder


def test_counts_of_prepared_and_other_answers(tmp_path: Path) -> None:
    server = responder(tmp_path, "recursion no; zone-statistics full;")
    asked = [
        ("mail.rich.test", "A", {}, 5),
        ("rich.test", "MX", {"use_edns": 0}, 9),
        ("mail.rich.test", "CAA", {}, 2),
        ("nowhere.rich.test", "A", {}, 3),
        ("x.sub.rich.test", "A", {}, 2),
        ("loop1.rich.test", "A", {}, 1),
        ("elsewhere.example", "TXT", {}, 2),
        ("rich.test", "SOA", {"use_edns": 1}, 2),
        ("big.rich.test", "TXT", {}, 1),
    ]
    for name, kind, words, times in asked:
        for _ in range(times):
            query = dns.message.make_query(name, kind, **words)  # type: ignore[arg-type]
            server.respond(query.to_wire(), "192.0.2.9", 1, tcp=False)
    status = dns.message.make_query("rich.test", "SOA")
    status.set_opcode(dns.opcode.STATUS)
    server.respond(status.to_wire(), "192.0.2.9", 1, tcp=False)
    for _ in range(4):
        server.respond(dns.message.make_query("mail.rich.test", "A").to_wire(), "2001:db8::9", 1, tcp=True)
    # What the socket answers by itself is counted by the answer.
    tail = server.prepared("192.0.2.9")[dns.message.make_query("mail.rich.test", "A").to_wire()[2:]]
    for _ in range(10):
        server.seen("127.0.0.1")[tail] += 1
    text = server.count().dump(["rich.test", "other.test"], 1_700_000_000.5)
    assert text.startswith("+++ Statistics Dump +++ (1700000000)\n++ Incoming Requests ++\n")
    assert text.endswith("--- Statistics Dump --- (1700000000)\n")
    found = counts("rubbish\n" + text)
    assert found["requests"] == {"QUERY": 41, "STATUS": 1}
    assert found["queries"] == {"A": 25, "SOA": 2, "MX": 9, "TXT": 3, "CAA": 2}
    assert found["rcodes"] == {
        "NOERROR": 33, "SERVFAIL": 1, "NXDOMAIN": 3, "NOTIMP": 1, "REFUSED": 2, "BADVERS": 2
    }  # fmt: skip
    said = found["server"]
    assert (said["IPv4 requests received"], said["IPv6 requests received"]) == (38, 4)
    assert (said["UDP queries received"], said["TCP queries received"]) == (37, 4)
    assert said["requests with EDNS(0) received"] == 11
    assert said["truncated responses sent"] == 1
    assert said["queries resulted in nxrrset"] == 2
    assert said["queries resulted in NXDOMAIN"] == 3
    assert said["queries resulted in referral answer"] == 2
    assert said["queries resulted in SERVFAIL"] == 1
    assert found["zones"]["other.test"] == {}
    zone = found["zones"]["rich.test"]
    assert isinstance(zone, dict)
    assert zone["queries resulted in NXDOMAIN"] == 3
    again = counts(server.count().dump([], 0))
    assert again["queries"] == found["queries"]
