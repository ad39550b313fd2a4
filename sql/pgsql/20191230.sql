-- Adds filters: the networks from which an account may log in. NULL: from anywhere.
BEGIN;
ALTER TABLE "users" ADD COLUMN "filters" text NULL;
COMMIT;
