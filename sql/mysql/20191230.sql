-- Adds filters: the networks from which an account may log in. NULL: from anywhere.
ALTER TABLE `users` ADD COLUMN `filters` longtext NULL;
