"""Settings and secrets.

settings      every setting, where it was read, and what is allowed
describe      the settings as the documentation lists them
secrets       secrets at rest: AES-GCM bound to their place
database_url  the forms of a database URL that are accepted
"""
