//! Writes `src/generated/` from `protos/`. Run `cargo run -p kelson-shim-proto --example generate`; the output
//! is checked in, so that a build needs neither this nor protoc.
use std::path::Path;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("protos");
    Codegen::new()
        .out_dir(root.join("src/generated"))
        .inputs(["mount.proto", "process.proto", "task.proto"].map(|name| protos.join(name)))
        .include(&protos)
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize {
            async_all: true,
            gen_mod: false,
            ..Default::default()
        })
        .run()
}
