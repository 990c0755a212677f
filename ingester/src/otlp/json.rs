//! OTLP's JSON as its protobuf: one pass, guided by the messages' fields, that holds nothing but what it has written.
//! What comes after it is the same for both.
//!
//! Source: the OTLP specification, "JSON Protobuf Encoding": names in camel case, enumerations as numbers, trace and span
//! ids in hexadecimal, unknown fields skipped; numbers of 64 bits may be texts.

use super::{BadOtlp, base64};
use gnomon_model::labels::put_uvarint;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// How a value is written.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Base64,
    Hex,
    Bool,
    Varint,
    Zigzag,
    Fixed64,
    Double,
    Message(&'static Schema),
}

#[derive(Debug)]
struct Field {
    /// As in the `.proto` file.
    name: &'static str,
    number: u32,
    kind: Kind,
    repeated: bool,
}

#[derive(Debug)]
struct Schema {
    fields: &'static [Field],
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        number,
        kind,
        repeated: false,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        number,
        kind,
        repeated: true,
    }
}

use Kind::{Base64, Bool, Double, Fixed64, Hex, Message, Text, Varint, Zigzag};

static REQUEST: Schema = Schema {
    fields: &[many(1, "resource_metrics", Message(&RESOURCE_METRICS))],
};
static RESOURCE_METRICS: Schema = Schema {
    fields: &[
        one(1, "resource", Message(&RESOURCE)),
        many(2, "scope_metrics", Message(&SCOPE_METRICS)),
        one(3, "schema_url", Text),
    ],
};
static RESOURCE: Schema = Schema {
    fields: &[many(1, "attributes", Message(&KEY_VALUE))],
};
static SCOPE_METRICS: Schema = Schema {
    fields: &[
        one(1, "scope", Message(&SCOPE)),
        many(2, "metrics", Message(&METRIC)),
        one(3, "schema_url", Text),
    ],
};
static SCOPE: Schema = Schema {
    fields: &[
        one(1, "name", Text),
        one(2, "version", Text),
        many(3, "attributes", Message(&KEY_VALUE)),
    ],
};
static METRIC: Schema = Schema {
    fields: &[
        one(1, "name", Text),
        one(2, "description", Text),
        one(3, "unit", Text),
        one(5, "gauge", Message(&GAUGE)),
        one(7, "sum", Message(&SUM)),
        one(9, "histogram", Message(&HISTOGRAM)),
        one(10, "exponential_histogram", Message(&EXPONENTIAL)),
        one(11, "summary", Message(&SUMMARY)),
    ],
};
static GAUGE: Schema = Schema {
    fields: &[many(1, "data_points", Message(&NUMBER))],
};
static SUM: Schema = Schema {
    fields: &[
        many(1, "data_points", Message(&NUMBER)),
        one(2, "aggregation_temporality", Varint),
        one(3, "is_monotonic", Bool),
    ],
};
static HISTOGRAM: Schema = Schema {
    fields: &[
        many(1, "data_points", Message(&HISTOGRAM_POINT)),
        one(2, "aggregation_temporality", Varint),
    ],
};
static EXPONENTIAL: Schema = Schema {
    fields: &[
        many(1, "data_points", Message(&EXPONENTIAL_POINT)),
        one(2, "aggregation_temporality", Varint),
    ],
};
static SUMMARY: Schema = Schema {
    fields: &[many(1, "data_points", Message(&SUMMARY_POINT))],
};
static NUMBER: Schema = Schema {
    fields: &[
        many(7, "attributes", Message(&KEY_VALUE)),
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "as_double", Double),
        one(6, "as_int", Fixed64),
        many(5, "exemplars", Message(&EXEMPLAR)),
        one(8, "flags", Varint),
    ],
};
static HISTOGRAM_POINT: Schema = Schema {
    fields: &[
        many(9, "attributes", Message(&KEY_VALUE)),
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "bucket_counts", Fixed64),
        many(7, "explicit_bounds", Double),
        many(8, "exemplars", Message(&EXEMPLAR)),
        one(10, "flags", Varint),
    ],
};
static EXPONENTIAL_POINT: Schema = Schema {
    fields: &[
        many(1, "attributes", Message(&KEY_VALUE)),
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        one(6, "scale", Zigzag),
        one(7, "zero_count", Fixed64),
        one(8, "positive", Message(&BUCKETS)),
        one(9, "negative", Message(&BUCKETS)),
        one(10, "flags", Varint),
        many(11, "exemplars", Message(&EXEMPLAR)),
        one(14, "zero_threshold", Double),
    ],
};
static BUCKETS: Schema = Schema {
    fields: &[one(1, "offset", Zigzag), many(2, "bucket_counts", Varint)],
};
static SUMMARY_POINT: Schema = Schema {
    fields: &[
        many(7, "attributes", Message(&KEY_VALUE)),
        one(2, "start_time_unix_nano", Fixed64),
        one(3, "time_unix_nano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "quantile_values", Message(&QUANTILE)),
        one(8, "flags", Varint),
    ],
};
static QUANTILE: Schema = Schema {
    fields: &[one(1, "quantile", Double), one(2, "value", Double)],
};
static EXEMPLAR: Schema = Schema {
    fields: &[
        many(7, "filtered_attributes", Message(&KEY_VALUE)),
        one(2, "time_unix_nano", Fixed64),
        one(3, "as_double", Double),
        one(6, "as_int", Fixed64),
        one(4, "span_id", Hex),
        one(5, "trace_id", Hex),
    ],
};
static KEY_VALUE: Schema = Schema {
    fields: &[one(1, "key", Text), one(2, "value", Message(&ANY))],
};
static ANY: Schema = Schema {
    fields: &[
        one(1, "string_value", Text),
        one(2, "bool_value", Bool),
        one(3, "int_value", Varint),
        one(4, "double_value", Double),
        one(5, "array_value", Message(&ARRAY)),
        one(6, "kvlist_value", Message(&LIST)),
        one(7, "bytes_value", Base64),
    ],
};
static ARRAY: Schema = Schema {
    fields: &[many(1, "values", Message(&ANY))],
};
static LIST: Schema = Schema {
    fields: &[many(1, "values", Message(&KEY_VALUE))],
};

/// `ExportMetricsServiceRequest` in protobuf; not more than `most` bytes.
pub(super) fn to_protobuf(json: &[u8], most: usize) -> Result<Vec<u8>, BadOtlp> {
    let mut out = Vec::with_capacity((json.len() / 2).min(most));
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = MessageSeed {
        schema: &REQUEST,
        out: &mut out,
        most,
    };
    let bad = |error: serde_json::Error| BadOtlp::Json(error.to_string());
    read.deserialize(&mut reader).map_err(bad)?;
    reader.end().map_err(bad)?;
    Ok(out)
}

/// Whether a JSON name is that of a field: in camel case, or as in the `.proto` file.
fn is_named(json: &str, field: &str) -> bool {
    if json == field {
        return true;
    }
    let mut json = json.chars();
    let mut parts = field.chars();
    while let Some(expected) = parts.next() {
        let expected = match expected {
            '_' => parts.next().map(|c| c.to_ascii_uppercase()),
            other => Some(other),
        };
        if json.next() != expected {
            return false;
        }
    }
    json.next().is_none()
}

struct MessageSeed<'o> {
    schema: &'static Schema,
    out: &'o mut Vec<u8>,
    most: usize,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let field = self.schema.fields.iter().find(|field| is_named(&name, field.name));
            match field {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(field) => map.next_value_seed(ValueSeed {
                    field,
                    inside: false,
                    out: &mut *self.out,
                    most: self.most,
                })?,
            }
        }
        Ok(())
    }
}

