"""The page's server answers only its own page, reports errors in one line and stops on signals."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from runs import ROOT, evaluate, seed_dir, train
from worldmodel.errors import UsageError
from worldmodel.evaluation.play import connections
from worldmodel.evaluation.play.job_queue import BusyError, JobQueue
from worldmodel.evaluation.play.server import MAX_BODY, Server


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    train(root, "--env.task", "pointmass", "--env.time_limit", "15", "--run.frames", "40")
    return seed_dir(root, "pointmass")


def twice(asked):
    if "twice" not in asked:
        raise UsageError("give twice:\n a number")
    return {"answer": 2 * asked["twice"]}


def broken(asked):
    raise KeyError("a fault of ours")


@pytest.fixture
def server():
    job_queue, over = JobQueue(), threading.Event()
    with Server(
        0, job_queue, b"<p>page</p>", {"look": twice}, {"deed": twice, "broken": broken}
    ) as server:
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)),
            threading.Thread(target=job_queue.process, args=(over.is_set,)),
        ]
        for thread in threads:
            thread.start()
        yield server
        over.set()
        server.shutdown()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def ask(server, method="POST", path="deed", body=b'{"twice": 4}', token=None, **headers):
    """(status, answer, headers); a header None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    given = {
        "Content-Type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    connection.putrequest(
        method, f"/{server.token if token is None else token}/{path}", skip_host="Host" in given
    )
    if method == "POST" and "Content-Length" not in given:
        given["Content-Length"] = str(len(body))
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body if method == "POST" else None)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def test_requests_are_answered(server):
    assert ask(server)[:2] == (200, '{"answer": 8}')
    assert ask(server, "GET", "look?twice=3")[:2] == (200, '{"answer": 6}')
    status, text, headers = ask(server, "GET", "")
    assert (status, text) == (200, "<p>page</p>") and headers["Referrer-Policy"] == "no-referrer"
    assert (
        "default-src 'none'" in headers["Content-Security-Policy"]
        and headers["Cache-Control"] == "no-store"
    )
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("token", ["", "wrong", "%C3%A9", "x" * 1000])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.fault(26, "requests without the token, the server alone", "refused")
def test_without_the_token_nothing_is_answered(server, token, method):
    for path in ("", "look?twice=1", "deed"):
        status, text, _ = ask(server, method, path, token=token)
        assert status == 403 and server.token not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": None},
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
@pytest.mark.fault(26, "requests in another site's name, the server alone", "refused")
def test_other_sites_are_refused(server, headers):
    given = {k: v and v.format(port=server.server_port) for k, v in headers.items()}
    assert ask(server, **given)[0] == 403 == ask(server, "GET", "", **given)[0]


def test_its_own_page_is_not_refused(server):
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{server.server_port}"
        assert ask(server, Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "wanted"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 60000, 400, "not JSON"),
        (b"[1]", 400, "JSON object"),
        (b"null", 400, "JSON object"),
        (b'{"once": 1}', 400, "give twice: a number"),
    ],
)
def test_bad_requests_are_answered_with_one_line(server, body, status, wanted):
    found, text, _ = ask(server, body=body)
    assert found == status and wanted in json.loads(text)["error"] and "\n" not in text
    assert ask(server)[0] == 200


def test_other_refusals(server):
    assert ask(server, Content_Type="text/plain")[0] == 415
    assert ask(server, Content_Length=None)[0] == 411
    assert ask(server, Content_Length="-5")[0] == 411
    assert ask(server, Content_Length=str(MAX_BODY + 1))[0] == 413
    assert ask(server, Content_Length="9" * 30)[0] == 413
    assert ask(server, path="nothing")[0] == 404 == ask(server, "GET", "deed")[0]
    assert ask(server, "GET", "look?twice=one")[0] == 400
    assert ask(server, "PUT")[0] == 405


def test_an_internal_error_is_one_line_on_the_page_and_a_traceback_in_the_log(server, caplog):
    status, text, _ = ask(server, path="broken")
    assert status == 500 and "Traceback" not in text and "KeyError" in json.loads(text)["error"]
    assert "Traceback" in caplog.text


@pytest.mark.fault(
    26,
    "a thousand requests whose client closes without waiting, the server alone",
    "refused; no traceback, no hang",
)
def test_a_thousand_bad_frames_and_torn_requests(server, caplog, capfd):
    for n in range(1000):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
            client.sendall(
                [
                    b"\x00\x01\x02\r\n\r\n",
                    b"GET",
                    b"POST / HTTP/1.1\r\nContent-Length: 9",
                    b"\r\n" * 3,
                ][n % 4]
            )
    assert ask(server)[0] == 200
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def open_with(server, data):
    client = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
    client.sendall(data)
    return client


