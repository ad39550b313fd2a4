//! One short function per SFTP request: parse, ask the door, say what came of it.
//!
//! No rule lives here: permissions, quota, bandwidth, log and hooks are the business of
//! [`UserFs`] and [`Transfer`](tidegate_core::Transfer).

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::{Bytes, BytesMut};
use tidegate_core::{Transfer, UploadOptions, UserFs};
use tidegate_sftp_wire::{
    Attrs, DATA_HEADER_LEN, DecodeError, ExtendedReply, NameReply, PFlags, Request, Response, StatusCode,
    data_header,
};
use tidegate_vfs::{FsError, Links, Metadata, SetAttrs, Timestamp, VPath};

use super::handles::{Handles, Open, OpenDir};
use super::{SftpSettings, extended, longname, status};
use crate::inbox::{Inbox, Item, WRITE_RUN_BYTES};

/// Most that one READ returns and one WRITE may carry, as `limits@openssh.com` announces.
pub(super) const MAX_DATA_BYTES: u32 = 261_120;

/// READDIR replies stay below what every client takes (filexfer-02 §3: 34,000 bytes).
const MAX_NAME_REPLY_BYTES: usize = 32_000;

/// Entries taken from the directory at a time.
const DIR_BATCH: usize = 256;

/// Why the channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The first packet must be INIT.
    #[error("the client sent a request before it announced its version")]
    NotInitialized,
    /// A packet without a request id cannot be answered.
    #[error("the client sent a packet that cannot be read: {0}")]
    Unreadable(DecodeError),
    /// The client speaks an older protocol.
    #[error("the client speaks SFTP version {0}, which is older than 3")]
    Version(u32),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What a request came to.
pub(super) enum Reply {
    Ok,
    Status(StatusCode),
    Handle(Bytes),
    Attrs(Attrs),
    /// A single name without attributes.
    Path(Bytes),
    Names(NameReply),
    Extended(ExtendedReply),
    /// A whole DATA packet.
    Data(Bytes),
}

/// The requests of one channel.
pub(super) struct Engine<'a> {
    pub(super) fs: UserFs,
    pub(super) handles: Handles,
    pub(super) settings: &'a SftpSettings,
    inbox: &'a Inbox,
    initialized: bool,
}

impl<'a> Engine<'a> {
    pub(super) fn new(fs: UserFs, inbox: &'a Inbox, settings: &'a SftpSettings) -> Self {
        let handles = Handles::new(0, settings.max_open_handles);
        Self { fs, handles, settings, inbox, initialized: false }
    }

    /// Handles one request. Small replies go to `out`, a reply with file data is returned whole.
    pub(super) async fn handle(
        &mut self,
        item: Item,
        out: &mut BytesMut,
    ) -> Result<Option<Bytes>, EngineError> {
        let request = match item {
            Item::Read { id, handle, offset, length } => Request::Read { id, handle, offset, len: length },
            Item::Packet(packet) => match Request::decode(packet) {
                Ok(request) => request,
                Err(error) => {
                    let Some(id) = error.id.filter(|_| self.initialized) else {
                        return Err(EngineError::Unreadable(error));
                    };
                    Response::status(id, StatusCode::BadMessage).encode(out);
                    return Ok(None);
                }
            },
        };
        let Some(id) = request.id() else { return self.init(&request, out).map(|()| None) };
        if !self.initialized {
            return Err(EngineError::NotInitialized);
        }
        if let Request::Write { handle, offset, data, .. } = request {
            self.write(id, &handle, offset, data, out).await;
            return Ok(None);
        }
        let response = match self.act(id, request).await {
            Ok(Reply::Data(data)) => return Ok(Some(data)),
            Ok(Reply::Names(names)) => {
                out.extend_from_slice(&names.finish());
                return Ok(None);
            }
            Ok(Reply::Ok) => Response::status(id, StatusCode::Ok),
            Ok(Reply::Status(code)) => Response::status(id, code),
            Ok(Reply::Handle(handle)) => Response::Handle { id, handle },
            Ok(Reply::Attrs(attrs)) => Response::Attrs { id, attrs },
            Ok(Reply::Path(path)) => {
                let mut names = NameReply::new(id);
                names.push(&path, &path, &Attrs::default());
                out.extend_from_slice(&names.finish());
                return Ok(None);
            }
            Ok(Reply::Extended(reply)) => Response::ExtendedReply { id, reply },
            Err(error) => failed(id, &error),
        };
        response.encode(out);
        Ok(None)
    }

