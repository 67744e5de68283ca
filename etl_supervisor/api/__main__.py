"""`python -m etl_supervisor.api`: the API alone, as `etl-supervisor api`."""

import sys

from etl_supervisor.api.serve import serve_alone
from etl_supervisor.config.coredumps import forbid_core_dumps
from etl_supervisor.config.settings import load
from etl_supervisor.errors import EtlError
from etl_supervisor.exits import code_of
from etl_supervisor.monitor import logs

if __name__ == "__main__":
    forbid_core_dumps()
    try:
        settings = load()
        logs.configure(settings, process="api")
        serve_alone(settings)
    except EtlError as error:
        sys.stderr.write(f"etl-supervisor: {error.line}\n")
        sys.exit(code_of(error.kind))
