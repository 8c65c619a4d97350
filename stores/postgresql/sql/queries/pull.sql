-- Ordered by the number of the transaction, not by its digits: the column that is read has another name.
SELECT id, kind, domain::text, key_id, host::text, at, body, made_in::text AS transaction
FROM vtpm_guard.in_scope($1::text[], $2::text[], $3::text[], $4::text[]::uuid[])
WHERE (made_in, kind, id) > ($5::text::xid8, $6::text, $7::bytea) AND made_in < $8::text::xid8
ORDER BY made_in, kind, id
LIMIT $9
