"""The page at /docs: Swagger UI from files of this machine, for networks without a way out."""

from importlib import resources, util

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

_PACKAGE = "fastapi_offline"  # holds the scripts of Swagger UI
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src "
    "'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_docs(app: FastAPI) -> None:
    """Adds /docs; without the package that holds its scripts, the page says what to install."""
    installed = util.find_spec(_PACKAGE) is not None
    if installed:
        static = resources.files(_PACKAGE) / "static"
        app.mount("/docs/static", StaticFiles(directory=str(static)))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        if not installed:
            raise HTTPException(
                404, "pip install fastapi-offline for this page; the schema is at /openapi.json"
            )
        page = get_swagger_ui_html(
            openapi_url="openapi.json",  # relative: the service may be behind a prefix
            title="metasd",
            swagger_js_url="docs/static/swagger-ui-bundle.js",
            swagger_css_url="docs/static/swagger-ui.css",
            swagger_favicon_url="data:,",
        )
        page.headers.update(_SECURITY)
        return page
