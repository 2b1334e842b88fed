"""The web page: static files at / and /ui, the same for everybody, so no token guards them.

The page has no data in it. What it shows it asks of the REST API, with the token that its user types in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from syncline.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent.parent / "ui"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No script may turn a string into markup: samples are text that a model wrote.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked for again each time: names carry no version, and an upgrade must show at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_FILES = {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _MEDIA_TYPES}
PATHS = frozenset({"/", "/docs", *(f"/ui/{name}" for name in _FILES)})
"""Everything that is served here; nothing else is open without a token."""


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page(request: Request) -> Response:
    return _answer(request, _FILES["index.html"])


@router.api_route("/docs", methods=["GET", "HEAD"])
async def get_docs(request: Request) -> Response:
    return _answer(request, _FILES["docs.html"])


@router.api_route("/ui/{name}", methods=["GET", "HEAD"])
async def get_file(name: str, request: Request) -> Response:
    if name not in _FILES:
        raise NotFound(f"the web page has no file {name!r}")
    return _answer(request, _FILES[name])


def _answer(request: Request, file: _File) -> Response:
    headers = _HEADERS | {"ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
