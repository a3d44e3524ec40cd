"""A real nats-server of the test's own: a port that stays, JetStream in a directory that goes."""

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

_START_WITHIN = 20.0


class NatsServer:
    """Started by `start`, at the same port and with the same content again after `stop` or `kill`."""

    def __init__(self, directory: Path, *, config: str = "", limits: str = "", host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        store = json.dumps(str(directory / "jetstream"))
        self._config = directory / "nats.conf"
        self._config.write_text(f"listen: {host}:{self.port}\njetstream {{ store_dir: {store}\n{limits} }}\n{config}\n")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id while it runs."""
        if self._process is None:
            raise RuntimeError("nats-server does not run")
        return self._process.pid

    def start(self) -> None:
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        command = [str(binary) if binary.exists() else shutil.which("nats-server") or "nats-server"]
        with (self.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start: {(self.directory / 'nats.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what a power cut does to the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Forget every stream; only while stopped."""
        shutil.rmtree(self.directory / "jetstream", ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                return connection.recv(4096).startswith(b"INFO ")
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
