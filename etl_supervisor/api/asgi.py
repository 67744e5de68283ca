"""The application as an object, for servers that import one: `gunicorn -k uvicorn_worker.UvicornWorker etl_supervisor.api.asgi:app`."""

from etl_supervisor.api.app import from_environment

app = from_environment()
