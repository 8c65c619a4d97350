-- What the hosts of a fleet tell each other (version 1 of the schema).
-- Facts are added and read; hosts can neither change nor remove one.

CREATE SCHEMA vtpm_guard;

-- One row: which fleet this is.
CREATE TABLE vtpm_guard.fleet (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Another one in a database that was made again.
    epoch   uuid NOT NULL DEFAULT gen_random_uuid(),
    schema  integer NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE vtpm_guard.fact (
    id      bytea PRIMARY KEY,
    kind    text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 32),
    domain  uuid,
    key_id  text COLLATE "C" CHECK (key_id ~ '^[0-9a-f]{32}$'),
    host    uuid NOT NULL,
    -- Milliseconds since 1970, by the clock of the host that made it.
    at      bigint NOT NULL,
    body    text NOT NULL CHECK (octet_length(body) <= 262144),
    -- Who stored it, and in which transaction. Hosts cannot set these.
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    role    name NOT NULL DEFAULT session_user,
    -- A row with the id of another fact would keep that one out.
    CONSTRAINT fact_is_what_its_id_says CHECK ((id = CASE kind
        WHEN 'key' THEN sha256(uuid_send(domain) || decode(body::json ->> 'key', 'base64'))
        ELSE sha256(convert_to(kind, 'UTF8') || '\x00' || convert_to(body, 'UTF8'))
    END) IS TRUE)
);
-- What has been stored since a host last asked: a fact's own transaction may end long after a later one.
CREATE INDEX fact_new ON vtpm_guard.fact (made_in, kind, id);
CREATE INDEX fact_of_guest ON vtpm_guard.fact (domain, kind, at) WHERE domain IS NOT NULL;
CREATE INDEX fact_of_key ON vtpm_guard.fact (key_id, kind) WHERE key_id IS NOT NULL;
CREATE INDEX fact_recent ON vtpm_guard.fact (kind, at);
CREATE INDEX fact_of_host ON vtpm_guard.fact (kind, host, at);

-- What concerns every host is kept by every host, up to 10000 of a kind. One role stores less than that: a host that has been
-- taken over cannot keep others from being heard. What is too much is left out with a warning in the server's log; an
-- error would keep back the guests' keys that are stored with it.
CREATE INDEX fact_of_role ON vtpm_guard.fact (role, kind) WHERE kind IN ('provider', 'slot', 'successor', 'host');

CREATE FUNCTION vtpm_guard.leave_out_too_much() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM vtpm_guard.fact WHERE id = NEW.id)
       OR (SELECT count(*) FROM vtpm_guard.fact
           WHERE role = NEW.role AND kind = NEW.kind
             AND kind IN ('provider', 'slot', 'successor', 'host')) < 4000 THEN
        RETURN NEW;
    END IF;
    RAISE WARNING 'vtpm_guard: role "%" has stored 4000 facts of the kind %, another one is left out', NEW.role, NEW.kind;
    RETURN NULL;
END
$$;
CREATE TRIGGER leave_out_too_much BEFORE INSERT ON vtpm_guard.fact
FOR EACH ROW WHEN (NEW.kind IN ('provider', 'slot', 'successor', 'host'))
EXECUTE FUNCTION vtpm_guard.leave_out_too_much();

-- Encrypted TPM states of guests that have stopped. After a run that has changed nothing the same bytes are of a
-- later time.
CREATE TABLE vtpm_guard.tpm_state (
    id      bytea NOT NULL,
    domain  uuid NOT NULL,
    host    uuid NOT NULL,
    at      bigint NOT NULL,
    body    text NOT NULL CHECK (octet_length(body) <= 262144),
    data    bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 524288),
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    role    name NOT NULL DEFAULT session_user,
    PRIMARY KEY (id, role, at),
    CONSTRAINT state_is_what_its_id_says CHECK (id = sha256(uuid_send(domain) || data))
);
-- It is encrypted: compressing it again is in vain.
ALTER TABLE vtpm_guard.tpm_state ALTER data SET STORAGE EXTERNAL;
CREATE INDEX state_of_guest ON vtpm_guard.tpm_state (domain, role, at);
CREATE INDEX state_recent ON vtpm_guard.tpm_state (at);

-- Of each guest, the newest three states that a role has stored: one host cannot push out those of others.
CREATE FUNCTION vtpm_guard.keep_newest_states() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM vtpm_guard.tpm_state AS kept
    WHERE kept.id = NEW.id AND kept.role = NEW.role AND EXISTS (
        SELECT FROM vtpm_guard.tpm_state AS later
        WHERE later.id = kept.id AND later.role = kept.role AND later.at > kept.at);
    DELETE FROM vtpm_guard.tpm_state AS kept
    WHERE kept.domain = NEW.domain AND kept.role = NEW.role AND kept.id NOT IN (
        SELECT newest.id FROM vtpm_guard.tpm_state AS newest
        WHERE newest.domain = NEW.domain AND newest.role = NEW.role
        ORDER BY newest.at DESC, newest.id LIMIT 3);
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_newest AFTER INSERT ON vtpm_guard.tpm_state
FOR EACH ROW EXECUTE FUNCTION vtpm_guard.keep_newest_states();

-- The facts that concern a host.
CREATE FUNCTION vtpm_guard.in_scope(always text[], scoped text[], key_ids text[], domains uuid[])
RETURNS SETOF vtpm_guard.fact LANGUAGE sql STABLE AS $$
    SELECT * FROM vtpm_guard.fact
    WHERE kind = ANY (always)
       OR (kind = ANY (scoped) AND (key_id = ANY (key_ids) OR domain = ANY (domains)))
$$;

-- For the owner: removes old history, placements and reports, but the newest of each guest and host.
CREATE FUNCTION vtpm_guard.trim(older_than interval) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  bigint := extract(epoch FROM now() - older_than) * 1000;
    removed bigint;
BEGIN
    DELETE FROM vtpm_guard.fact AS past
    WHERE past.at < before AND (past.kind = 'event'
        OR (past.kind IN ('placement', 'report') AND EXISTS (
            SELECT FROM vtpm_guard.fact AS newer
            WHERE newer.kind = past.kind AND newer.host = past.host
              AND newer.domain IS NOT DISTINCT FROM past.domain AND newer.at > past.at)));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

-- For people.
CREATE VIEW vtpm_guard.facts AS
SELECT to_timestamp(at / 1000.0) AS at, kind, domain, host, key_id, role, body::json AS body
FROM vtpm_guard.fact;

CREATE VIEW vtpm_guard.states AS
SELECT to_timestamp(at / 1000.0) AS at, domain, host, role, octet_length(data) AS bytes, body::json AS body
FROM vtpm_guard.tpm_state;

CREATE VIEW vtpm_guard.hosts AS
SELECT DISTINCT ON (host) host, role, to_timestamp(at / 1000.0) AS last_fact, kind
FROM vtpm_guard.fact ORDER BY host, at DESC;

INSERT INTO vtpm_guard.fleet (schema) VALUES (1);