/// A value of a field, or an element of a repeated one.
struct ValueSeed<'o> {
    field: &'static Field,
    inside: bool,
    out: &'o mut Vec<u8>,
    most: usize,
}

impl ValueSeed<'_> {
    fn tag(&mut self, wire: u32) {
        put_uvarint(self.out, u64::from(self.field.number << 3 | wire));
    }

    fn check<E: Error>(&self) -> Result<(), E> {
        if self.out.len() > self.most {
            return Err(E::custom(format_args!("the request has more than {} bytes", self.most)));
        }
        Ok(())
    }

    fn bytes<E: Error>(mut self, bytes: &[u8]) -> Result<(), E> {
        self.tag(2);
        put_uvarint(self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
        self.check()
    }

    fn fixed<E: Error>(mut self, bits: u64) -> Result<(), E> {
        self.tag(1);
        self.out.extend_from_slice(&bits.to_le_bytes());
        self.check()
    }

    fn varint<E: Error>(mut self, value: u64) -> Result<(), E> {
        self.tag(0);
        put_uvarint(self.out, value);
        self.check()
    }

    /// A number as JSON has it, or in a text.
    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        let wrong = || E::custom(format_args!("{}: {value} is not within its range", self.field.name));
        match self.field.kind {
            Kind::Double => self.fixed((value as f64).to_bits()),
            Kind::Zigzag => {
                let value = i32::try_from(value).map_err(|_| wrong())?;
                self.varint(u64::from((value << 1 ^ value >> 31) as u32))
            }
            // Signed and unsigned ones are the same bits.
            Kind::Varint | Kind::Fixed64 => {
                let signed = i64::try_from(value).map(|v| v as u64);
                let bits = signed.or_else(|_| u64::try_from(value)).map_err(|_| wrong())?;
                match self.field.kind {
                    Kind::Fixed64 => self.fixed(bits),
                    _ => self.varint(bits),
                }
            }
            _ => Err(E::custom(format_args!("{}: a number is not expected", self.field.name))),
        }
    }

    fn float<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => self.fixed(value.to_bits()),
            // 1e9 is a whole number.
            _ if value.fract() == 0.0 && value.abs() < 1e30 => self.integer(value as i128),
            _ => Err(E::custom(format_args!(
                "{}: {value} is not a whole number",
                self.field.name
            ))),
        }
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    pairs.iter().map(byte).collect()
}

