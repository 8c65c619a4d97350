-- Version 2. Every statement may run again: another tool may have made a part of it.

-- A note of an announcement lives for seconds; those of version 1 are not worth keeping.
DROP TABLE IF EXISTS incoming;

-- A `migrate begin` or `restore begin` has announced that TPM state will arrive, for one
-- attempt of one daemon: `daemon` is its process and the thread that called the hook,
-- "PID START-TIME THREAD" (proc(5), field 22 of stat), empty where they could not be found.
CREATE TABLE IF NOT EXISTS arriving (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    domain_name TEXT NOT NULL DEFAULT '',
    operation   TEXT NOT NULL,
    daemon      TEXT NOT NULL DEFAULT '',
    at          INTEGER NOT NULL
) STRICT;

-- A guest has run, and its TPM had state at this path, whether or not the guard has its key.
CREATE TABLE IF NOT EXISTS seen_state (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    domain_name TEXT NOT NULL,
    secret_uuid TEXT COLLATE NOCASE,
    path        TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;

-- Which guests use a secret, for guests that share one.
CREATE INDEX IF NOT EXISTS key_ref_secret ON key_ref (secret_uuid);

-- The guest's last allowed start went by a key that whoever started it brought along.
CREATE TABLE IF NOT EXISTS clients_key (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    at          INTEGER NOT NULL
) STRICT;
