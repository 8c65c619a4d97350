-- All transactions below this are over, and what they have stored can be seen.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text
