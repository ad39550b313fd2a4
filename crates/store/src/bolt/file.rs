//! Reads the files of bbolt 1.3, which the reference's `bolt` provider writes (data model §8.4). Nothing is ever
//! written. Only the format is known here; what the buckets hold is said in `import`.
//!
//! ```text
//! page     id u64, flags u16, count u16, overflow u32, then `count` elements of 16 bytes, then keys and values
//! leaf     flags u32 (1: the value is a bucket), pos u32, key size u32, value size u32
//! branch   pos u32, key size u32, child page u64
//! meta     magic u32, version u32, page size u32, flags u32, bucket, freelist u64, pages u64, txid u64,
//!          FNV-1a of what is before it u64
//! bucket   root page u64, sequence u64; root 0: a leaf page follows
//! ```
//!
//! Numbers are little-endian; `pos` counts from the beginning of its element. A page continues in `overflow` pages
//! behind it. Pages 0 and 1 hold one meta each, of which the one with the higher txid counts.
//!
//! A file may say anything, so everything that it says is checked: each page is read once at most, elements lie
//! within their page and do not add up to more than it holds, and keys ascend. Hence no file takes more time or
//! memory than a few times its own size.

use std::fmt;

/// The first number of a meta page.
const MAGIC: u32 = 0xED0C_DAED;

const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
const META: usize = 64;

const BRANCH_PAGE: u16 = 0x01;
const LEAF_PAGE: u16 = 0x02;
const BUCKET_VALUE: u32 = 0x01;

/// More levels than any tree of a sound file has: each branch page has two children at least.
const MAX_DEPTH: usize = 64;

/// Buckets within buckets. The reference has one level.
const MAX_NESTING: usize = 8;

const PAGE_SIZES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// The bytes at the beginning of a file among which both meta pages are.
pub(crate) const HEAD: usize = 2 * 65_536;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage(String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn damage<T>(problem: impl Into<String>) -> Result<T, Damage> {
    Err(Damage(problem.into()))
}

/// Keys and what they stand for, in the order of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket<'a> {
    /// The last number that the bucket gave out.
    pub(crate) sequence: u64,
    /// Its contents.
    pub(crate) entries: Vec<(&'a [u8], Entry<'a>)>,
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// Bytes.
    Value(&'a [u8]),
    /// More keys.
    Bucket(Bucket<'a>),
}

impl<'a> Bucket<'a> {
    /// What `key` stands for.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry<'a>> {
        let index = self.entries.binary_search_by(|(other, _)| (*other).cmp(key)).ok()?;
        self.entries.get(index).map(|(_, entry)| entry)
    }
}

/// The state of a file that its newest meta page describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    page_size: usize,
    root: u64,
    sequence: u64,
    freelist: u64,
    /// Pages in use: from here on there are none.
    pages: u64,
    /// The number of the last change.
    pub(crate) txid: u64,
    /// Over all of the above.
    pub(crate) checksum: u64,
}

/// Whether a file that begins with `head` is one of bbolt, sound or not.
pub(crate) fn is_bolt(head: &[u8]) -> bool {
    let magic = head.get(PAGE_HEADER..PAGE_HEADER + 4);
    magic.is_some_and(|magic| magic == MAGIC.to_le_bytes() || magic == MAGIC.to_be_bytes())
}

/// The newest meta page of a file, of which `head` are the first [`HEAD`] bytes, or all if there are fewer.
pub(crate) fn meta(head: &[u8]) -> Result<Meta, Damage> {
    if head.get(PAGE_HEADER..PAGE_HEADER + 4) == Some(&MAGIC.to_be_bytes()) {
        return damage("it was written on a machine of the other byte order");
    }
    let first = meta_at(head, 0);
    // Where the second one is only the page size tells.
    let second = match first {
        Some(meta) => meta_at(head, meta.page_size),
        None => sizes().find_map(|size| meta_at(head, size).filter(|meta| meta.page_size == size)),
    };
    let newest = [first, second].into_iter().flatten().max_by_key(|meta| meta.txid);
    newest.ok_or_else(|| Damage("neither of its meta pages is valid".to_owned()))
}

fn sizes() -> impl Iterator<Item = usize> {
    PAGE_SIZES.filter(|size| size.is_power_of_two())
}

fn meta_at(head: &[u8], page: usize) -> Option<Meta> {
    let bytes = head.get(page + PAGE_HEADER..)?.get(..META)?;
    let (body, sum) = bytes.split_at(META - 8);
    let page_size = usize::try_from(u32_at(body, 8)?).ok()?;
    let meta = Meta {
        page_size,
        root: u64_at(body, 16)?,
        sequence: u64_at(body, 24)?,
        freelist: u64_at(body, 32)?,
        pages: u64_at(body, 40)?,
        txid: u64_at(body, 48)?,
        checksum: u64_at(sum, 0)?,
    };
    let sound = u32_at(body, 0)? == MAGIC
        && u32_at(body, 4)? == 2
        && page_size.is_power_of_two()
        && PAGE_SIZES.contains(&page_size)
        && meta.checksum == fnv_1a(body);
    sound.then_some(meta)
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Reads a whole file: the bucket at its root, which holds the others.
pub(crate) fn read(data: &[u8]) -> Result<Bucket<'_>, Damage> {
    let meta = meta(data.get(..HEAD).unwrap_or(data))?;
    let there = data.len() / meta.page_size;
    let Some(pages) = usize::try_from(meta.pages).ok().filter(|pages| *pages <= there) else {
        return damage(format!(
            "it is cut short: {there} pages of {} bytes are left of {}",
            meta.page_size, meta.pages
        ));
    };
    let mut tree = Tree { data, page_size: meta.page_size, seen: vec![false; pages] };
    for number in [0, 1, meta.freelist] {
        // The freelist may be missing, which is the largest number.
        if let Some(seen) = usize::try_from(number).ok().and_then(|number| tree.seen.get_mut(number)) {
            *seen = true;
        }
    }
    let mut bucket = Bucket { sequence: meta.sequence, entries: Vec::new() };
    tree.page(meta.root, 0, 0, &mut bucket.entries)?;
    Ok(bucket)
}

