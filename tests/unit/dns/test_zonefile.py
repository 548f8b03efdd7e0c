"""Zone files: what is loaded, what is refused with file and line, as named does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.dns import names
from mailstack.dns.zone import MX, A, Zone
from mailstack.dns.zonefile import load_zone
from tests.unit.dns.world import zones

HEAD = "$TTL 60\n@ SOA ns r 7 1 1 1 1\n NS ns\nns A 192.0.2.1\n"


def load(tmp_path: Path, text: str, head: str = HEAD) -> tuple[Zone, list[str]]:
    path = tmp_path / "z"
    path.write_text(head + text)
    return load_zone("z.test", str(path))


def test_the_seeds_zone(tmp_path: Path) -> None:
    """Its MX points at an address; named loads that as well, and warns."""
    text = """$TTL 1D
@       IN SOA  dgtlinux.com. rname.invalid. (
                          0       ; serial
                          1D      ; refresh
                          1H      ; retry
                          1W      ; expire
                          3H )    ; minimum
        NS      dns.dgtlinux.com.
dns     A       13.230.98.28
@       MX 10   13.230.98.28
mail    A       13.230.98.28
www     A       13.230.98.28
"""
    path = tmp_path / "named.localhost"
    path.write_text(text)
    zone, warnings = load_zone("dgtlinux.com", str(path))
    assert (zone.serial, len(zone)) == (0, 6)
    assert (
        warnings
        == [f"{path}: dgtlinux.com/MX '13\\.230\\.98\\.28.dgtlinux.com' has no address records (A or AAAA)"]
        or "13.230.98.28.dgtlinux.com' has no address records" in warnings[0]
    )


def test_empty_nonterminals_exist() -> None:
    rich = zones()[0]
    for name in ("c.ent.rich.test", "ent.rich.test", "_tcp.rich.test"):
        assert rich.nodes[names.from_text(name)].rrsets == {}


def test_generate_and_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").write_text("inc A 192.0.2.9\n")
    monkeypatch.chdir(tmp_path)
    zone, _ = load(tmp_path, "$GENERATE 1-20 h${0,3} A 10.0.0.$\n$INCLUDE more sub.z.test.\n")
    assert A in zone.nodes[names.from_text("h017.z.test")].rrsets
    assert A in zone.nodes[names.from_text("inc.sub.z.test")].rrsets


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x A 1.2.3\n", 5, "malformed"),
        ("\nx FOO 1\n", 6, "unknown rdatatype"),
        ("x MX (\n 10\n ns\n", 5, "unbalanced"),
        ("x TXT (\n a\n b ) \ny A z\n", 8, "malformed"),
        ('x TXT "never closed\n', 5, "newline in quoted string"),
        ("$NOSUCH 1\n", 5, "not allowed"),
        ("$INCLUDE absent\n", 5, "absent: No such file"),
        ("x A 192.0.2.1\nx CNAME ns\n", 6, "CNAME"),
        ("x CNAME ns\nx CNAME z\n", 6, "multiple RRs of singleton type"),
        ("x SOA ns r 1 1 1 1 1\n", 5, "SOA"),
        ("x_y A 192.0.2.1\n", 5, "x_y.z.test: bad owner name"),
        ("x MX 1 _y\n", 5, "_y.z.test: bad name"),
        ("x CH A 192.0.2.1\n", 5, "class"),
        ("@ NS nowhere\n", 0, "z.test/NS 'nowhere.z.test' has no address records"),
        ("@ NS al\nal CNAME ns\n", 0, "z.test/NS 'al.z.test' is a CNAME"),
        ("@ DNAME z.example.\n", 0, "below a DNAME"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    where = f"{tmp_path}/z:{line}: " if line else f"{tmp_path}/z: "
    assert str(caught.value).startswith(where)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("ns 60 A 192.0.2.1\n", "has 0 SOA records"),
        ("@ 60 SOA ns r 1 1 1 1 1\n", "has no NS records"),
        ("", "SOA"),
    ],
)
def test_zones_without_soa_or_ns(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", head)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("@ MX 1 nowhere\n", "z.test/MX 'nowhere.z.test' has no address records"),
        ("@ MX 1 al\nal CNAME ns\n", "z.test/MX 'al.z.test' is a CNAME"),
        ("s SRV 0 0 1 nowhere\n", "s.z.test/SRV 'nowhere.z.test' has no address records"),
        ("sub NS nowhere\n", "sub.z.test/NS 'nowhere.z.test' has no address records"),
    ],
)
def test_warnings(tmp_path: Path, text: str, warning: str) -> None:
    _, warnings = load(tmp_path, text)
    assert len(warnings) == 1
    assert warning in warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "@ MX 1 mx.elsewhere.test.\n",
        "@ MX 1 x.w\n*.w A 192.0.2.1\n",
        "@ MX 0 .\n",
        "sub NS ns.sub.z.example.\n",
    ],
)
def test_nothing_odd(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text)[1] == []


def test_missing_file_and_binary_noise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_zone("z.test", str(tmp_path / "absent"))
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ConfigError):
        load_zone("z.test", str(tmp_path / "noise"))


def test_owner_case_is_kept_and_looked_up_without(tmp_path: Path) -> None:
    zone, _ = load(tmp_path, "MiXeD MX 1 ns\n")
    node = zone.nodes[names.from_text("mixed.z.test")]
    assert names.to_text(node.owner).startswith("MiXeD")
    assert MX in node.rrsets


@pytest.mark.parametrize(
    ("soa_ttl", "wanted"),
    [("3600 ", [3600, 77, 77, 55]), ("", [300, 77, 300, 55])],
    ids=["stated", "minimum"],
)
def test_where_a_ttl_comes_from_without_a_directive(tmp_path: Path, soa_ttl: str, wanted: list[int]) -> None:
    """The last one that was stated, or SOA's minimum where SOA has none (as named-compilezone has it)."""
    head = f"@ {soa_ttl}IN SOA ns h 1 3600 600 86400 300\n@ NS ns\n"
    zone, _ = load(tmp_path, "ns 77 A 192.0.2.1\nx A 192.0.2.2\n$TTL 55\ny A 192.0.2.3\n", head)
    found = {owner: rrset.ttl for owner, rrset in zone.records()}
    assert list(found.values()) == wanted
