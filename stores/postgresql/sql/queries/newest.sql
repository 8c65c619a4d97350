-- Of each role that speaks for a host: another one cannot hide what the host itself has said.
SELECT DISTINCT ON (host, role) id, kind, domain::text, key_id, host::text, at, body
FROM vtpm_guard.fact
WHERE kind = $1::text
ORDER BY host, role, at DESC, id
LIMIT 10000
