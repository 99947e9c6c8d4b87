"""Chromium without a window, driven over its DevTools protocol by the standard library alone."""

import base64
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import time
import urllib.request

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Socket:
    """The client's side of a WebSocket: whole text messages out and in."""

    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: "
            f"websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.file = self.socket.makefile("rb")
        assert b"101" in self.file.readline()
        while self.file.readline().strip():
            pass

    def send(self, text):
        data, mask = text.encode(), secrets.token_bytes(4)
        size = len(data)
        length = bytes([128 | size]) if size < 126 else bytes([254]) + struct.pack(">H", size)
        if size >= 1 << 16:
            length = bytes([255]) + struct.pack(">Q", size)
        # Noqa: B905
        self.socket.sendall(
            b"\x81" + length + mask + bytes(b ^ m for b, m in zip(data, itertools.cycle(mask)))
        )

    def receive(self):
        parts = []
        while True:
            first, second = self.file.read(2)
            size = second & 127
            if size > 125:
                size = struct.unpack(
                    *((">H", self.file.read(2)) if size == 126 else (">Q", self.file.read(8)))
                )[0]
            data = self.file.read(size)
            if first & 15 in (0, 1):
                parts.append(data)
                if first & 128:
                    return b"".join(parts).decode()

    def close(self):
        self.file.close()
        self.socket.close()


class Browser:
    """One page. `run` is JavaScript's answer, `command` any command of the protocol."""

    def __init__(self, home, width=1100, height=1000, scheme="light"):
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={home}",
            "--disable-dev-shm-usage",
            "about:blank",
        ]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            [PROGRAM, *arguments], stdout=quiet, stderr=quiet, stdin=quiet
        )
        self.numbers = itertools.count(1)
        self.events = []
        try:
            port = int(
                self._until(
                    lambda: (home / "DevToolsActivePort").read_text().split()[0],
                    OSError,
                    IndexError,
                )
            )
            self.socket = self._until(
                lambda: Socket(port, self._page(port)), OSError, StopIteration
            )
            for domain in ("Page", "Runtime", "Network"):
                self.command(f"{domain}.enable")
            self.looks_like(width, height, scheme)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _page(port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(t for t in json.load(answer) if t["type"] == "page")
        return "/" + page["webSocketDebuggerUrl"].split("/", 3)[3]

    def _until(self, what, *faults, seconds=120):
        end = time.monotonic() + seconds
        while True:
            try:
                return what()
            except faults:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.2)

    def command(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            found = json.loads(self.socket.receive())
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def looks_like(self, width, height, scheme):
        phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def open(self, url):
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script):
        found = self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script, seconds=120):
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.1)

    def key(self, key, code=None, text=None, up=True):
        """Press a key as a keyboard does; `up` lets it go again."""
        extra = {"text": text} if text else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=code or key, **extra)
        if up:
            self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key)

    def errors(self):
        """What the page complained about: exceptions, and requests that went anywhere but to
        127.0.0.1.
        """
        self.run("1")
        thrown = [e["params"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        urls = [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]
        return thrown + [
            u for u in urls if not u.startswith(("http://127.0.0.1:", "data:", "file:", "about:"))
        ]

    def picture(self, path, whole=True):
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
            "data"
        ]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        if hasattr(self, "socket"):
            self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, 9)
            self.process.wait()


def open_play_page(chromium, server, said):
    """Show the page of a play server, whose address is in the file of what it says."""
    chromium.looks_like(1100, 1000, "light")
    while not (
        found := re.search(r"^open (\S+)", said.read_text() if said.exists() else "", re.M)
    ):
        assert server.is_alive(), said.read_text()
        time.sleep(0.05)
    chromium.open(found[1])
    chromium.wait("!document.getElementById('run').disabled")
