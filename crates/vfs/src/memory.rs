//! A tree of files in memory, for tests and examples.
//!
//! It behaves as a local disk does, links and open files without a name included, but has no owners'
//! rights, no umask and a small limit on the size of a file.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Buffer, DirEntry, DirStream, Features, File, FileType, FsError, Links, Metadata, OpenOptions, SetAttrs,
    Space, Storage, Target, Timestamp, VPath,
};

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Links that one path may lead through.
const MAX_LINKS: usize = 40;

/// Files in memory. They are gone with the last of the storages and files that show them.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
    follows_links: bool,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Inode>,
    /// Held by whoever looks up or changes names, so that an operation is one step to others.
    names: Mutex<()>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Inode {
    id: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    names: u64,
    accessed: Timestamp,
    modified: Timestamp,
}

#[derive(Debug)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Arc<Inode>>),
    Link(Vec<u8>),
}

/// Where a path leads: a directory and a name in it, or the directory itself.
struct Place {
    dirs: Vec<(Vec<u8>, Arc<Inode>)>,
    root: Arc<Inode>,
    last: Option<Vec<u8>>,
}

impl Place {
    fn dir(&self) -> &Arc<Inode> {
        self.dirs.last().map_or(&self.root, |(_, dir)| dir)
    }

    fn inode(&self) -> Result<Arc<Inode>, FsError> {
        match &self.last {
            Some(name) => self.dir().child(name)?.ok_or(FsError::NotFound),
            None => Ok(self.dir().clone()),
        }
    }

    fn path(&self) -> Result<VPath, FsError> {
        let names: Vec<&[u8]> =
            self.dirs.iter().map(|(name, _)| name.as_slice()).chain(self.last.as_deref()).collect();
        VPath::parse(&names.join(&b'/'))
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// Creates an empty tree.
    pub fn new() -> Self {
        let root = Arc::new(Inode::new(1, Body::Dir(BTreeMap::new()), 0o755));
        let shared = Shared { root, names: Mutex::new(()), next_id: AtomicU64::new(2) };
        Self { shared: Arc::new(shared), follows_links: true }
    }

    fn names(&self) -> MutexGuard<'_, ()> {
        self.shared.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inode(&self, body: Body, mode: u32) -> Arc<Inode> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        Arc::new(Inode::new(id, body, mode & 0o7777))
    }

    fn walk(&self, path: &VPath, last: Links) -> Result<Place, FsError> {
        let mut place = Place { dirs: Vec::new(), root: self.shared.root.clone(), last: None };
        let mut pending: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                place.dirs.pop().ok_or(FsError::Outside)?;
                continue;
            }
            let child = place.dir().child(&name)?;
            let text = child.as_ref().and_then(|inode| inode.link_text());
            match (child, text) {
                (Some(_), Some(text)) if !pending.is_empty() || last == Links::Follow => {
                    if !self.follows_links {
                        return Err(FsError::Link);
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(std::io::Error::other("too many levels of symbolic links").into());
                    }
                    let parts = text.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
                    let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
                    pending.extend(parts.into_iter().rev());
                }
                (_, _) if pending.is_empty() => place.last = Some(name),
                (Some(inode), _) if inode.is_dir() => place.dirs.push((name, inode)),
                (Some(_), _) => return Err(FsError::NotDir),
                (None, _) => return Err(FsError::NotFound),
            }
        }
        Ok(place)
    }

    /// The directory that holds the name `path`; the root is nobody's name.
    fn parent(&self, path: &VPath) -> Result<Arc<Inode>, FsError> {
        let dir = self.walk(&path.parent().ok_or(FsError::Denied)?, Links::Follow)?.inode()?;
        if dir.is_dir() { Ok(dir) } else { Err(FsError::NotDir) }
    }

    fn insert_new(&self, path: &VPath, inode: Arc<Inode>) -> Result<(), FsError> {
        let parent = self.parent(path)?;
        if parent.child(path.name())?.is_some() {
            return Err(FsError::Exists);
        }
        parent.insert(path.name(), inode)
    }
}

