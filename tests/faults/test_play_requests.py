"""The page of the real `eval.py RUN play` under bad requests: each is answered by 4xx, and the
dream goes on after.
"""

import json
import os
import random
import re
import signal
import socket

import pytest

from test_play_server import run_dir, served
from worldmodel.evaluation.play.connections import MOST
from worldmodel.evaluation.play.server import MAX_BODY

__all__ = ["run_dir"]  # a fixture of every test here


def status_of(port, data, torn=False):
    """Send these bytes, the last there are if torn; the status of the answer, which ends the
    connection.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        if torn:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while b"\r\n\r\n" not in answer and (more := client.recv(1 << 16)):
            answer += more
    # A first line that says no version is answered by a page alone.
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer) or re.search(
        rb"Error code: (\d{3})", answer
    )
    assert found, (data[:200], answer)
    assert b"Traceback" not in answer
    return int(found[1])


def request(port, token, path, body=b"", method="POST", **headers):
    """One well-formed request; headers given replace the usual."""
    usual = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [
        f"{k}: {v}"
        for k, v in {**usual, **{k.replace("_", "-"): v for k, v in headers.items()}}.items()
    ]
    return (
        f"{method} /{token}/{path} HTTP/1.1\r\n".encode()
        + "\r\n".join([*lines, "", ""]).encode()
        + body
    )


WRONG = [
    {"at": 0, "driver": "hand", "action": x}
    for x in (
        [],
        [1],
        [1, 2, 3],
        ["a", "b"],
        [None, 0.5],
        [[0.5, 0.5]],
        {},
        "x",
        True,
        [1e400, 0],
        [float("nan"), 0],
    )
]
WRONG += [
    {"at": x, "driver": "hand", "action": [0.5, 0.5]}
    for x in (-5, 10**6, 10**40, "0", None, True, 0.5, [0])
]
WRONG += [
    {"at": 0, "driver": x, "action": [0.5, 0.5]} for x in ("nobody", 1, None, [], "\0", "x" * 999)
]
WRONG += [{}, {"at": 0, "more": 1}, {"x" * 500: 0}]


def bad_frames(rng, port, token):
    """Endlessly: bytes, whether the sender hangs up after them."""
    good = json.dumps({"at": 0, "driver": "hand", "action": [0.5, -0.5]}).encode()
    whole = request(port, token, "step", good)
    while True:
        match rng.randrange(8):
            case 0:
                yield (
                    rng.choice(
                        [
                            b"\x00\x01\x02\r\n\r\n",
                            b"\xff" * 40 + b"\r\n\r\n",
                            b"GET\r\n\r\n",
                            b"GET / HTTP/x.y\r\n\r\n",
                            b"GET / HTTP/1.1 x\r\n\r\n",
                        ]
                    ),
                    True,
                )
            case 1:
                yield whole[: rng.randrange(1, len(whole) - 1)], True  # torn anywhere
            case 2:
                yield request(port, token, "step", json.dumps(rng.choice(WRONG)).encode()), False
            case 3:
                yield (
                    request(
                        port,
                        token,
                        rng.choice(["start", "clip", "step"]),
                        rng.randbytes(rng.randrange(99)),
                    ),
                    False,
                )
            case 4:
                text = json.dumps(
                    {
                        "episode": rng.choice([-9, 99, "x", 1e99]),
                        "step": rng.choice([10**9, None, "é"]),
                    }
                )
                yield request(port, token, "start", text.encode()), False
            case 5:
                yield (
                    request(port, rng.choice(["", "x", token[:-1], token + "x"]), "step", good),
                    False,
                )
            case 6:
                query = rng.choice(
                    [
                        "moment?at=x",
                        "moment?at=99999",
                        "nothing",
                        "moment",
                        "state?a=1",
                        "../state",
                    ]
                )
                yield request(port, token, query, method="GET"), False
            case 7:
                headers = rng.choice(
                    [
                        {"Host": "evil.example"},
                        {"Origin": "null"},
                        {"Content_Type": "text/plain"},
                        {"Content_Length": "-1"},
                        {"Content_Length": "x"},
                    ]
                )
                yield request(port, token, "step", good, **headers), False


@pytest.mark.fault(
    26,
    "a thousand invalid and truncated requests to the real eval.py play: bytes, wrong values, "
    "tokens, hosts",
    "each is answered with 4xx; no traceback; then a valid step works",
)
def test_a_thousand_bad_frames_to_the_real_page(run_dir, record_property):
    with served(run_dir) as (process, url):
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{20,})/", url).groups()
        port, seen = int(port), set()
        frames = bad_frames(random.Random(0), port, token)
        for data, torn in (next(frames) for _ in range(1000)):
            status = status_of(port, data, torn)
            assert 400 <= status < 500, (status, data[:300])
            seen.add(status)
        assert {400, 403, 404, 411, 415} <= seen
        good_step(port, token)
        finish(process)
    record_property("times", 1000)


@pytest.mark.fault(
    26,
    "requests that announce bodies of 65,537 bytes, 1 GB and 10^30 bytes, to the real eval.py "
    "play",
    "413, not read; then a valid step works",
)
def test_a_huge_body_is_not_read(run_dir, record_property):
    with served(run_dir) as (process, url):
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{20,})/", url).groups()
        sizes = (str(MAX_BODY + 1), "1000000000", "9" * 30)
        for path in ("step", "start", "clip"):
            for size in sizes:
                assert status_of(int(port), request(port, token, path, Content_Length=size)) == 413
        assert status_of(int(port), request(port, token, "step", b" " * (MAX_BODY + 1))) == 413
        good_step(int(port), token)
        finish(process)
    record_property("times", 3 * len(sizes) + 1)


def odd_requests(port, token):
    """What no browser sends, by what is wrong with it."""
    host, good = f"Host: 127.0.0.1:{port}\r\n".encode(), b'{"at": 0}'
    line, json_type = (
        f"POST /{token}/step HTTP/1.1\r\n".encode(),
        b"Content-Type: application/json",
    )
    state = f"/{token}/state".encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    ended = b"Content-Length: 9\r\n\r\n" + good
    yield from {
        "another method": b"BREW " + state + b" HTTP/1.1\r\n" + host + b"\r\n",
        "PUT": b"PUT " + state + b" HTTP/1.1\r\n" + host + b"\r\n",
        "HEAD": b"HEAD " + state + b" HTTP/1.1\r\n" + host + b"\r\n",
        "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n",
        "lower case": b"get " + state + b" HTTP/1.1\r\n" + host + b"\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/9.9": b"GET " + state + b" HTTP/9.9\r\n" + host + b"\r\n",
        "no version": b"GET /x\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "an empty line": b"\r\n",
        "a long line": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        "a long header": line + host + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        "many headers": line + host + b"X: y\r\n" * 101 + b"\r\n",
        "megabytes of headers": line + host + (b"X: " + b"x" * 999 + b"\r\n") * 2000 + b"\r\n",
        "NUL in the path": b"GET " + state + b"\x00 HTTP/1.1\r\n" + host + b"\r\n",
        "NUL in a header": line + host + b"X: a\x00b\r\n" + json_type + b"\r\n" + ended,
        "not UTF-8 in the path": b"GET /\xff\xfe/\x80 HTTP/1.1\r\n" + host + b"\r\n",
        "not UTF-8 in the body": line
        + host
        + json_type
        + b"\r\nContent-Length: 4\r\n\r\n\xff{}\xff",
        "a header without colon": line + host + b"nothing\r\n" + json_type + b"\r\n" + ended,
        "a folded header": line + host + b"X: a\r\n b\r\n" + json_type + b"\r\n" + ended,
        "two hosts": line + host + b"Host: evil\r\n" + json_type + b"\r\n" + ended,
        "two lengths": line + host + json_type + b"\r\nContent-Length: 2\r\n" + ended,
        "a negative length": line + host + json_type + b"\r\nContent-Length: -9\r\n\r\n" + good,
        "a length in words": line + host + json_type + b"\r\nContent-Length: 0x9\r\n\r\n" + good,
        "chunks": line
        + host
        + json_type
        + b"\r\n"
        + chunked
        + b"\r\n9\r\n"
        + good
        + b"\r\n0\r\n\r\n",
        "chunks and a length": line + host + json_type + b"\r\n" + chunked + ended,
        "a body after GET": b"GET " + state + b" HTTP/1.1\r\n" + host + ended,
        "an absolute address": b"GET http://evil.example"
        + state
        + b" HTTP/1.1\r\n"
        + host
        + b"\r\n",
        "a proxy's address": b"GET http://127.0.0.1:%d" % port
        + state
        + b" HTTP/1.1\r\n"
        + host
        + b"\r\n",
        "dots": b"GET /" + token.encode() + b"/../../etc/passwd HTTP/1.1\r\n" + host + b"\r\n",
    }.items()


@pytest.mark.fault(
    32,
    "methods, versions, headers, lengths, encodings and addresses that no browser sends; garbage "
    "behind a valid request; 200 connections held open with half a request; to the real eval.py "
    "play",
    "each is answered with 4xx, at most 64 connections are kept; a valid step works between and "
    "while they are held",
)
def test_what_no_browser_sends_and_held_connections(run_dir, record_property):
    with served(run_dir) as (process, url):
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{20,})/", url).groups()
        port, times = int(port), 0
        for what, data in odd_requests(port, token):
            assert 400 <= status_of(port, data) < 500, what
            times += 1
        good_step(port, token)
        body = json.dumps({"at": 0, "driver": "hand", "action": [0.5, -0.5]}).encode()
        whole = request(port, token, "step", body, Connection="keep-alive")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(whole + b"\x00garbage\r\n\r\n")
            answers = client.makefile("rb").read()
        assert re.findall(rb"HTTP/1\.1 (\d{3})", answers) == [b"200", b"400"]
        held = []
        try:
            for _ in range(200):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=60))
                held[-1].sendall(whole[:60])
            good_step(port, token)
            for client in held[: 200 - MOST]:
                assert client.recv(1 << 10).startswith(b"HTTP/1.1 503 ")
            assert len(os.listdir(f"/proc/{process.pid}/task")) < 2 * MOST
        finally:
            for client in held:
                client.close()
        good_step(port, token)
        finish(process)
    record_property("times", times + 1 + len(held))


def good_step(port, token):
    body = json.dumps({"at": 0, "driver": "hand", "action": [0.5, -0.5]}).encode()
    assert status_of(port, request(port, token, "step", body)) == 200


def finish(process):
    """It ends as it should, and has said nothing of what came."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (
        process.returncode == 0
        and out.endswith("stopped\n")
        and "Traceback" not in out + err
        and not err.strip()
    ), err
