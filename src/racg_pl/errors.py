"""The one exception for a user's mistake: `racg` prints its message as one line and exits with status 2, without a traceback."""


class DataError(ValueError):
    """Bad input. The message names the file, the record and the mend: "FILE: record 7: expected …, got …"."""
