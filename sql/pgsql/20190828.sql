-- Creates the table of users, as of 2019-08-28.
--
-- Tidegate applies these scripts itself when data_provider.manage_users is 1. By hand, apply all of them in the
-- order of their names: psql -v ON_ERROR_STOP=1 -f sql/pgsql/20190828.sql DATABASE, and so on.
BEGIN;
CREATE TABLE "users" (
    "id" serial NOT NULL PRIMARY KEY,
    "username" varchar(255) NOT NULL UNIQUE,
    "password" varchar(255) NULL,
    "public_keys" text NULL,
    "home_dir" varchar(255) NOT NULL,
    "uid" integer NOT NULL,
    "gid" integer NOT NULL,
    "max_sessions" integer NOT NULL,
    "quota_size" bigint NOT NULL,
    "quota_files" integer NOT NULL,
    "permissions" text NOT NULL,
    "used_quota_size" bigint NOT NULL,
    "used_quota_files" integer NOT NULL,
    "last_quota_update" bigint NOT NULL,
    "upload_bandwidth" integer NOT NULL,
    "download_bandwidth" integer NOT NULL
);
COMMIT;
