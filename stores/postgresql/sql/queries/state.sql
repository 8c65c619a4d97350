SELECT id, domain::text, host::text, at, body, data
FROM vtpm_guard.tpm_state
WHERE id = $1::bytea
ORDER BY at DESC
LIMIT 1
