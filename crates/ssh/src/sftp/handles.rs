//! Open files and directories of one channel.
//!
//! A handle is the channel's own random word, the slot and the slot's generation: one that was closed,
//! invented, or belongs to another channel is not found.

use bytes::{BufMut, Bytes, BytesMut};
use tidegate_core::{Listing, Transfer};
use tidegate_vfs::{DirEntry, VPath};

/// Length of a handle in bytes.
const HANDLE_BYTES: usize = 12;

/// What a handle stands for.
#[derive(Debug)]
pub(super) enum Open {
    File(Transfer),
    Dir(OpenDir),
}

/// A directory being listed.
#[derive(Debug)]
pub(super) struct OpenDir {
    pub(super) path: VPath,
    pub(super) listing: Listing,
    /// Entries that did not fit into the last reply.
    pub(super) left_over: std::vec::IntoIter<DirEntry>,
}

/// The table of one channel.
#[derive(Debug)]
pub(super) struct Handles {
    salt: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
    most: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    open: Option<Open>,
}

impl Handles {
    /// A table of at most `most` handles.
    pub(super) fn new(salt: u32, most: usize) -> Self {
        Self { salt, slots: Vec::new(), free: Vec::new(), most }
    }

    /// Whether another handle may be opened.
    pub(super) fn has_room(&self) -> bool {
        self.slots.len() - self.free.len() < self.most
    }

    /// Keeps `open` and names it.
    pub(super) fn insert(&mut self, open: Open) -> Bytes {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, open: None });
            // Bounded by `most`, far below 2^32.
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.open = Some(open);
        let mut handle = BytesMut::with_capacity(HANDLE_BYTES);
        handle.put_u32(self.salt);
        handle.put_u32(index);
        handle.put_u32(slot.generation);
        handle.freeze()
    }

    /// What the handle stands for.
    pub(super) fn get(&self, handle: &[u8]) -> Option<&Open> {
        self.slots[self.find(handle)?].open.as_ref()
    }

    /// What the handle stands for, to change it.
    pub(super) fn get_mut(&mut self, handle: &[u8]) -> Option<&mut Open> {
        let index = self.find(handle)?;
        self.slots[index].open.as_mut()
    }

    /// The file that the handle stands for.
    pub(super) fn file(&self, handle: &[u8]) -> Option<&Transfer> {
        match self.get(handle)? {
            Open::File(file) => Some(file),
            Open::Dir(_) => None,
        }
    }

    /// Forgets the handle and gives back what it stood for.
    pub(super) fn remove(&mut self, handle: &[u8]) -> Option<Open> {
        let index = self.find(handle)?;
        let slot = &mut self.slots[index];
        let open = slot.open.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index as u32);
        Some(open)
    }

    /// Empties the table.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Open> {
        self.free.clear();
        self.slots.drain(..).filter_map(|slot| slot.open)
    }

    fn find(&self, handle: &[u8]) -> Option<usize> {
        let handle: &[u8; HANDLE_BYTES] = handle.try_into().ok()?;
        let word =
            |at: usize| u32::from_be_bytes([handle[at], handle[at + 1], handle[at + 2], handle[at + 3]]);
        let index = word(4) as usize;
        let slot = self.slots.get(index)?;
        (word(0) == self.salt && word(8) == slot.generation && slot.open.is_some()).then_some(index)
    }
}
