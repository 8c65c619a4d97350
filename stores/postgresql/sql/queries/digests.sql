SELECT get_byte(id, 0), sha256(string_agg(id, '' ORDER BY id))
FROM vtpm_guard.in_scope($1::text[], $2::text[], $3::text[], $4::text[]::uuid[])
GROUP BY get_byte(id, 0)
