-- The newest of each role first: one role cannot hide what others have stored.
SELECT id, domain::text, host::text, at, body, data
FROM (
    SELECT *, row_number() OVER (PARTITION BY role ORDER BY at DESC, id) AS rank
    FROM vtpm_guard.tpm_state
    WHERE domain = $1::text::uuid
) AS found
ORDER BY rank, at DESC, id
LIMIT 8