    /// Ends everything that the client left open.
    pub(super) async fn abort_all(&mut self) {
        for open in self.handles.drain() {
            if let Open::File(transfer) = open {
                transfer.abort("the connection ended before the file was closed").await;
            }
        }
    }

    fn init(&mut self, request: &Request, out: &mut BytesMut) -> Result<(), EngineError> {
        if let Request::Init { version } = request
            && *version < 3
        {
            return Err(EngineError::Version(*version));
        }
        if !self.initialized {
            let mut salt = [0; 4];
            SystemRandom::new().fill(&mut salt).map_err(|_| EngineError::Random)?;
            self.handles = Handles::new(u32::from_ne_bytes(salt), self.settings.max_open_handles);
            self.initialized = true;
        }
        Response::Version { extensions: extended::announced(self.settings) }.encode(out);
        Ok(())
    }

    async fn act(&mut self, id: u32, request: Request) -> Result<Reply, FsError> {
        match request {
            Request::Open { path, pflags, .. } => self.open(&path, pflags).await,
            Request::Close { handle, .. } => self.close(&handle).await,
            Request::Read { handle, offset, len, .. } => self.read(id, &handle, offset, len).await,
            Request::Stat { path, .. } => self.stat(&path, Links::Follow).await,
            Request::Lstat { path, .. } => self.stat(&path, Links::Keep).await,
            Request::Fstat { handle, .. } => self.fstat(&handle).await,
            Request::Setstat { path, attrs, .. } => self.setstat(&path, &attrs, Links::Follow).await,
            Request::Fsetstat { handle, attrs, .. } => self.fsetstat(&handle, &attrs).await,
            Request::Opendir { path, .. } => self.opendir(&path).await,
            Request::Readdir { handle, .. } => self.readdir(id, &handle).await,
            Request::Remove { path, .. } => done(self.fs.remove_file(&VPath::parse(&path)?).await),
            Request::Mkdir { path, .. } => done(self.fs.create_dir(&VPath::parse(&path)?).await),
            Request::Rmdir { path, .. } => done(self.fs.remove_dir(&VPath::parse(&path)?).await),
            Request::Realpath { path, .. } => {
                Ok(Reply::Path(Bytes::copy_from_slice(VPath::parse(&path)?.as_bytes())))
            }
            Request::Rename { from, to, .. } => self.rename(&from, &to).await,
            Request::Symlink { target, link, .. } => {
                done(self.fs.symlink(&VPath::parse(&target)?, &VPath::parse(&link)?).await)
            }
            Request::Extended { request, .. } => extended::handle(self, request).await,
            // Existing clients rely on READLINK being refused (sftp-server.md §13, 16).
            Request::Readlink { .. } | Request::Unknown { .. } => Err(FsError::Unsupported),
            // Both are handled before; they carry no reply of this shape.
            Request::Init { .. } | Request::Write { .. } => Err(FsError::Unsupported),
        }
    }

    async fn open(&mut self, path: &[u8], pflags: PFlags) -> Result<Reply, FsError> {
        if !self.handles.has_room() {
            return Err(FsError::InvalidInput("too many open handles"));
        }
        let path = VPath::parse(path)?;
        let transfer = if pflags.intersects(PFlags::WRITE | PFlags::APPEND | PFlags::CREAT | PFlags::TRUNC) {
            let how = UploadOptions {
                read: pflags.contains(PFlags::READ),
                create: pflags.contains(PFlags::CREAT),
                exclusive: pflags.contains(PFlags::EXCL),
                truncate: pflags.contains(PFlags::TRUNC),
                resume: pflags.contains(PFlags::APPEND) && !pflags.contains(PFlags::TRUNC),
                expected_size: 0,
            };
            self.fs.upload(&path, how).await?
        } else if pflags.contains(PFlags::READ) {
            self.fs.download(&path).await?
        } else {
            return Err(FsError::InvalidInput("open needs a flag: read or write"));
        };
        Ok(Reply::Handle(self.handles.insert(Open::File(transfer))))
    }

