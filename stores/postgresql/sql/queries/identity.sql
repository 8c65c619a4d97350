SELECT fleet.schema,
       fleet.epoch::text,
       -- The timeline: another one after a failover, or a restore to a moment. Either may have lost transactions.
       control.system_identifier || '.' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
       current_setting('server_version'),
       session_user::text,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM vtpm_guard.fleet, pg_control_system() AS control