/// A walk over the pages of a file.
struct Tree<'a> {
    data: &'a [u8],
    page_size: usize,
    seen: Vec<bool>,
}

impl<'a> Tree<'a> {
    /// Adds what the page and those below it hold.
    fn page(
        &mut self,
        number: u64,
        depth: usize,
        nesting: usize,
        entries: &mut Vec<(&'a [u8], Entry<'a>)>,
    ) -> Result<(), Damage> {
        if depth > MAX_DEPTH {
            return damage(format!("page {number} is more than {MAX_DEPTH} levels deep"));
        }
        let page = self.take(number)?;
        let name = format!("page {number}");
        match u16_at(page, 8) {
            Some(LEAF_PAGE) => self.leaf(page, &name, nesting, entries),
            Some(BRANCH_PAGE) => {
                let count = elements(page, &name)?;
                if count == 0 {
                    return damage(format!("{name} is a branch without children"));
                }
                for index in 0..count {
                    let at = PAGE_HEADER + index * ELEMENT;
                    let child = u64_at(page, at + 8).ok_or_else(|| outside(&name, index))?;
                    self.page(child, depth + 1, nesting, entries)?;
                }
                Ok(())
            }
            flags => {
                damage(format!("{name} has the flags {:#06x}, neither branch nor leaf", flags.unwrap_or(0)))
            }
        }
    }

    /// The bytes of a page with its overflow, which nobody may have taken before.
    fn take(&mut self, number: u64) -> Result<&'a [u8], Damage> {
        let pages = self.seen.len();
        let Some(first) = usize::try_from(number).ok().filter(|first| *first < pages) else {
            return damage(format!("page {number} is referred to, but there are only {pages}"));
        };
        let start = first * self.page_size;
        let rest = self.data.get(start..pages * self.page_size).unwrap_or_default();
        if u64_at(rest, 0) != Some(number) {
            return damage(format!("page {number} carries the number of another page"));
        }
        let more = u32_at(rest, 12).and_then(|more| usize::try_from(more).ok()).unwrap_or(usize::MAX);
        let Some(taken) = first.checked_add(more).and_then(|last| self.seen.get_mut(first..=last)) else {
            return damage(format!("page {number} goes beyond the last page"));
        };
        if taken.contains(&true) {
            return damage(format!("page {number} is used twice"));
        }
        taken.fill(true);
        Ok(rest.get(..(more + 1) * self.page_size).unwrap_or_default())
    }

    /// Adds what a leaf page holds, be it a page of the file or one within a value.
    fn leaf(
        &mut self,
        page: &'a [u8],
        name: &str,
        nesting: usize,
        entries: &mut Vec<(&'a [u8], Entry<'a>)>,
    ) -> Result<(), Damage> {
        let count = elements(page, name)?;
        let mut room = page.len() - PAGE_HEADER - count * ELEMENT;
        for index in 0..count {
            let at = PAGE_HEADER + index * ELEMENT;
            let field = |offset| u32_at(page, at + offset).and_then(|field| usize::try_from(field).ok());
            let parts = (|| {
                let key = at.checked_add(field(4)?)?;
                let value = key.checked_add(field(8)?)?;
                let end = value.checked_add(field(12)?)?;
                // Where elements shared their bytes, a small file could stand for any amount of data.
                room = room.checked_sub(end - key)?;
                Some((page.get(key..value)?, page.get(value..end)?))
            })();
            let (key, value) = parts.ok_or_else(|| outside(name, index))?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return damage(format!("key {index} of {name} is out of order"));
            }
            let entry = match field(0).map(|flags| flags & BUCKET_VALUE as usize) {
                Some(0) => Entry::Value(value),
                _ => Entry::Bucket(self.bucket(value, nesting + 1)?),
            };
            entries.push((key, entry));
        }
        Ok(())
    }

    fn bucket(&mut self, value: &'a [u8], nesting: usize) -> Result<Bucket<'a>, Damage> {
        if nesting > MAX_NESTING {
            return damage(format!("buckets lie within each other more than {MAX_NESTING} deep"));
        }
        let (Some(root), Some(sequence)) = (u64_at(value, 0), u64_at(value, 8)) else {
            return damage("a bucket is shorter than its header");
        };
        let mut bucket = Bucket { sequence, entries: Vec::new() };
        if root != 0 {
            self.page(root, 0, nesting, &mut bucket.entries)?;
            return Ok(bucket);
        }
        let page = value.get(BUCKET_HEADER..).unwrap_or_default();
        if u16_at(page, 8) != Some(LEAF_PAGE) {
            return damage("a bucket within a page is no leaf");
        }
        self.leaf(page, "a bucket within a page", nesting, &mut bucket.entries)?;
        Ok(bucket)
    }
}

/// The number of elements that a page has, and has room for.
fn elements(page: &[u8], name: &str) -> Result<usize, Damage> {
    let count = u16_at(page, 10).map(usize::from);
    let fits = |count: &usize| PAGE_HEADER + count * ELEMENT <= page.len();
    count.filter(fits).ok_or_else(|| Damage(format!("{name} has less room than elements")))
}

fn outside(name: &str, index: usize) -> Damage {
    Damage(format!("element {index} of {name} lies outside of it"))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
