//! How a Go struct is declared here: one line per field with its JSON name, and `omitempty` where Go has it.
//!
//! Every field is optional on input and `null` means the zero value, as in Go's decoder. [`from_slice`] also
//! matches field names without regard to case, which Go does and some hand-written clients rely on.

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Declares a message. `name: Type = "JsonName"` is always written; with `, omitempty` only when not empty.
#[macro_export]
macro_rules! message {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty = $json:literal $($omit:ident)? ,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $(
                #[doc = concat!("`", $json, "`.")]
                $(#[$fmeta])*
                $(
                    #[doc = concat!("Go: ", stringify!($omit), ".")]
                    #[serde(skip_serializing_if = "crate::wire::is_empty")]
                )?
                #[serde(rename = $json, default, deserialize_with = "crate::wire::null_is_zero")]
                pub $field: $ty,
            )*
        }
    };
}

/// A Go `struct{}` value: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {}

/// Decodes a value where `null` stands for the zero value.
///
/// # Errors
/// Those of the value's own decoder.
pub fn null_is_zero<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What Go's `omitempty` calls empty: false, 0, a nil pointer, and anything of length zero.
pub trait Empty {
    /// Whether `omitempty` leaves the field out.
    fn empty(&self) -> bool;
}

/// Free-function form of [`Empty::empty`] for serde.
pub fn is_empty<T: Empty>(value: &T) -> bool {
    value.empty()
}

impl Empty for String {
    fn empty(&self) -> bool {
        self.is_empty()
    }
}
impl Empty for bool {
    fn empty(&self) -> bool {
        !self
    }
}
macro_rules! empty_number { ($($t:ty),*) => { $(impl Empty for $t { fn empty(&self) -> bool { *self == 0 } })* } }
empty_number!(i32, i64, u16, u32, u64);

impl<T> Empty for Vec<T> {
    fn empty(&self) -> bool {
        self.is_empty()
    }
}
impl<V> Empty for crate::Map<V> {
    fn empty(&self) -> bool {
        self.is_empty()
    }
}
// A pointer to a scalar or struct is empty when nil only; a nil-able slice or map also when it has no elements.
macro_rules! empty_pointer { ($($t:ty),* $(,)?) => { $(impl Empty for Option<$t> { fn empty(&self) -> bool { self.is_none() } })* } }
empty_pointer!(bool, i32, i64, u16, u32, u64, String, serde_json::Value);

impl<T> Empty for Option<Vec<T>> {
    fn empty(&self) -> bool {
        self.as_ref().is_none_or(Vec::is_empty)
    }
}
impl<V> Empty for Option<crate::Map<V>> {
    fn empty(&self) -> bool {
        self.as_ref().is_none_or(crate::Map::is_empty)
    }
}
impl<T> Empty for Option<Box<T>> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}

/// Decodes a request body as Go does: names of struct fields match in any case, unknown fields are ignored.
///
/// # Errors
/// Malformed JSON, a value of the wrong type, or data after the value.
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(AnyCase(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

struct AnyCase<D>(D);

macro_rules! forward {
    ($($method:ident),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Wrap { visitor, fields: &[] })
        }
    )* };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AnyCase<D> {
    type Error = D::Error;
    forward!(
        deserialize_any,
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_option,
        deserialize_unit,
        deserialize_seq,
        deserialize_map,
        deserialize_identifier,
        deserialize_ignored_any
    );
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_newtype_struct(name, Wrap { visitor, fields: &[] })
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, Wrap { visitor, fields: &[] })
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_tuple_struct(name, len, Wrap { visitor, fields: &[] })
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Wrap { visitor, fields })
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

struct Wrap<V> {
    visitor: V,
    fields: &'static [&'static str],
}

macro_rules! visit { ($($method:ident: $t:ty),*) => { $(
    fn $method<E: de::Error>(self, value: $t) -> Result<V::Value, E> { self.visitor.$method(value) }
)* } }

