//! The base64 of crypt(3): `./0-9A-Za-z`, and the first character carries the lowest six bits.

/// Decodes `text`; `None` for a foreign character, or for bits set beyond the last whole byte.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for (index, &char) in group.iter().enumerate() {
            bits |= u32::from(value(char)?) << (6 * index);
        }
        // Two characters hold one byte, three hold two; a single one holds none.
        let whole = group.len() * 6 / 8;
        if whole == 0 || bits >> (8 * whole) != 0 {
            return None;
        }
        bytes.extend_from_slice(bits.to_le_bytes().get(..whole)?);
    }
    Some(bytes)
}

fn value(char: u8) -> Option<u8> {
    match char {
        b'.' | b'/' => Some(char - b'.'),
        b'0'..=b'9' => Some(char - b'0' + 2),
        b'A'..=b'Z' => Some(char - b'A' + 12),
        b'a'..=b'z' => Some(char - b'a' + 38),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_first_character_is_the_lowest() {
        for (text, bytes) in [
            ("", Some(vec![])),
            ("/.", Some(vec![1])),
            ("//", Some(vec![65])),
            ("zzzz", Some(vec![255; 3])),
            ("zz1", Some(vec![255, 63])),
            ("zzD", Some(vec![255, 255])),
            ("zzE", None),
            ("z1", Some(vec![255])),
            ("z2", None),
            ("z", None),
            ("zzzzz", None),
            ("zz!z", None),
            ("zzé", None),
        ] {
            assert_eq!(decode(text), bytes, "{text}");
        }
    }
}
