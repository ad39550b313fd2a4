-- Adds expiration_date, last_login and status: every account of before is active and never expires.
--
-- The defaults fill the rows that are there and go again: whoever adds a row must say what is meant.
BEGIN;
ALTER TABLE "users"
    ADD COLUMN "expiration_date" bigint NOT NULL DEFAULT 0,
    ADD COLUMN "last_login" bigint NOT NULL DEFAULT 0,
    ADD COLUMN "status" integer NOT NULL DEFAULT 1;
ALTER TABLE "users"
    ALTER COLUMN "expiration_date" DROP DEFAULT,
    ALTER COLUMN "last_login" DROP DEFAULT,
    ALTER COLUMN "status" DROP DEFAULT;
COMMIT;
