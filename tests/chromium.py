"""Headless Chromium, driven over the pipe of its DevTools protocol; needs no Python package."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium():
    """First of NAMES that starts, or None; Ubuntu's may be a note that it is a snap."""
    for program in filter(None, map(shutil.which, NAMES)):
        done = subprocess.run([program, "--version"], capture_output=True, check=False)
        if done.returncode == 0:
            return program
    return None


class Browser:
    """One browser, and the page in it that was opened last. events: all that it told of that."""

    def __init__(self, program, profile):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The browser reads descriptor 3 and writes 4; from above 9, neither overwrites the other
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        shell = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash"]
        self._process = subprocess.Popen(
            [*shell, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._buffer, self._n, self._session, self.events = b"", 0, {}, []

    def call(self, method, **params):
        """What a method of the protocol returns."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda m: m.get("id") == self._n)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self, wanted):
        while True:
            while b"\0" not in self._buffer:
                assert select.select([self._in], [], [], 60)[0], "the browser does not answer"
                read = os.read(self._in, 1 << 20)
                assert read, "the browser has ended"
                self._buffer += read
            line, self._buffer = self._buffer.split(b"\0", 1)
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]

    def open(self, path, *, width=1280, height=900, scheme="light", script=True):
        """Loads a file in a new tab of that size in CSS pixels; below 600 it is a phone's."""
        self._session = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": session["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._next(lambda m: m.get("method") == "Page.loadEventFired")

    def run(self, script):
        """Value of an expression in the page, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, code, text):
        """A key, named as in UI Events, and the one character that it types."""
        key = {"code": code, "key": text, "text": text, "windowsVirtualKeyCode": ord(text)}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **key)

    def screenshot(self):
        """Viewport as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def complaints(self):
        """Exceptions, lines of the console, and requests for anything but the file itself."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(params)
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                found += [] if url.startswith(("file:", "data:")) else [url]
        return found

    def close(self):
        self._session = {}
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)
