SELECT id, kind, domain::text, key_id, host::text, at, body
FROM vtpm_guard.fact
WHERE id = ANY ($1::bytea[])
