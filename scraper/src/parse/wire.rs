//! Protobuf's wire format, read field by field without copying
//! (<https://protobuf.dev/programming-guides/encoding/>).

/// Bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadWire {
    #[error("proto: message ends within a field")]
    Truncated,
    #[error("proto: illegal varint")]
    Varint,
    #[error("proto: illegal wire type {0}")]
    WireType(u8),
    #[error("proto: illegal tag 0")]
    Tag,
    #[error("proto: wrong wire type for field {0}")]
    Field(u32),
    #[error("proto: a string is not UTF-8")]
    Utf8,
}

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) value: Value<'a>,
}

impl<'a> Field<'a> {
    pub(super) fn double(&self) -> Result<f64, BadWire> {
        match self.value {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(BadWire::Field(self.number)),
        }
    }

    pub(super) fn varint(&self) -> Result<u64, BadWire> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(BadWire::Field(self.number)),
        }
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8], BadWire> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(BadWire::Field(self.number)),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, BadWire> {
        std::str::from_utf8(self.bytes()?).map_err(|_| BadWire::Utf8)
    }

    /// Zigzag-coded, cut to 32 bits.
    pub(super) fn sint32(&self) -> Result<i32, BadWire> {
        Ok(unzigzag(self.varint()?) as i32)
    }

    /// A repeated `sint64`, packed or not.
    pub(super) fn push_sint64(&self, out: &mut Vec<i64>) -> Result<(), BadWire> {
        match self.value {
            Value::Varint(value) => out.push(unzigzag(value)),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    let (value, rest) = take_varint(packed)?;
                    out.push(unzigzag(value));
                    packed = rest;
                }
            }
            _ => return Err(BadWire::Field(self.number)),
        }
        Ok(())
    }

    /// A repeated `double`, packed or not.
    pub(super) fn push_double(&self, out: &mut Vec<f64>) -> Result<(), BadWire> {
        match self.value {
            Value::Fixed64(bits) => out.push(f64::from_bits(bits)),
            Value::Bytes(packed) => {
                let (words, rest) = packed.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(BadWire::Truncated);
                }
                out.extend(words.iter().map(|w| f64::from_le_bytes(*w)));
            }
            _ => return Err(BadWire::Field(self.number)),
        }
        Ok(())
    }
}

pub(super) const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

pub(super) fn take_varint(bytes: &[u8]) -> Result<(u64, &[u8]), BadWire> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        if i == 9 && *byte > 1 {
            return Err(BadWire::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Ok((value, &bytes[i + 1..]));
        }
    }
    Err(if bytes.len() < 10 {
        BadWire::Truncated
    } else {
        BadWire::Varint
    })
}

/// The fields of a message, in the order they stand; ends after the first error.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, BadWire>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.take();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self) -> Result<Field<'a>, BadWire> {
        let (tag, rest) = take_varint(self.0)?;
        let number = u32::try_from(tag >> 3).map_err(|_| BadWire::Tag)?;
        if number == 0 {
            return Err(BadWire::Tag);
        }
        let (value, rest) = match (tag & 7) as u8 {
            0 => take_varint(rest).map(|(v, r)| (Value::Varint(v), r))?,
            1 => {
                let (word, rest) = rest.split_first_chunk::<8>().ok_or(BadWire::Truncated)?;
                (Value::Fixed64(u64::from_le_bytes(*word)), rest)
            }
            2 => {
                let (length, rest) = take_varint(rest)?;
                let length = usize::try_from(length).map_err(|_| BadWire::Truncated)?;
                let (bytes, rest) = rest.split_at_checked(length).ok_or(BadWire::Truncated)?;
                (Value::Bytes(bytes), rest)
            }
            5 => {
                let (_, rest) = rest.split_first_chunk::<4>().ok_or(BadWire::Truncated)?;
                (Value::Fixed32, rest)
            }
            other => return Err(BadWire::WireType(other)),
        };
        self.0 = rest;
        Ok(Field { number, value })
    }
}
