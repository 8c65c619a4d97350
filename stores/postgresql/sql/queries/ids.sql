SELECT id
FROM vtpm_guard.in_scope($1::text[], $2::text[], $3::text[], $4::text[]::uuid[])
WHERE get_byte(id, 0) = ANY ($5::int[])
ORDER BY id
LIMIT $6
