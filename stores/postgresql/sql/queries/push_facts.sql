-- In the order of their ids: two hosts that store the same facts do not wait for each other in a circle.
INSERT INTO vtpm_guard.fact (id, kind, domain, key_id, host, at, body)
SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[]::uuid[], $4::text[], $5::text[]::uuid[], $6::bigint[], $7::text[])
ORDER BY 1
ON CONFLICT DO NOTHING
