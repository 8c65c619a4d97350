-- Version 4. Every statement may run again: another tool may have made a part of it.

-- A slot: one way to the bits of a provider key (KEK). `kms` names a section of the configuration, `blob` is what
-- the key manager made of the KEK. The sealed key of this host and the recovery file are no rows here.
CREATE TABLE IF NOT EXISTS kek_slot (
    slot_uuid      TEXT PRIMARY KEY COLLATE NOCASE,
    key_id         TEXT NOT NULL COLLATE NOCASE,
    kind           TEXT NOT NULL,
    label          TEXT,
    kms            TEXT NOT NULL,
    remote_key     TEXT NOT NULL,
    remote_version TEXT,
    blob           BLOB NOT NULL,
    verified_at    INTEGER,
    created_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS kek_slot_by_key ON kek_slot (key_id);