@pytest.mark.fault(
    32,
    "connections that send nothing, half a line, half the headers or half a body, the server "
    "alone with a limit of 0.2 seconds",
    "each is answered with 408 and closed; a client that sends whole requests goes on",
)
def test_a_slow_client_is_answered_and_closed(server, monkeypatch, record_property):
    monkeypatch.setattr(connections, "FIRST_S", 0.2)
    host = f"Host: 127.0.0.1:{server.server_port}\r\n".encode()
    path = f"POST /{server.token}/deed HTTP/1.1\r\n".encode()
    parts = [b"", path[:20], path, path + host]
    body = b'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"twi'
    parts += [path + host + body]
    for part in parts:
        with open_with(server, part) as client:
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408 "), (part, answer)
        assert ask(server)[0] == 200
    record_property("times", len(parts))


@pytest.mark.fault(
    32,
    "as many connections as there may be, all of whose requests are still being answered",
    "the next one is answered with 503; when they are done, the next is served",
)
def test_while_all_connections_are_answered_the_next_is_refused(server, monkeypatch):
    monkeypatch.setattr(connections, "MOST", 2)
    begun, over = threading.Semaphore(0), threading.Event()

    def wait(asked):
        begun.release()
        over.wait(20)
        return {}

    monkeypatch.setattr(server.job_queue, "submit", lambda job: job())
    server.commands["wait"] = wait
    threads = [
        threading.Thread(target=ask, args=(server,), kwargs={"path": "wait"}) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=20)
    with open_with(server, b"") as client:
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 503 ")
    over.set()
    for thread in threads:
        thread.join(20)
    assert ask(server)[0] == 200


@pytest.mark.fault(26, "a connection to another address of this machine", "not accepted")
def test_it_listens_on_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with (
        pytest.raises(OSError),
        socket.create_connection(("127.0.0.2", server.server_port), timeout=5),
    ):
        pass


def test_a_full_queue_refuses_jobs(monkeypatch):
    from worldmodel.evaluation.play import job_queue as module

    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    job_queue = JobQueue()
    for _ in range(module.MAX_JOBS):
        with pytest.raises(BusyError, match="no answer within"):
            job_queue.submit(lambda: 1)
    with pytest.raises(BusyError, match="too many"):
        job_queue.submit(lambda: 1)


@pytest.mark.parametrize(
    ("args", "code", "wanted"),
    [
        (["--port", "65536"], 2, "is no port"),
        (["--port", "-1"], 2, "--port"),
        (["--port", "http"], 2, "--port"),
    ],
)
def test_a_users_mistakes(run_dir, args, code, wanted):
    assert wanted in evaluate(run_dir, "play", *args, expect=code)[1]


def test_no_run_a_damaged_run_and_a_port_in_use(run_dir, tmp_path):
    import shutil

    assert "is not a run directory" in evaluate(tmp_path, "play", expect=4)[1]
    hurt = tmp_path / "hurt"
    shutil.copytree(run_dir, hurt)
    for file in hurt.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-7])
    evaluate(hurt, "play", expect=4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert (
            f"--port: {port} cannot be used"
            in evaluate(run_dir, "play", "--port", port, expect=74)[1]
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_a_session_and_stops_cleanly(run_dir, number):
    with served(run_dir) as (process, url):
        host, token = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/([\w-]{20,})/", url).groups()
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", f"/{token}/state")
        state = json.load(connection.getresponse())
        assert (
            state["can_draw"]
            and state["simulator"]
            and state["size"] == 2
            and len(state["steps"]) == 1
        )
        body = json.dumps({"at": 0, "driver": "hand", "action": [0.5, -0.5]})
        connection.request("POST", f"/{token}/step", body, {"Content-Type": "application/json"})
        found = json.load(connection.getresponse())
        assert (
            found["at"] == 1
            and found["now"]["action"] == [0.5, -0.5]
            and found["imagined"]["rgb"] != found["real"]["rgb"]
        )
        for wrong in (
            {"at": 9},
            {"at": 0, "action": [1]},
            {"at": "0"},
            {},
            {"at": 0, "more": 1},
            {"at": 0, "driver": 3},
        ):
            connection.request(
                "POST", f"/{token}/step", json.dumps(wrong), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 400 and json.load(answer)["error"]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.endswith("stopped\n") and "Traceback" not in err


class served:
    """`eval.py RUN play` as a process, and the address it says."""

    def __init__(self, run, *args):
        command = [
            sys.executable,
            "-u",
            str(ROOT / "eval.py"),
            str(run),
            "play",
            "--no-browser",
            *args,
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    def __enter__(self):
        end = time.monotonic() + 120
        for line in self.process.stdout:
            if line.startswith("open "):
                return self.process, line.split()[1]
            assert time.monotonic() < end
        raise AssertionError(self.process.communicate()[1])

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
