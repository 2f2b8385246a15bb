"""Open every page of the built site, and other pages, in a real browser: headless Chromium.

A page fails if its console says an error, or if it must be moved sideways on a narrow screen.

python docs/check_browser.py docs/_build/html
python docs/check_browser.py docs/_build/html runs/demo-smoke/report.html --screenshots shots
"""

import argparse
import base64
import functools
import http.server
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}
# Seconds without a word after which it is given up.
PATIENCE = 120
# What needs a network that the machine may not have is no fault of a page.
OFFLINE = re.compile(r"ERR_(INTERNET_DISCONNECTED|NAME_NOT_RESOLVED|CONNECTION|TUNNEL|PROXY)")


class Browser:
    """Chromium's debugging protocol, through a pipe: JSON with a zero byte behind it.

    https://chromedevtools.github.io/devtools-protocol/
    """

    def __init__(self, program: str, profile: str) -> None:
        # Chromium reads what it is told from descriptor 3, and answers on 4.
        (theirs, self._to), (self._from, answers) = os.pipe(), os.pipe()
        os.set_inheritable(theirs, True)
        os.set_inheritable(answers, True)
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        # Not sh, which may know descriptors of one digit only.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash"]
        self._process = subprocess.Popen(
            [*shell, *command], pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self._number, self._rest, self._session = 0, b"", None
        self.said: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: object) -> dict:
        """Send a command, and give its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def next(self) -> dict:
        """Read one message; errors on the console are noted."""
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], PATIENCE)[0]:
                raise RuntimeError(f"the browser has said nothing for {PATIENCE} s")
            more = os.read(self._from, 1 << 16)
            if not more:
                raise RuntimeError("the browser is gone")
            self._rest += more
        one, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(one)
        params, method = message.get("params", {}), message.get("method")
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.said.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.said.append(" ".join(str(one.get("value", one)) for one in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return message

    def open(self, address: str, size: tuple[int, int]) -> tuple[list[str], int]:
        """Errors that a page says, and by how much it is wider than the screen."""
        width, height = size
        self.said = []
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        failed = self.ask("Page.navigate", url=address).get("errorText")
        if failed:
            return [failed], 0
        while self.next().get("method") != "Page.loadEventFired":
            pass
        # What comes late, and what is loaded when it is seen.
        self.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        self.ask(
            "Runtime.evaluate", expression="new Promise(done => setTimeout(done, 150))",
            awaitPromise=True,
        )  # fmt: skip
        self.evaluate("window.scrollTo(0, 0)")
        over = self.evaluate("document.documentElement.scrollWidth") - width
        there = address.split("/")[2]
        return [one for one in self.said if there in one or not OFFLINE.search(one)], int(over)

    def evaluate(self, expression: str) -> float:
        """The value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression)["result"].get("value", 0)

    def screenshot(self, path: Path) -> None:
        """The part that is on the screen."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *told: object) -> None:
        """Say nothing."""


def pages_of(place: Path) -> tuple[Path, list[str]]:
    """A folder to serve, and the pages in it."""
    if place.is_file():
        return place.parent, [place.name]
    return place, sorted(page.relative_to(place).as_posix() for page in place.rglob("*.html"))


def main() -> None:
    """Look at all pages, on a wide and on a narrow screen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path, help="folders of pages, or pages")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all of them")
    parser.add_argument("--skip", help="pages whose path holds this are left out")
    parser.add_argument("--program", default="chromium")
    options = parser.parse_args()
    program = shutil.which(options.program)
    if program is None:
        sys.exit(f"there is no {options.program} here")
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    wrong, count = [], 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        for place in options.places:
            root, pages = pages_of(place)
            handler = functools.partial(_Quiet, directory=str(root))
            server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for page in pages:
                if options.skip and options.skip in page:
                    continue
                count += 1
                for name, size in SCREENS.items():
                    address = f"http://localhost:{server.server_port}/{page}"
                    said, over = browser.open(address, size)
                    wrong += [f"{page}, {name}: {one}" for one in said]
                    if over > 0:
                        wrong.append(f"{page}, {name}: {over} points wider than the screen")
                    if options.screenshots:
                        stem = page.removesuffix(".html").replace("/", "-")
                        browser.screenshot(options.screenshots / f"{stem}-{name}.png")
            server.shutdown()
        browser.close()
    for one in wrong:
        print(one)  # noqa: T201
    print(f"{count} pages, {len(wrong)} faults")  # noqa: T201
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
