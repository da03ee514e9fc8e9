"""A process with the real Hub client, whose settings are read once at its start; it runs what it is told, step by step.

Run as a script it is that process: a line of JSON in, a line of JSON out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


class HubClient:
    """The handle of such a process.

    Args:
        hub: The `HubServer` it talks to.
        home: Its `HF_HOME`: cache and, if there were one, the stored token.
        offline: Start it with `HF_HUB_OFFLINE`.
        without_halflabel: In it `import halflabel` fails, as where it is not installed.
    """

    def __init__(self, hub, home, offline=False, without_halflabel=False):
        self.home = home
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8",
        }  # fmt: skip
        if not without_halflabel:
            environment["PYTHONPATH"] = str(SOURCE)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(int(without_halflabel))], env=environment, cwd=home, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def _ask(self, **step):
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def halflabel(self, *arguments, token="hf_alice"):
        """Run a command of halflabel with a token, and return exit code, output and errors."""
        answer = self._ask(arguments=[str(one) for one in arguments], token=token)
        return answer["code"], answer["out"], answer["err"]

    def python(self, code, token="hf_alice", **values):
        """Run code with a token, and return what it leaves in `answer`, or an error as "its type: its message"."""
        return self._ask(code=code, token=token, values={key: str(value) for key, value in values.items()})["answer"]

    def stop(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _serve(without_halflabel):
    import contextlib
    import io

    if without_halflabel:
        sys.modules["halflabel"] = sys.modules["halflabel_cli"] = None
    channel, sys.stdout = sys.stdout, sys.stderr
    names = {}
    for line in sys.stdin:
        step = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if step["token"]:
            os.environ["HF_TOKEN"] = step["token"]
        if "arguments" in step:
            from halflabel_cli import main

            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(step["arguments"])
            answer = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
        else:
            names.update(step["values"], answer=None)
            try:
                exec(step["code"], names)
            except Exception as error:
                names["answer"] = f"{type(error).__name__}: {error}"
            answer = {"answer": names["answer"]}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    _serve(sys.argv[1] == "1")
