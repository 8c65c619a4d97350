SELECT DISTINCT ON (host) id, kind, domain::text, key_id, host::text, at, body
FROM vtpm_guard.fact
WHERE kind = $1::text
ORDER BY host, at DESC, id
LIMIT 10000
