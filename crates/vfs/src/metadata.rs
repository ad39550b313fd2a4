//! What is known about a file and what may be changed about it.

/// A point in time as the file system stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// The kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// What the platform cannot name.
    Other,
}

/// What is known about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub file_type: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits including set-id and sticky bits (`0o7777`), without the type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub links: u64,
    /// Time of the last access.
    pub accessed: Timestamp,
    /// Time of the last change of the contents.
    pub modified: Timestamp,
    /// Identity within the storage: equal for two names of the same file.
    pub identity: (u64, u64),
}

impl Metadata {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }

    /// The mode word with its type bits, as `st_mode` and SFTP carry it.
    pub fn st_mode(&self) -> u32 {
        let kind = match self.file_type {
            FileType::File => 0o100_000,
            FileType::Dir => 0o040_000,
            FileType::Symlink => 0o120_000,
            FileType::Fifo => 0o010_000,
            FileType::Socket => 0o140_000,
            FileType::CharDevice => 0o020_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Other => 0,
        };
        kind | self.mode
    }
}

/// What to change about a file; absent parts stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttrs {
    /// New size in bytes; growing leaves a hole.
    pub size: Option<u64>,
    /// New permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New time of the last access.
    pub accessed: Option<Timestamp>,
    /// New time of the last change of the contents.
    pub modified: Option<Timestamp>,
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Read from it.
    pub read: bool,
    /// Write to it.
    pub write: bool,
    /// Create it if nothing is there, with mode `0o666` less the umask unless `mode` says otherwise.
    pub create: bool,
    /// Create it, and fail with [`FsError::Exists`](crate::FsError::Exists) if anything (a dangling link
    /// included) is there.
    pub create_new: bool,
    /// Cut it to length zero.
    pub truncate: bool,
    /// Mode of a new file instead of `0o666`; subject to the umask.
    pub mode: Option<u32>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name, as bytes.
    pub name: Vec<u8>,
    /// The entry's own metadata; links are not followed.
    pub metadata: Metadata,
}

/// Room on a device, as `statvfs` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Preferred block size in bytes.
    pub block_size: u64,
    /// Unit of the block counts, in bytes.
    pub fragment_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users without privileges.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Free inodes for users without privileges.
    pub files_available: u64,
    /// Identity of the file system.
    pub filesystem_id: u64,
    /// Mount flags: 1 read-only, 2 no set-id.
    pub flags: u64,
    /// Longest name in bytes.
    pub name_max: u64,
}