impl Inode {
    fn new(id: u64, body: Body, mode: u32) -> Self {
        let now = now();
        let state = State { body, mode, uid: 0, gid: 0, names: 1, accessed: now, modified: now };
        Self { id, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_dir(&self) -> bool {
        matches!(self.state().body, Body::Dir(_))
    }

    fn link_text(&self) -> Option<Vec<u8>> {
        match &self.state().body {
            Body::Link(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn child(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, FsError> {
        match &self.state().body {
            Body::Dir(entries) => Ok(entries.get(name).cloned()),
            _ => Err(FsError::NotDir),
        }
    }

    fn insert(&self, name: &[u8], inode: Arc<Inode>) -> Result<(), FsError> {
        let mut state = self.state();
        let Body::Dir(entries) = &mut state.body else {
            return Err(FsError::NotDir);
        };
        if let Some(replaced) = entries.insert(name.to_vec(), inode) {
            replaced.state().names -= 1;
        }
        state.modified = now();
        Ok(())
    }

    fn remove(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let mut state = self.state();
        let Body::Dir(entries) = &mut state.body else {
            return None;
        };
        let removed = entries.remove(name);
        state.modified = now();
        removed
    }

    fn metadata(&self) -> Metadata {
        let state = self.state();
        let (file_type, size) = match &state.body {
            Body::File(data) => (FileType::File, data.len()),
            Body::Dir(entries) => (FileType::Dir, entries.len()),
            Body::Link(text) => (FileType::Symlink, text.len()),
        };
        Metadata {
            file_type,
            size: size as u64,
            mode: state.mode,
            uid: state.uid,
            gid: state.gid,
            links: state.names,
            accessed: state.accessed,
            modified: state.modified,
            identity: (0, self.id),
        }
    }

    fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError> {
        let mut state = self.state();
        if let Some(size) = attrs.size {
            let size = in_memory(size)?;
            match &mut state.body {
                Body::File(data) => data.resize(size, 0),
                Body::Dir(_) => return Err(FsError::IsDir),
                Body::Link(_) => return Err(FsError::Unsupported),
            }
            state.modified = now();
        }
        if let Some(mode) = attrs.mode {
            if matches!(state.body, Body::Link(_)) {
                return Err(FsError::Unsupported);
            }
            state.mode = mode & 0o7777;
        }
        state.uid = attrs.uid.unwrap_or(state.uid);
        state.gid = attrs.gid.unwrap_or(state.gid);
        state.accessed = attrs.accessed.unwrap_or(state.accessed);
        state.modified = attrs.modified.unwrap_or(state.modified);
        Ok(())
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn open(&self, path: &VPath, how: &OpenOptions) -> Result<Arc<dyn File>, FsError> {
        let creates = how.create || how.create_new;
        if !(how.read || how.write) {
            return Err(FsError::InvalidInput("neither reading nor writing"));
        }
        if !how.write && (creates || how.truncate) {
            return Err(FsError::InvalidInput("creating or cutting a file needs writing"));
        }
        let _names = self.names();
        let place = self.walk(path, if how.create_new { Links::Keep } else { Links::Follow })?;
        let inode = match (place.inode(), &place.last) {
            (Ok(_), _) if how.create_new => return Err(FsError::Exists),
            (Ok(inode), _) if inode.is_dir() => return Err(FsError::IsDir),
            (Ok(inode), _) => inode,
            (Err(FsError::NotFound), Some(name)) if creates => {
                let inode = self.inode(Body::File(Vec::new()), how.mode.unwrap_or(0o666));
                place.dir().insert(name, inode.clone())?;
                inode
            }
            (Err(error), _) => return Err(error),
        };
        if how.truncate {
            inode.set_attrs(&SetAttrs { size: Some(0), ..SetAttrs::default() })?;
        }
        Ok(Arc::new(MemoryFile { inode, read: how.read, write: how.write }))
    }

    async fn metadata(&self, path: &VPath, links: Links) -> Result<Metadata, FsError> {
        let _names = self.names();
        Ok(self.walk(path, links)?.inode()?.metadata())
    }

    async fn set_attrs(&self, path: &VPath, attrs: &SetAttrs, links: Links) -> Result<(), FsError> {
        check(attrs)?;
        let _names = self.names();
        self.walk(path, links)?.inode()?.set_attrs(attrs)
    }

    async fn read_dir(&self, path: &VPath) -> Result<Box<dyn DirStream>, FsError> {
        let _names = self.names();
        match &self.walk(path, Links::Follow)?.inode()?.state().body {
            Body::Dir(entries) => {
                let entries = entries
                    .iter()
                    .map(|(name, inode)| (name.clone(), inode.clone()))
                    .collect::<VecDeque<_>>();
                Ok(Box::new(MemoryDirStream(entries)))
            }
            _ => Err(FsError::NotDir),
        }
    }

    async fn create_dir(&self, path: &VPath, mode: u32) -> Result<(), FsError> {
        if path.is_root() {
            return Err(FsError::Exists);
        }
        let _names = self.names();
        self.insert_new(path, self.inode(Body::Dir(BTreeMap::new()), mode))
    }

    async fn remove_file(&self, path: &VPath) -> Result<(), FsError> {
        let _names = self.names();
        let parent = self.parent(path)?;
        let inode = parent.child(path.name())?.ok_or(FsError::NotFound)?;
        if inode.is_dir() {
            return Err(FsError::IsDir);
        }
        parent.remove(path.name());
        inode.state().names -= 1;
        Ok(())
    }

    async fn remove_dir(&self, path: &VPath) -> Result<(), FsError> {
        let _names = self.names();
        let parent = self.parent(path)?;
        let inode = parent.child(path.name())?.ok_or(FsError::NotFound)?;
        match &inode.state().body {
            Body::Dir(entries) if entries.is_empty() => {}
            Body::Dir(_) => return Err(FsError::NotEmpty),
            _ => return Err(FsError::NotDir),
        }
        parent.remove(path.name());
        Ok(())
    }

    async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError> {
        let _names = self.names();
        let parent = self.walk(&link.parent().ok_or(FsError::Denied)?, Links::Follow)?.path()?;
        self.insert_new(link, self.inode(Body::Link(target.relative_to(&parent)), 0o777))
    }

    async fn read_link(&self, path: &VPath) -> Result<Vec<u8>, FsError> {
        let _names = self.names();
        let place = self.walk(path, Links::Keep)?;
        let text = place.inode()?.link_text().ok_or(FsError::InvalidInput("not a symbolic link"))?;
        let mut depth = place.dirs.len();
        for part in text.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => depth = depth.checked_sub(1).ok_or(FsError::Outside)?,
                _ => depth += 1,
            }
        }
        Ok(text)
    }

    async fn hard_link(&self, from: &VPath, to: &VPath) -> Result<(), FsError> {
        let _names = self.names();
        let inode = self.parent(from)?.child(from.name())?.ok_or(FsError::NotFound)?;
        if inode.is_dir() {
            return Err(FsError::Denied);
        }
        self.insert_new(to, inode.clone())?;
        inode.state().names += 1;
        Ok(())
    }

    async fn rename(&self, from: &VPath, to: &VPath, target: Target) -> Result<(), FsError> {
        let _names = self.names();
        let from_dir = self.parent(from)?;
        let moved = from_dir.child(from.name())?.ok_or(FsError::NotFound)?;
        let to_place = self.walk(&to.parent().ok_or(FsError::Denied)?, Links::Follow)?;
        let to_dir = to_place.inode()?;
        if let Some(replaced) = to_dir.child(to.name())? {
            if target == Target::Absent {
                return Err(FsError::Exists);
            }
            if Arc::ptr_eq(&replaced, &moved) {
                return Ok(());
            }
            match (moved.is_dir(), &replaced.state().body) {
                (false, Body::Dir(_)) => return Err(FsError::IsDir),
                (true, Body::Dir(entries)) if !entries.is_empty() => return Err(FsError::NotEmpty),
                (false, _) | (true, Body::Dir(_)) => {}
                (true, _) => return Err(FsError::NotDir),
            }
        }
        if Arc::ptr_eq(&to_dir, &moved) || to_place.dirs.iter().any(|(_, dir)| Arc::ptr_eq(dir, &moved)) {
            return Err(FsError::InvalidInput("a directory cannot move into itself"));
        }
        from_dir.remove(from.name());
        to_dir.insert(to.name(), moved)
    }

    async fn resolve(&self, path: &VPath, links: Links) -> Result<VPath, FsError> {
        let _names = self.names();
        let place = self.walk(path, links)?;
        // A name needs a directory, even one that is not there yet.
        place.dir().child(b"")?;
        place.path()
    }

    fn without_links(&self) -> Arc<dyn Storage> {
        Arc::new(Self { follows_links: false, ..self.clone() })
    }

    async fn space(&self, path: &VPath) -> Result<Space, FsError> {
        let _names = self.names();
        self.walk(path, Links::Follow)?.inode()?;
        let blocks = MAX_FILE_BYTES / 4096;
        Ok(Space {
            block_size: 4096,
            fragment_size: 4096,
            blocks,
            blocks_free: blocks,
            blocks_available: blocks,
            files: 1 << 20,
            files_free: 1 << 20,
            files_available: 1 << 20,
            filesystem_id: 0,
            flags: 0,
            name_max: 255,
        })
    }

    fn features(&self) -> Features {
        Features { random_writes: true, atomic_rename: true, symlinks: true, hard_links: true, owners: true }
    }

    fn local_path(&self, _: &VPath) -> Option<PathBuf> {
        None
    }
}

struct MemoryFile {
    inode: Arc<Inode>,
    read: bool,
    write: bool,
}

#[async_trait]
impl File for MemoryFile {
    async fn read_at(&self, offset: u64, mut buf: Buffer) -> Result<Buffer, FsError> {
        if !self.read {
            return Err(FsError::Denied);
        }
        if let Body::File(data) = &self.inode.state().body {
            let data = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).unwrap_or_default();
            let room = buf.spare();
            let n = room.len().min(data.len());
            room[..n].copy_from_slice(&data[..n]);
            buf.advance(n);
        }
        Ok(buf)
    }

    async fn write_at(&self, offset: u64, pieces: Vec<Bytes>) -> Result<(), FsError> {
        if !self.write {
            return Err(FsError::Denied);
        }
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let end = in_memory(offset.saturating_add(length))?;
        let mut state = self.inode.state();
        if let Body::File(data) = &mut state.body
            && length > 0
        {
            data.resize(data.len().max(end), 0);
            let mut at = end - length as usize;
            for piece in &pieces {
                data[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
        }
        state.modified = now();
        Ok(())
    }

    async fn metadata(&self) -> Result<Metadata, FsError> {
        Ok(self.inode.metadata())
    }

    async fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError> {
        check(attrs)?;
        if attrs.size.is_some() && !self.write {
            return Err(FsError::Denied);
        }
        self.inode.set_attrs(attrs)
    }

    async fn sync(&self) -> Result<(), FsError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), FsError> {
        Ok(())
    }
}

/// The entries as they were when the listing began.
struct MemoryDirStream(VecDeque<(Vec<u8>, Arc<Inode>)>);

#[async_trait]
impl DirStream for MemoryDirStream {
    async fn next(&mut self, at_most: usize) -> Result<Vec<DirEntry>, FsError> {
        let n = at_most.max(1).min(self.0.len());
        Ok(self.0.drain(..n).map(|(name, inode)| DirEntry { name, metadata: inode.metadata() }).collect())
    }
}

fn check(attrs: &SetAttrs) -> Result<(), FsError> {
    if attrs.uid == Some(u32::MAX) || attrs.gid == Some(u32::MAX) {
        return Err(FsError::InvalidInput("no such owner or group"));
    }
    if [attrs.accessed, attrs.modified].into_iter().flatten().any(|time| time.nanos >= 1_000_000_000) {
        return Err(FsError::InvalidInput("a billion nanoseconds or more"));
    }
    Ok(())
}

fn in_memory(size: u64) -> Result<usize, FsError> {
    if size > i64::MAX as u64 {
        return Err(FsError::InvalidInput("size of 2^63 bytes or more"));
    }
    if size > MAX_FILE_BYTES {
        return Err(FsError::NoSpace);
    }
    usize::try_from(size).map_err(|_| FsError::NoSpace)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        crate::contract::suite(async || Arc::new(MemoryStorage::new()) as Arc<dyn Storage>).await;
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let storage = MemoryStorage::new();
        let how = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = storage.open(&VPath::parse(b"/f").unwrap(), &how).await.unwrap();
        let far = file.write_at(MAX_FILE_BYTES, vec![Bytes::from_static(b"x")]).await;
        assert!(matches!(far, Err(FsError::NoSpace)), "{far:?}");
        let grown = file.set_attrs(&SetAttrs { size: Some(1 << 40), ..SetAttrs::default() }).await;
        assert!(matches!(grown, Err(FsError::NoSpace)), "{grown:?}");
    }
}
