"""Our own HTTP/1.1, by servers that write bytes: whose reply is whose, what has no end, and what was never sent."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qbawa.config import ModelConfig
from qbawa.engine.calls import ModelCall
from qbawa.engine.providers import connections
from qbawa.engine.providers.body import SHARED_BYTES
from qbawa.engine.providers.openai_http import HttpSession, OpenAIProvider
from qbawa.errors import ProviderError, TransientError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(text: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()


def whole(text: str, *headers: str) -> bytes:
    body = answer(text)
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def asking(base_url: str, timeout_s: float = 10.0) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A function that asks the server's model and returns its words."""
    session = HttpSession()
    config = ModelConfig.model_validate({"base_url": base_url, "free": True, "timeout_s": timeout_s})
    provider = OpenAIProvider("m", config, session, "sk-test-key")

    async def ask(question: str) -> str:
        return (await provider.send(ModelCall("m", ({"role": "user", "content": question},)))).text

    try:
        yield ask
    finally:
        await session.close()
    assert session.bytes.taken == 0


def replying(*replies: bytes) -> Serve:
    """Answers the requests of each connection with these bytes, one after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await read_request(reader)
            writer.write(reply)
            await writer.drain()

    return serve


async def ask_once(serve: Serve, timeout_s: float = 10.0) -> str:
    async with serving(serve) as port, asking(f"http://127.0.0.1:{port}/v1", timeout_s) as ask:
        return await ask("q")


async def test_a_connection_is_kept_for_the_next_question() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while True:
            head, body = await read_request(reader)
            assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
            assert b"\r\nAuthorization: Bearer sk-test-key\r\n" in head
            writer.write(whole(json.loads(body)["messages"][0]["content"]))

    async with serving(serve) as port, asking(f"http://127.0.0.1:{port}/v1") as ask:
        assert [await ask(f"q{number}") for number in range(5)] == [f"q{number}" for number in range(5)]
        assert opened == 1
        assert await asyncio.gather(*(ask(f"p{number}") for number in range(20))) == [f"p{n}" for n in range(20)]
    assert opened == 20


@pytest.mark.parametrize("later", [False, True], ids=["at once", "a moment later"])
async def test_a_reply_that_nobody_asked_for_is_not_the_next_ones_answer(later: bool) -> None:
    written = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        said = json.loads(body)["messages"][0]["content"]
        writer.write(whole(said) if later else whole(said) + whole("smuggled"))
        if later:
            await asyncio.sleep(0.05)
            writer.write(whole("smuggled"))
        written.set()
        await reader.read()

    async with serving(serve) as port, asking(f"http://127.0.0.1:{port}/v1") as ask:
        for number in range(3):
            assert await ask(f"q{number}") == f"q{number}"
            await written.wait()
            written.clear()
            await asyncio.sleep(0.02)  # whatever else is there has been read by then


async def test_what_comes_too_late_is_not_the_next_ones_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        said = json.loads(body)["messages"][0]["content"]
        if said == "slow":
            await asyncio.sleep(0.4)
        writer.write(whole(said))
        await reader.read()

    async with serving(serve) as port, asking(f"http://127.0.0.1:{port}/v1", timeout_s=0.2) as ask:
        with pytest.raises(TransientError) as caught:
            await ask("slow")
        assert (caught.value.reason, caught.value.billing) == ("timeout", "unknown")
        await asyncio.sleep(0.3)
        assert await ask("quick") == "quick"


FORMS = {
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (answer("fine")[:20], answer("fine")[20:]))
    + b"0\r\nTrailer: t\r\n\r\n",
    "until the connection ends": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer("fine"),
    "after 100 and 103": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole("fine"),
    "by HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + answer("fine"),
}


@pytest.mark.parametrize("reply", FORMS.values(), ids=FORMS)
async def test_every_form_of_a_reply_is_read(reply: bytes) -> None:
    assert await ask_once(replying(reply)) == "fine"


async def test_a_reply_may_come_byte_by_byte() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in whole("fine", "X-Long: " + "x" * 100):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    assert await ask_once(serve) == "fine"


async def test_a_long_body_arrives_whole_and_waits_in_the_socket_until_it_is_taken() -> None:
    long = "long " * 1_000_000
    assert await ask_once(replying(whole(long))) == long
    assert len(long) < SHARED_BYTES


BROKEN = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9\r\n\r\n", "malformed"),
    "nothing": (b"", "connection"),
    "half of the headers": (b"HTTP/1.1 200 OK\r\nContent-", "connection"),
    "half of the body": (whole("fine")[:-5], "connection"),
    "half of the chunks": (FORMS["in chunks"][:-30], "connection"),
    "two lengths": (whole("fine", "Content-Length: 7"), "malformed"),
    "a length and chunks": (whole("fine", "Transfer-Encoding: chunked"), "malformed"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "malformed"),
}


@pytest.mark.parametrize(("reply", "reason"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_reply_may_have_been_billed(reply: bytes, reason: str) -> None:
    with pytest.raises(TransientError) as caught:
        await ask_once(replying(reply))
    assert (caught.value.reason, caught.value.billing) == (reason, "unknown")


@pytest.mark.parametrize("part", [b"X: " + b"x" * 60 + b"\r\n", b"x" * 4096], ids=["many headers", "one long header"])
async def test_headers_without_end_are_given_up_early(part: bytes) -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while written < 64 << 20:
            writer.write(part)
            written += len(part)
            await writer.drain()

    with pytest.raises(ProviderError) as caught:
        await ask_once(serve)
    assert caught.value.reason == "malformed" and written < 32 << 20


async def test_nobody_is_billed_for_what_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(replying()) as port:
        pass  # closed again: refused
    for address in (f"http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"):
        async with asking(address) as ask:
            with pytest.raises(TransientError) as caught:
                await ask("q")
        assert (caught.value.reason, caught.value.billing) == ("connection", "no")


async def test_a_key_with_a_line_break_adds_no_header() -> None:
    session = HttpSession()
    async with serving(replying(whole("fine"))) as port:
        config = ModelConfig.model_validate({"base_url": f"http://127.0.0.1:{port}/v1", "free": True})
        provider = OpenAIProvider("m", config, session, "sk-test\r\nX-Other: 1")
        with pytest.raises(TransientError, match="unreadable"):
            await provider.send(ModelCall("m", ({"role": "user", "content": "q"},)))
    await session.close()


async def test_an_old_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEPT_S", 0.05)
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await replying(whole("fine"), whole("fine"))(reader, writer)

    async with serving(serve) as port, asking(f"http://127.0.0.1:{port}/v1") as ask:
        await ask("q")
        await asyncio.sleep(0.1)
        await ask("q")
    assert opened == 2


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_certificate_must_be_trusted(trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", certificate]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        *name,
        *files,
    ]
    subprocess.run(command, check=True, capture_output=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with serving(replying(whole("fine")), tls) as port, asking(f"https://127.0.0.1:{port}/v1") as ask:
        if trusted:
            assert await ask("q") == "fine"
            return
        with pytest.raises(TransientError, match="SSLCertVerificationError") as caught:
            await ask("q")
    assert (caught.value.reason, caught.value.billing) == ("connection", "no")


async def test_a_proxy_is_used_where_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        heads.append(head)
        writer.write(whole("by proxy"))
        await writer.drain()

    async with serving(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        async with asking("http://model.invalid/v1") as ask:
            assert await ask("q") == "by proxy"
    assert heads[0].startswith(b"POST http://model.invalid/v1/chat/completions HTTP/1.1\r\n")
