"""How the API server is reached; what is asked of it is in tests/kubernetes/test_pod_watch.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aiohttp import web

from services.coordinator.cluster import kubernetes


async def test_a_proxy_of_the_environment_is_not_asked_for_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pods(request: web.Request) -> web.Response:
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/lab/pods", pods)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    kubeconfig = tmp_path / "kubeconfig"
    settings = {
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {"token": "a"}}],
        "current-context": "test",
    }
    kubeconfig.write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")  # as clusters write it, and Python does not read it
    try:
        async with kubernetes.connected(kubeconfig) as api:
            found = await kubernetes.client.CoreV1Api(api).list_namespaced_pod("lab")
            assert found.items == []
    finally:
        await runner.cleanup()
