//! Bounds-checked reading of the primitives of RFC 4251 §5 from one frame.

use bytes::{Buf, Bytes};

use crate::error::{DecodeError, DecodeErrorKind};

/// Takes fields off the front of a frame. Each method names the field it reads, for the error.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
    id: Option<u32>,
}

impl Reader {
    pub(crate) fn new(frame: Bytes) -> Reader {
        Reader { rest: frame, id: None }
    }

    /// Reads the request id; from here on it accompanies every error.
    pub(crate) fn id(&mut self) -> Result<u32, DecodeError> {
        let id = self.u32("id")?;
        self.id = Some(id);
        Ok(id)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.need(field, 1)?;
        Ok(self.rest.get_u8())
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.need(field, 4)?;
        Ok(self.rest.get_u32())
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.need(field, 8)?;
        Ok(self.rest.get_u64())
    }

    /// A length word and that many bytes, as a slice of the frame.
    pub(crate) fn string(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u32(field)?;
        self.need(field, u64::from(len))?;
        Ok(self.rest.split_to(len as usize))
    }

    /// A string that packs 32-bit numbers (`users-groups-by-id@openssh.com`).
    pub(crate) fn u32_list(&mut self, field: &'static str) -> Result<Vec<u32>, DecodeError> {
        let list = self.string(field)?;
        let (numbers, rest) = list.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(self.error(field, DecodeErrorKind::UnevenList(list.len())));
        }
        Ok(numbers.iter().map(|number| u32::from_be_bytes(*number)).collect())
    }

    /// A count of items of at least `least` bytes each. What it returns can be allocated for: the bytes are
    /// there.
    pub(crate) fn count(&mut self, field: &'static str, least: usize) -> Result<usize, DecodeError> {
        let count = self.u32(field)?;
        let left = self.rest.len();
        if count as usize > left / least {
            return Err(self.error(field, DecodeErrorKind::TooManyItems { count, left }));
        }
        Ok(count as usize)
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn error(&self, field: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { id: self.id, field, kind }
    }

    fn need(&self, field: &'static str, needed: u64) -> Result<(), DecodeError> {
        let left = self.rest.len();
        if needed > left as u64 {
            return Err(self.error(field, DecodeErrorKind::Truncated { needed, left }));
        }
        Ok(())
    }
}
