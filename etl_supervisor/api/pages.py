"""/docs (Swagger UI) and /redoc, with scripts of our own server: no page loads anything from the internet.

The files come with the package fastapi-offline."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS = "/docs-assets"
# Swagger UI and ReDoc style and start themselves by inline code; ReDoc searches in a worker.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self' data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'"
)


def add(app: FastAPI) -> None:
    """Both pages and what they load."""
    files = str(resources.files("fastapi_offline") / "static")
    app.mount(ASSETS, StaticFiles(directory=files), name="docs-assets")
    openapi = app.openapi_url or ""
    icon = f"{ASSETS}/favicon.png"

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        script, style = f"{ASSETS}/swagger-ui-bundle.js", f"{ASSETS}/swagger-ui.css"
        return _page(
            get_swagger_ui_html(
                openapi_url=openapi,
                title=app.title,
                swagger_js_url=script,
                swagger_css_url=style,
                swagger_favicon_url=icon,
            )
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> Response:
        script = f"{ASSETS}/redoc.standalone.js"
        return _page(
            get_redoc_html(
                openapi_url=openapi,
                title=app.title,
                redoc_js_url=script,
                redoc_favicon_url=icon,
                with_google_fonts=False,
            )
        )


def _page(page: HTMLResponse) -> HTMLResponse:
    page.headers["Content-Security-Policy"] = _POLICY
    return page
