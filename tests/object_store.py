"""An S3 server on loopback (moto), in an environment of its own: boto3 needs an older python-dateutil than we do."""

import fcntl
import hashlib
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = Path(__file__).with_name("object_store.lock")
BUCKET = "lake"
# moto's own command can't choose a free port. It keeps all objects in memory.
SERVE = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def object_store(log: Path) -> Iterator[dict[str, str]]:
    """Run the server with an empty bucket, and yield the variables with which programs reach it."""
    with log.open("w") as lines:
        process = subprocess.Popen([environment(), "-c", SERVE], stdout=subprocess.PIPE, stderr=lines, text=True)
    try:
        assert process.stdout
        port = process.stdout.readline().strip()
        assert port, log.read_text()
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=30):
            pass
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",  # pragma: allowlist secret
            "AWS_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.communicate()


def environment() -> Path:
    """Return the Python of the server's environment, which is made once for each content of object_store.lock.

    It is inside the environment of this program, and is removed together with it. This needs the network once.
    """
    folder = Path(sys.prefix, "object-stores")
    home = folder / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may run at the same time
        if not (home / "ready").exists():
            uv = [str(Path(sysconfig.get_path("scripts"), "uv")), "--quiet", "--no-progress"]
            own = sys._base_executable  # type: ignore[attr-defined]
            subprocess.run([*uv, "venv", "--clear", "--python", own, str(home)], check=True)
            pins = ["--require-hashes", "--only-binary", ":all:", "--requirements", str(LOCK)]
            subprocess.run([*uv, "pip", "install", "--python", str(home / "bin" / "python"), *pins], check=True)
            (home / "ready").touch()
    return home / "bin" / "python"
