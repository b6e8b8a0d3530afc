//! How containerd starts a shim, in its two forms: by flags and environment with the runtime options on stdin (to 2.2), or
//! with a `BootstrapParams` on stdin (from 2.3); and the answer in the form that the caller understands.
use serde::Deserialize;

use crate::wire::{Writer, read, read_any};

/// The longest input that is read, in bytes.
pub const MAX_INPUT: u64 = 10 * 1024 * 1024;

/// The socket protocol's version: the Task service of that version, and below it.
const VERSION: u32 = 3;

/// What the caller understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The address alone: every containerd to 2.2, which then speaks Task v2.
    Plain,
    /// A `BootstrapResult` in JSON.
    Json,
    /// A `BootstrapResult` in protobuf.
    Protobuf,
}

/// What stdin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// How to answer.
    pub form: Form,
    /// Type and value of the runtime options.
    pub options: (String, Vec<u8>),
    /// Containerd's addresses, empty where stdin does not say.
    pub ttrpc_address: String,
    /// The gRPC one.
    pub grpc_address: String,
    /// The program that publishes events, likewise.
    pub binary: String,
    /// Where the shim's socket is to lie, likewise.
    pub socket_dir: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct JsonParams {
    #[serde(alias = "instanceId", alias = "instanceID")]
    instance_id: String,
    namespace: String,
    #[serde(alias = "containerdTtrpcAddress")]
    containerd_ttrpc_address: String,
    #[serde(alias = "containerdGrpcAddress")]
    containerd_grpc_address: String,
    #[serde(alias = "containerdBinary")]
    containerd_binary: String,
    #[serde(alias = "socketDir")]
    socket_dir: String,
}

impl Default for JsonParams {
    fn default() -> Self {
        let empty = String::new;
        Self {
            instance_id: empty(),
            namespace: empty(),
            containerd_ttrpc_address: empty(),
            containerd_grpc_address: empty(),
            containerd_binary: empty(),
            socket_dir: empty(),
        }
    }
}

impl Input {
    fn new(form: Form) -> Self {
        Self {
            form,
            options: Default::default(),
            ttrpc_address: String::new(),
            grpc_address: String::new(),
            binary: String::new(),
            socket_dir: String::new(),
        }
    }

    /// Reads stdin. Options and parameters have the same wire shape (two strings come first), so parameters are those
    /// that name the `id` and `namespace` that the flags name too.
    ///
    /// # Errors
    /// Bytes that are neither.
    pub fn decode(bytes: &[u8], id: &str, namespace: &str) -> Result<Self, String> {
        if bytes.trim_ascii_start().first() == Some(&b'{') {
            return Self::decode_json(bytes, id, namespace);
        }
        let mut input = Self::new(Form::Protobuf);
        let mut names = (String::new(), String::new());
        let mut extensions = Vec::new();
        read(bytes, |field, value| match field {
            1 => names.0 = value.text(),
            2 => names.1 = value.text(),
            5 => input.ttrpc_address = value.text(),
            6 => input.grpc_address = value.text(),
            7 => input.binary = value.text(),
            8 => extensions.push(value.bytes()),
            9 => input.socket_dir = value.text(),
            _ => {}
        })
        .map_err(|e| format!("shim parameters on stdin: {e}"))?;
        if (names.0.as_str(), names.1.as_str()) != (id, namespace) {
            let mut plain = Self::new(Form::Plain);
            plain.options = read_any(bytes)?;
            return Ok(plain);
        }
        for extension in extensions {
            read(extension, |_, any| {
                if let Ok((type_url, value)) = read_any(any.bytes())
                    && type_url.ends_with("Options")
                {
                    input.options = (type_url, value);
                }
            })?;
        }
        Ok(input)
    }

    fn decode_json(bytes: &[u8], id: &str, namespace: &str) -> Result<Self, String> {
        let params: JsonParams =
            serde_json::from_slice(bytes).map_err(|e| format!("shim parameters on stdin: {e}"))?;
        if params.instance_id != id || params.namespace != namespace {
            return Err(format!(
                "shim parameters on stdin: of {:?} in {:?}, but the flags name {id:?} in {namespace:?}",
                params.instance_id, params.namespace
            ));
        }
        Ok(Self {
            ttrpc_address: params.containerd_ttrpc_address,
            grpc_address: params.containerd_grpc_address,
            binary: params.containerd_binary,
            socket_dir: params.socket_dir,
            ..Self::new(Form::Json)
        })
    }
}

/// The answer of `start`.
#[must_use]
pub fn answer(form: Form, address: &str) -> Vec<u8> {
    match form {
        Form::Plain => address.into(),
        Form::Json => serde_json::json!({"version": VERSION, "address": address, "protocol": "ttrpc"})
            .to_string()
            .into(),
        Form::Protobuf => {
            let mut out = Writer::default();
            out.uint(1, VERSION).bytes(2, address).bytes(3, "ttrpc");
            out.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_is_options_alone() {
        assert_eq!(Input::decode(b"", "i", "n").unwrap(), Input::new(Form::Plain));
        let mut any = Writer::default();
        any.bytes(1, "containerd.runc.v1.Options").bytes(2, "x");
        let input = Input::decode(&any.finish(), "i", "n").unwrap();
        assert_eq!(input.form, Form::Plain);
        assert_eq!(
            input.options,
            ("containerd.runc.v1.Options".to_owned(), b"x".to_vec())
        );
    }

    #[test]
    fn parameters_in_protobuf() {
        let mut out = Writer::default();
        out.bytes(1, "i")
            .bytes(2, "n")
            .int(3, -8)
            .bytes(5, "unix:///t")
            .bytes(9, "/s");
        out.message(8, |extension| {
            extension.any(1, "containerd.runc.v1.Options", b"o");
        });
        let input = Input::decode(&out.finish(), "i", "n").unwrap();
        assert_eq!(
            (
                input.form,
                input.ttrpc_address.as_str(),
                input.socket_dir.as_str()
            ),
            (Form::Protobuf, "unix:///t", "/s")
        );
        assert_eq!(input.options.1, b"o");
        assert_eq!(
            answer(Form::Protobuf, "unix:///a"),
            b"\x08\x03\x12\x09unix:///a\x1a\x05ttrpc"
        );
    }

    #[test]
    fn parameters_in_json() {
        let text = br#"{"instanceId":"i","namespace":"n","containerd_grpc_address":"g","later":[1]}"#;
        let input = Input::decode(text, "i", "n").unwrap();
        assert_eq!((input.form, input.grpc_address.as_str()), (Form::Json, "g"));
        assert!(Input::decode(text, "other", "n").unwrap_err().contains("other"));
        assert_eq!(
            answer(Form::Json, "unix:///a"),
            br#"{"address":"unix:///a","protocol":"ttrpc","version":3}"#
        );
        assert!(Input::decode(b"\xff\xff", "i", "n").is_err());
    }
}
