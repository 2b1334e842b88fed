"""A real control plane on this machine: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, no nodes.

`build` beside this file makes the programs. Everything listens on one address, and lives in one folder until `stop`.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[3]
PROGRAMS = PROJECT / ".cache" / "control-plane" / "bin"
_TOKEN = "the-tests-own-administrator"
_UP_WITHIN_S = 120.0
_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}


def is_built() -> bool:
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    return all((PROGRAMS / name).exists() for name in names)


class ControlPlane:
    """Started by `with`. `kubeconfig` is an administrator's."""

    def __init__(self, folder: Path, *, address: str = "127.0.0.1") -> None:
        self.folder = folder
        self.address = address
        self.etcd_port, self._peer_port, self.port = (_free_port(address) for _ in range(3))
        self.token = _TOKEN
        self.url = f"https://{address}:{self.port}"
        self.kubeconfig = folder / "kubeconfig"
        self._key = folder / "service-accounts.key"
        self.ca_file = folder / "certs" / "apiserver.crt"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ControlPlane:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["openssl", "genrsa", "-out", str(self._key), "2048"], **_QUIET)
        (self.folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        self.write_kubeconfig(self.kubeconfig, token=_TOKEN)
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_all(self) -> None:
        etcd, peers = (f"http://{self.address}:{port}" for port in (self.etcd_port, self._peer_port))
        self._start(
            "etcd",
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *(
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"default={peers}",
            ),
        )
        self._start_api_server()
        self._start(
            "kube-controller-manager",
            *(f"--kubeconfig={self.kubeconfig}", f"--service-account-private-key-file={self._key}"),
            *(f"--root-ca-file={self.ca_file}", "--use-service-account-credentials", "--leader-elect=false"),
            *("--port=0", f"--secure-port={_free_port(self.address)}", f"--bind-address={self.address}"),
            "--controllers=*",
        )
        self._start(
            "kube-scheduler",
            *(f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--port=0"),
            *(f"--secure-port={_free_port(self.address)}", f"--bind-address={self.address}"),
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        until(lambda: "metadata" in self.get(account), what="the controllers to work", within_s=_UP_WITHIN_S)

    def _start_api_server(self) -> None:
        self._start(
            "kube-apiserver",
            *(f"--etcd-servers=http://{self.address}:{self.etcd_port}", f"--cert-dir={self.folder / 'certs'}"),
            *(f"--secure-port={self.port}", "--insecure-port=0"),
            *(f"--bind-address={self.address}", f"--advertise-address={self.address}"),
            *("--service-cluster-ip-range=10.96.0.0/24", "--service-account-issuer=https://kubernetes.default.svc"),
            *(f"--service-account-signing-key-file={self._key}", f"--service-account-key-file={self._key}"),
            *("--authorization-mode=RBAC", f"--token-auth-file={self.folder / 'tokens.csv'}"),
            "--allow-privileged=true",
        )
        until(lambda: self.get("/readyz", raw=True) == "ok", what="the API server to be ready", within_s=_UP_WITHIN_S)

    def _start(self, program: str, *arguments: str) -> None:
        log = (self.folder / f"{program}.log").open("ab")
        command = ["setpriv", "--pdeathsig=KILL", str(PROGRAMS / program), *arguments]  # nothing outlives the tests
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "ETCD_UNSUPPORTED_ARCH": ""}
        self._processes[program] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    # -- talking to it --------------------------------------------------------------------------------

    def get(self, path: str, *, raw: bool = False) -> Any:
        """The answer to a GET; {} (or "") while there is none."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {_TOKEN}"})
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
        )
        try:
            with opener.open(request, timeout=5) as answer:
                text = answer.read().decode()
                return text if raw else json.loads(text)
        except (urllib.error.URLError, OSError):
            return "" if raw else {}

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Output of kubectl; fails the test where kubectl fails."""
        done = self.try_kubectl(*arguments, stdin=stdin, kubeconfig=kubeconfig)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(manifests))

    def freeze(self) -> None:
        """The API server answers nobody, and keeps its connections, until `thaw`."""
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def restart_api_server(self) -> None:
        """Another process on the same data; it knows no history from before its start."""
        self._processes["kube-apiserver"].kill()  # a polite end waits for every watch, and those never end
        self._processes["kube-apiserver"].wait(timeout=30)
        self._start_api_server()

    def token_of(self, namespace: str, account: str) -> str:
        """The token of a service account, as its pods find it."""
        until(lambda: self._secret_of(namespace, account), what=f"a token of {account}")
        return base64.b64decode(self._secret_of(namespace, account)["data"]["token"]).decode()

    def _secret_of(self, namespace: str, account: str) -> dict[str, Any]:
        found = self.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}").get("secrets")
        secret: dict[str, Any] = self.get(f"/api/v1/namespaces/{namespace}/secrets/{found[0]['name']}") if found else {}
        return secret

    def compact(self) -> None:
        """Make etcd forget all history: an older resource version is answered with 410 Gone from now on."""
        body = json.dumps({"revision": self.get("/api/v1/namespaces")["metadata"]["resourceVersion"]}).encode()
        request = urllib.request.Request(f"http://{self.address}:{self.etcd_port}/v3/kv/compaction", data=body)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            answer.read()

    def write_kubeconfig(self, file: Path, *, token: str, url: str = "") -> Path:
        """A kubeconfig for a bearer token, by way of `url` where that is not the server's own."""
        cluster = {"server": url or self.url, "insecure-skip-tls-verify": True}
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        file.write_text(yaml.safe_dump(settings))
        file.chmod(0o600)
        return file


def until(condition: Callable[[], Any], *, what: str, within_s: float = 60.0) -> None:
    """Wait for a condition; says what did not come."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain for {what}"
        time.sleep(0.1)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
