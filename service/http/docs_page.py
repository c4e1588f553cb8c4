"""``/docs``: Swagger UI from files of this installation, so that it works without a network and asks no other host."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import fastapi_offline
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
KINDS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
    "start.js": "text/javascript; charset=utf-8",
}
PATHS = frozenset({"/docs", *(f"/docs/{name}" for name in KINDS)})

# Paths without a slash in front, so that they also hold behind a proxy that publishes the service under a path.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>qshower</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null,
});
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> Response:
    """The interface to click through."""
    return Response(_PAGE, headers=HEADERS, media_type="text/html")


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    """A script, style sheet or image of it."""
    if name not in KINDS:
        raise HTTPException(404, "no such file")
    return Response(_content(name), headers={**HEADERS, "Cache-Control": "max-age=3600"}, media_type=KINDS[name])


@cache
def _content(name: str) -> bytes:
    return _START.encode() if name == "start.js" else (files(fastapi_offline) / "static" / name).read_bytes()
