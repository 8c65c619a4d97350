-- A store of schema version 3 as the dump of Debian 12's sqlite3 writes it; the two pragmas at
-- the end are what a dump leaves out. Never edited: stores like it are out there.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE key_provider (
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
INSERT INTO key_provider VALUES('a0000000-0000-4000-8000-00000000000a','nkp-a','native','3f2a9c013f2a9c013f2a9c013f2a9c01',1,1,1700000000005,1700000000000,1700000000000);
CREATE TABLE key_ref (
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
INSERT INTO key_ref VALUES(1,'tpm','d0000000-0000-4000-8000-000000000001','50000000-0000-4000-8000-000000000001','a0000000-0000-4000-8000-00000000000a','nkp-a',1,'native:3f2a9c013f2a9c013f2a9c013f2a9c01',X'0177726170706564','hkdf-sha256+aes-256-gcm',1700000000009,NULL,1700000000001,1700000000009);
INSERT INTO key_ref VALUES(2,'tpm','d0000000-0000-4000-8000-000000000001',NULL,'a0000000-0000-4000-8000-00000000000a','nkp-a',1,'native:3f2a9c013f2a9c013f2a9c013f2a9c01',X'02','hkdf-sha256+aes-256-gcm',NULL,1700000000007,1700000000002,1700000000007);
INSERT INTO key_ref VALUES(3,'tpm','d0000000-0000-4000-8000-000000000002',NULL,'a0000000-0000-4000-8000-00000000000a','nkp-a',NULL,NULL,NULL,NULL,NULL,NULL,1700000000003,1700000000003);
CREATE TABLE event (
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
INSERT INTO event VALUES(1,1700000000004,'d0000000-0000-4000-8000-000000000001','vm1','prepare','allow',NULL,'it starts','[]');
INSERT INTO event VALUES(2,1700000000006,'d0000000-0000-4000-8000-000000000002','vm2','prepare','deny','VG201','no key','[]');
CREATE TABLE fresh_key (
    key_ref_id INTEGER PRIMARY KEY REFERENCES key_ref(id) ON DELETE CASCADE,
    at         INTEGER NOT NULL
) STRICT;
CREATE TABLE arriving (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    domain_name TEXT NOT NULL DEFAULT '',
    operation   TEXT NOT NULL,
    daemon      TEXT NOT NULL DEFAULT '',
    at          INTEGER NOT NULL
) STRICT;
INSERT INTO arriving VALUES('d0000000-0000-4000-8000-000000000002','vm2','migrate','5 500 6',1700000000008);
CREATE TABLE seen_state (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    domain_name TEXT NOT NULL,
    secret_uuid TEXT COLLATE NOCASE,
    path        TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
INSERT INTO seen_state VALUES('d0000000-0000-4000-8000-000000000001','vm1','50000000-0000-4000-8000-000000000001','/var/lib/libvirt/swtpm/d0000000-0000-4000-8000-000000000001/tpm2/tpm2-00.permall',1700000000009);
CREATE TABLE clients_key (
    domain_uuid TEXT PRIMARY KEY COLLATE NOCASE,
    at          INTEGER NOT NULL
) STRICT;
INSERT INTO clients_key VALUES('d0000000-0000-4000-8000-000000000002',1700000000010);
CREATE TABLE written_key (
    domain_uuid TEXT NOT NULL COLLATE NOCASE,
    wrapped_dek BLOB NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (domain_uuid, wrapped_dek)
) STRICT;
CREATE INDEX key_ref_resource ON key_ref (resource_type, resource_uuid);
CREATE INDEX key_ref_provider ON key_ref (provider_uuid);
CREATE INDEX event_domain ON event (domain_uuid, at);
CREATE INDEX event_at ON event (at);
CREATE INDEX key_ref_secret ON key_ref (secret_uuid);
COMMIT;
PRAGMA application_id = 0x7654504D;
PRAGMA user_version = 3;
