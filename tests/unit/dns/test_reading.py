"""Large zone files are read on the side."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import load
from mailstack.dns import reading, zonefile
from mailstack.dns.zone import Zone

HEAD = "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.1\n"
CONF = """options {{ directory "{folder}"; }};
zone "large.test" {{ type master; file "large"; }};
zone "small.test" {{ type master; file "small"; }};
zone "wrong.test" {{ type master; file "wrong"; }};
zone "gone.test" {{ type master; file "gone"; }};
zone "updated.test" {{ type master; file "updated"; allow-update {{ 127.0.0.1; }}; }};
zone "ruled.test" {{ type master; file "ruled"; update-policy local; }};
zone "compared.test" {{ type master; file "compared"; ixfr-from-differences yes; }};
zone "signed.test" {{ type master; file "signed"; dnssec-policy default; inline-signing yes; }};
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reading, "LARGE", 1000)
    many = "".join(f"host{number} A 192.0.2.7\n" for number in range(60))
    for name in ("large", "updated", "ruled", "compared", "signed"):
        (tmp_path / name).write_text(HEAD + many)
    (tmp_path / "small").write_text(HEAD)
    (tmp_path / "wrong").write_text(HEAD + many + "x A 192.0.2.256\n")
    path = tmp_path / "named.conf"
    path.write_text(CONF.format(folder=tmp_path))
    return path


def test_only_large_files_that_the_server_leaves_alone_are_read_ahead(path: Path) -> None:
    found = asyncio.run(reading.read_ahead(load(path)))
    assert found.keys() == {"large.test", "wrong.test"}
    large, wrong = found["large.test"], found["wrong.test"]
    assert isinstance(large, tuple)
    assert len(large[0].nodes) == 62
    assert isinstance(wrong, ConfigError)
    assert str(wrong).startswith(f"{path.with_name('wrong')}:65: ")


def test_the_loop_goes_on_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, read = threading.Event(), zonefile.load_zone
    running: list[asyncio.AbstractEventLoop] = []

    def slow(origin: str, file: str, *, check_names: str) -> tuple[Zone, list[str]]:
        running[0].call_soon_threadsafe(
            answered.set
        )  # as a datagram is answered: while the file is being read
        assert answered.wait(30)
        return read(origin, file, check_names=check_names)

    async def both() -> dict[str, reading.Read]:
        running.append(asyncio.get_running_loop())
        return await reading.read_ahead(load(path))

    monkeypatch.setattr(reading, "load_zone", slow)
    assert isinstance(asyncio.run(both())["large.test"], tuple)


def test_a_server_that_stops_waits_for_no_file() -> None:
    go_on = threading.Event()

    async def cancelled() -> None:
        task = asyncio.create_task(reading.aside(lambda: go_on.wait(30)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not go_on.is_set()
    workers = [one for one in threading.enumerate() if one.name == "zone files"]
    go_on.set()  # the loop is closed now: the thread ends without a word
    for worker in workers:
        worker.join(30)
    assert workers
    assert not any(worker.is_alive() for worker in workers)
