-- Version 5: a fleet's shared store. Every statement may run again: another tool may have made a part of it.

-- This host's membership: one row, or none where it is in no fleet. `system` and `epoch` tell the database
-- that was last exchanged with from another one; `witness` is the last fact that this host has stored there: a database
-- that has it no more was restored from a backup. `cursor` is how far it has been read. The times are of the last
-- exchange, and of the last comparison of everything.
CREATE TABLE IF NOT EXISTS fleet (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    host_uuid   TEXT NOT NULL,
    host_name   TEXT NOT NULL,
    joined_at   INTEGER NOT NULL,
    system      TEXT NOT NULL DEFAULT '',
    epoch       TEXT NOT NULL DEFAULT '',
    cursor      TEXT NOT NULL DEFAULT '',
    witness     BLOB,
    synced_at   INTEGER,
    compared_at INTEGER
) STRICT;

-- What was changed here and the fleet does not know yet: written in the transaction of the change. `what` says
-- which of the columns after it name the subject.
CREATE TABLE IF NOT EXISTS fleet_outbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    what        TEXT NOT NULL,
    domain_uuid TEXT NOT NULL DEFAULT '' COLLATE NOCASE,
    wrapped_dek BLOB NOT NULL DEFAULT x'',
    event_id    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS fleet_outbox_subject
    ON fleet_outbox (what, domain_uuid, wrapped_dek, event_id);

-- The facts that this host knows, its own and those of others, as they travel. Of a status `subject` is the
-- key, and the columns after it say what counts.
CREATE TABLE IF NOT EXISTS fleet_fact (
    id          BLOB PRIMARY KEY,
    kind        TEXT NOT NULL,
    domain_uuid TEXT,
    key_id      TEXT,
    host_uuid   TEXT NOT NULL,
    at          INTEGER NOT NULL,
    body        TEXT NOT NULL,
    subject     BLOB,
    revision    INTEGER,
    status      TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS fleet_fact_subject ON fleet_fact (subject) WHERE subject IS NOT NULL;
CREATE INDEX IF NOT EXISTS fleet_fact_domain ON fleet_fact (domain_uuid);
CREATE INDEX IF NOT EXISTS fleet_fact_kind ON fleet_fact (kind);

-- Keys of which new facts are known, until the rows that follow from them are written.
CREATE TABLE IF NOT EXISTS fleet_pending (
    id BLOB PRIMARY KEY
) STRICT;

-- What was asked of the shared store up to the cursor: provider keys and guests. What is new here is asked for
-- from the beginning.
CREATE TABLE IF NOT EXISTS fleet_scope (
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT;

-- Announced provider keys that were deleted on this host: they are not opened again unasked.
CREATE TABLE IF NOT EXISTS fleet_declined (
    key_id TEXT PRIMARY KEY
) STRICT;

-- Where each host has said last that a guest runs, or has stopped.
CREATE TABLE IF NOT EXISTS fleet_placement (
    domain_uuid TEXT NOT NULL COLLATE NOCASE,
    host_uuid   TEXT NOT NULL,
    host_name   TEXT NOT NULL,
    domain_name TEXT NOT NULL,
    at          INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    PRIMARY KEY (domain_uuid, host_uuid)
) STRICT;

-- The TPM state of a guest that has stopped, encrypted, until it is in the shared store.
CREATE TABLE IF NOT EXISTS fleet_state (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    at          INTEGER NOT NULL,
    body        TEXT NOT NULL,
    data        BLOB NOT NULL
) STRICT;
