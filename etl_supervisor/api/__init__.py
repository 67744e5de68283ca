"""The control plane: a REST API over sources, destinations and pipelines.

app          the application, put together from settings
asgi         the same as an object that gunicorn and uvicorn import
worker       one of several processes under another program: they count together
serve        an HTTP server for it: alone, or as the supervisor's child
process      the child
control      what every route works with: settings, pool, keyring, state store
pool         connections to the config database
access       API keys, roles, tenants
caller       who asks, and what a role includes
operations   what takes longer than a request
sessions     connections to sources and destinations, for a look
guard        limits on requests, security headers, the log line of each
faults       the one form of every error
catalogue    every error there is: name, status, when
openapi      what /openapi.json says of the errors of each route
bodies       what is sent and what comes back
files        files of this machine that a body may name
cursors      where a page of a list ends
rows         rows of the three tables: read, made, changed, deleted
audit        who changed what, before and after
idempotency  a create that may be sent twice
pages        /docs and /redoc without the internet
routes       the routes
"""
