INSERT INTO vtpm_guard.tpm_state (id, domain, host, at, body, data)
SELECT * FROM unnest($1::bytea[], $2::text[]::uuid[], $3::text[]::uuid[], $4::bigint[], $5::text[], $6::bytea[])
ORDER BY 1
ON CONFLICT DO NOTHING
