-- Creates the table of users, as of 2019-08-28.
--
-- Tidegate applies these scripts itself when data_provider.manage_users is 1. By hand, apply all of them in the
-- order of their names: mysql DATABASE < sql/mysql/20190828.sql, and so on.
--
-- Two names are two users unless they are the same to the letter, hence the collation.
CREATE TABLE `users` (
    `id` integer NOT NULL AUTO_INCREMENT PRIMARY KEY,
    `username` varchar(255) NOT NULL UNIQUE,
    `password` varchar(255) NULL,
    `public_keys` longtext NULL,
    `home_dir` varchar(255) NOT NULL,
    `uid` integer NOT NULL,
    `gid` integer NOT NULL,
    `max_sessions` integer NOT NULL,
    `quota_size` bigint NOT NULL,
    `quota_files` integer NOT NULL,
    `permissions` longtext NOT NULL,
    `used_quota_size` bigint NOT NULL,
    `used_quota_files` integer NOT NULL,
    `last_quota_update` bigint NOT NULL,
    `upload_bandwidth` integer NOT NULL,
    `download_bandwidth` integer NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
