-- If there is too much, each role gets its share: one cannot hide what others have stored.
WITH own AS (
    SELECT *, row_number() OVER (PARTITION BY role, kind ORDER BY at DESC, id) AS rank
    FROM vtpm_guard.fact
    WHERE domain = $1::text::uuid AND kind IN ('key', 'status')
), placements AS (
    -- Of each host the newest. For whom a role speaks it says itself: those have their places in its share, too.
    SELECT *, row_number() OVER (PARTITION BY role ORDER BY at DESC, id) AS rank
    FROM (
        SELECT DISTINCT ON (role, host) *
        FROM vtpm_guard.fact
        WHERE domain = $1::text::uuid AND kind = 'placement'
        ORDER BY role, host, at DESC, id
    ) AS newest
), ways AS (
    SELECT *, row_number() OVER (PARTITION BY role, kind ORDER BY at DESC, id) AS rank
    FROM vtpm_guard.fact
    WHERE kind IN ('provider', 'slot') AND key_id IN (SELECT key_id FROM own WHERE kind = 'key')
), found AS (
    SELECT * FROM own UNION ALL SELECT * FROM placements UNION ALL SELECT * FROM ways
)
SELECT id, kind, domain::text, key_id, host::text, at, body
FROM found
ORDER BY rank, kind, at DESC, id
LIMIT 1000