    async fn close(&mut self, handle: &[u8]) -> Result<Reply, FsError> {
        match self.handles.remove(handle).ok_or(INVALID_HANDLE)? {
            Open::File(transfer) => done(transfer.finish().await),
            Open::Dir(_) => Ok(Reply::Ok),
        }
    }

    async fn read(&self, id: u32, handle: &[u8], offset: u64, length: u32) -> Result<Reply, FsError> {
        let transfer = self.file(handle)?;
        let room = length.min(MAX_DATA_BYTES) as usize;
        let mut buffer = self.fs.session().buffers().take(room);
        buffer.put_header(&[0; DATA_HEADER_LEN]);
        let mut buffer = transfer.read_at(offset, buffer).await?;
        let count = buffer.len() - DATA_HEADER_LEN;
        if count == 0 {
            return Ok(Reply::Status(StatusCode::Eof));
        }
        // At most `room`, which fits.
        buffer.set_header(&data_header(id, count as u32));
        Ok(Reply::Data(buffer.freeze()))
    }

    /// Writes what the client sent and what it sent to follow directly behind it, as one.
    async fn write(&self, id: u32, handle: &Bytes, offset: u64, data: Bytes, out: &mut BytesMut) {
        let transfer = match self.file(handle) {
            Ok(transfer) => transfer,
            Err(error) => return failed(id, &error).encode(out),
        };
        // With a bandwidth limit a run takes about a tenth of a second, so that replies come steadily.
        let limit = usize::try_from(self.fs.session().current().upload_bandwidth).unwrap_or(0);
        let most = if limit > 0 { limit.saturating_mul(100).min(WRITE_RUN_BYTES) } else { WRITE_RUN_BYTES };
        let mut run = vec![(id, data)];
        let mut length = run[0].1.len();
        loop {
            let mut next = None;
            let end = offset.checked_add(length as u64);
            let continues = |packet: &Bytes| {
                next = continuation(packet, handle, end);
                next.is_some()
            };
            if self.inbox.take_if(continues, length, most).is_none() {
                break;
            }
            let Some((id, data)) = next else { break };
            length += data.len();
            run.push((id, data));
        }
        let all = run.iter().map(|(_, data)| data.clone()).collect();
        if transfer.write_at(offset, all).await.is_ok() {
            for (id, _) in run {
                Response::status(id, StatusCode::Ok).encode(out);
            }
            return;
        }
        // Each request gets its own answer: what fits before the quota or the disk ends is written.
        let mut at = offset;
        for (id, data) in run {
            let next = at.saturating_add(data.len() as u64);
            match transfer.write_at(at, vec![data]).await {
                Ok(()) => Response::status(id, StatusCode::Ok).encode(out),
                Err(error) => failed(id, &error).encode(out),
            }
            at = next;
        }
    }

    async fn stat(&self, path: &[u8], links: Links) -> Result<Reply, FsError> {
        Ok(Reply::Attrs(attrs_of(&self.fs.metadata(&VPath::parse(path)?, links).await?)))
    }

    async fn fstat(&self, handle: &[u8]) -> Result<Reply, FsError> {
        let metadata = match self.handles.get(handle).ok_or(INVALID_HANDLE)? {
            Open::File(transfer) => self.fs.open_metadata(transfer).await?,
            Open::Dir(dir) => self.fs.metadata(&dir.path, Links::Follow).await?,
        };
        Ok(Reply::Attrs(attrs_of(&metadata)))
    }

    pub(super) async fn setstat(&self, path: &[u8], attrs: &Attrs, links: Links) -> Result<Reply, FsError> {
        match changes(attrs) {
            Some(changes) => done(self.fs.set_attrs(&VPath::parse(path)?, &changes, links).await),
            None => Ok(Reply::Status(StatusCode::BadMessage)),
        }
    }

    async fn fsetstat(&self, handle: &[u8], attrs: &Attrs) -> Result<Reply, FsError> {
        let Some(changes) = changes(attrs) else { return Ok(Reply::Status(StatusCode::BadMessage)) };
        match self.handles.get(handle).ok_or(INVALID_HANDLE)? {
            Open::File(transfer) => done(self.fs.set_open_attrs(transfer, &changes).await),
            Open::Dir(dir) => done(self.fs.set_attrs(&dir.path, &changes, Links::Follow).await),
        }
    }