/// The number of an aggregation temporality by its name, which some senders write.
fn temporality(text: &str) -> Option<i128> {
    match text {
        "AGGREGATION_TEMPORALITY_UNSPECIFIED" => Some(0),
        "AGGREGATION_TEMPORALITY_DELTA" => Some(1),
        "AGGREGATION_TEMPORALITY_CUMULATIVE" => Some(2),
        _ => None,
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.field.kind {
            Kind::Text => "a text",
            Kind::Base64 => "a text in base 64",
            Kind::Hex => "a text in hexadecimal",
            Kind::Bool => "true or false",
            Kind::Varint | Kind::Zigzag | Kind::Fixed64 => "a whole number",
            Kind::Double => "a number",
            Kind::Message(_) => "an object",
        };
        write!(f, "{what} for {}", self.field.name)
    }

    /// `null` is the same as nothing.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool => self.varint(u64::from(value)),
            _ => Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.float(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let decoded = match self.field.kind {
            Kind::Text => return self.bytes(text.as_bytes()),
            Kind::Base64 => base64::decode(text),
            Kind::Hex => hexadecimal(text),
            Kind::Varint | Kind::Zigzag | Kind::Fixed64 => {
                if let Some(value) = text.parse::<i128>().ok().or_else(|| temporality(text)) {
                    return self.integer(value);
                }
                None
            }
            Kind::Double => {
                let value = match text {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    other => other.parse().ok().filter(|v: &f64| v.is_finite()),
                };
                if let Some(value) = value {
                    return self.fixed(value.to_bits());
                }
                None
            }
            Kind::Bool | Kind::Message(_) => None,
        };
        match decoded {
            Some(bytes) => self.bytes(&bytes),
            None => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.field.repeated || self.inside {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        while let Some(()) = seq.next_element_seed(ValueSeed {
            field: self.field,
            inside: true,
            out: &mut *self.out,
            most: self.most,
        })? {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        let Kind::Message(schema) = self.field.kind else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        };
        if self.field.repeated && !self.inside {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &"a list"));
        }
        self.tag(2);
        self.check()?;
        // The length is known afterwards: five bytes hold any.
        let at = self.out.len();
        self.out.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0]);
        let seed = MessageSeed {
            schema,
            out: &mut *self.out,
            most: self.most,
        };
        seed.visit_map(map)?;
        let length = self.out.len() - at - 5;
        for (place, byte) in self.out[at..at + 5].iter_mut().enumerate() {
            let more = if place < 4 { 0x80 } else { 0 };
            *byte = (length >> (7 * place)) as u8 & 0x7f | more;
        }
        Ok(())
    }
}
