"""Settings and secrets.

settings      every setting, where it was read, and what is allowed
reading       the environment, .env and YAML files, and what is said of a key that is not known
describe      the settings as the documentation lists them
secrets       secrets at rest: AES-GCM bound to their place
coredumps     no core dumps of a process that holds keys
addresses     e-mail addresses as a mail has them
database_url  the forms of a database URL that are accepted
"""
