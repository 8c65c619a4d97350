SELECT id, domain::text, host::text, at, body
FROM vtpm_guard.tpm_state
WHERE $1::text IS NULL OR domain = $1::text::uuid
ORDER BY at DESC, id
LIMIT $2
