"""The application as an object, for servers that import one: `gunicorn -k uvicorn_worker.UvicornWorker etl_supervisor.api.asgi:app`."""

from etl_supervisor.api import worker
from etl_supervisor.config.settings import load

_settings = load()
worker.join(_settings)

from etl_supervisor.api.app import of_settings  # noqa: E402 - metrics count where `join` has said

app = of_settings(_settings)
