-- Version 1. Times are milliseconds since 1970. What other tools may not know when they
-- insert a row has a default or may be NULL. julianday, for SQLite before 3.42 has no
-- unixepoch('subsec'). UUIDs are written in lower case, and found in either.

CREATE TABLE IF NOT EXISTS key_provider (
    uuid        TEXT PRIMARY KEY COLLATE NOCASE,
    name        TEXT NOT NULL UNIQUE,
    kind        TEXT DEFAULT 'native',
    key_id      TEXT COLLATE NOCASE,
    key_version INTEGER DEFAULT 1,
    is_default  INTEGER DEFAULT 0,
    exported_at INTEGER,
    created_at  INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    updated_at  INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
) STRICT;

CREATE TABLE IF NOT EXISTS key_ref (
    id            INTEGER PRIMARY KEY,
    resource_type TEXT NOT NULL DEFAULT 'tpm',
    resource_uuid TEXT NOT NULL COLLATE NOCASE,
    secret_uuid   TEXT COLLATE NOCASE,
    provider_uuid TEXT COLLATE NOCASE REFERENCES key_provider(uuid) ON DELETE SET NULL,
    provider_name TEXT NOT NULL,
    key_version   INTEGER,
    kek_ref       TEXT,
    wrapped_dek   BLOB,
    algorithm     TEXT,
    first_used_at INTEGER,
    retired_at    INTEGER,
    created_at    INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    updated_at    INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
) STRICT;

-- A domain's rows, whatever the number of domains.
CREATE INDEX IF NOT EXISTS key_ref_resource ON key_ref (resource_type, resource_uuid);
-- The rows that lose their provider's UUID when it is deleted.
CREATE INDEX IF NOT EXISTS key_ref_provider ON key_ref (provider_uuid);

CREATE TABLE IF NOT EXISTS event (
    id          INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    domain_uuid TEXT COLLATE NOCASE,
    domain_name TEXT,
    operation   TEXT,
    decision    TEXT,
    code        TEXT,
    message     TEXT,
    repairs     TEXT DEFAULT '[]'
) STRICT;

CREATE INDEX IF NOT EXISTS event_domain ON event (domain_uuid, at);
CREATE INDEX IF NOT EXISTS event_at ON event (at);

-- A `migrate begin` or `restore begin` has announced that TPM state will arrive.
CREATE TABLE IF NOT EXISTS incoming (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    operation   TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;

-- A DEK made for a start that has not succeeded yet.
CREATE TABLE IF NOT EXISTS fresh_key (
    key_ref_id INTEGER PRIMARY KEY REFERENCES key_ref(id) ON DELETE CASCADE,
    at         INTEGER NOT NULL
) STRICT;
