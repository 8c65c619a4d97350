-- What hosts may do: add facts and states, and read them. Each host has a login role in this group.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vtpm_guard_host') THEN
        CREATE ROLE vtpm_guard_host NOLOGIN;
    END IF;
END
$$;

REVOKE ALL ON SCHEMA vtpm_guard FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA vtpm_guard FROM PUBLIC, vtpm_guard_host;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA vtpm_guard FROM PUBLIC, vtpm_guard_host;

GRANT USAGE ON SCHEMA vtpm_guard TO vtpm_guard_host;
GRANT SELECT ON vtpm_guard.fleet, vtpm_guard.fact, vtpm_guard.tpm_state TO vtpm_guard_host;
GRANT INSERT (id, kind, domain, key_id, host, at, body) ON vtpm_guard.fact TO vtpm_guard_host;
GRANT INSERT (id, domain, host, at, body, data) ON vtpm_guard.tpm_state TO vtpm_guard_host;
GRANT EXECUTE ON FUNCTION vtpm_guard.in_scope(text[], text[], text[], uuid[]) TO vtpm_guard_host;
