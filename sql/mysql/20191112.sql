-- Adds expiration_date, last_login and status: every account of before is active and never expires.
--
-- MySQL ends a transaction at each of these statements. Should the second one be missed, a default stays, which
-- harms nobody. The other two columns are filled with zeros without one.
ALTER TABLE `users`
    ADD COLUMN `expiration_date` bigint NOT NULL,
    ADD COLUMN `last_login` bigint NOT NULL,
    ADD COLUMN `status` integer NOT NULL DEFAULT 1;
ALTER TABLE `users` ALTER COLUMN `status` DROP DEFAULT;
