-- Roles and the database, as a superuser. vtpm-guard runs none of this.

CREATE ROLE vtpm_guard_owner LOGIN;
CREATE ROLE vtpm_guard_host NOLOGIN;
CREATE DATABASE vtpm_guard OWNER vtpm_guard_owner;
REVOKE ALL ON DATABASE vtpm_guard FROM PUBLIC;
GRANT CONNECT ON DATABASE vtpm_guard TO vtpm_guard_host;

-- Each host, by the name in its certificate, or with a password (psql: \password "host1.example.com").
CREATE ROLE "host1.example.com" LOGIN IN ROLE vtpm_guard_host;

-- Connected to the database vtpm_guard:
REVOKE ALL ON SCHEMA public FROM PUBLIC;
