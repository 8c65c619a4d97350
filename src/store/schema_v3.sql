-- Version 3. Every statement may run again: another tool may have made a part of it.

-- A wrapped key that `sync` has written into the metadata of a guest, or is about to: with
-- `fleet.metadata = "off"` it removes these alone. One that a hand or another host wrote is not here.
CREATE TABLE IF NOT EXISTS written_key (
    domain_uuid TEXT NOT NULL COLLATE NOCASE,
    wrapped_dek BLOB NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (domain_uuid, wrapped_dek)
) STRICT;
