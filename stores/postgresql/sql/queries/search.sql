SELECT id, kind, domain::text, key_id, host::text, at, body
FROM vtpm_guard.fact
WHERE kind = ANY ($1::text[])
  AND ($2::text IS NULL OR domain = $2::text::uuid)
  AND ($3::text IS NULL OR host = $3::text::uuid)
  AND ($4::bigint IS NULL OR at >= $4::bigint)
  AND ($5::bigint IS NULL OR at < $5::bigint)
ORDER BY at DESC, id
LIMIT $6
