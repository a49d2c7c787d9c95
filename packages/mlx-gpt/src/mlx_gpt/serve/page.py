"""The chat page: its files from memory, with headers under which nothing else can run or load."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response

FOLDER = Path(__file__).parent / "page"

# Not from `mimetypes`: what the machine has configured may name others, which browsers refuse.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Scripts and styles are files of this server, requests go to it alone, and `trusted-types`
# forbids to parse a text as HTML: a script that a model writes stays a text even by a fault here.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), clipboard-write=(self)",
    "Cache-Control": "no-cache",  # kept, but asked for again: an update of mlx-gpt shows at once
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page; `tag` changes with its content."""

    content: bytes
    media_type: str
    tag: str


def add_page(app: FastAPI) -> None:
    """Serve the chat page at `/`, and its scripts and styles under `/page/`.

    These routes hold no secret, so they need no key: the page asks for it when `/v1` does.
    """
    files = read_files()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return answer(request, files["index.html"])

    @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page_file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return answer(request, files[name])


def read_files() -> dict[str, PageFile]:
    """Return the files of the page by name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if media_type := MEDIA_TYPES.get(path.suffix):
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = PageFile(content, media_type, tag)
    return found


def answer(request: Request, file: PageFile) -> Response:
    """Return a file, or that the browser's copy is still right."""
    headers = HEADERS | {"ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
