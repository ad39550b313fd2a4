//! Writing the primitives of RFC 4251 §5 and the length word around them.

use bytes::{BufMut, BytesMut};

/// Appends a whole frame: length word, type byte, and what `body` writes.
pub(crate) fn frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    set_length(&mut out[start..]);
}

/// Fills in the length word at the start of `frame`, which has to be complete.
pub(crate) fn set_length(frame: &mut [u8]) {
    let len = length_word(frame.len() - 4);
    frame[..4].copy_from_slice(&len.to_be_bytes());
}

pub(crate) fn put_string(out: &mut BytesMut, string: &[u8]) {
    out.put_u32(length_word(string.len()));
    out.put_slice(string);
}

/// A string that packs `items`, each of which takes `size(item)` bytes and is written by `put`.
pub(crate) fn put_packed<T>(
    out: &mut BytesMut,
    items: &[T],
    size: impl Fn(&T) -> usize,
    put: impl Fn(&mut BytesMut, &T),
) {
    out.put_u32(length_word(items.iter().map(size).sum()));
    for item in items {
        put(out, item);
    }
}

pub(crate) fn length_word(len: usize) -> u32 {
    u32::try_from(len).expect("what we send in one piece is far below 4 GiB")
}