impl<'de, V: Visitor<'de>> Visitor<'de> for Wrap<V> {
    type Value = V::Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }
    visit!(
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str, visit_borrowed_str: &'de str,
        visit_string: String, visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>
    );
    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }
    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(AnyCase(deserializer))
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(AnyCase(deserializer))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Items(access))
    }
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Entries {
            access,
            fields: self.fields,
        })
    }
}

struct Items<A>(A);

impl<'de, A: de::SeqAccess<'de>> de::SeqAccess<'de> for Items<A> {
    type Error = A::Error;
    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(Seed(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

struct Entries<A> {
    access: A,
    fields: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;
    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.fields.is_empty() {
            return self.access.next_key_seed(seed);
        }
        let Some(key) = self.access.next_key::<String>()? else {
            return Ok(None);
        };
        let exact = self.fields.iter().find(|f| **f == key);
        let known = exact.or_else(|| self.fields.iter().find(|f| f.eq_ignore_ascii_case(&key)));
        let name = known.map_or(key.as_str(), |f| *f);
        seed.deserialize(de::value::StrDeserializer::new(name)).map(Some)
    }
    fn next_value_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.access.next_value_seed(Seed(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

struct Seed<S>(S);

impl<'de, S: de::DeserializeSeed<'de>> de::DeserializeSeed<'de> for Seed<S> {
    type Value = S::Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(AnyCase(deserializer))
    }
}

/// A list of strings that a client may also send as one string (Go's `strslice`: `Cmd`, `Entrypoint`, `CapAdd`...).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StrSlice(pub Vec<String>);

impl<'de> Deserialize<'de> for StrSlice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = StrSlice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<StrSlice, E> {
                Ok(StrSlice(vec![value.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<StrSlice, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(StrSlice(items))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl std::ops::Deref for StrSlice {
    type Target = Vec<String>;
    fn deref(&self) -> &Vec<String> {
        &self.0
    }
}
impl From<Vec<String>> for StrSlice {
    fn from(items: Vec<String>) -> Self {
        StrSlice(items)
    }
}
impl Empty for Option<StrSlice> {
    fn empty(&self) -> bool {
        self.as_ref().is_none_or(|s| s.0.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    message! {
        /// A small message.
        pub struct Sample {
            name: String = "Name",
            list: Option<Vec<String>> = "List",
            gone: i64 = "Gone" omitempty,
            cmd: Option<StrSlice> = "Cmd",
            inner: Option<Box<Sample>> = "Inner" omitempty,
            map: Option<crate::Map<Unit>> = "Map" omitempty,
        }
    }

    #[test]
    fn encodes_as_go() {
        let text = serde_json::to_string(&Sample::default()).unwrap();
        assert_eq!(text, r#"{"Name":"","List":null,"Cmd":null}"#);
        let full = Sample {
            list: Some(vec![]),
            gone: 3,
            map: Some([("a".into(), Unit {})].into()),
            ..Sample::default()
        };
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            r#"{"Name":"","List":[],"Gone":3,"Cmd":null,"Map":{"a":{}}}"#
        );
    }

    #[test]
    fn decodes_as_go() {
        let s: Sample = from_slice(
            br#"{"name":"x","LIST":null,"gone":null,"Cmd":"one","other":[1],"inner":{"NAME":"y"}}"#,
        )
        .unwrap();
        assert_eq!(s.name, "x");
        assert_eq!(s.list, None);
        assert_eq!(s.cmd, Some(StrSlice(vec!["one".into()])));
        assert_eq!(s.inner.unwrap().name, "y");
    }

    #[test]
    fn keys_of_maps_keep_their_case() {
        let s: Sample = from_slice(br#"{"map":{"NAME":{}}}"#).unwrap();
        assert!(s.map.unwrap().contains_key("NAME"));
    }

    #[test]
    fn wrong_types_and_trailing_data_are_errors() {
        assert!(from_slice::<Sample>(br#"{"Name":1}"#).is_err());
        assert!(from_slice::<Sample>(br#"{"Name":"a"} x"#).is_err());
        assert!(from_slice::<Sample>(b"").is_err());
    }
}
