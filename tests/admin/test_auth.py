"""Who may come in, and what every answer tells a browser."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from qmpguard.address import TcpAddress
from qmpguard.admin.auth import read_token
from qmpguard.admin.server import Admin
from qmpguard.errors import ConfigError
from qmpguard.record import Run
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import guarding
from tests.support.visiting import TOKEN, visiting, visiting_by_tcp

BEARER = {"Authorization": f"Bearer {TOKEN}"}
SECRET = ("/metrics", "/api/v1/vms", "/api/v1/vms/test", "/api/v1/decisions", "/api/v1/rules", "/api/v1/stream")


async def test_a_unix_sockets_mode_is_the_key(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
        assert (await visitor.get("/api/v1/vms"))[0] == 200


async def test_over_tcp_the_token_is_needed_for_all_that_names_a_vm(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting_by_tcp(tmp_path, guard) as visitor,
    ):
        for path in SECRET:
            assert (await visitor.get(path))[0] == 401
            assert (await visitor.get(path, Authorization=f"Bearer {TOKEN}x"))[0] == 401
            assert (await visitor.get(path, Authorization=f"Basic {TOKEN}"))[0] == 401
        for path in SECRET[:-1]:
            assert (await visitor.get(path, **BEARER))[0] == 200
        async with visitor.stream(**BEARER) as stream:
            assert (await stream.next())["names"] == ["test"]


async def test_health_and_readiness_need_no_token_and_name_nobody(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting_by_tcp(tmp_path, guard) as visitor:
        assert await visitor.get("/healthz") == (200, {"status": "ok"})
        assert await visitor.get("/readyz") == (503, {"ready": False, "reasons": ["no link to QEMU"]})
        status, body = await visitor.get("/readyz", **BEARER)
        assert (status, body["vms"][0]["name"]) == (503, "test")
        (reason,) = body["reasons"]
        assert reason.startswith("test: no link to QEMU: ")


async def test_a_foreign_page_cannot_ask_whatever_name_it_gives_us(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
    ):
        for host in ("evil.example", "localhost.evil.example:80", "[::1", "", "evil.example@localhost:x"):
            assert (await visitor.get("/api/v1/vms", Host=host))[0] == 403, host
        for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"):
            assert (await visitor.get("/api/v1/vms", Host=host))[0] == 200, host
            assert (await visitor.get("/api/v1/vms", Host=host, Origin=f"http://{host}"))[0] == 200
            for origin in ("http://evil.example", "null", f"http://{host}.evil.example"):
                assert (await visitor.get("/api/v1/vms", Host=host, Origin=origin))[0] == 403


async def test_a_name_that_was_configured_is_ours_too(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting_by_tcp(tmp_path, guard, hosts=["guard.example"]) as visitor,
    ):
        assert (await visitor.get("/healthz", Host="guard.example:9000"))[0] == 200
        assert (await visitor.get("/healthz", Host="other.example:9000"))[0] == 403


async def test_it_is_read_only(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        for path in ("/", "/healthz", *SECRET):
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                async with visitor.http.request(method, visitor.base + path) as response:
                    assert (response.status, "GET" in response.headers["Allow"]) == (405, True)
                    assert set(await response.json()) == {"error"}


async def test_every_answer_tells_the_browser_what_it_must_not_do(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        for path in ("/", "/page.js", "/healthz", "/api/v1/stream", "/nothing-there"):
            async with visitor.http.get(visitor.base + path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Server"] == "qmpguard"


def test_tcp_without_a_token_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="needs a token file"):
        Admin(TcpAddress("127.0.0.1", 1), list, Run())


@pytest.mark.parametrize("token", ["", "short", "two words of a token", "tokén" * 9])
def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(ConfigError, match="token file"):
        read_token(str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="No such file"):
        read_token(str(tmp_path / "none"))
