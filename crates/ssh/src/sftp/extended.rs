//! The extensions of `PROTOCOL.md`: which are announced, and what each one does.

use bytes::{BufMut, Bytes, BytesMut};
use tidegate_sftp_wire::{
    ExtendedReply, ExtendedRequest, Limits, SpaceAvailable, StatVfs, StatusCode, extension::names,
};
use tidegate_vfs::{FsError, Links, Space, VPath};

use super::engine::{Engine, MAX_DATA_BYTES, Reply, done};
use super::{SftpSettings, check_file};

/// Longest packet that a client may send.
const MAX_PACKET_BYTES: u64 = 262_144;

/// Ids that one `users-groups-by-id` may ask for.
const MAX_IDS: usize = 4096;

/// Every extension that is announced, with its data.
const ANNOUNCED: [(&str, &str); 14] = [
    (names::POSIX_RENAME, "1"),
    (names::STATVFS, "2"),
    (names::FSTATVFS, "2"),
    (names::HARDLINK, "1"),
    (names::FSYNC, "1"),
    (names::LSETSTAT, "1"),
    (names::LIMITS, "1"),
    (names::EXPAND_PATH, "1"),
    (names::COPY_DATA, "1"),
    (names::HOME_DIRECTORY, "1"),
    (names::USERS_GROUPS_BY_ID, "1"),
    (names::CHECK_FILE, "md5,sha1,sha224,sha256,sha384,sha512"),
    (names::COPY_FILE, "1"),
    (names::SPACE_AVAILABLE, "1"),
];

/// What VERSION announces.
pub(super) fn announced(settings: &SftpSettings) -> Vec<(Bytes, Bytes)> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut all: Vec<_> = ANNOUNCED
        .iter()
        .filter(|(name, _)| !settings.disabled.contains(*name))
        .map(|(name, data)| (text(name), text(data)))
        .collect();
    if !settings.disabled.contains(names::VENDOR_ID) {
        all.push((text(names::VENDOR_ID), vendor()));
    }
    all
}

/// Who we are: vendor, product, version, build (filexfer-13 §4.4).
fn vendor() -> Bytes {
    let mut data = BytesMut::new();
    for word in ["Tidegate", "Tidegate", env!("CARGO_PKG_VERSION")] {
        data.put_u32(word.len() as u32);
        data.put_slice(word.as_bytes());
    }
    data.put_u64(0);
    data.freeze()
}

pub(super) async fn handle(engine: &Engine<'_>, request: ExtendedRequest) -> Result<Reply, FsError> {
    if is_disabled(engine.settings, &request) {
        return Err(FsError::Unsupported);
    }
    let fs = &engine.fs;
    match request {
        ExtendedRequest::PosixRename { from, to } => engine.rename(&from, &to).await,
        ExtendedRequest::StatVfs { path } => Ok(statvfs(&fs.space(&VPath::parse(&path)?).await?)),
        ExtendedRequest::FstatVfs { handle } => {
            Ok(statvfs(&fs.space(&engine.file(&handle)?.path().clone()).await?))
        }
        ExtendedRequest::HardLink { from, to } => {
            done(fs.hard_link(&VPath::parse(&from)?, &VPath::parse(&to)?).await)
        }
        ExtendedRequest::Fsync { handle } => done(engine.file(&handle)?.sync().await),
        ExtendedRequest::LSetstat { path, attrs } => engine.setstat(&path, &attrs, Links::Keep).await,
        ExtendedRequest::Limits => Ok(Reply::Extended(ExtendedReply::Limits(Limits {
            max_packet_len: MAX_PACKET_BYTES,
            max_read_len: u64::from(MAX_DATA_BYTES),
            max_write_len: u64::from(MAX_DATA_BYTES),
            max_open_handles: engine.settings.max_open_handles as u64,
        }))),
        ExtendedRequest::ExpandPath { path } => expand_path(engine, &path),
        ExtendedRequest::CopyData { from, from_offset, len, to, to_offset } => {
            let source = (engine.file(&from)?, from_offset);
            let target = (engine.file(&to)?, to_offset);
            done(fs.copy_data(source, target, len).await)
        }
        ExtendedRequest::HomeDirectory { user } => {
            if user.is_empty() || *user == *fs.session().user().username.as_bytes() {
                Ok(Reply::Path(Bytes::from_static(b"/")))
            } else {
                Err(FsError::NotFound)
            }
        }
        ExtendedRequest::UsersGroupsById { uids, gids } => users_groups(engine, &uids, &gids),
        ExtendedRequest::CheckFileName { path, algorithms, offset, len, block_size } => {
            let source = fs.inspect(&VPath::parse(&path)?).await?;
            check_file::reply(fs, &source, &algorithms, offset, len, block_size).await
        }
        ExtendedRequest::CheckFileHandle { handle, algorithms, offset, len, block_size } => {
            let source = engine.file(&handle)?.inspect()?;
            check_file::reply(fs, &source, &algorithms, offset, len, block_size).await
        }
        ExtendedRequest::CopyFile { from, to, overwrite } => {
            done(fs.copy_file(&VPath::parse(&from)?, &VPath::parse(&to)?, overwrite).await)
        }
        ExtendedRequest::SpaceAvailable { path } => {
            Ok(space_available(&fs.space(&VPath::parse(&path)?).await?))
        }
        ExtendedRequest::VendorId { .. } => Ok(Reply::Status(StatusCode::Ok)),
        ExtendedRequest::Unknown { .. } => Err(FsError::Unsupported),
    }
}

