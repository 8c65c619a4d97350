-- Of each role that speaks for a host: another one cannot hide what the host itself has said, nor can its many reports, or a
-- clock that was a day ahead.
SELECT id, kind, domain, key_id, host, at, body
FROM (
    SELECT *, row_number() OVER (PARTITION BY role ORDER BY at DESC, id) AS rank
    FROM (
        SELECT DISTINCT ON (host, role) id, kind, domain::text, key_id, host::text, at, body, role
        FROM vtpm_guard.fact
        WHERE kind = $1::text AND at < (extract(epoch FROM now()) + 86400) * 1000
        ORDER BY host, role, at DESC, id
    ) AS newest
) AS ranked
ORDER BY rank, at DESC, id
LIMIT 10000