    async fn opendir(&mut self, path: &[u8]) -> Result<Reply, FsError> {
        if !self.handles.has_room() {
            return Err(FsError::InvalidInput("too many open handles"));
        }
        let path = VPath::parse(path)?;
        let listing = self.fs.list(&path).await?;
        let dir = OpenDir { path, listing, left_over: Vec::new().into_iter() };
        Ok(Reply::Handle(self.handles.insert(Open::Dir(dir))))
    }

    async fn readdir(&mut self, id: u32, handle: &[u8]) -> Result<Reply, FsError> {
        let Some(Open::Dir(dir)) = self.handles.get_mut(handle) else { return Err(INVALID_HANDLE) };
        let mut names = NameReply::new(id);
        let mut long = Vec::with_capacity(128);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        loop {
            if dir.left_over.as_slice().is_empty() {
                dir.left_over = dir.listing.next(DIR_BATCH).await?.into_iter();
                if dir.left_over.as_slice().is_empty() {
                    break;
                }
            }
            while let Some(entry) = dir.left_over.as_slice().first() {
                let attrs = attrs_of(&entry.metadata);
                long.clear();
                longname::longname(&entry.name, &entry.metadata, now, &mut long);
                let more = NameReply::entry_len(&entry.name, &long, &attrs);
                if names.count() > 0 && names.len() + more > MAX_NAME_REPLY_BYTES {
                    return Ok(Reply::Names(names));
                }
                names.push(&entry.name, &long, &attrs);
                dir.left_over.next();
            }
        }
        self.fs.session().touch();
        if names.count() == 0 { Ok(Reply::Status(StatusCode::Eof)) } else { Ok(Reply::Names(names)) }
    }

    pub(super) async fn rename(&self, from: &[u8], to: &[u8]) -> Result<Reply, FsError> {
        done(self.fs.rename(&VPath::parse(from)?, &VPath::parse(to)?).await)
    }

    pub(super) fn file(&self, handle: &[u8]) -> Result<&Transfer, FsError> {
        self.handles.file(handle).ok_or(INVALID_HANDLE)
    }
}

/// The handle was closed, never given, or stands for something else.
pub(super) const INVALID_HANDLE: FsError = FsError::InvalidInput("invalid handle");

pub(super) fn done(outcome: Result<(), FsError>) -> Result<Reply, FsError> {
    outcome.map(|()| Reply::Ok)
}

fn failed(id: u32, error: &FsError) -> Response {
    let (code, message) = status::of(error);
    Response::Status { id, code, message }
}

/// The data of a WRITE that continues at `end` of the same handle.
fn continuation(packet: &Bytes, handle: &Bytes, end: Option<u64>) -> Option<(u32, Bytes)> {
    if packet.first() != Some(&tidegate_sftp_wire::kind::WRITE) {
        return None;
    }
    match Request::decode(packet.clone()) {
        Ok(Request::Write { id, handle: same, offset, data }) if same == *handle && Some(offset) == end => {
            Some((id, data))
        }
        _ => None,
    }
}

/// Attributes as version 3 carries them: times in seconds, as far as 32 bits reach.
fn attrs_of(metadata: &Metadata) -> Attrs {
    let seconds = |time: Timestamp| u32::try_from(time.seconds.max(0)).unwrap_or(u32::MAX);
    Attrs {
        size: Some(metadata.size),
        owner: Some((metadata.uid, metadata.gid)),
        permissions: Some(metadata.st_mode()),
        times: Some((seconds(metadata.accessed), seconds(metadata.modified))),
        ..Attrs::default()
    }
}

/// What a client asks to change; `None` if it names nothing at all. Set-id and sticky bits are dropped.
fn changes(attrs: &Attrs) -> Option<SetAttrs> {
    let time = |seconds: u32| Timestamp { seconds: i64::from(seconds), nanos: 0 };
    let changes = SetAttrs {
        size: attrs.size,
        mode: attrs.permissions.map(|mode| mode & 0o777),
        uid: attrs.owner.map(|(uid, _)| uid),
        gid: attrs.owner.map(|(_, gid)| gid),
        accessed: attrs.times.map(|(accessed, _)| time(accessed)),
        modified: attrs.times.map(|(_, modified)| time(modified)),
    };
    (changes != SetAttrs::default()).then_some(changes)
}