fn is_disabled(settings: &SftpSettings, request: &ExtendedRequest) -> bool {
    let is = |name: &str| settings.disabled.contains(name);
    match request {
        ExtendedRequest::CheckFileName { .. } => is(names::CHECK_FILE) || is(names::CHECK_FILE_NAME),
        ExtendedRequest::CheckFileHandle { .. } => is(names::CHECK_FILE) || is(names::CHECK_FILE_HANDLE),
        ExtendedRequest::Unknown { .. } => false,
        other => std::str::from_utf8(other.name()).is_ok_and(is),
    }
}

/// `~` and `~user` are the root of the user's own tree; nobody else's is revealed.
fn expand_path(engine: &Engine<'_>, path: &[u8]) -> Result<Reply, FsError> {
    let expanded = match path.strip_prefix(b"~") {
        None => VPath::parse(path)?,
        Some(rest) => {
            let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
            let (user, rest) = rest.split_at(end);
            if !user.is_empty() && user != engine.fs.session().user().username.as_bytes() {
                return Err(FsError::NotFound);
            }
            VPath::parse(rest)?
        }
    };
    Ok(Reply::Path(Bytes::copy_from_slice(expanded.as_bytes())))
}

/// The user's own name for the ids that the user's files get; the system's accounts are not revealed.
fn users_groups(engine: &Engine<'_>, uids: &[u32], gids: &[u32]) -> Result<Reply, FsError> {
    if uids.len() + gids.len() > MAX_IDS {
        return Err(FsError::InvalidInput("too many ids"));
    }
    let user = engine.fs.session().user();
    let (own_uid, own_gid) = user.owner();
    let name_of = |id: u32, own: Option<u32>| {
        if Some(id) == own { Bytes::copy_from_slice(user.username.as_bytes()) } else { Bytes::new() }
    };
    Ok(Reply::Extended(ExtendedReply::UsersGroups {
        users: uids.iter().map(|id| name_of(*id, own_uid)).collect(),
        groups: gids.iter().map(|id| name_of(*id, own_gid)).collect(),
    }))
}

fn statvfs(space: &Space) -> Reply {
    Reply::Extended(ExtendedReply::StatVfs(StatVfs {
        bsize: space.block_size,
        frsize: space.fragment_size,
        blocks: space.blocks,
        bfree: space.blocks_free,
        bavail: space.blocks_available,
        files: space.files,
        ffree: space.files_free,
        favail: space.files_available,
        fsid: space.filesystem_id,
        flag: space.flags,
        namemax: space.name_max,
    }))
}

fn space_available(space: &Space) -> Reply {
    let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size);
    Reply::Extended(ExtendedReply::SpaceAvailable(SpaceAvailable {
        bytes_on_device: bytes(space.blocks),
        unused_bytes_on_device: bytes(space.blocks_free),
        bytes_available_to_user: bytes(space.blocks),
        unused_bytes_available_to_user: bytes(space.blocks_available),
        bytes_per_allocation_unit: u32::try_from(space.fragment_size).unwrap_or(u32::MAX),
    }))
}
