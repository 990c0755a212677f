//! Compiles every `.proto` below this folder with protox (no system protoc is needed).

use std::path::{Path, PathBuf};

const PUBLIC: &[&str] = &[
    "gnomon/v1/write.proto",
    "opentelemetry/proto/collector/metrics/v1/metrics_service.proto",
];

fn protos_below(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos_below(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for dir in ["gnomon", "prometheus", "opentelemetry"] {
        println!("cargo::rerun-if-changed={dir}");
        protos_below(Path::new(dir), &mut files)?;
    }
    let descriptors = protox::compile(&files, ["."])?;
    // What reflection shows: the services that others than nodes may call.
    let public = protox::compile(PUBLIC, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("public.bin"), prost::Message::encode_to_vec(&public))?;
    tonic_prost_build::configure()
        .bytes(".gnomon")
        .compile_fds(descriptors)?;
    Ok(())
}
